"""A Dask cluster for all tests of this folder."""

import pytest

pytest.importorskip("distributed")

import hybridloop
from tests.native.conftest import compile_c, job_library
from tests.support.certificates import authority

from .support import DaskProcesses

__all__ = ("authority", "compile_c", "job_library")


@pytest.fixture(autouse=True)
def ends_clean(clean_end):
    """Every test leaves no descriptor behind."""


@pytest.fixture(scope="package")
def dask(tmp_path_factory):
    """A scheduler and two workers with one thread each."""
    processes = DaskProcesses(tmp_path_factory.mktemp("dask"))
    try:
        for name in ("first", "second"):
            processes.start_worker(name)
        yield processes
    finally:
        processes.close()


@pytest.fixture
def libraries(job_library):
    """The kernels of `jobs.c`, which this process has loaded, too."""
    hybridloop.load_kernels(job_library, replace=True)
    return [str(job_library)]
