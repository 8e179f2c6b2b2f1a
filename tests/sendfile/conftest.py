import io

import pytest

from tests.support.fixtures import connect, connect_tcp, ends_clean, make_pair, opened

__all__ = ["connect", "connect_tcp", "ends_clean", "make_pair", "opened"]


@pytest.fixture(params=["file", "memory"])
def make_file(request, tmp_path):
    """``make_file(contents)`` opens a file on disk, or one without a descriptor."""
    files = []

    def make_file(contents):
        if request.param == "memory":
            file = io.BytesIO(contents)
        else:
            path = tmp_path / f"file{len(files)}"
            path.write_bytes(contents)
            file = path.open("rb")
        files.append(file)
        return file

    yield make_file
    for file in files:
        file.close()
