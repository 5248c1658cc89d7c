"""Calls whose time is over: what has not left by then never does, and is said not to have been done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import shoal
from shoal.errors import DeadlineExceeded, ErrorCode, ShoalError
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Failure, OpenSession, Read, Write
from shoal.routing.calls import WriteCall


async def until(condition: Callable[[], object]) -> None:
    """Wait, one loop turn at a time, until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def asked_for(cluster: Any) -> list[bytes]:
    """The keys of all operations and reads that reached a node, one for each time."""
    keys = [key for read in cluster.of_kind(Read) for key in read.keys]
    return keys + [
        operation.key for write in cluster.of_kind(Write) for operation in operations_decoder.decode(write.operations)
    ]


def slow(cluster: Any, seconds: float) -> Any:
    """A node that takes its time for each write and read, one after the other."""
    free_at = 0.0

    def script(node: Any, request: Any) -> Any:
        nonlocal free_at
        answer = cluster.serve(node, request)
        if not isinstance(request, Write | Read):
            return answer
        loop = asyncio.get_running_loop()
        free_at = max(free_at, loop.time()) + seconds
        loop.call_at(free_at, node.send, answer)
        return None

    return script


def surely_not_done(results: list[Any]) -> list[Any]:
    return [each for each in results if isinstance(each, DeadlineExceeded) and not each.maybe_applied]


async def test_a_call_that_has_expired_when_its_turn_comes_is_not_sent(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.asked.clear()
        calls = [db.increment("n", timeout=1e-6) for _ in range(100)]
        gets = [db.get("n", timeout=1e-6) for _ in range(100)]
        weak = [db.get("n", timeout=1e-6, consistency="eventual") for _ in range(100)]
        pages = [anext(aiter(db.scan("n", timeout=1e-6))) for _ in range(10)]
        results = await asyncio.gather(*calls, *gets, *weak, *pages, return_exceptions=True)
        assert len(surely_not_done(results)) == 310
        assert cluster.asked == []
        assert await db.increment("n") == 1


async def test_what_expires_while_a_session_is_opened_is_not_sent(cluster: Any) -> None:
    held: list[Any] = []

    def hold_sessions(node: Any, request: Any) -> Any:
        if isinstance(request, OpenSession):
            held.append(cluster.serve(node, request))
            return None
        return cluster.serve(node, request)

    cluster.script = hold_sessions
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(DeadlineExceeded) as caught:
            await db.increment("n", timeout=0.05)
        assert not caught.value.maybe_applied
        cluster.nodes["n1"].send(*held)
        await db.get("n")
    assert cluster.applied == []


async def test_a_pipeline_stops_between_its_stages(cluster: Any) -> None:
    """Each operation on the same key is a stage; a stage that begins too late is not sent."""
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = slow(cluster, 0.05)
        pipeline = db.pipeline()
        for _ in range(200):
            pipeline.increment("n")
        results = await pipeline.execute(timeout=0.4, raise_on_error=False)
        done = [each for each in results if isinstance(each, int)]
        perhaps = [each for each in results if isinstance(each, ShoalError) and each.maybe_applied]
        assert 0 < len(done) < 10
        assert len(perhaps) <= 1, "the one that was under way"
        assert len(surely_not_done(results)) == 200 - len(done) - len(perhaps)
        await asyncio.sleep(0.3)
        assert int(cluster.rows[b"n"][0]) == len(done) + len(perhaps)
        [errors] = [family for family in db.collect() if family.name == "shoal_client_errors"]
        counted = {sample.labels["code"]: sample.value for sample in errors.samples}
        assert counted["deadline_exceeded"] == 200 - len(done)


@pytest.mark.parametrize("kind", ["put_many", "get_many", "delete_many"])
async def test_many_keys_are_sent_only_while_there_is_time(cluster: Any, kind: str) -> None:
    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=10")) as db:
        await db.put("warm", "")
        cluster.asked.clear()
        cluster.script = slow(cluster, 0.05)
        keys = [f"k{number}" for number in range(500)]
        with pytest.raises(DeadlineExceeded) as caught:
            await getattr(db, kind)(dict.fromkeys(keys, "v") if kind == "put_many" else keys, timeout=0.4)
        sent = len(set(asked_for(cluster)))
        assert 0 < sent < 150
        assert len(caught.value.failed_keys) >= 500 - sent
        await asyncio.sleep(0.3)
        assert len(set(asked_for(cluster))) == sent, "nothing was sent afterwards"


async def test_a_batch_that_a_node_drops_as_too_late_is_tried_again_for_those_who_have_time(cluster: Any) -> None:
    """The node counts the time of a batch by the last of its calls, on a clock of its own."""
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        dropped: list[Any] = []

        def drop_once(node: Any, request: Any) -> Any:
            if isinstance(request, Write | Read) and type(request) not in map(type, dropped):
                dropped.append(request)
                return Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "it waited for too long")
            return cluster.serve(node, request)

        cluster.script = drop_once
        await asyncio.gather(*(db.increment("n") for _ in range(3)))
        assert await db.get("n") == b"3"
    writes = cluster.of_kind(Write)
    assert len(dropped) == 2
    assert len({write.number for write in writes[-2:]}) == 2, "what was surely not done travels in a new batch"


