"""A script that knows of no loop but asyncio's default."""

import asyncio
import sys


async def main() -> None:
    loop = type(asyncio.get_running_loop())
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"line\n")
        line = await reader.read()
        writer.close()
        await writer.wait_closed()
    print(f"{loop.__module__}.{loop.__qualname__}", line.decode().strip(), *sys.argv[1:])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
    if "--fail" in sys.argv:
        raise LookupError("asked to fail")
    sys.exit(7 if "--exit" in sys.argv else 0)
