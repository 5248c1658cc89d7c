"""Links on which bytes take their time: what is still arriving, or leaving, is no node that hangs."""

from __future__ import annotations

import asyncio
from ssl import PROTOCOL_TLS_SERVER, SSLContext, create_default_context
from typing import Any
from unittest.mock import patch

import pytest
import shoal
import trustme
from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Ping, Read, Rows, Working
from shoal.transport import connection

PIECE_SECONDS = 0.3


def trickle(node: Any, answers: list[Any], pieces: int) -> None:
    """Send one frame in so many pieces, from now on."""
    frame = encode_frame(answers)
    loop = asyncio.get_running_loop()
    step = -(-len(frame) // pieces)
    for number in range(pieces):
        loop.call_later(number * PIECE_SECONDS, node.send_raw, frame[number * step : (number + 1) * step])


async def test_an_answer_that_is_still_arriving_is_waited_for(cluster: Any) -> None:
    """Before a frame is complete nothing of it is an answer; the node sends it all the same, and so is there."""
    asked: list[Read] = []

    def slowly(node: Any, request: Any) -> Any:
        if isinstance(request, Read):
            asked.append(request)
            trickle(node, [cluster.serve(node, request)], 6)
            return None
        # What it answers to a ping stands behind that, as on any connection.
        return None if isinstance(request, Ping) else cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "x" * 100_000)
        cluster.script = slowly
        assert await db.get("a", timeout=10) == b"x" * 100_000
    assert len(asked) == 1
    assert cluster.nodes["n1"].connections == 1


async def test_over_tls_it_is_waited_for_as_well(cluster: Any) -> None:
    node, authority = cluster.nodes["n1"], trustme.CA()
    trusting, node.tls = create_default_context(), SSLContext(PROTOCOL_TLS_SERVER)
    authority.configure_trust(trusting)
    authority.issue_cert("127.0.0.1").configure_cert(node.tls)
    await node.stop()
    await node.start()

    def slowly(_node: Any, request: Any) -> Any:
        if isinstance(request, Read):
            trickle(node, [cluster.serve(node, request)], 6)
            return None
        return None if isinstance(request, Ping) else cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url().replace("shoal:", "shoals:"), ssl=trusting) as db:
        await db.put("a", "x" * 100_000)
        cluster.script = slowly
        assert await db.get("a", timeout=10) == b"x" * 100_000
    assert node.connections == 1


async def test_calls_that_come_meanwhile_do_not_make_it_hang(cluster: Any) -> None:
    """Each of them has the client look at its connections, also where no time has passed that a timer was set for."""
    asked: list[Read] = []

    def slowly(node: Any, request: Any) -> Any:
        if isinstance(request, Read):
            asked.append(request)
            if len(asked) == 1:
                trickle(node, [cluster.serve(node, request)], 6)
        return None

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "x" * 100_000)
        cluster.script = slowly
        reading = asyncio.ensure_future(db.get("a", timeout=10))
        others = []
        while not reading.done():
            others.append(asyncio.ensure_future(db.get("b", timeout=0.1)))
            await asyncio.sleep(0.01)
        assert await reading == b"x" * 100_000
        await asyncio.gather(*others, return_exceptions=True)
    assert cluster.nodes["n1"].connections == 1


async def test_a_node_that_says_nothing_more_of_an_answer_hangs(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    leader = cluster.nodes["n1"]

    def half(node: Any, request: Any) -> Any:
        if node is leader:
            if isinstance(request, Read):
                frame = encode_frame([cluster.serve(node, request)])
                node.send_raw(frame[: len(frame) // 2])
                cluster.leaders[1] = "n2"
            return None
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "x" * 1000)
        cluster.script = half
        assert await db.get("a") == b"x" * 1000
    assert leader.connections >= 1


async def test_a_request_that_is_still_arriving_is_no_silence(cluster: Any) -> None:
    """What has left may be in a buffer on its way: only the node can say that it is arriving, and does."""

    def slowly(node: Any, request: Any) -> Any:
        if not isinstance(request, Read):
            return None
        loop = asyncio.get_running_loop()
        for number in range(6):
            loop.call_later(number * PIECE_SECONDS, node.send, Working())
        loop.call_later(6 * PIECE_SECONDS, lambda: node.send(cluster.serve(node, request)))
        return None

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.script = slowly
        assert await db.get("a", timeout=10) == b"1"
    assert cluster.nodes["n1"].connections == 1


async def test_a_request_that_is_still_leaving_is_no_silence_though_calls_come_all_the_time(cluster: Any) -> None:
    """Each call has the client look for nodes that hang, so it has to see before that whether more has left."""
    node = cluster.nodes["n1"]
    owed: list[Read] = []

    def slowly(_node: Any, request: Any) -> None:
        if isinstance(request, Read) and b"a" in request.keys:
            owed.append(request)

    leaving = patch.object(connection.Connection, "progressed", lambda _: True)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        with leaving:
            cluster.script = slowly
            reading = asyncio.ensure_future(db.get("a", timeout=10))
            others = []
            for _ in range(100):
                others.append(asyncio.ensure_future(db.get("b", timeout=0.1)))
                await asyncio.sleep(0.02)
        cluster.script = None
        node.send(cluster.serve(node, owed[0]))
        assert await reading == b"1"
        await asyncio.gather(*others, return_exceptions=True)
    assert node.connections == 1


async def test_a_greeting_that_is_still_arriving_is_waited_for(cluster: Any) -> None:
    """It has the shard map, which is long where there are many shards."""
    node = cluster.nodes["n1"]
    welcome = node.welcome()
    node.greeting = b""
    with patch.object(connection, "CONNECT_SECONDS", 0.4):
        db = shoal.AsyncClient(cluster.url())
        writing = asyncio.ensure_future(db.put("a", "1"))
        while not node.open:
            await asyncio.sleep(0.01)
        trickle(node, [welcome], 5)
        await writing
        await db.close()
    assert node.connections == 1


async def test_a_greeting_that_never_ends_is_given_up(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    node.greeting = b""
    with patch.object(connection, "CONNECT_SECONDS", 0.2), patch.object(connection, "GREETING_SECONDS", 0.5):
        db = shoal.AsyncClient(cluster.url(), timeout=1.5)
        writing = asyncio.ensure_future(db.put("a", "1"))
        node_sends = asyncio.ensure_future(_send_for_ever(node))
        with pytest.raises(shoal.Unavailable, match=r"no greeting within 0\.5 s of which it has been sending"):
            await writing
        node_sends.cancel()
        await db.close()
    assert node.connections > 1


async def _send_for_ever(node: Any) -> None:
    node_frame = encode_frame([Rows(1, 1, "n1", [b"x" * 10_000], [1])])
    sent: dict[Any, int] = {}
    while True:
        for served in list(node.open):
            at = sent.get(served, 0)
            served.transport.write(node_frame[at : at + 10])
            sent[served] = at + 10
        await asyncio.sleep(0.05)
