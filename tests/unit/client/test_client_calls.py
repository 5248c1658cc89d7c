"""What calls return, how they share batches and frames, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import shoal
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import OpenSession, Read, Rows, Write


async def until(condition: Callable[[], object]) -> None:
    """Wait, one loop turn at a time, until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_written_value_is_read_back_and_deleted(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        assert (await db.put("k", "v")).durability == "quorum"
        assert await db.get(b"k") == b"v"
        assert await db.get_entry("k") == shoal.Entry(b"v", 1, None, 0.0, "n1")
        assert await db.exists("k") is True
        assert (await db.delete("k")).seq == 2
        assert await db.get("k") is None
        assert await db.get_entry("k") is None
        assert await db.exists("k") is False


async def test_an_empty_value_is_a_value(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "")
        assert await db.get("k") == b""
        assert await db.exists("k") is True


async def test_puts_of_one_loop_turn_share_one_write_and_one_frame_a_node(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        await asyncio.gather(*(db.put(f"warm{i}", "") for i in range(64)))  # opens the sessions
        cluster.asked.clear()
        cluster.frames.clear()
        await asyncio.gather(*(db.put(f"k{i}", "v") for i in range(64)), *(db.get(f"warm{i}") for i in range(64)))
    assert len(cluster.frames) == 1
    writes, reads = cluster.of_kind(Write), cluster.of_kind(Read)
    assert sorted(write.shard for write in writes) == [1, 2, 3, 4]
    assert sorted(read.shard for read in reads) == [1, 2, 3, 4]
    assert sum(len(operations_decoder.decode(write.operations)) for write in writes) == 64
    assert sum(len(read.keys) for read in reads) == 64


async def test_numbers_of_a_session_are_consecutive_from_one(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        for i in range(5):
            await db.put("k", str(i))
    assert [write.number for write in cluster.applied] == [1, 2, 3, 4, 5]
    assert len(cluster.of_kind(OpenSession)) == 1


async def test_every_answer_reaches_its_own_caller(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": f"v{i}" for i in range(500)})
        assert await asyncio.gather(*(db.get(f"k{i}") for i in range(500))) == [b"v%d" % i for i in range(500)]


async def test_many_keys_come_back_in_the_order_asked(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2, shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        assert len(await db.put_many({"a": "1", "b": "2", "c": "3"})) == 3
        assert await db.get_many(["c", "none", "a", "a"]) == [b"3", None, b"1", b"1"]
        await db.delete_many(["a", "b"])
        assert await db.get_many(iter(["a", "b", "c"])) == [None, None, b"3"]
        assert await db.get_many([]) == []


async def test_calls_of_a_pipeline_on_one_key_keep_their_order(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        pipeline = db.pipeline().put("a", "1").get("a").put("b", "x").put("a", "2").get_entry("a").delete("a")
        pipeline.exists("a").exists("b")
        assert len(pipeline) == 8
        first, one, other, second, entry, removed, a_exists, b_exists = await pipeline.execute()
        assert (one, a_exists, b_exists) == (b"1", False, True)
        assert isinstance(entry, shoal.Entry)
        assert entry.value == b"2"
        for written in (first, other, second, removed):
            assert isinstance(written, shoal.WriteResult)
        assert len(pipeline) == 0
        assert await pipeline.execute() == []


async def test_independent_calls_of_a_pipeline_take_one_round_trip(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.frames.clear()
        pipeline = db.pipeline()
        for i in range(100):
            pipeline.put(f"k{i}", "v").get(f"other{i}")
        await pipeline.execute()
    assert len(cluster.frames) == 1


async def test_more_calls_than_the_bound_are_all_done_and_never_more_are_open(cluster: Any) -> None:
    most = 0
    unanswered: set[int] = set()

    def counting(node: Any, request: Any) -> Any:
        nonlocal most
        if isinstance(request, Write):
            unanswered.add(request.number)
            most = max(most, len(operations_decoder.decode(request.operations)))
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=7")) as db:
        cluster.script = counting
        await asyncio.gather(*(db.put(f"k{i}", "v") for i in range(50)), db.put_many({f"m{i}": "v" for i in range(50)}))
        assert len(cluster.rows) == 100
        assert most <= 7


async def test_a_caller_over_the_bound_times_out_without_being_sent(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=1")) as db:
        await db.put("warm", "")
        cluster.nodes["n1"].hold = True
        first = asyncio.ensure_future(db.put("a", "1"))
        await asyncio.sleep(0)  # lets it take the only place
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            await db.put("b", "2", timeout=0.05)
        assert not caught.value.maybe_applied
        assert "max_in_flight=1" in str(caught.value)
        first.cancel()


async def test_a_cancelled_call_frees_its_place(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=2")) as db:
        await db.put("warm", "")
        cluster.nodes["n1"].hold = True
        stuck = [asyncio.ensure_future(db.get(f"k{i}")) for i in range(2)]
        queued = asyncio.ensure_future(db.get("queued"))
        await asyncio.sleep(0)
        cluster.nodes["n1"].hold = False
        for task in stuck:
            task.cancel()
        assert await queued is None
        assert await db.get("warm") == b""


async def test_a_call_cancelled_before_it_was_sent_is_never_sent(cluster: Any) -> None:
    held: list[Any] = []

    def hold_sessions(node: Any, request: Any) -> Any:
        answer = cluster.serve(node, request)
        if isinstance(request, OpenSession):
            held.append(answer)
            return None
        return answer

    cluster.script = hold_sessions
    async with shoal.AsyncClient(cluster.url()) as db:
        lost = asyncio.ensure_future(db.put("lost", "1"))
        kept = asyncio.ensure_future(db.put("kept", "2"))
        await until(lambda: held)
        lost.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lost
        cluster.nodes["n1"].send(*held)
        await kept
    assert list(cluster.rows) == [b"kept"]


async def test_answers_after_a_cancellation_still_reach_the_right_callers(cluster: Any) -> None:
    held: list[Any] = []

    def hold(node: Any, request: Any) -> Any:
        held.append(cluster.serve(node, request))

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": f"v{i}" for i in range(10)})
        cluster.script = hold
        tasks = [asyncio.ensure_future(db.get(f"k{i}")) for i in range(10)]
        await until(lambda: held)
        for task in tasks[::2]:
            task.cancel()
        cluster.script = None
        cluster.nodes["n1"].send(*held)
        assert await asyncio.gather(*tasks[1::2]) == [b"v1", b"v3", b"v5", b"v7", b"v9"]
        assert await db.get("k4") == b"v4"


async def test_rows_that_did_not_fit_are_asked_for_again(cluster: Any) -> None:
    def two_at_most(node: Any, request: Any) -> Any:
        answer = cluster.serve(node, request)
        if isinstance(answer, Rows):
            return Rows(answer.request, answer.seq, "n1", answer.values[:2], answer.seqs[:2])
        return answer

    cluster.script = two_at_most
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": f"v{i}" for i in range(9)})
        assert await db.get_many([f"k{i}" for i in range(9)]) == [b"v%d" % i for i in range(9)]


async def test_batches_stay_under_the_bytes_that_the_node_announced(cluster: Any) -> None:
    cluster.max_batch_bytes = 10_000
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": bytes(3000) for i in range(40)})
    assert len(cluster.rows) == 40
    assert all(len(write.operations) <= 10_000 for write in cluster.applied)
    assert all(len(operations_decoder.decode(write.operations)) == 3 for write in cluster.applied[1:-1])


async def test_more_than_a_frame_holds_is_sent_in_several(cluster: Any) -> None:
    cluster.limits["max_frame_bytes"] = 1 << 20
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": bytes(200_000) for i in range(30)})
        assert {len(value or b"") for value in await db.get_many([f"k{i}" for i in range(30)])} == {200_000}


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("", "v", shoal.InvalidArgument),
        (b"k" * 4097, "v", shoal.TooLarge),
        ("k", bytes((1 << 20) + 1), shoal.TooLarge),
        (7, "v", shoal.InvalidArgument),
        ("k", None, shoal.InvalidArgument),
    ],
)
async def test_wrong_arguments_are_refused_and_not_sent(cluster: Any, key: Any, value: Any, error: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(error) as caught:
            await db.put(key, value)
        assert not caught.value.maybe_applied
        with pytest.raises(error):
            await db.put_many({"good": "v", key: value})
        with pytest.raises(shoal.InvalidArgument):
            await db.get("k", timeout=0)
    assert cluster.asked == []


async def test_limits_are_those_that_the_cluster_announced(cluster: Any) -> None:
    cluster.limits["max_value_bytes"] = 10
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "0123456789")
        with pytest.raises(shoal.TooLarge, match="11 bytes; at most 10"):
            await db.put("k", "0123456789a")


async def test_an_unknown_keyspace_is_named_with_those_there_are(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.KeyspaceNotFound, match=r"'nope'.*there are: default"):
            await db.keyspace("nope").get("k")
        assert await db.keyspace("default").get("k") is None


async def test_a_closed_client_refuses_calls_and_may_be_closed_twice(cluster: Any) -> None:
    db = shoal.AsyncClient(cluster.url())
    await db.put("k", "v")
    await db.close()
    await db.close()
    with pytest.raises(shoal.Closed):
        await db.get("k")


async def test_a_client_needs_no_context_manager(cluster: Any) -> None:
    db = shoal.AsyncClient(cluster.url())
    assert await asyncio.gather(*(db.get(f"k{i}") for i in range(20))) == [None] * 20
    await db.close()
