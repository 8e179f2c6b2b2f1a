from tests.support.fixtures import connect, connect_tcp, ends_clean, make_pair, opened

__all__ = ["connect", "connect_tcp", "ends_clean", "make_pair", "opened"]
