"""Arguments, rows, and the output of other programs."""

import argparse
import textwrap

import pytest

from benchmarks import micro, trees
from benchmarks.harness import callgrind, missing
from benchmarks.harness.arguments import choice_of, numbers
from benchmarks.harness.echo import echo_rows, format_size
from benchmarks.harness.http import wrk_latency_us
from benchmarks.harness.process import reason_of
from benchmarks.harness.rows import (
    COMMANDS,
    GROUPS,
    Command,
    expand,
    make_rows,
    run_commands,
    tree_rows,
)
from benchmarks.loops import LOOPS, SAFE, columns, environment_of, loop_of, with_variants
from benchmarks.servers import ECHO_KINDS, ON_OWN_STREAMS, SERVERS, runs
from benchmarks.syscalls import CASES, SUMMARY_LINE


class TestArguments:
    def test_choices(self):
        assert choice_of(["a", "b", "c"])("c,a") == ["c", "a"]
        with pytest.raises(argparse.ArgumentTypeError, match="d, e: not in a, b"):
            choice_of(["a", "b"])("a,d,e")

    def test_numbers(self):
        assert numbers("1,20") == [1, 20]
        for text in ("0", "1,x", ""):
            with pytest.raises((argparse.ArgumentTypeError, ValueError)):
                numbers(text)


class TestRows:
    def test_sections_stand_for_groups(self):
        assert expand(["micro", "tls", "echo-tls"]) == ["echo-tls", "echo-tls-streams", "micro"]
        assert expand(["all"]) == GROUPS
        assert set(expand(["tcp"])) < set(expand(["echo"])) < set(GROUPS)

    def test_every_group_has_rows_of_its_own(self):
        for group in set(GROUPS) - {"http", "trees"} - set(COMMANDS):
            rows, notes = make_rows([group], None, None, micro.CASES)
            assert rows and not notes
            assert {row.group for row in rows} == {group}
            assert len({row.title for row in rows}) == len(rows)

    def test_sizes_and_connections(self):
        titles = [row.title for row in echo_rows("echo-tls", [64, 2048], [1, 10])]
        assert titles == [
            "64 B, 1 connection",
            "64 B, 10 connections",
            "2 KiB, 1 connection",
            "2 KiB, 10 connections",
        ]
        assert format_size(1500) == "1500 B"

    def test_a_group_has_loads_of_its_own(self):
        loads = [(row.size, row.connections) for row in echo_rows("echo-streams", None, None)]
        assert loads == [(1024, 1), (1024, 10), (100 * 1024, 10)]

    def test_sizes_or_connections_replace_the_own_ones(self):
        loads = [(row.size, row.connections) for row in echo_rows("echo-streams", None, [7])]
        assert loads == [(1024, 7), (100 * 1024, 7)]
        loads = [(row.size, row.connections) for row in echo_rows("echo-streams", [9], None)]
        assert loads == [(9, 1), (9, 10)]

    def test_trees(self):
        assert len(trees.VARIANTS) == 16
        assert {"none", "eager", "eager_io", "eager_cpu_io_mixed"} <= set(trees.USUAL)
        rows = tree_rows(trees.VARIANTS)
        assert len({row.title for row in rows}) == len(rows)
        assert all(row.title.startswith(f"{row.case}: ") for row in rows)

    def test_without_pyperformance_the_trees_are_left_out(self, monkeypatch):
        monkeypatch.setattr(trees, "PACKAGE", "no_such_package")
        rows, notes = make_rows(["trees"], None, None, [])
        assert not rows
        assert notes == ["The rows of async_tree were skipped: no_such_package is missing."]

    def test_a_datagram_holds_only_so_much(self):
        assert [row.size for row in echo_rows("echo-udp", [64, 100 * 1024], [1])] == [64]

    def test_columns_of_a_row(self):
        everything = [*LOOPS, "hybridloop streams", SAFE, "floor", "limit"]

        def loops(group):
            return {name for name in everything if echo_rows(group, [64], [1])[0].runs_on(name)}

        assert loops("echo-protocol") - set(LOOPS) == {SAFE, "floor", "limit"}
        assert loops("echo-streams") - set(LOOPS) == {SAFE, "hybridloop streams"}
        assert loops("echo-tls") - set(LOOPS) == {SAFE, "limit"}
        assert loops("echo-sock") - set(LOOPS) == {SAFE}


class TestCommands:
    """Other commands whose tables the report takes in."""

    @pytest.fixture
    def command(self, tmp_path, monkeypatch):
        def add(source):
            (tmp_path / "a_command.py").write_text(source)
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
            fake = Command("A table", "a_command", ((), ("--more",)))
            monkeypatch.setitem(COMMANDS, "fake", fake)

        return add

    def test_what_it_prints_is_a_section(self, command):
        command("import sys; print('| a |', sys.argv[1:])")
        found = list(run_commands(["micro", "fake"], ["asyncio", "uvloop"]))
        loops = "'--loops', 'asyncio,uvloop'"
        assert found == [("A table", f"| a | [{loops}]\n\n| a | [{loops}, '--more']\n")]

    def test_its_failure_is_told(self, command):
        command("raise OSError('no room')")
        failure = "a_command failed: OSError: no room.\n"
        assert list(run_commands(["fake"], ["asyncio"])) == [("A table", f"{failure}\n{failure}")]

    def test_it_has_no_rows(self, command):
        command("")
        assert make_rows(["fake"], None, None, []) == ([], [])


