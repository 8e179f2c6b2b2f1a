"""A Dask cluster of real processes, and clients of it, which are private attributes."""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from distributed import Client

import hybridloop.cluster

LIMIT = 120.0
ROOT = Path(__file__).parents[2]
WORKER = ("hybridloop.cluster", "worker")


class DaskProcesses:
    """A scheduler and workers, each a process; those of `prefix` run in a network of their own."""

    def __init__(self, folder, host="127.0.0.1", prefix=(), options=()):
        self.folder = folder
        self.host = host
        self._options = options
        self._processes = []
        self._file = folder / "scheduler.json"
        try:
            options = ["--port", "0", "--dashboard-address", ":0"]
            options += ["--scheduler-file", str(self._file)]
            self._run(("hybridloop.cluster", "scheduler"), "scheduler", options, host, prefix)
            self.address = self._wait_for_address()
        except BaseException:
            self.close()
            raise

    def _wait_for_address(self):
        deadline = time.monotonic() + LIMIT
        while not (found := self._read_address()):
            assert self._processes[0].poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.01)
        return found

    def _read_address(self):
        try:
            return json.loads(self._file.read_text())["address"]
        except (OSError, ValueError):
            return None  # not there, or not complete

    def start_worker(self, name, *, host=None, prefix=(), nanny=False, path=(), program=WORKER):
        """Start a worker with one thread; it registers itself some time later.

        It finds what is in `path` before everything else.
        """
        options = ["--scheduler-file", str(self._file)]
        # Without a limit on memory, which depends on the machine: they would pause above it.
        options += ["--nthreads", "1", "--name", name, "--memory-limit", "0"]
        options += ["--nanny" if nanny else "--no-nanny"]
        return self._run(program, name, options, host or self.host, prefix, path)

    def _run(self, program, name, options, host, prefix=(), path=()):
        path = [*map(str, path), str(ROOT), *filter(None, sys.path)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
            "DASK_TEMPORARY_DIRECTORY": str(self.folder),
        }
        command = [*prefix, sys.executable, "-m", *program]
        command += ["--host", host, "--no-dashboard"]
        with open(self.folder / f"{name}.log", "ab") as log:
            # In its folder, where no modules are.
            process = subprocess.Popen(
                [*command, *self._options, *options],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def logs(self):
        return "\n".join(path.read_text()[-5000:] for path in self.folder.glob("*.log"))

    def close(self):
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@contextmanager
def extra_worker(dask, name, **options):
    """A worker that is gone at the end."""
    process = dask.start_worker(name, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def dask_client(dask, workers=2):
    """A client of Dask; so many workers have registered."""
    options = {"asynchronous": True, "set_as_default": False}
    async with Client(dask.address, timeout=LIMIT, **options) as client:
        await until(lambda: has_workers(client, workers))
        yield client
    # Dask closes some connections in callbacks.
    for _ in range(5):
        await asyncio.sleep(0)


async def has_workers(client, count):
    """Whether so many workers have started, and nobody else is there.

    Workers of earlier tests are dead, which the scheduler sees soon.
    """
    known, running = await client.scheduler.ncores(), await client.scheduler.ncores_running()
    return len(known) == len(running) == count


@asynccontextmanager
async def connected(dask, workers=2, **options):
    """A connection to the cluster, without pings, which a busy machine may answer late."""
    async with dask_client(dask, workers) as client:
        async with hybridloop.cluster.connect(client, **{"ping": None, **options}) as cluster:
            await until(lambda: len(cluster.workers()) == workers)
            # What earlier tests have left may end after them.
            await until(lambda: idle(cluster))
            yield cluster


async def until(condition, shown=None):
    """Wait until a condition holds, which may be a coroutine function."""
    deadline = time.monotonic() + LIMIT
    while not (found := await result_of(condition)):
        assert time.monotonic() < deadline, shown or "not true in time"
        await asyncio.sleep(0.01)
    return found


async def result_of(condition):
    found = condition()
    return await found if asyncio.iscoroutine(found) else found


async def address_of(client, name):
    """The address of a worker, as soon as the scheduler knows it."""

    async def find():
        found = (await client.scheduler.identity())["workers"]
        return [address for address, worker in found.items() if worker["name"] == name]

    (address,) = await until(find)
    return address


def client_of(cluster):
    """Dask's client, on which the cluster stands."""
    return cluster._backend._client


def engine_of(dask_worker):
    return dask_worker.plugins["hybridloop"].server.engine.stats()


async def engines(cluster):
    """The statistics of the workers' engines as of now, by address."""
    return await client_of(cluster).run(engine_of)


async def idle(cluster):
    """Whether no engine has anything to do, and none holds memory."""
    found = (await engines(cluster)).values()
    return not any(it["running"] + it["queued"] + it["pending"] + it["memory"] for it in found)


async def outcome(awaitable):
    """What an awaitable gives: its value, or the type, the text and the notes of its exception."""
    try:
        value = await awaitable
    except Exception as error:
        return type(error), str(error), getattr(error, "__notes__", [])
    return value
