"""`python -m hybridloop kernels`: lists, describes and runs kernels, and writes their types."""

import importlib.util
import inspect
import io
import subprocess
import sys
import typing
import zlib
from pathlib import Path

import pytest

import hybridloop
from hybridloop import kernels, register_kernel
from hybridloop.native.command import main

from .support import LIMIT

pytestmark = pytest.mark.improves_on_asyncio

TYPED = Path(__file__).parents[1] / "typing" / "builtin_kernels.py"


@pytest.fixture
def command(capsys):
    """Run the command; give its output, which has to be all of it."""

    def command(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        output, errors = capsys.readouterr()
        if code:
            assert output == ""
            assert errors.count("\n") == 1
            return errors.removeprefix("python -m hybridloop kernels: ").rstrip()
        assert errors == ""
        return output

    return command


def test_the_command_as_a_program():
    command = [sys.executable, "-m", "hybridloop", "kernels", "--run", "hl.crc32", "abc"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{zlib.crc32(b'abc')}\n", "")
    usage = [sys.executable, "-m", "hybridloop", "--help"]
    assert "hybridloop kernels" in subprocess.run(usage, capture_output=True, text=True).stdout


def test_the_list(command):
    listed = command().splitlines()
    assert [line.split()[0] for line in listed] == sorted(kernels)
    assert "hl.crc32" in [line.split()[0] for line in listed]
    assert any(line.endswith("u32(bytes data, u32 start = 0)") for line in listed)


def test_descriptions(command):
    described = command("hl.crc32")
    assert described.startswith("hl.crc32: u32(bytes data, u32 start = 0)\n\nCRC-32 of `data`")
    assert described.endswith("\n\n  data   bytes\n  start  u32 = 0\n")
    both = command("hl.crc32", "hl.n*", "hl.crc3[2]")
    assert [line for line in both.splitlines() if line.startswith("hl.")] == [
        "hl.crc32: u32(bytes data, u32 start = 0)",
        "hl.noop: none()",
    ]


def test_a_library(command, job_library, capsys):
    assert command("--load", job_library, "jobs.memory").startswith("jobs.memory: buf(i64 len)")
    run = ("--load", job_library, "--run")
    assert command(*run, "jobs.emit", 3) == "0\n1\n2\n"
    assert main([*map(str, run), "jobs.emit", "2", "-1"]) == 1
    output, errors = capsys.readouterr()
    assert output == "0\n1\n"
    assert errors.startswith("python -m hybridloop kernels: ValueError: ")
    assert command("--run", "hl.sleep", LIMIT, "--timeout", 0, code=1).startswith("TimeoutError")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["hl.crc32", "abc", "start=5"], str(zlib.crc32(b"abc", 5))),
        (["hl.crc32", "start=0x5", "data=abc"], str(zlib.crc32(b"abc", 5))),
        (["hl.crc32", "a=b"], str(zlib.crc32(b"a=b"))),
        (["hl.crc32", "u8:97,98,0*2"], str(zlib.crc32(b"ab\0\0"))),
        (["hl.crc32", "--", "-abc"], str(zlib.crc32(b"-abc"))),
        (["hl.base64.encode", "??>", "true"], "Pz8-"),
        (["hl.base64.decode", "/w=="], "ff"),
        (["hl.sort", "f64:3,-1.5,0*2"], "[-1.5, 0.0, 0.0, 3.0]"),
        (["hl.histogram", "f32:1,2,3", "2", "1", "3"], "[1, 2]"),
        (["hl.compare_digest", "a", "b"], "False"),
        (["hl.bus.discard", "nothing"], "False"),
        (["hl.noop"], ""),
    ],
)
def test_arguments_and_results(command, arguments, output):
    assert command("--run", *arguments).rstrip("\n") == output


def test_pointers_and_written_buffers(command, name):
    register_kernel(name, ("libc.so.6", "bzero"), "void(out u8* target, usize n)")
    assert command("--run", name, "1,2,3", 2) == "target = [0, 0, 3]\n"
    assert command("--run", name, "n=1", "target=1*2") == "target = [0, 1]\n"
    register_kernel(f"{name}.cbrt", ("libm.so.6", "cbrt"), "f64(f64 x)")
    assert command("--run", f"{name}.cbrt", "-8") == "-2.0\n"


