from hybridloop import parallel


class Hello:
    def connection_made(self, transport, data):
        return b"Hello, World!\r\n"

    def data_received(self, transport, data):
        return b"You said: " + data + b"\r\n"


server = parallel.server("127.0.0.1", 0)
parallel.register(transport=server, protocol=Hello)
print(server.port, flush=True)
parallel.run()
