"""Other projects' benchmarks with hybridloop in the place of their loop."""

import io
import json
import subprocess
import sys
import tarfile

import pytest

from benchmarks.harness.environment import load_note
from benchmarks.harness.process import Unavailable
from benchmarks.others import sources
from benchmarks.others.__main__ import Case, find, page, parse, project_table
from benchmarks.others.places import environment, places, whole
from benchmarks.others.projects import (
    PROJECTS,
    PYPERFORMANCE_CASES,
    Pass,
    first_number,
    pyperf_seconds,
    pyperformance_command,
    run_rsloop,
    run_uvloop,
    run_zuvloop,
    zuvloop_figures,
)


def printed(folder, program, asyncio_is=None):
    command = [sys.executable, "-c", program]
    changes = environment(folder, asyncio_is)
    return subprocess.run(
        command, check=True, cwd=folder, env=whole(changes), capture_output=True, text=True
    ).stdout.split()


class TestPlaces:
    @pytest.mark.parametrize("name", ["uvloop", "rloop", "zuvloop", "rsloop"])
    def test_hybridloop_stands_in_the_place_of_a_loop(self, name):
        program = f"import {name}; print(type({name}.new_event_loop()).__module__)"
        with places(name) as folder:
            (module,) = printed(folder, program)
        assert module.startswith("hybridloop")

    def test_in_the_place_of_asyncio(self):
        program = (
            "import asyncio\n"
            "async def main(): print(type(asyncio.get_running_loop()).__module__)\n"
            "asyncio.run(main())\n"
            "loop = asyncio.new_event_loop(); print(type(loop).__module__); loop.close()\n"
        )
        with places(None) as folder:
            assert all(name.startswith("asyncio.") for name in printed(folder, program))
            replaced = printed(folder, program, "hybridloop")
        assert len(replaced) == 2
        assert all(name.startswith("hybridloop") for name in replaced)


class TestOutput:
    def test_numbers(self):
        assert first_number(r"([\d.,]+) requests/sec", "x\n1,234.5 requests/sec") == 1234.5
        with pytest.raises(Unavailable, match="printed no figure"):
            first_number(r"(\d+) requests/sec", "nothing")

    def test_figures_of_zuvloop(self):
        text = (
            "python 3.14.0   libuv none\n\nstream\n"
            "  asyncio         1,234 MiB/s  (+/- 0.0%)\n"
            "  zuvloop        12,345 callbacks/s  (+/- 1.0%)\n"
            "          zuvloop / uvloop  2.00x\n"
        )
        assert zuvloop_figures(text) == {"asyncio": 1234, "zuvloop": 12345}

    def test_values_of_pyperf(self):
        runs = [{"metadata": {}}, {"values": [1.0, 2.0]}, {"values": [3.0]}]
        assert pyperf_seconds(json.dumps({"benchmarks": [{"runs": runs}]})) == 2

    def test_files_of_pyperformance(self, tmp_path):
        def options(case):
            file, *rest = pyperformance_command(tmp_path, case)
            return file.split("/")[-2], rest

        assert options("async_tree_eager_io_tg") == ("bm_async_tree", ["eager_io", "--task-groups"])
        assert options("async_tree_none") == ("bm_async_tree", ["none"])
        assert options("asyncio_tcp_ssl") == ("bm_asyncio_tcp", ["--ssl"])
        assert len(PYPERFORMANCE_CASES) == len(set(PYPERFORMANCE_CASES)) == 19


class TestRuns:
    """Small programs with the command line of the projects' own, on the real loop."""

    def test_of_zuvloop(self, tmp_path):
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks" / "run.py").write_text(
            "import sys, zuvloop\n"
            "assert sys.argv[1:] == ['--repeat', '1', '--only', 'timers'], sys.argv\n"
            "assert type(zuvloop.new_event_loop()).__module__.startswith('hybridloop')\n"
            "print('timers')\n"
            "print('  asyncio   1,000 timers/s  (+/- 0.0%)')\n"
            "print('  zuvloop   2,000 timers/s  (+/- 0.0%)')\n"
        )
        assert run_zuvloop(tmp_path, "timers", "zuvloop", "hybridloop") == Pass(1000, 2000)

    def test_of_rsloop(self, tmp_path):
        (tmp_path / "benches").mkdir()
        (tmp_path / "benches" / "compare_event_loops.py").write_text(
            "import json, sys, rsloop\n"
            "assert type(rsloop.new_event_loop()).__module__.startswith('hybridloop')\n"
            "output = sys.argv[sys.argv.index('--json-output') + 1]\n"
            "runs = [('asyncio', 10), ('rsloop', 30)]\n"
            "entries = [{'loop': loop, 'runs': [{'ops_per_sec': n}]} for loop, n in runs]\n"
            "json.dump(entries, open(output, 'w'))\n"
        )
        assert run_rsloop(tmp_path, "tasks", "rsloop", "hybridloop") == Pass(10, 30)

    def test_of_uvloop(self, tmp_path):
        bench = tmp_path / "examples" / "bench"
        bench.mkdir(parents=True)
        (bench / "echoserver.py").write_text(
            "import asyncio, sys\n"
            "if '--uvloop' in sys.argv:\n"
            "    import uvloop\n"
            "    asyncio.new_event_loop = uvloop.new_event_loop\n"
            "loop = asyncio.new_event_loop()\n"
            "async def serve(reader, writer):\n"
            "    writer.write(type(loop).__module__.encode())\n"
            "    writer.close()\n"
            "host, port = sys.argv[-1].split(':')\n"
            "loop.run_until_complete(asyncio.start_server(serve, host, int(port)))\n"
            "loop.run_forever()\n"
        )
        (bench / "echoclient.py").write_text(
            "import socket, sys\n"
            "host, port = sys.argv[-1].split(':')\n"
            "module = socket.create_connection((host, int(port))).recv(99).decode()\n"
            "print(2 if module.startswith('hybridloop') else 1, 'requests/sec')\n"
        )
        assert run_uvloop(tmp_path, "streams, 1000 bytes", "uvloop", "hybridloop") == Pass(1, 2)

    def test_a_failure_has_its_reason(self, tmp_path):
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks" / "run.py").write_text("raise SystemExit('it does not work')")
        with pytest.raises(Unavailable, match="it does not work"):
            run_zuvloop(tmp_path, "timers", "zuvloop", "hybridloop")


