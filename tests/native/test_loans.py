"""Memory that jobs use: read by many of them, or written by one."""

import array

import pytest

import hybridloop
from hybridloop import BufferInUseError
from hybridloop._core import NativeEngine

from .support import LIMIT


def test_memory_that_a_job_reads_is_not_written_by_another(name):
    # The C library's function writes up to three numbers.
    load = hybridloop.register_kernel(name, (None, "getloadavg"), "i32(out f64* loads, i32 n)")
    engine = NativeEngine(native_threads=1)
    try:
        # The only worker is busy, so what comes next waits.
        blocker = engine.run_native("hl.sleep", LIMIT)
        numbers = array.array("d", [1.0, 2.0, 3.0])
        readers = [engine.run_native("hl.sum", numbers) for _ in range(2)]
        with pytest.raises(BufferInUseError, match="'loads': another job reads this buffer"):
            engine.run_native(load, 3, out=numbers)
        blocker.cancel()
        assert [reader.result(LIMIT) for reader in readers] == [6.0, 6.0]
        assert engine.run_native(load, 3, out=numbers).result(LIMIT) == 3
        assert list(numbers) != [1.0, 2.0, 3.0]
    finally:
        assert engine.close(LIMIT) == []
