"""Passes connections on over TLS, for the load, which speaks none. Usage: into_tls.py FROM-PORT TO-PORT, both on loopback."""

import asyncio
import contextlib
import ssl
import sys


async def pipe(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(source, target):
    async def serve(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target, ssl=ssl._create_unverified_context())
        except OSError:
            # A bridge that is down: its sender is to see that.
            writer.close()
            return
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", source)
    await server.serve_forever()


asyncio.run(main(*map(int, sys.argv[1:])))
