from hybridloop import parallel

FIRST, LAST = ord(" "), ord("~")


def chargen(lineno, nchars=72):
    count = LAST - FIRST + 1
    line = bytearray(FIRST + (lineno + i) % count for i in range(nchars))
    return line + b"\r\n"


class Chargen:
    def initial_bytes_to_send(self):
        return chargen(0)

    def send_complete(self, transport, send_id):
        return chargen(send_id)


server = parallel.server("127.0.0.1", 0)
parallel.register(transport=server, protocol=Chargen)
print(server.port, flush=True)
parallel.run()
