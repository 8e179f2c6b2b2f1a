"""Projects of others: what `python -m hybridloop kernels --new` writes is built, installed, tested.

The headers come from the wheel `hybridloop-abi`, the crates from this checkout.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import hybridloop
from hybridloop.native.command import main
from hybridloop.native.template import LANGUAGES

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "hybridloop" / "native" / "templates"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
NAME = "tide_tables"

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

pytestmark = [
    pytest.mark.improves_on_asyncio,
    # With the time that cargo takes.
    pytest.mark.timeout(1800),
]


class Environment:
    """A fresh virtual environment that has hybridloop and the modules of this one."""

    def __init__(self, folder):
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        paths = [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]
        (site / "modules_of_the_tests.pth").write_text("\n".join(paths))

    def run(self, *arguments, cwd, **variables):
        done = subprocess.run(
            [self.python, *arguments],
            cwd=cwd,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    def install(self, wheel):
        command = [*PIP, "--python", str(self.python), "install", "--no-deps", "--no-index"]
        subprocess.run([*command, str(wheel)], check=True)


def only(paths):
    (path,) = paths
    return path


@pytest.fixture(scope="module")
def abi_wheel(tmp_path_factory):
    """The wheel of the headers, built from a copy: builds leave files beside the sources."""
    tree = tmp_path_factory.mktemp("abi")
    shutil.copy(ROOT / "Cargo.toml", tree)
    left_behind = shutil.ignore_patterns("build", "*.egg-info")
    shutil.copytree(ROOT / "packages" / "abi", tree / "packages" / "abi", ignore=left_behind)
    command = [*PIP, "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*command, "-w", tree / "dist", tree / "packages" / "abi"], check=True)
    return only(tree.joinpath("dist").glob("*.whl"))


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "venv")


@pytest.fixture
def project(tmp_path, capsys):
    """Make a project; give its directory."""

    def project(language):
        directory = tmp_path / "project"
        assert main(["--new", NAME, str(directory), "--language", language]) == 0
        assert f"cd {directory}\n" in capsys.readouterr().out
        return directory

    return project


def check(environment, directory, wheel):
    """Install a project, run its tests, and use its kernels as a program does."""
    assert "-cp311-abi3-" in wheel.name
    environment.install(wheel)
    # Neither the settings nor the plugins of these tests.
    outcome = environment.run(
        *("-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:asyncio", "-p", "no:cacheprovider"),
        "tests",
        cwd=directory,
    )
    assert re.search(r"^\d+ passed in", outcome, re.MULTILINE), outcome
    assert "warning" not in outcome
    listed = environment.run("-m", "hybridloop", "kernels", f"{NAME}.*", cwd=directory)
    assert listed.startswith(f"{NAME}.count_words: u64(str text)\n\nThe number of words")
    code = (
        "import hybridloop, json, sys\n"
        "async def main():\n"
        "    values = memoryview(bytes(16)).cast('d')\n"
        f"    return list(await hybridloop.run_native('{NAME}.scale', values))\n"
        f"before = '{NAME}' in sys.modules\n"
        "print(json.dumps([before, hybridloop.run(main())]))"
    )
    assert json.loads(environment.run("-c", code, cwd=directory)) == [False, [0.0, 0.0]]


@needs_cc
def test_the_headers(abi_wheel, environment, tmp_path):
    """A library that is built with nothing but the wheel runs in hybridloop."""
    assert re.fullmatch(r"hybridloop_abi-.*-py3-none-any\.whl", abi_wheel.name)
    environment.install(abi_wheel)
    code = (
        "import hybridloop_abi, importlib.metadata\n"
        "print(hybridloop_abi.get_include(), importlib.metadata.version('hybridloop-abi'))"
    )
    include, version = environment.run("-I", "-c", code, cwd=tmp_path).split()
    assert Path(include).is_relative_to(tmp_path)
    assert version == hybridloop.__version__
    shipped = Path(hybridloop.get_include())
    headers = sorted(path.name for path in shipped.glob("*.h"))
    assert sorted(os.listdir(include)) == headers
    for name in headers:
        assert (Path(include) / name).read_bytes() == (shipped / name).read_bytes()
    library = tmp_path / "libjobs.so"
    command = ["cc", "-std=c99", "-pthread", "-fPIC", "-shared", f"-I{include}", "-o", library]
    subprocess.run([*command, Path(__file__).parent / "kernels" / "jobs.c"], check=True)
    command = ["-m", "hybridloop", "kernels", "--load", str(library), "--run", "jobs.emit", "2"]
    assert environment.run(*command, cwd=tmp_path) == "0\n1\n"


@needs_cc
def test_a_project_in_c(abi_wheel, environment, project, tmp_path):
    directory = project("c")
    environment.install(abi_wheel)
    environment.run(
        *("-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-build-isolation"),
        *("--no-deps", "--no-index", "-w", str(tmp_path / "dist"), "."),
        cwd=directory,
    )
    check(environment, directory, only((tmp_path / "dist").glob("*.whl")))


@pytest.mark.skipif(shutil.which("cargo") is None, reason="there is no Rust compiler")
def test_a_project_in_rust(environment, project, tmp_path):
    directory = project("rust")
    # cargo takes settings from the directories above.
    (tmp_path / ".cargo").mkdir()
    crate = json.dumps(str(ROOT / "crates" / "hybridloop-kernel"))
    (tmp_path / ".cargo" / "config.toml").write_text(
        f"[patch.crates-io]\nhybridloop-kernel = {{ path = {crate} }}\n"
    )
    # Built beside crates with the same dependencies, once for all Pythons.
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "extensions"
    command = [sys.executable, "-m", "maturin", "build", "--quiet", "--interpreter", sys.executable]
    subprocess.run(
        [*command, "--out", tmp_path / "dist"],
        cwd=directory,
        env={**os.environ, "CARGO_TARGET_DIR": str(target)},
        check=True,
    )
    check(environment, directory, only((tmp_path / "dist").glob("*.whl")))


def test_versions():
    """What a new project depends on is the version of hybridloop that has made it."""
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    version = cargo["workspace"]["package"]["version"]
    found = []
    for path in [*TEMPLATES.rglob("*.toml.in"), *ROOT.glob("crates/*/README.md")]:
        found += re.findall(r'hybridloop[\w-]*(?: = "|>=)([^"]*)"', path.read_text())
    assert found == [version] * 6


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_of_its_own(language, tmp_path, capsys):
    assert main(["--new", "a_name", str(tmp_path), "--language", language]) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 8
    assert not [path for path in files if "kernel_template" in str(path) + path.read_text()]
    assert not [path for path in files if path.suffix == ".in"]
    capsys.readouterr()
    # Nothing is overwritten.
    assert main(["--new", "a_name", str(tmp_path), "--language", language]) == 1
    assert capsys.readouterr().err.endswith("exists and is not an empty directory\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--new needs a name, and may have a directory: --new my_kernels ./kernels"),
        (["a", "b", "c"], "--new needs a name, and may have a directory"),
        (["my-kernels"], "'my-kernels' is not a name for a Python package, such as 'my_kernels'"),
        (["class"], "'class' is not a name for a Python package"),
        (["Kernels"], "'Kernels': give a name in lower case that begins with a letter"),
        (["_kernels"], "'_kernels': give a name in lower case that begins with a letter"),
        (["json"], "'json' is the name of another package"),
        (["hybridloop"], "'hybridloop' is the name of another package"),
    ],
)
def test_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--new", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"python -m hybridloop kernels: {message}")
    assert not any(tmp_path.iterdir())
