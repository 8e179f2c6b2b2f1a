"""`add_reader()` and `add_writer()` by side, and sockets that are full or empty."""

METHODS = {
    "reader": ("add_reader", "remove_reader"),
    "writer": ("add_writer", "remove_writer"),
}


def add(loop, side, *args):
    return getattr(loop, side[0])(*args)


def remove(loop, side, fd):
    return getattr(loop, side[1])(fd)


def fill(sock):
    """Write until the kernel's buffer is full."""
    total = 0
    while True:
        try:
            total += sock.send(b"x" * 65536)
        except BlockingIOError:
            return total


def drain(sock):
    total = 0
    while True:
        try:
            total += len(sock.recv(65536))
        except BlockingIOError:
            return total
