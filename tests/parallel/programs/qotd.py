from hybridloop import parallel


class QOTD:
    initial_bytes_to_send = b"Time flies like an arrow.\r\n"


server = parallel.server("127.0.0.1", 0)
parallel.register(transport=server, protocol=QOTD)
print(server.port, flush=True)
parallel.run()
