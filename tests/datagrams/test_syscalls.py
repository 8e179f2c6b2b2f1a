"""System calls per datagram, as strace sees them."""

import re
import shutil
import socket
import subprocess
import sys

import pytest

from tests.conftest import SCRIPT_HEAD

MESSAGES = 300

SERVER = """
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, addr):
        if data == b"end":
            loop.stop()
        else:
            self.transport.sendto(data, addr)
loop = new_event_loop()
transport, _ = loop.run_until_complete(
    loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0)))
print(transport.get_extra_info("sockname")[1], flush=True)
loop.run_forever()
transport.close()
loop.run_until_complete(asyncio.sleep(0))
loop.close()
"""


@pytest.fixture(scope="module", autouse=True)
def _strace():
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    command = ["strace", "-f", "-o", "/dev/null", "true"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


def test_one_receive_and_one_send_per_datagram(tmp_path, script_env):
    output = tmp_path / "strace.txt"
    command = ["strace", "-f", "-qq", "-o", str(output)]
    command += ["-e", "trace=?recvfrom,?recvmsg,?recvmmsg,?sendto,?sendmsg,?sendmmsg,?epoll_ctl"]
    command += [sys.executable, "-c", SCRIPT_HEAD + SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=script_env) as process:
        try:
            address = ("127.0.0.1", int(process.stdout.readline()))
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.settimeout(60)
                sock.connect(address)
                for number in range(MESSAGES):
                    sock.send(b"message %d" % number)
                    assert sock.recv(100) == b"message %d" % number
                sock.send(b"end")
            assert process.wait(60) == 0
        finally:
            process.kill()
    calls = re.findall(r"^\d+ +(\w+)\(", output.read_text(), re.MULTILINE)
    assert sum(call.startswith("send") for call in calls) == MESSAGES
    # The last one ends the loop. A few may be no datagrams: a wake-up of the loop, for example.
    assert MESSAGES <= sum(call.startswith("recv") for call in calls) <= MESSAGES + 10
    # Registered, and taken out.
    assert calls.count("epoll_ctl") <= 6
