"""Redirects, retries, lost connections, hanging nodes: what is repeated, what is told, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import (
    Failure,
    GetShardMap,
    OpenSession,
    Ping,
    Read,
    Write,
)
from shoal.routing.links import Link, LinkState


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


# -- redirects ---------------------------------------------------------------------------------------------------------


async def test_a_redirect_is_followed_at_once_and_remembered(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url("n1")) as db:
        await db.put("a", "1")
        cluster.leaders[1] = "n3"
        await db.put("b", "2")
        assert cluster.asked[-1][0] == "n3"
        cluster.asked.clear()
        await db.put("c", "3")
        assert [node for node, _ in cluster.asked] == ["n3"]
    assert applied_keys(cluster) == [b"a", b"b", b"c"]


async def test_without_a_hint_the_other_voters_are_tried(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)

    def no_hints(node: Any, request: Any) -> Any:
        if isinstance(request, Write | Read | OpenSession) and node.name != "n3":
            return cluster.not_leader(request, hint=False)
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url("n1")) as db:
        cluster.leaders[1] = "n3"
        cluster.script = no_hints
        await db.put("a", "1")
        assert await db.get("a") == b"1"
    assert applied_keys(cluster) == [b"a"]


async def test_a_newer_map_is_fetched_once_and_used(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    async with shoal.AsyncClient(cluster.url("n1")) as db:
        await db.put("a", "1")
        cluster.version = 2
        cluster.leaders[1] = "n2"
        await asyncio.gather(*(db.put(f"k{i}", "v") for i in range(10)))
        await until(lambda: cluster.of_kind(GetShardMap))
        await db.put("b", "2")
        cluster.leaders[1] = "n1"
        await db.put("c", "3")
    assert len(cluster.of_kind(GetShardMap)) == 1


async def test_keys_follow_a_shard_that_was_divided(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    async with shoal.AsyncClient(cluster.url("n1")) as db:
        await db.put("warm", "")
        divided = False

        def divide(node: Any, request: Any) -> Any:
            nonlocal divided
            if isinstance(request, Write) and not divided:
                divided = True
                cluster.shard_count, cluster.version, cluster.leaders[2] = 2, 2, "n2"
                return Failure(
                    request.request, ErrorCode.WRONG_SHARD, "a key is elsewhere", route=cluster.shard(1), map_version=2
                )
            return cluster.serve(node, request)

        cluster.script = divide
        await asyncio.gather(*(db.put(f"k{i}", "v") for i in range(40)))
    assert sorted(applied_keys(cluster)) == sorted([b"warm", *(b"k%d" % i for i in range(40))])
    assert {write.shard for write in cluster.applied} == {1, 2}


# -- retries -----------------------------------------------------------------------------------------------------------


async def test_a_write_whose_answer_is_lost_is_repeated_under_its_number_and_applied_once(cluster: Any) -> None:
    attempts: list[Write] = []

    def lose_first_answer(node: Any, request: Any) -> Any:
        answer = cluster.serve(node, request)
        if isinstance(request, Write):
            attempts.append(request)
            if len(attempts) == 1:
                node.drop_connections()
                return None
        return answer

    cluster.script = lose_first_answer
    async with shoal.AsyncClient(cluster.url()) as db:
        assert (await db.put("a", "1")).seq == 1
    assert [(write.session, write.number) for write in attempts] == [(attempts[0].session, 1)] * 2
    assert bytes(attempts[0].operations) == bytes(attempts[1].operations)
    assert applied_keys(cluster) == [b"a"]


async def test_a_write_demoted_on_its_way_is_repeated_at_the_new_leader(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)

    def demote(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and node.name == "n1":
            cluster.apply(request)
            cluster.leaders[1] = "n2"
            return cluster.not_leader(request, maybe_applied=True)
        return cluster.serve(node, request)

    cluster.script = demote
    async with shoal.AsyncClient(cluster.url("n1")) as db:
        assert (await db.put("a", "1")).seq == 1
    assert applied_keys(cluster) == [b"a"]


async def test_an_overloaded_node_is_asked_again_no_sooner_than_it_said(cluster: Any) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def overloaded_once(node: Any, request: Any) -> Any:
        if isinstance(request, Write):
            times.append(loop.time())
            if len(times) == 1:
                return Failure(request.request, ErrorCode.OVERLOADED, "queue full", retry_after_ms=60)
        return cluster.serve(node, request)

    cluster.script = overloaded_once
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
    assert len(times) == 2
    assert times[1] - times[0] >= 0.06


async def test_a_session_that_expired_before_anything_was_applied_is_replaced(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.sessions.clear()
        await asyncio.gather(db.put("b", "2"), db.put("c", "3"))
    assert applied_keys(cluster) == [b"a", b"b", b"c"]
    assert [write.number for write in cluster.applied] == [1, 1]
    assert cluster.sessions_opened == 2


async def test_many_expired_batches_share_one_new_session(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.sessions.clear()
        tasks = []
        for i in range(10):
            tasks.append(asyncio.ensure_future(db.put(f"k{i}", "v")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
    assert sorted(applied_keys(cluster)[1:]) == [b"k%d" % i for i in range(10)]
    assert cluster.sessions_opened == 2


async def test_a_session_that_expired_after_a_lost_answer_leaves_the_outcome_unknown(cluster: Any) -> None:
    def lose_and_forget(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and cluster.sessions:
            cluster.sessions.clear()
            node.drop_connections()
            return None
        return cluster.serve(node, request)

    cluster.script = lose_and_forget
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.OutcomeUnknown) as caught:
            await db.put("a", "1")
        assert caught.value.maybe_applied
        assert caught.value.shard == 1
        cluster.script = None
        await db.put("b", "2")


async def test_a_refusal_that_retries_cannot_change_ends_the_call(cluster: Any) -> None:
    def internal(node: Any, request: Any) -> Any:
        if isinstance(request, Write | Read):
            return Failure(request.request, "some_new_code", "broken")
        return cluster.serve(node, request)

    cluster.script = internal
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.Internal, match="n1 refused: broken"):
            await db.put("a", "1")
        with pytest.raises(shoal.Internal):
            await db.get("a")


async def test_reads_are_repeated_after_a_lost_connection(cluster: Any) -> None:
    dropped = False

    def drop_once(node: Any, request: Any) -> Any:
        nonlocal dropped
        if isinstance(request, Read) and not dropped:
            dropped = True
            node.drop_connections()
            return None
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.script = drop_once
        assert await db.get("a") == b"1"
    assert dropped


async def test_a_failover_is_survived_by_all_open_writes_each_applied_once(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=2)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        done = 0

        async def writer(name: int) -> None:
            nonlocal done
            for i in range(20):
                await db.put(f"{name}-{i}", "v")
                done += 1

        tasks = [asyncio.ensure_future(writer(name)) for name in range(20)]
        await until(lambda: done > 100)
        await cluster.nodes["n1"].stop()
        cluster.leaders = dict.fromkeys(cluster.leaders, "n2")
        await until(lambda: done > 200)
        await cluster.nodes["n1"].start()
        cluster.leaders = dict.fromkeys(cluster.leaders, "n1")
        await asyncio.gather(*tasks)
    keys = applied_keys(cluster)
    assert len(keys) == len(set(keys)) == 401


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_a_sent_write_without_an_answer_may_have_been_done(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = lambda node, request: cluster.serve(node, request) if isinstance(request, Ping) else None
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            await db.put("a", "1", timeout=0.05)
        assert caught.value.maybe_applied
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(shoal.DeadlineExceeded) as read:
            await db.get("a", timeout=0.05)
        assert not read.value.maybe_applied


async def test_one_expired_call_does_not_end_the_others_of_its_batch(cluster: Any) -> None:
    held: list[Any] = []

    def hold(node: Any, request: Any) -> Any:
        if isinstance(request, Write):
            held.append(cluster.serve(node, request))
            return None
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = hold
        short = asyncio.ensure_future(db.put("short", "1", timeout=0.05))
        patient = asyncio.ensure_future(db.put("long", "2"))
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            await short
        assert caught.value.maybe_applied
        cluster.nodes["n1"].send(*held)
        assert isinstance(await patient, shoal.WriteResult)
    assert len(held) == 1


@pytest.mark.parametrize(
    ("code", "error"), [(ErrorCode.OVERLOADED, shoal.Overloaded), (ErrorCode.UNAVAILABLE, shoal.Unavailable)]
)
async def test_a_write_turned_away_until_its_deadline_was_surely_not_done(
    cluster: Any, code: ErrorCode, error: type[shoal.ShoalError]
) -> None:
    times = 0

    def turn_away(node: Any, request: Any) -> Any:
        nonlocal times
        if isinstance(request, Write):
            times += 1
            # The last is late enough that none is under way when the time is over, however slow this test is.
            return Failure(request.request, code, "not now", retry_after_ms=5 if times < 3 else 60_000)
        return cluster.serve(node, request)

    cluster.script = turn_away
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(error, match="not now") as caught:
            await db.put("a", "1", timeout=2.0)
        assert times == 3
        assert not caught.value.maybe_applied
        assert caught.value.retryable
    assert cluster.rows == {}


async def test_a_call_told_surely_not_done_does_not_travel_with_the_others_of_its_batch(cluster: Any) -> None:
    refusing = True

    def refuse(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and refusing:
            # So late that one of the two has no time left then, however fast this test is.
            return Failure(request.request, ErrorCode.OVERLOADED, "not now", retry_after_ms=1_000)
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url(), timeout=60) as db:
        await db.put("warm", "")
        cluster.script = refuse
        short = asyncio.ensure_future(db.put("short", "1", timeout=0.9))
        patient = asyncio.ensure_future(db.put("long", "2"))
        with pytest.raises(shoal.Overloaded) as caught:
            await short
        assert not caught.value.maybe_applied
        refusing = False
        await patient
    assert applied_keys(cluster) == [b"warm", b"long"]


async def test_a_write_that_reached_nobody_was_surely_not_done(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        await cluster.nodes["n1"].stop()
        await until(lambda: link_to(db, cluster.nodes["n1"]).state is LinkState.DOWN)
        with pytest.raises(shoal.Unavailable, match="cannot connect") as caught:
            await db.put("a", "1", timeout=0.2)
        assert not caught.value.maybe_applied
        await cluster.nodes["n1"].start()
        assert await db.get("warm") == b""


async def test_a_write_lost_with_its_connection_and_never_repeated_may_have_been_done(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.nodes["n1"].hold = True
        writing = asyncio.ensure_future(db.put("a", "1", timeout=0.2))
        await until(lambda: cluster.nodes["n1"].held)
        await cluster.nodes["n1"].stop()
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            await writing
        assert caught.value.maybe_applied


async def test_errors_of_many_keys_name_those_that_failed(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2, shards=2)

    def second_shard_fails(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and request.shard == 2:
            return Failure(request.request, ErrorCode.OVERLOADED, "no")
        return cluster.serve(node, request)

    cluster.script = second_shard_fails
    items = {b"k%d" % i: b"v" for i in range(20)}
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.Overloaded) as caught:
            await db.put_many(items, timeout=0.1)
        assert set(caught.value.failed_keys) == set(items) - set(cluster.rows)
        assert 0 < len(caught.value.failed_keys) < 20
        pipeline = db.pipeline()
        for key, value in items.items():
            pipeline.put(key, value)
        results = await pipeline.execute(timeout=0.1, raise_on_error=False)
        assert sum(isinstance(result, shoal.Overloaded) for result in results) == len(caught.value.failed_keys)
        assert sum(isinstance(result, shoal.WriteResult) for result in results) == 20 - len(caught.value.failed_keys)


async def test_closing_tells_open_writes_whether_they_may_have_been_done(cluster: Any) -> None:
    db = shoal.AsyncClient(cluster.url())
    await db.put("warm", "")
    cluster.nodes["n1"].hold = True
    sent = asyncio.ensure_future(db.put("a", "1"))
    await until(lambda: cluster.nodes["n1"].held)
    unsent = asyncio.ensure_future(db.put("b", "2"))
    await asyncio.sleep(0)
    await db.close()
    with pytest.raises(shoal.Closed) as of_sent:
        await sent
    with pytest.raises(shoal.Closed) as of_unsent:
        await unsent
    assert of_sent.value.maybe_applied
    assert not of_unsent.value.maybe_applied
