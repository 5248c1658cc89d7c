"""Connections that take places and ask nothing, beside a light load on a node that may open few files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import shoal
from shoal.protocol.frames import FrameReader, encode_frame, greeting_decoder
from shoal.protocol.messages import Hello, Welcome
from shoal.protocol.version import NEWEST, OLDEST

from .real import real_nodes

FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 1024; exec "$@"', "sh")
IDLE = 1_100


async def welcomed(port: int) -> tuple[asyncio.StreamWriter, bool]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(encode_frame([Hello("client", OLDEST, NEWEST)]))
    frames = FrameReader()
    while data := await reader.read(65536):
        for body in frames.feed(data):
            return writer, isinstance(greeting_decoder.decode(body)[0], Welcome)
    return writer, False


@pytest.mark.timeout(120)
async def test_idle_clients_under_a_low_limit_of_descriptors_cost_nobody_anything(tmp_path: Path) -> None:
    cluster = real_nodes(tmp_path, nodes=1)
    cluster.wrappers.update(dict.fromkeys(cluster.names, FEW_DESCRIPTORS))
    idle: list[asyncio.StreamWriter] = []
    try:
        cluster.start_all()
        await cluster.ready()
        async with shoal.AsyncClient(cluster.url, timeout=20.0) as db:
            for first in range(0, IDLE, 50):
                opened = await asyncio.gather(*(welcomed(cluster.ports[0]) for _ in range(50)))
                idle += [writer for writer, _ in opened]
                # Tables are written meanwhile, for which the node opens files.
                await db.put_many({f"k{first}-{number}": b"x" * 50_000 for number in range(20)})
            await asyncio.sleep(2.0)
            newcomer, welcome = await welcomed(cluster.ports[0])
            idle.append(newcomer)
            assert welcome
            assert await db.get("k0-0") == b"x" * 50_000
        assert not cluster.take_exits()
        assert "descriptors_scarce" in cluster.log_of("n1")
    finally:
        for writer in idle:
            writer.transport.abort()
        await cluster.kill_all()