def test_variants_follow_their_loop():
    assert with_variants(["hybridloop", "asyncio"]) == [
        "asyncio",
        "hybridloop",
        "hybridloop streams",
    ]
    assert with_variants(["uvloop"]) == ["uvloop"]
    assert with_variants(["hybridloop"], safe=True) == ["hybridloop", "hybridloop streams", SAFE]


def test_the_safe_column_is_the_same_loop_in_another_environment():
    assert loop_of(SAFE) == "hybridloop"
    assert environment_of(SAFE) == {"HYBRIDLOOP_SAFE": "1"}
    # Whatever the environment of the benchmark says.
    assert environment_of("hybridloop") == {"HYBRIDLOOP_SAFE": ""}
    assert environment_of("uvloop") == {}


@pytest.mark.parametrize(
    "output, reason",
    [
        (
            "ERROR: Ignored the following versions that require a different python version: "
            "0.0.1 Requires-Python >=3.13; 0.0.2 Requires-Python >=3.14\n"
            "ERROR: No matching distribution found for zuvloop\n",
            "needs Python >=3.14",
        ),
        (
            "WARNING: slow\nERROR: No matching distribution found for nothing\n",
            "No matching distribution found for nothing",
        ),
        ("", None),
    ],
)
def test_what_pip_says_of_a_loop_that_is_missing(output, reason):
    assert missing.pip_reason(output) == reason


class TestMicroFigures:
    def test_medians_of_the_rounds(self):
        rounds = [micro.Round(2000), micro.Round(9000), micro.Round(4000)]
        assert micro.figures(rounds, 10) == {"cpu_ns": 400}

    def test_rate_and_quantiles_where_the_case_measures_them(self):
        taken = micro.Round(1000, seconds=0.5, latencies_ns=[*range(1000, 102_000, 1000)])
        found = micro.figures([taken], 10)
        assert found["per_second"] == 20
        assert found["p50_us"] == pytest.approx(51)
        assert found["p99_us"] == pytest.approx(100)

    def test_the_wake_up_case_measures_each_wake_up(self):
        found = micro.measure("wake-up", "asyncio", rounds=1, operations=5)
        assert 0 < found["p50_us"] <= found["p99_us"]

    assert columns(["limit", "uvloop", "asyncio"]) == ["asyncio", "uvloop", "limit"]


def test_kinds_of_servers():
    assert set(ON_OWN_STREAMS) | set(ON_OWN_STREAMS.values()) <= set(ECHO_KINDS)
    assert set(CASES) <= set(ECHO_KINDS)
    for kind, own in ON_OWN_STREAMS.items():
        assert SERVERS[kind].scheme == SERVERS[own].scheme
        assert runs(kind, "hybridloop streams")
    assert not runs("udp", "floor")
    assert all(runs(kind, loop) for kind in SERVERS for loop in LOOPS)


class TestReason:
    def test_is_the_last_line(self):
        assert reason_of("Traceback\n  File ...\nOSError: no such thing\n") == (
            "OSError: no such thing"
        )
        assert reason_of("\n") == ""
        assert len(reason_of("x" * 1000)) == 200

    def test_an_exception_without_a_text_gets_its_place(self):
        errors = textwrap.dedent("""\
            Traceback (most recent call last):
              File "/a/servers.py", line 3, in serve
                await loop.create_unix_server()
              File "/b/events.py", line 5, in create_unix_server
                raise NotImplementedError
            NotImplementedError
            """)
        assert reason_of(errors) == "NotImplementedError in create_unix_server()"


@pytest.mark.parametrize(
    "line, expected",
    [
        (" 41.71    0.012345          24       504           epoll_wait", ("504", "epoll_wait")),
        ("  0.10    0.000001           1        12         3 recvfrom", ("12", "recvfrom")),
        ("------ ----------- ----------- --------- --------- ----------------", None),
        ("% time     seconds  usecs/call     calls    errors syscall", None),
    ],
)
def test_summary_of_strace(line, expected):
    match = SUMMARY_LINE.match(line)
    assert (match and match.groups()) == expected


def test_latency_of_wrk():
    output = "  Latency Distribution\n     50%  812.00us\n     99%    1.50ms\n"
    assert wrk_latency_us(output, 50) == 812
    assert wrk_latency_us(output, 99) == 1500
    assert wrk_latency_us(output, 75) is None


class TestCallgrind:
    PROFILE = textwrap.dedent("""\
        # callgrind format
        events: Ir

        ob=(1) /usr/lib/libpython.so
        fl=(1) ceval.c
        fn=(1) eval
        10 100
        +2 20
        cob=(2) /usr/lib/libc.so
        cfn=(2) recv
        calls=3 50
        11 30
        cfn=(1)
        calls=0 10
        12 999

        ob=(2)
        fn=(2)
        50 30

        totals: 150
        """)

    def test_costs_and_calls(self, tmp_path):
        path = tmp_path / "callgrind.out"
        path.write_text(self.PROFILE)
        profile = callgrind.read(path)
        evaluate, receive = ("libpython.so", "eval"), ("libc.so", "recv")
        assert profile.total == 150
        assert profile.own == {evaluate: 120, receive: 30}
        assert profile.inclusive() == {evaluate: 150, receive: 30}
        assert profile.called == {receive: 3}
        assert profile.by_object() == {"libpython.so": 120, "libc.so": 30}

    def test_difference_of_two_runs(self, tmp_path):
        path = tmp_path / "callgrind.out"
        path.write_text(self.PROFILE)
        short = callgrind.read(path)
        path.write_text(self.PROFILE.replace("10 100", "10 1100"))
        assert callgrind.read(path).since(short).total == 1000
