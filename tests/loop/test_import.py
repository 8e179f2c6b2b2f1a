"""What `import hybridloop` loads: an event loop alone, and the rest when it is first used."""

import subprocess
import sys

import pytest

pytest.importorskip("hybridloop._core", reason="the extension is not built")

import hybridloop


def run(program: str, *options: str) -> str:
    result = subprocess.run(
        [sys.executable, *options, "-c", program], check=True, capture_output=True, text=True
    )
    assert not result.stderr
    return result.stdout


def test_a_loop_needs_no_kernels_no_engine_and_no_typing():
    loaded = run(
        "import asyncio, sys; before = set(sys.modules)\n"
        "import hybridloop\n"
        "async def main(): await asyncio.sleep(0)\n"
        "hybridloop.run(main())\n"
        "print(*set(sys.modules) - before)"
    ).split()
    assert "hybridloop.loop.loop" in loaded
    unneeded = ("typing", "platform", "dataclasses", "hybridloop.native", "hybridloop.engine")
    assert not [name for name in loaded if name.startswith(unneeded)]


@pytest.mark.parametrize("name", sorted(hybridloop.__all__))
def test_every_public_name_is_found(name):
    if name == "EventLoopPolicy" and sys.version_info >= (3, 16):
        pytest.skip("Python has no policies from 3.16 on")
    value = getattr(hybridloop, name)
    assert value is getattr(hybridloop, name)
    assert name in dir(hybridloop)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hybridloop' has no attribute 'loops'"):
        _ = hybridloop.loops
    with pytest.raises(ImportError, match="cannot import name 'loops'"):
        exec("from hybridloop import loops")


USES = {
    "a subpackage": "assert hybridloop.native.kernels and hybridloop.engine.Engine",
    "a star import": "from hybridloop import *; assert Engine and kernels and open_connection",
    "a kernel": "import asyncio\n"
    "async def main(): return await hybridloop.run_native('hl.crc32', b'123456789')\n"
    "assert asyncio.run(main()) == hybridloop.run(main()) == 0xCBF43926",
    "an engine of one's own": "engine = hybridloop.NativeEngine(native_threads=1)\n"
    "assert engine.run_native('hl.crc32', b'123456789').result() == 0xCBF43926",
    "an error": "try: hybridloop.NativeEngine().run_native('no.such', 1)\n"
    "except KeyError as error: assert type(error) is hybridloop.KernelNotFoundError",
    "the signature of a kernel": "import inspect\n"
    "assert inspect.signature(hybridloop.kernels['hl.crc32']).parameters",
    "the bus": "loop = hybridloop.new_event_loop()\n"
    "loop.bus.push('key', b'data')\n"
    "assert bytes(loop.run_until_complete(loop.bus.wait('key'))) == b'data'\n"
    "loop.close()",
    "at exit": "import atexit\n"
    "def late(): print(hybridloop.NativeEngine().run_native('hl.crc32', b'').result())\n"
    "atexit.register(late)",
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_rest_is_loaded_when_it_is_used(use):
    assert run(f"import hybridloop\n{use}", "-W", "error") == ("0\n" if "late" in use else "")
