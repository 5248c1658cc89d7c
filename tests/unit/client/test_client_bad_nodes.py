"""Nodes that hang, refuse, talk nonsense, or belong to somebody else; seeds; connections that do not drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.frames import HEADER_BYTES, encode_frame, operations_decoder
from shoal.protocol.messages import (
    Refused,
    Rows,
    Welcome,
    Write,
    Written,
)
from shoal.routing.links import Link


async def until(condition: Callable[[], object]) -> None:
    """Wait, one loop turn at a time, until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def link_to(db: shoal.AsyncClient, node: Any) -> Link[Any]:
    """What the client's router knows of a node's address."""
    return db._caller.driver.router.network.link(node.address)


def applied_keys(cluster: Any) -> list[bytes]:
    return [operation.key for write in cluster.applied for operation in operations_decoder.decode(write.operations)]


async def test_a_hanging_leader_is_given_up_and_its_writes_go_to_the_next(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.nodes["n1"].hold = True
        writing = asyncio.ensure_future(db.put("a", "1"))
        await until(lambda: cluster.nodes["n1"].held)
        cluster.leaders[1] = "n2"
        await writing
    assert applied_keys(cluster) == [b"warm", b"a"]


async def test_a_slow_node_that_answers_pings_is_not_given_up(cluster: Any) -> None:
    held: list[Any] = []

    def slow(node: Any, request: Any) -> Any:
        if isinstance(request, Write):
            held.append(cluster.serve(node, request))
            asyncio.get_running_loop().call_later(1.3, lambda: node.send(*held))
            return None
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = slow
        await db.put("a", "1")
    assert len(held) == 1
    assert cluster.nodes["n1"].connections == 1


async def test_a_dead_and_a_hanging_seed_do_not_hold_up_the_living_one(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    await cluster.nodes["n1"].stop()
    cluster.nodes["n2"].greeting = b""
    cluster.leaders[1] = "n3"
    async with asyncio.timeout(0.9), shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")


async def test_a_seed_that_starts_later_is_found_within_the_deadline(cluster: Any) -> None:
    await cluster.nodes["n1"].stop()
    db = shoal.AsyncClient(cluster.url())
    writing = asyncio.ensure_future(db.put("a", "1"))
    await until(lambda: link_to(db, cluster.nodes["n1"]).failures > 1)
    assert not writing.done()
    await cluster.nodes["n1"].start()
    await writing
    await db.close()


async def test_no_node_at_all_is_unavailable_and_names_the_addresses(cluster: Any) -> None:
    address = cluster.nodes["n1"].address
    await cluster.nodes["n1"].stop()
    with pytest.raises(shoal.Unavailable, match=address):
        async with shoal.AsyncClient(cluster.url(), timeout=0.2):
            raise AssertionError("connected to a stopped node")


async def test_seeds_are_used_again_when_all_known_nodes_are_gone(start_cluster: Any) -> None:
    """The cluster was replaced by one at another address, to which only the seed's name leads now."""
    cluster = await start_cluster(nodes=2)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await cluster.nodes["n1"].stop()
        moved = cluster.nodes["n1"]
        moved.port = 0
        await moved.start()
        cluster.version = 2
        cluster.leaders[1] = "n1"
        assert await db.get("a") == b"1"
        assert moved.connections == 2


async def test_a_refused_greeting_is_told_at_once(cluster: Any) -> None:
    cluster.nodes["n1"].greeting = Refused(ErrorCode.PROTOCOL_MISMATCH, "you speak versions 1 to 1, this node 7 to 9")
    async with asyncio.timeout(2):
        with pytest.raises(shoal.ProtocolMismatch, match="this node 7 to 9"):
            await shoal.AsyncClient(cluster.url(), timeout=60).get("k")


async def test_a_passing_refusal_is_tried_again(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    node.greeting = Refused(ErrorCode.OVERLOADED, "too many clients")
    db = shoal.AsyncClient(cluster.url())
    reading = asyncio.ensure_future(db.get("k"))
    await until(lambda: node.connections >= 2)
    node.greeting = None
    assert await reading is None
    await db.close()


async def test_a_version_that_this_client_does_not_speak_is_a_mismatch(cluster: Any) -> None:
    cluster.nodes["n1"].greeting = Welcome(99, "fake", "n1", "i", 1, 1, 1, 1, cluster.map())
    db = shoal.AsyncClient(cluster.url())
    with pytest.raises(shoal.ProtocolMismatch, match="version 99"):
        await db.get("k")
    await db.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        encode_frame(["no greeting"]),
        encode_frame([]),
        bytes(HEADER_BYTES),
    ],
)
async def test_garbage_instead_of_a_greeting_is_a_mismatch(cluster: Any, garbage: bytes) -> None:
    cluster.nodes["n1"].greeting = garbage
    db = shoal.AsyncClient(cluster.url())
    with pytest.raises(shoal.ProtocolMismatch):
        await db.get("k")
    await db.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        encode_frame([[41]]),
        encode_frame([Written(12345, 1)]),
        encode_frame([Refused(ErrorCode.INTERNAL, "going down")]),
    ],
)
async def test_garbage_among_the_answers_costs_the_connection_but_no_call(cluster: Any, garbage: bytes) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        held = asyncio.Event()

        def spoil_once(node: Any, request: Any) -> Any:
            if held.is_set():
                return cluster.serve(node, request)
            held.set()
            node.send_raw(garbage)
            return None

        cluster.script = spoil_once
        assert await db.get("a") == b"1"
    assert cluster.nodes["n1"].connections == 2


@pytest.mark.parametrize("values", [[], [b"1", b"2"]])
async def test_an_answer_of_the_wrong_shape_costs_the_connection_but_no_call(cluster: Any, values: list[bytes]) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")

        def misshapen(_node: Any, request: Any) -> Any:
            cluster.script = None
            return Rows(request.request, 1, "n1", list(values), [1] * len(values))

        cluster.script = misshapen
        assert await db.get("a") == b"1"
    assert cluster.nodes["n1"].connections == 2


async def test_a_node_of_another_cluster_is_never_asked(start_cluster: Any) -> None:
    ours, theirs = await start_cluster(), await start_cluster()
    stranger = theirs.nodes["n1"]
    stranger.greeting = Welcome(1, "other", "n1", "i", 1 << 24, 4096, 1 << 20, 8 << 20, theirs.map(), cluster_id="id")
    ours.nodes["n2"] = stranger
    ours.names.append("n2")
    async with shoal.AsyncClient(ours.url("n1")) as db:
        await db.put("a", "1")
        ours.leaders[1] = "n2"
        # Which of the two depends on whether n1, which sends to the stranger, is just being asked again.
        with pytest.raises((shoal.Unavailable, shoal.DeadlineExceeded)):
            await db.put("b", "2", timeout=0.2)
        ours.leaders[1] = "n1"
        await db.put("c", "3")
    assert theirs.asked == []
    del ours.nodes["n2"]


async def test_a_connection_that_does_not_read_holds_calls_back_without_losing_any(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        for served in node.open:
            served.transport.pause_reading()
        reading = asyncio.ensure_future(db.get_many([f"{number:04000d}" for number in range(3000)]))
        await until(lambda: link_to(db, node).paused)
        assert not reading.done()
        for served in node.open:
            served.transport.resume_reading()
        assert await reading == [None] * 3000
    assert node.connections == 1
