"""What the proxy before a node does to bytes and to ends of connections, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Hello
from shoal_chaos.clusters.links import CLIENTS, HELD, LinkRule, Links, both_ways
from shoal_chaos.clusters.proxy import HELD_BYTES, NodeProxy
from shoal_server.local.layout import LOOPBACK, free_ports

PEER = encode_frame([Hello("peer", 1, 1, "c", "n1", "i")])
CLIENT = encode_frame([Hello("client", 1, 1)])
OTHER_LANGUAGE = b"GET / HTTP/1.1\r\n\r\n"
TO_NODE, FROM_NODE = ("n1", "n2"), ("n2", "n1")
LONG = 20
SHORT = 0.2


class Echo:
    """A node that says what it hears, and counts who has come."""

    def __init__(self) -> None:
        self.came = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


class Proxied:
    def __init__(self, front: int, links: Links, proxy: NodeProxy, echo: Echo, server: asyncio.Server) -> None:
        self.links = links
        self.proxy = proxy
        self.echo = echo
        self.server = server
        self._front = front
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self, greeting: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._front)
        self._writers.append(writer)
        writer.write(greeting)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        await self.proxy.stop()
        self.server.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[Proxied]:
    front, back = free_ports(2)
    links, echo = Links(), Echo()
    server = await asyncio.start_server(echo.serve, LOOPBACK, back)
    proxy = NodeProxy("n2", LOOPBACK, front, back, links, Random(0))
    await proxy.start()
    found = Proxied(front, links, proxy, echo, server)
    try:
        yield found
    finally:
        await found.close()


async def is_silent(reader: asyncio.StreamReader) -> bool:
    """Whether nothing comes for a moment, not even an end."""
    try:
        await asyncio.wait_for(reader.read(1), SHORT)
    except TimeoutError:
        return True
    return False


async def heard(reader: asyncio.StreamReader, expected: bytes) -> bool:
    return await asyncio.wait_for(reader.readexactly(len(expected)), LONG) == expected


@pytest.mark.parametrize("greeting", [PEER, CLIENT, OTHER_LANGUAGE])
async def test_without_rules_all_bytes_pass(greeting: bytes) -> None:
    async with proxied() as found:
        reader, writer = await found.dial(greeting)
        assert await heard(reader, greeting)
        block = Random(1).randbytes(3 * HELD_BYTES)
        writer.write(block)
        assert await heard(reader, block)


async def test_the_greeting_may_come_in_pieces() -> None:
    async with proxied() as found:
        found.links.set({TO_NODE: HELD})
        reader, writer = await found.dial(PEER[:3])
        writer.write(PEER[3:])
        assert await is_silent(reader)
        found.links.clear([TO_NODE])
        assert await heard(reader, PEER)


@pytest.mark.parametrize("link", [TO_NODE, FROM_NODE])
async def test_a_held_direction_delivers_once_it_is_let_go(link: tuple[str, str]) -> None:
    async with proxied() as found:
        reader, writer = await found.dial(PEER)
        assert await heard(reader, PEER)
        found.links.set({link: HELD})
        writer.write(b"late")
        assert await is_silent(reader)
        found.links.clear([link])
        assert await heard(reader, b"late")


async def test_a_rule_is_for_whom_it_names_alone() -> None:
    async with proxied() as found:
        found.links.set({TO_NODE: HELD, FROM_NODE: HELD})
        reader, _ = await found.dial(CLIENT)
        assert await heard(reader, CLIENT)
        found.links.set({(CLIENTS, "n2"): HELD})
        reader, _ = await found.dial(CLIENT)
        assert await is_silent(reader)


async def test_a_held_connection_does_not_reach_the_node() -> None:
    async with proxied() as found:
        found.links.set({TO_NODE: HELD})
        reader, _ = await found.dial(PEER)
        assert await is_silent(reader)
        assert found.echo.came == 0


async def test_the_end_of_a_connection_is_held_too() -> None:
    async with proxied() as found:
        reader, writer = await found.dial(PEER)
        assert await heard(reader, PEER)
        found.links.set({TO_NODE: HELD})
        writer.close()
        await writer.wait_closed()
        assert len(found.proxy.connections) == 1
        found.links.clear([TO_NODE])
        async with asyncio.timeout(LONG):
            while found.proxy.connections:
                await asyncio.sleep(0)


async def test_a_reset_breaks_connections_and_lets_none_through() -> None:
    async with proxied() as found:
        reader, _ = await found.dial(PEER)
        assert await heard(reader, PEER)
        found.links.set({TO_NODE: LinkRule(reset=True)})
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await heard(reader, b"x")
        again, _ = await found.dial(PEER)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await heard(again, PEER)
        assert found.echo.came == 1


async def test_delays_and_narrow_links_keep_the_order() -> None:
    async with proxied() as found:
        rule = LinkRule(delay_seconds=0.001, jitter_seconds=0.02, loss=0.05, bytes_per_second=1_000_000)
        found.links.set(dict.fromkeys(both_ways([TO_NODE]), rule))
        reader, writer = await found.dial(PEER)
        assert await heard(reader, PEER)
        for number in range(50):
            writer.write(b"%04d" % number)
            await asyncio.sleep(0)
        assert await heard(reader, b"".join(b"%04d" % number for number in range(50)))


async def test_abandoned_connections_stay_open_and_silent_when_the_node_is_gone() -> None:
    async with proxied() as found:
        reader, writer = await found.dial(PEER)
        assert await heard(reader, PEER)
        assert found.proxy.abandon("n3") == 0
        assert found.proxy.abandon("n1") == 1
        found.server.close()
        writer.write(b"is anybody there")
        assert await is_silent(reader)
        fresh, _ = await found.dial(CLIENT)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await heard(fresh, CLIENT)


async def test_where_nobody_listens_the_caller_is_told() -> None:
    async with proxied() as found:
        found.server.close()
        await found.server.wait_closed()
        reader, _ = await found.dial(PEER)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await heard(reader, PEER)


async def test_bits_flip_and_all_else_arrives() -> None:
    async with proxied() as found:
        reader, writer = await found.dial(PEER)
        assert await heard(reader, PEER)
        found.links.set({TO_NODE: LinkRule(flips=1.0)})
        sent = b"payload of some length"
        writer.write(sent)
        arrived = await asyncio.wait_for(reader.readexactly(len(sent)), LONG)
        assert sum((a ^ b).bit_count() for a, b in zip(sent, arrived, strict=True)) == 1
        found.links.clear([TO_NODE])
        writer.write(sent)
        assert await heard(reader, sent)
