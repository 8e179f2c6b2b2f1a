from tests.transports.conftest import _clean_end, connect, connect_tcp, make_pair, opened

__all__ = ["_clean_end", "connect", "connect_tcp", "make_pair", "opened"]
