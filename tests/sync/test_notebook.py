"""A notebook's kernel on hybridloop. (T3.23)"""

import json
import os
import queue
import shutil
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ipykernel")
client = pytest.importorskip("jupyter_client")

EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook"


@pytest.fixture(scope="module", autouse=True)
def client_loop():
    """The loop of the client, which lives as long as its thread."""
    from jupyter_core.utils import ensure_event_loop

    loop = ensure_event_loop()
    yield
    loop.close()


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A running kernel whose loop is hybridloop's."""
    shutil.copytree(EXAMPLE, tmp_path / "kernels" / "hybridloop")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    manager = client.KernelManager(kernel_name="hybridloop")
    manager.start_kernel()
    channels = manager.client()
    channels.start_channels()
    try:
        channels.wait_for_ready(timeout=60)
        yield Cells(manager, channels)
    finally:
        channels.stop_channels()
        manager.shutdown_kernel(now=True)


class Cells:
    def __init__(self, manager, channels):
        self.manager, self.channels = manager, channels

    def run(self, source, *, interrupt_at=None):
        """Run a cell, and return what it prints and the name of its error."""
        request = self.channels.execute(source)
        printed, error = "", None
        deadline = time.monotonic() + 60
        while True:
            try:
                message = self.channels.get_iopub_msg(timeout=1)
            except queue.Empty:
                assert time.monotonic() < deadline, printed
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
                if interrupt_at is not None and interrupt_at in printed:
                    time.sleep(0.2)
                    self.manager.interrupt_kernel()
                    interrupt_at = None
            elif kind == "error":
                error = content["ename"]
                printed += "\n".join(content["traceback"]) if error != "KeyboardInterrupt" else ""
            elif kind == "status" and content["execution_state"] == "idle":
                return printed, error


def test_cells_wait_and_are_interrupted(kernel):
    assert kernel.run("import asyncio, hybridloop; print(type(asyncio.get_running_loop()))") == (
        "<class 'hybridloop.loop.Loop'>\n",
        None,
    )
    kernel.run(
        "ticks = []\n"
        "async def tick():\n"
        "    while True:\n"
        "        ticks.append(1)\n"
        "        await asyncio.sleep(0.001)\n"
        "async def slow(value):\n"
        "    await asyncio.sleep(0.02)\n"
        "    return value\n"
        "task = asyncio.ensure_future(tick())\n"
    )
    waits = (
        "from hybridloop import await_, sync\n"
        "before = len(ticks)\n"
        "def f(): return await_(slow(1))\n"
        "print(f(), len(ticks) > before)"
    )
    assert kernel.run(waits) == ("1 True\n", None)
    assert kernel.run("print(await slow(2))") == ("2\n", None)
    nested = "sync.nest()\nprint(asyncio.run(slow(3)))\n"
    assert kernel.run(nested) == ("3\n", None)
    loop = "print(asyncio.get_event_loop().run_until_complete(slow(4)))"
    assert kernel.run(loop) == ("4\n", None)
    long = "print('begins', flush=True)\nawait_(asyncio.sleep(100))"
    assert kernel.run(long, interrupt_at="begins") == ("begins\n", "KeyboardInterrupt")
    assert kernel.run(waits) == ("1 True\n", None)
    assert kernel.run("print('still here', task.done())") == ("still here False\n", None)


def test_the_example(kernel):
    notebook = json.loads((EXAMPLE / "waiting.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    for cell in cells:
        printed = "".join(output["text"] for output in cell["outputs"])
        assert kernel.run(cell["source"]) == (printed, None), cell["source"]


@pytest.mark.parametrize("module", ["nest_asyncio", "nest_asyncio2"])
def test_nest_asyncio_in_a_cell(kernel, module):
    pytest.importorskip(module)
    if module == "nest_asyncio" and sys.version_info >= (3, 14):
        pytest.skip("its tasks are unknown to asyncio.current_task() since Python 3.14")
    assert kernel.run(
        f"import asyncio, {module}\n{module}.apply()\nprint(asyncio.run(asyncio.sleep(0.01, 5)))"
    ) == ("5\n", None)
    assert kernel.run("print(6)") == ("6\n", None)