class TestSources:
    @staticmethod
    def archive(folder, *names):
        (folder / "archives").mkdir()
        with tarfile.open(folder / "archives" / "thing-1.0.tar.gz", "w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(f"thing-1.0/{name}")
                member.size = 1
                archive.addfile(member, io.BytesIO(b"x"))

    def test_an_archive_is_unpacked(self, tmp_path):
        self.archive(tmp_path, "benchmarks/run.py")
        folder = sources.from_archive("thing", "benchmarks", tmp_path)
        assert (folder / "benchmarks" / "run.py").read_text() == "x"
        assert sources.from_archive("thing", "benchmarks", tmp_path) == folder

    def test_one_without_benchmarks_asks_for_a_checkout(self, tmp_path):
        self.archive(tmp_path, "src/lib.rs")
        with pytest.raises(sources.Unfound, match="no benchmarks: --source thing=CHECKOUT"):
            sources.from_archive("thing", "benchmarks", tmp_path)

    def test_packages_and_checkouts(self, tmp_path):
        assert sources.from_package("json", ".").name == "json"
        for name, part in (("no_such_package", "x"), ("json", "benchmarks")):
            with pytest.raises(sources.Unfound, match=name):
                sources.from_package(name, part)
        assert sources.from_checkout("thing", ".", tmp_path) == tmp_path
        with pytest.raises(sources.Unfound, match="has no benchmarks of thing"):
            sources.from_checkout("thing", "benchmarks", tmp_path)

    def test_what_is_missing_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("benchmarks.loops.LOOPS", {"rloop": "no_such_loop"})
        with pytest.raises(sources.Unfound, match="rloop is not installed.*no_such_loop"):
            find(PROJECTS["rloop"], {}, tmp_path)


class TestTable:
    CASE = Case({"zuvloop": [Pass(100, 200)] * 3, "hybridloop": [Pass(100, 300), Pass(300, 300)]})

    def test_medians_and_speeds(self):
        lines = list(project_table(PROJECTS["zuvloop"], {"timers": self.CASE}))
        assert lines[0] == (
            "| per second | asyncio | zuvloop | hybridloop | hybridloop / zuvloop |"
        )
        assert lines[2] == "| timers | 100 | 200 (2.00) | 300 (2.00) | 1.00 |"

    def test_of_times_less_is_faster(self):
        case = Case({"uvloop": [Pass(0.2, 0.1)], "hybridloop": [Pass(0.2, 0.05)]})
        lines = list(project_table(PROJECTS["pyperformance"], {"async_tree_none": case}))
        assert lines[2] == "| async_tree_none | 200.0 | 100.0 (2.00) | 50.0 (4.00) | 2.00 |"

    def test_a_loop_that_cannot_has_its_reason(self):
        case = Case({"zuvloop": [], "hybridloop": [Pass(1, 2)]}, {"zuvloop": "it died"})
        (line,) = list(project_table(PROJECTS["zuvloop"], {"timers": case}))[2:]
        assert line.endswith("| \N{EN DASH} (it died) | 2 (2.00) | \N{EN DASH} |")

    def test_page(self):
        text = page(
            {"zuvloop": {"timers": self.CASE}}, {"rloop": "no"}, 3, {"CPU": "fast"}, "2026-01-31"
        )
        assert "- CPU: fast\n- Date: 2026-01-31\n- rloop is left out: no\n" in text
        assert "\n## zuvloop\n" in text and "{" not in text


def test_arguments(tmp_path, capsys):
    options = parse(["zuvloop", "--source", f"zuvloop={tmp_path}"])
    assert options.projects == ["zuvloop"]
    assert options.given == {"zuvloop": tmp_path}
    for wrong, message in (
        (["nothing"], "unknown project: nothing"),
        (["--source", f"nothing={tmp_path}"], "unknown project: nothing"),
        (["--source", "rloop=/no/such/folder"], "no such folder: /no/such/folder"),
    ):
        with pytest.raises(SystemExit):
            parse(wrong)
        assert message in capsys.readouterr().err


def test_a_busy_machine_is_noted(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr("os.getloadavg", lambda: (0.9, 8.0, 8.0))
    assert load_note() is None
    monkeypatch.setattr("os.getloadavg", lambda: (1.25, 0.0, 0.0))
    assert load_note() == "The machine had other work: its load average was 1.2 before the run."