async def test_a_weak_read_that_a_replica_drops_goes_to_another(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await db.get_many(["a"] * 100, consistency="eventual")
        cluster.asked.clear()

        def drop_each_second(node: Any, request: Any) -> Any:
            if isinstance(request, Read) and len(cluster.asked) % 2:
                return Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "it waited for too long")
            return cluster.serve(node, request)

        cluster.script = drop_each_second
        for _ in range(20):
            assert await db.get("a", consistency="eventual") == b"1"
        asked = [node for node, _ in cluster.asked]
        assert len(asked) == 40
        assert all(first != second for first, second in zip(asked[::2], asked[1::2], strict=True))


async def test_a_node_that_drops_everything_is_not_asked_without_a_pause(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.asked.clear()
        cluster.script = lambda _, request: Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "too late")
        results = await asyncio.gather(db.put("a", "1", timeout=1.0), db.get("a", timeout=1.0), return_exceptions=True)
        assert all(isinstance(each, ShoalError) and not each.maybe_applied for each in results)
        assert len(cluster.asked) < 60


async def test_a_batch_that_may_have_been_applied_keeps_its_number_when_it_is_dropped(cluster: Any) -> None:
    """Its first answer was lost, and the second attempt came too late: only the third tells."""
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        attempts: list[Write] = []

        def lose_then_drop(node: Any, request: Any) -> Any:
            if not isinstance(request, Write):
                return cluster.serve(node, request)
            attempts.append(request)
            if len(attempts) == 1:
                cluster.serve(node, request)
                node.drop_connections()
                return None
            if len(attempts) == 2:
                return Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "it waited for too long")
            return cluster.serve(node, request)

        cluster.script = lose_then_drop
        assert await db.increment("n") == 1
    assert len(attempts) == 3
    assert len({(write.session, write.number) for write in attempts}) == 1


async def test_whose_deadline_has_passed_is_told_what_the_node_said(cluster: Any) -> None:
    """Its answer arrives in the moment of the deadline."""
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        router = db._caller.driver.router
        cluster.nodes["n1"].hold = True
        writing = asyncio.ensure_future(db.increment("n", timeout=1.0))
        await until(lambda: cluster.nodes["n1"].held)
        [batch] = next(iter(router._shard_queues.values())).open_writes
        [call] = batch.calls
        assert isinstance(call, WriteCall)
        call.deadline = asyncio.get_running_loop().time()
        [request] = cluster.nodes["n1"].held
        cluster.nodes["n1"].send(Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "others came first"))
        with pytest.raises(
            DeadlineExceeded, match=r"did not come to it before the deadline, and it was not done"
        ) as caught:
            await writing
        assert not caught.value.maybe_applied
