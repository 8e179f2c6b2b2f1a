from hybridloop import parallel


class Echo:
    def data_received(self, transport, data):
        return data


server = parallel.server("127.0.0.1", 0)
parallel.register(transport=server, protocol=Echo)
try:
    print(server.port, flush=True)
    parallel.run()
except KeyboardInterrupt:
    server.shutdown()
    parallel.run()
    print("shut down", flush=True)