def test_files(command, tmp_path, monkeypatch):
    data, compressed = tmp_path / "data", tmp_path / "compressed"
    data.write_bytes(b"abc" * 1000)
    assert command("--run", "hl.crc32", f"@{data}") == f"{zlib.crc32(data.read_bytes())}\n"
    assert command("--run", "hl.zlib.compress", f"@{data}", "-o", compressed) == ""
    assert zlib.decompress(compressed.read_bytes()) == data.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc")))
    assert command("--run", "hl.crc32", "@-") == f"{zlib.crc32(b'abc')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hl.sha25"], "no kernel is named 'hl.sha25'. Did you mean 'hl.sha256'?"),
        (["nothing.*"], "no kernel matches 'nothing.*'"),
        (["--run"], "--run needs the name of a kernel"),
        (["--run", "hl.sleep", "soon"], "'soon' is not a value of type f64"),
        (["--run", "hl.base64.encode", "a", "yes"], "true or false is expected"),
        (["--run", "hl.crc32", "@/no/such/file"], "No such file or directory"),
        (["--run", "hl.crc32"], "argument 'data' is missing"),
        (["--run", "hl.crc32", "a", "data=b"], "multiple values for argument 'data'"),
        (["--run", "hl.crc32", "a", "-o", "/dev/null"], "no bytes for --output"),
        (["--run", "hl.zlib.decompress", "bad"], "ValueError: "),
        (["--load", "no_such_module_of_kernels"], "is neither a file nor a module"),
        (["--stubs", "./no/such/library.so"], "KernelLibraryError"),
    ],
)
def test_errors(command, arguments, message):
    assert message in command(*arguments, code=1)


def test_wrong_options():
    with pytest.raises(SystemExit) as caught:
        main(["--run", "--stubs"])
    assert caught.value.code == 2


def test_the_declarations_of_built_in_kernels(command):
    assert command("--stubs", "hl.*") == TYPED.read_text()


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_declarations_are_a_module(command, job_library, tmp_path, name):
    path = tmp_path / f"{name}.py"
    path.write_text(command("--stubs", job_library))
    module = load(path)
    assert module.count == kernels["jobs.count"]
    assert module.default_i8 == kernels["jobs.default.i8"]
    assert module.kind == kernels["jobs.kind"]
    assert module.default_i64(5).result(LIMIT) == 5
    source = path.read_text()
    # The parameters are those of inspect.signature(), and so are the defaults.
    declared = {}
    namespace = {"typed_kernel": lambda name: lambda function: declared.setdefault(name, function)}
    body = source.split("from typing_extensions import Buffer")[1]
    exec(f"from __future__ import annotations\n{body}", namespace)
    assert sorted(declared) == sorted(kernel for kernel in kernels if kernel.startswith("jobs."))
    options = ["key", "timeout", "priority", "on_progress", "cancel_policy"]
    for kernel, function in declared.items():
        seen = list(inspect.signature(function).parameters.values())
        if kernels[kernel].signature is None:
            assert [parameter.name for parameter in seen] == ["args", "out", "options"]
            continue
        expected = list(inspect.signature(kernels[kernel]).parameters.values())
        assert seen[-1].kind is inspect.Parameter.VAR_KEYWORD
        assert [parameter.name for parameter in expected[len(seen) - 1 :]] == options
        for own, other in zip(seen[:-1], expected, strict=False):
            assert (own.name, own.kind, own.default) == (other.name, other.kind, other.default)


def test_declarations_of_a_module_have_the_names_of_its_attributes(
    command, tmp_path, monkeypatch, name
):
    (tmp_path / f"{name}_kernels.py").write_text(
        "import hybridloop\n"
        f"root = hybridloop.register_kernel('{name}.cbrt', ('libm.so.6', 'cbrt'), 'f64(f64 x)')\n"
        "checksum = hybridloop.kernels['hl.crc32']\n"
        "nothing = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = command("--stubs", f"{name}_kernels")
    del sys.modules[f"{name}_kernels"]
    assert f'@typed_kernel("{name}.cbrt")\ndef root(x: float, **options' in text
    assert '@typed_kernel("hl.crc32")\ndef checksum(data: Buffer, start: int = 0, ' in text
    assert text.count("@typed_kernel") == 2


def test_odd_names_and_defaults(command, name):
    def declared(part, signature):
        register_kernel(f"{name}.{part}", ("libm.so.6", "fma"), signature)
        text = command("--stubs", f"{name}.{part}")
        return text.partition(f'@typed_kernel("{name}.{part}")\n')[2].partition('\n    """')[0]

    rest = "**options: Unpack[JobOptions]) -> float:"
    assert declared("class", "f64(f64 x)") == f"def class_(x: float, {rest}"
    assert declared("2x", "f64(f64 x)") == f"def _2x(x: float, {rest}"
    assert declared("a-b", "f64(f64 lambda, f64 z = inf)") == (
        f'def a_b(lambda_: float, /, z: float = float("inf"), {rest}'
    )
    assert declared("options", "f64(f64 options)") == (
        "def options(options: float, **options_: Unpack[JobOptions]) -> float:"
    )
    assert declared("out", "void(out f64* key, void* p, usize n)") == (
        "def out(key_: Buffer, /, p: Buffer | None, n: int, **options: Unpack[JobOptions]) -> None:"
    )


def test_a_declaration_is_the_kernel():
    @hybridloop.typed_kernel("hl.crc32")
    def crc32(
        data: bytes, start: int = 0, **options: typing.Unpack[hybridloop.JobOptions]
    ) -> int: ...

    assert crc32 == kernels["hl.crc32"]
    with pytest.raises(LookupError, match="Did you mean 'hl.crc32'?"):
        hybridloop.typed_kernel("hl.crc33")(lambda: None)
