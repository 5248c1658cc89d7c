"""One loop's connections get to their nodes by links as narrow as they are told to be, and nobody else's."""

from __future__ import annotations

import asyncio
import time

from shoal_chaos.attackers.detours import DetouringLoop, narrow_links

LONG = 200_000
BYTES_PER_SECOND = 400_000.0


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(bytes(LONG))
    writer.close()


async def _seconds(port: int) -> float:
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # A whole frame of another language: the proxy waits until it knows who calls.
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert len(await reader.read(-1)) == LONG
    writer.close()
    return time.monotonic() - began


async def _narrow_and_wide() -> tuple[float, float]:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with narrow_links([f"127.0.0.1:{port}"], BYTES_PER_SECOND):
        narrow = await _seconds(port)
    wide = await _seconds(port)
    server.close()
    return narrow, wide


def test_what_comes_by_a_narrow_link_takes_its_time() -> None:
    with asyncio.Runner(loop_factory=DetouringLoop) as runner:
        narrow, wide = runner.run(_narrow_and_wide())
    assert narrow > 0.9 * LONG / BYTES_PER_SECOND
    assert wide < narrow
