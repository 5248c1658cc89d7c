"""Nodes that have too much to do: what they are told of a client, how they are asked again, and what callers hear."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest
import shoal
from shoal.bounds import MAX_MS
from shoal.errors import ErrorCode, Overloaded, said_again
from shoal.priorities import OverloadReason, Priority
from shoal.protocol.frames import HEADER_BYTES, encode_frame, greeting_decoder
from shoal.protocol.messages import Failure, OpenSession, Read, Refused, Scan, Working, Write
from shoal.routing.backoff import ASKED_FOR_SECONDS, Backoff
from shoal.routing.network import Network
from shoal.routing.overload import overload_of


def turned_away(reason: str = "node_busy", retry_after_ms: int = 20) -> Any:
    """A script by which a node serves nobody."""

    def script(_node: Any, request: Any) -> Any:
        message = "the node has more to do than it can in time"
        return Failure(request.request, ErrorCode.OVERLOADED, message, False, retry_after_ms, reason=reason)

    return script


# -- priority ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "given", "said"),
    [
        ("", None, Priority.INTERACTIVE),
        ("", "batch", Priority.BATCH),
        ("?priority=background", None, Priority.BACKGROUND),
        ("?priority=background", "interactive", Priority.INTERACTIVE),
    ],
)
async def test_a_node_is_told_the_priority(cluster: Any, query: str, given: Any, said: Priority) -> None:
    async with shoal.AsyncClient(cluster.url(query=query), priority=given) as db:
        await db.put("a", "1")
        await db.session().keyspace("default").get("a")
    assert [hello.priority for hello in cluster.nodes["n1"].hellos] == [said]


def test_the_blocking_client_says_it_too(threaded_cluster: Any) -> None:
    with shoal.Client(threaded_cluster.url(), priority="background") as db:
        db.put("a", "1")
    said = {hello.priority for node in threaded_cluster.nodes.values() for hello in node.hellos}
    assert said == {Priority.BACKGROUND}


def test_an_embedded_database_takes_any_priority() -> None:
    with shoal.Client("embedded://?priority=batch") as db:
        db.put("a", "1")
        assert db.get("a") == b"1"


# -- what callers hear -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [*OverloadReason, "fashion", ""])
async def test_who_is_turned_away_until_the_deadline_hears_why(cluster: Any, reason: str) -> None:
    known = reason if reason in list(OverloadReason) else ""
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        # Until after the deadline: none is under way then, however slow this test is, and the client turns nothing away itself.
        cluster.script = turned_away(reason, retry_after_ms=20_000)
        calls = [db.put("a", "1", timeout=0.5), db.get("a", timeout=0.5), anext(aiter(db.scan("a", timeout=0.5)))]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, Overloaded)
            assert (error.reason, error.retry_after, error.maybe_applied) == (known, 20.0, False)
            assert "more to do than it can in time" in str(error)


async def test_the_reason_is_kept_where_errors_are_said_again(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        # Until after the deadline: what time it takes to hear of that does not matter.
        cluster.script = turned_away("disk", retry_after_ms=20_000)
        with pytest.raises(Overloaded) as caught:
            await db.put_many({"a": "1", "b": "2"})
        assert caught.value.reason == OverloadReason.DISK
        with pytest.raises(Overloaded) as caught:
            await db.delete_range("", "")
        assert caught.value.reason == OverloadReason.DISK
        pipeline = db.pipeline().put("a", "1").get("a")
        with pytest.raises(Overloaded) as caught:
            await pipeline.execute()
        assert caught.value.reason == OverloadReason.DISK


async def test_who_is_to_come_back_after_the_deadline_hears_it_at_once(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = turned_away("quota", retry_after_ms=15_000)
        calls = [db.put("a", "1", timeout=14), db.get("a", timeout=14), anext(aiter(db.scan("a", timeout=14)))]
        async with asyncio.timeout(10):
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, Overloaded)
                assert (error.reason, error.retry_after, error.maybe_applied) == (OverloadReason.QUOTA, 15.0, False)


def test_every_error_can_be_said_again() -> None:
    for code in ErrorCode:
        kind = shoal.errors.BY_CODE.get(code)
        if kind is not None:
            again = said_again(kind("once", retry_after=1.5, shard=3, request_id=4), "twice", maybe_applied=True)
            assert (type(again), str(again)) == (kind, "twice")
            assert (again.retry_after, again.shard, again.request_id, again.maybe_applied) == (1.5, 3, 4, True)
    failed = shoal.ConditionFailed("once")
    failed.found, failed.found_seq = b"there", 7
    again = said_again(failed, "twice", maybe_applied=False)
    assert (again.found, again.found_seq) == (b"there", 7)


# -- asking again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Write, Read, Scan, OpenSession])
async def test_a_busy_node_is_asked_no_sooner_than_it_says_and_not_by_all_at_the_same_time(
    start_cluster: Any, kind: type[Any]
) -> None:
    """However much of its time is left to a call: nodes that say when to come back must not be met by a crowd."""
    loop = asyncio.get_running_loop()
    waits: list[float] = []

    async def one() -> None:
        cluster = await start_cluster()
        times: list[float] = []

        def busy_once(node: Any, request: Any) -> Any:
            if isinstance(request, kind):
                times.append(loop.time())
                if len(times) == 1:
                    return turned_away(retry_after_ms=200)(node, request)
            return cluster.serve(node, request)

        cluster.script = busy_once
        async with shoal.AsyncClient(cluster.url()) as db:
            if kind in (Write, OpenSession):
                await db.put("a", "1")
            elif kind is Read:
                await db.get("a")
            else:
                assert [row async for row in db.scan("a")] == []
        waits.append(times[1] - times[0])

    await asyncio.gather(*(one() for _ in range(8)))
    assert min(waits) >= 0.2
    assert max(waits) < 0.6
    assert max(waits) - min(waits) > 0.01


async def test_no_wait_that_a_node_asks_for_is_longer_than_some_seconds(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = turned_away(retry_after_ms=100 * 365 * 24 * 3600 * 1000)
        with pytest.raises(Overloaded):
            await db.get("a", timeout=0.1)
        router = db._caller.driver.router
        [shard_queue] = router._shard_queues.values()
        assert shard_queue.read_hold.until < asyncio.get_running_loop().time() + 20


# -- full nodes --------------------------------------------------------------------------------------------------------


async def test_a_full_node_is_asked_again_ever_less_often_and_named_in_the_end(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    node.greeting = Refused(ErrorCode.OVERLOADED, "4096 clients are connected, the most that are let in")
    db = shoal.AsyncClient(cluster.url())
    with pytest.raises(Overloaded, match="4096 clients are connected") as caught:
        await db.get("a", timeout=2.0)
    assert caught.value.reason == OverloadReason.CONNECTION
    assert not caught.value.maybe_applied
    assert 2 <= node.connections < 20, "a node is not refused to death, either"
    await db.close()


@pytest.mark.parametrize("reason", list(OverloadReason))
async def test_why_a_connection_is_refused_is_what_calls_hear(cluster: Any, reason: OverloadReason) -> None:
    cluster.nodes["n1"].greeting = Refused(ErrorCode.OVERLOADED, "no more", reason.value)
    db = shoal.AsyncClient(cluster.url())
    with pytest.raises(Overloaded) as caught:
        await db.get("a", timeout=0.2)
    assert caught.value.reason == reason
    await db.close()


async def test_why_a_connection_is_ended_is_what_calls_hear(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        refusal = Refused(ErrorCode.OVERLOADED, "frames take too much", OverloadReason.MEMORY.value)
        cluster.nodes["n1"].greeting = refusal
        cluster.nodes["n1"].send(refusal)
        with pytest.raises(Overloaded, match="frames take too much") as caught:
            await db.get("a", timeout=0.3)
        assert caught.value.reason == OverloadReason.MEMORY


async def test_a_node_that_says_when_to_come_again_is_left_alone_until_then_and_calls_hear_when(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        node.greeting = refusal = Refused(ErrorCode.OVERLOADED, "no more", OverloadReason.MEMORY.value, 60_000)
        node.send(refusal)
        connections = node.connections
        with pytest.raises(Overloaded, match="no more") as caught:
            await db.get("a", timeout=0.5)
        assert caught.value.retry_after == 60.0
        assert node.connections == connections
    db = shoal.AsyncClient(cluster.url())
    with pytest.raises(Overloaded, match="no more") as caught:
        await db.get("a", timeout=0.5)
    assert caught.value.retry_after == 60.0
    assert node.connections == connections + 1
    await db.close()


@pytest.mark.parametrize(
    ("asked_for_ms", "least", "most"),
    [(0, 0.0, 2.0), (500, 0.5, 2.0), (3_000, 3.0, 4.5), (ASKED_FOR_SECONDS * 1000, 10.0, 15.0), (MAX_MS, 10.0, 15.0)],
)
def test_connections_are_made_anew_when_a_node_asks_for_it_within_bounds(
    asked_for_ms: int, least: float, most: float
) -> None:
    network: Network[Any] = Network(("n1:1",), Backoff(0.05, 1.0, Random(1)), Backoff(0.1, 2.0, Random(2)))
    said = overload_of(Refused(ErrorCode.OVERLOADED, "full", OverloadReason.CONNECTION.value, int(asked_for_ms)))
    for _ in range(50):
        network.down("n1:1", "full", ErrorCode.OVERLOADED, 100.0, said)
        assert least <= network.link("n1:1").retry_at - 100.0 <= most


@pytest.mark.parametrize("asked_for_ms", [-1, MAX_MS + 1])
def test_a_refusal_that_asks_for_an_impossible_wait_is_none(asked_for_ms: int) -> None:
    frame = encode_frame([Refused(ErrorCode.OVERLOADED, "full", "", asked_for_ms)])
    with pytest.raises(msgspec.ValidationError):
        greeting_decoder.decode(frame[HEADER_BYTES:])


async def test_one_full_node_of_several_does_not_matter_while_others_have_a_place(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    cluster.nodes["n1"].greeting = Refused(ErrorCode.OVERLOADED, "full")
    cluster.leaders[1] = "n2"
    async with asyncio.timeout(1), shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")


async def test_a_full_leader_is_why_a_call_fails_though_others_know_that_it_leads(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    cluster.nodes["n1"].greeting = Refused(ErrorCode.OVERLOADED, "full")
    async with shoal.AsyncClient(cluster.url("n2", "n3")) as db:
        for call in (db.put("a", "1", timeout=0.5), db.get("a", timeout=0.5)):
            with pytest.raises(Overloaded, match="full") as caught:
                await call
            assert caught.value.reason == OverloadReason.CONNECTION
            assert not caught.value.maybe_applied
        cluster.nodes["n1"].greeting = None
        await db.put("a", "1", timeout=10)


async def test_a_connection_that_a_node_ends_for_asking_too_much_says_so(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")

        def end(_node: Any, request: Any) -> Any:
            node.greeting = answer = Refused(ErrorCode.OVERLOADED, "it does not read its answers")
            return answer

        cluster.script = end
        with pytest.raises(Overloaded, match="does not read its answers") as caught:
            await db.get("a", timeout=0.3)
        assert caught.value.reason == OverloadReason.CONNECTION
        with pytest.raises(Overloaded):
            await db.put("a", "1", timeout=0.3)


# -- frames ------------------------------------------------------------------------------------------------------------


async def test_no_frame_has_more_requests_than_a_node_takes(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=16384, microshards=16384)
    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=100000"), timeout=60) as db:
        cluster.frames.clear()
        await db.get_many([f"key-{number}" for number in range(30_000)])
    assert sum(map(len, cluster.frames)) > 8_000
    assert max(map(len, cluster.frames)) == 4096


async def test_no_read_has_more_keys_than_a_node_takes(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=1000000"), timeout=60) as db:
        assert await db.get_many([f"{number}" for number in range(20_000)]) == [None] * 20_000
    assert max(len(read.keys) for read in cluster.of_kind(Read)) <= 4096


async def test_signs_of_life_answer_nothing(cluster: Any) -> None:
    node = cluster.nodes["n1"]
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        node.send(Working(), Working())
        assert await db.get("warm") == b""
        node.send(Working())
        await asyncio.sleep(0.05)
        assert await db.get("warm") == b""
    assert node.connections == 1
