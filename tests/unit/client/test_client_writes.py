"""Writes that depend on something, expire, or have results: what is sent, and what the callers are told."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import (
    DEFAULT_TTL,
    NO_TTL,
    Applied,
    Atomic,
    DeleteRange,
    Failure,
    Impossible,
    Put,
    Touch,
    Write,
    Written,
)
from shoal.shardmap import MicroshardRange


def operations(cluster: Any) -> list[Any]:
    return [operation for write in cluster.applied for operation in operations_decoder.decode(write.operations)]


# -- time to live ------------------------------------------------------------------------------------------------------


async def test_times_to_live_travel_in_milliseconds(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "", ttl=1.5)
        await db.put("b", "", ttl=0)
        await db.put("c", "")
        await db.put_many({"d": "", "e": ""}, ttl=0.0001)
        await db.touch("a", 2)
        await db.touch("a")
        sent = operations(cluster)
    assert [each.ttl_ms for each in sent if isinstance(each, Put)] == [1500, NO_TTL, DEFAULT_TTL, 1, 1]
    assert [each.ttl_ms for each in sent if isinstance(each, Touch)] == [2000, DEFAULT_TTL]


@pytest.mark.parametrize("ttl", [-1, float("nan"), float("inf"), "5", True])
async def test_a_wrong_time_to_live_is_refused(cluster: Any, ttl: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.InvalidArgument, match="ttl"):
            await db.put("a", "", ttl=ttl)
        with pytest.raises(shoal.InvalidArgument, match="ttl"):
            await db.touch("a", ttl)
    assert cluster.asked == []


async def test_the_time_left_is_told_and_infinity_where_there_is_no_end(cluster: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("shoal.aio.time", lambda: 1000.0)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "v", ttl=60)
        await db.put("b", "v")
        assert await db.ttl("a") == 60.0
        assert await db.ttl("b") == inf
        assert await db.ttl("none") is None
        assert await db.touch("a", 5) is True
        assert await db.touch("none", 5) is False
        assert await db.ttl("a") == 5.0
        entry = await db.get_entry("a")
        assert entry is not None
        assert entry.expires_at == 1005.0
        assert entry.staleness == 0.0
        cluster.now_ms = 0
        await db.touch("a", 1)
        assert await db.ttl("a") == 0.0


# -- results and conditions --------------------------------------------------------------------------------------------


async def test_a_thousand_increments_travel_in_few_batches_and_each_gets_its_sum(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        sums = await asyncio.gather(*(db.increment("n") for _ in range(1000)))
        assert sorted(sums) == list(range(1, 1001))
        assert await db.increment("n", -1000) == 0
        assert await db.increment("other", 5) == 5
    assert len(cluster.applied) <= 5


async def test_results_reach_their_own_callers_among_plain_writes(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("text", "abc")
        put, one, bad, there, missing, two, gone = await asyncio.gather(
            db.put("x", "1"),
            db.increment("n", 3),
            db.increment("text"),
            db.touch("text", 1),
            db.put_if_absent("text", "no"),
            db.increment("n", 4),
            db.delete("x"),
            return_exceptions=True,
        )
    assert isinstance(put, shoal.WriteResult)
    assert isinstance(gone, shoal.WriteResult)
    assert (one, there, missing, two) == (3, True, False, 7)
    assert isinstance(bad, shoal.InvalidArgument)
    assert "b'abc' is no integer" in str(bad)
    assert len(cluster.applied) == 2


async def test_shorthands_say_whether_they_were_done(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await db.put_if_absent("k", "1", ttl=7) is True
        assert await db.put_if_absent("k", "2") is False
        assert await db.compare_and_set("k", "1", "3") is True
        assert await db.compare_and_set("k", "1", "4") is False
        assert await db.compare_and_set("k", None, "5") is False
        assert await db.compare_and_set("new", None, "6") is True
        assert await db.get_many(["k", "new"]) == [b"3", b"6"]


async def test_a_write_takes_effect_whole_or_not_at_all(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        done = await db.write(
            [shoal.put("a/1", "x", ttl=9), shoal.increment("a/n", 2), shoal.touch("a/none"), shoal.delete("a/2")],
            when=[shoal.key_absent("a/1"), shoal.value_equals_or_absent("a/n", "7"), shoal.seq_equals("a/2", 0)],
        )
        assert (done.results, done.durability) == ((2, 0), "quorum")
        with pytest.raises(shoal.InvalidArgument, match="no integer"):
            await db.write([shoal.put("a/3", "y"), shoal.increment("a/1")])
        with pytest.raises(shoal.ConditionFailed, match=r"ValueEquals.*b'x', written at 1") as caught:
            await db.write([shoal.put("a/3", "y")], when=[shoal.key_present("a/1"), shoal.value_equals("a/1", "other")])
        assert caught.value.condition == shoal.value_equals("a/1", "other")
        assert (caught.value.found, caught.value.found_seq) == (b"x", 1)
        assert not caught.value.maybe_applied
        with pytest.raises(shoal.ConditionFailed, match="no value") as absent:
            await db.write([shoal.delete("a/1")], when=[shoal.key_present("a/9")])
        assert (absent.value.found, absent.value.found_seq) == (None, 0)
        assert await db.get("a/3") is None
    assert [type(each) for each in operations(cluster)] == [Atomic] * 4


async def test_keys_of_several_shards_are_refused_before_anything_is_sent(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.CrossShard, match="common partition") as caught:
            await db.write([shoal.put(f"k{i}", "") for i in range(20)])
        assert not caught.value.maybe_applied
        with pytest.raises(shoal.CrossShard):
            await db.write([shoal.put("k1", "")], when=[shoal.key_absent(f"k{i}") for i in range(20)])
        assert await db.get("k1") is None
        await db.write([shoal.put(f"same/{i}", "") for i in range(20)])
    assert len(cluster.applied) == 1


@pytest.mark.parametrize(
    ("ops", "when"), [([], []), (["x"], []), ([shoal.put("a", "")], ["x"]), ([shoal.key_absent("a")], [])]
)
async def test_what_is_no_operation_or_condition_is_refused(cluster: Any, ops: Any, when: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.InvalidArgument):
            await db.write(ops, when=when)
    assert cluster.asked == []


async def test_sizes_of_atomic_writes_are_checked_and_count_for_their_batches(cluster: Any) -> None:
    cluster.max_batch_bytes = 10_000
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.TooLarge, match="together"):
            await db.write([shoal.put(f"a/{i}", bytes(1000)) for i in range(10)])
        with pytest.raises(shoal.TooLarge, match="key"):
            await db.write([shoal.put(b"k" * 5000, "")])
        with pytest.raises(shoal.TooLarge, match="value"):
            await db.write([shoal.put("k", bytes(2 << 20))])
        with pytest.raises(shoal.InvalidArgument, match="empty"):
            await db.write([shoal.put("k", "")], when=[shoal.key_absent("")])
        await asyncio.gather(*(db.write([shoal.put(f"k{i}", bytes(3000))]) for i in range(12)))
    assert all(len(write.operations) <= 10_000 for write in cluster.applied)


@pytest.mark.parametrize("by", [1.5, True, 2**63, "1"])
async def test_an_increment_is_by_an_integer(cluster: Any, by: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.InvalidArgument, match="integer"):
            await db.increment("n", by)


async def test_an_answer_without_the_results_it_owes_ends_the_connection(cluster: Any) -> None:
    spoiled = False

    def spoil(node: Any, request: Any) -> Any:
        nonlocal spoiled
        answer = cluster.serve(node, request)
        if isinstance(request, Write) and not spoiled:
            spoiled = True
            return type(answer)(answer.request, answer.seq)
        return answer

    cluster.script = spoil
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await db.increment("n") == 1
    assert len(cluster.applied) == 1
    assert cluster.nodes["n1"].connections == 2


async def test_a_conditional_write_whose_answer_is_lost_gets_the_first_result(cluster: Any) -> None:
    lost = False

    def lose_first_answer(node: Any, request: Any) -> Any:
        nonlocal lost
        answer = cluster.serve(node, request)
        if isinstance(request, Write) and not lost:
            lost = True
            node.drop_connections()
            return None
        return answer

    cluster.script = lose_first_answer
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await db.put_if_absent("k", "v") is True
    assert len(cluster.applied) == 1


async def test_an_atomic_write_whose_keys_were_divided_is_refused_and_not_done(start_cluster: Any) -> None:
    cluster = await start_cluster(microshards=16)
    keys = [f"k{i}" for i in range(12)]
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")

        def divide(node: Any, request: Any) -> Any:
            if isinstance(request, Write) and cluster.version == 1:
                cluster.shard_count, cluster.version, cluster.leaders[2] = 2, 2, "n1"
            return cluster.serve(node, request)

        cluster.script = divide
        several, single = await asyncio.gather(
            db.write([shoal.put(key, "") for key in keys]), db.put("plain", "v"), return_exceptions=True
        )
        assert isinstance(several, shoal.CrossShard)
        assert isinstance(single, shoal.WriteResult)
    assert set(cluster.rows) == {b"warm", b"plain"}


# -- durability --------------------------------------------------------------------------------------------------------


async def test_fast_writes_travel_by_themselves_and_say_so(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.applied.clear()
        fast, safe, gone = await asyncio.gather(
            db.put("a", "1", durability="fast"), db.put("b", "2"), db.delete("c", durability="fast")
        )
        many = await db.put_many({"d": "", "e": ""}, durability="fast")
        assert [each.durability for each in (fast, safe, gone, *many)] == ["fast", "quorum", "fast", "fast", "fast"]
        with pytest.raises(shoal.InvalidArgument, match="durability"):
            await db.put("a", "1", durability="slow")  # type: ignore[arg-type]
    assert sorted(write.fast for write in cluster.applied) == [False, True, True]


async def test_fast_writes_do_not_wait_for_those_at_a_quorum_nor_outrun_the_window(cluster: Any) -> None:
    held: list[Any] = []

    def hold_safe(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and not request.fast:
            held.append(cluster.serve(node, request))
            return None
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = hold_safe
        safe = asyncio.ensure_future(db.put("safe", ""))
        for i in range(62):
            await db.put(f"k{i}", "", durability="fast")
        with pytest.raises(shoal.DeadlineExceeded):
            for i in range(5):
                await db.put(f"late{i}", "", durability="fast", timeout=0.05)
        numbers = [write.number for write in cluster.applied]
        assert max(numbers) - held[0].seq < 64
        cluster.nodes["n1"].send(*held)
        await safe
        await db.put("again", "", durability="fast")


# -- ranges ------------------------------------------------------------------------------------------------------------


async def test_a_prefix_of_one_partition_is_deleted_in_its_microshard(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"{user}/{i}": "" for user in ("ann", "bob") for i in range(5)})
        assert await db.delete_prefix("ann/") == 1
        assert await db.delete_range("bob/1", "bob/3") == 1
        assert await db.delete_range("bob/9", "bob/9") == 0
        assert sorted(cluster.rows) == [b"bob/0", b"bob/3", b"bob/4"]


async def test_a_range_over_all_shards_is_deleted_in_each(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"{letter}{i}": "" for letter in "abc" for i in range(20)})
        cluster.applied.clear()
        assert await db.delete_prefix("a") == 16
        assert len(operations(cluster)) == 4
        assert await db.delete_range("b1", "b2") == 16
        assert not [key for key in cluster.rows if key.startswith(b"a") or b"b1" <= key < b"b2"]
        assert await db.delete_range("", "") == 16
        assert cluster.rows == {}
        for wrong in (db.delete_prefix(""), db.delete_range("b", "a")):
            with pytest.raises(shoal.InvalidArgument):
                await wrong


async def test_a_range_is_deleted_whole_while_a_shard_is_divided(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=1)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": "" for i in range(50)})
        # The node gives half of the shard away before it applies the deletion, which the client cannot know.
        cluster.leaders[2], cluster.shard_count, cluster.version = "n1", 2, 2
        assert await db.delete_prefix("k") == 16
        assert cluster.rows == {}
    deleted_in = [each.ranges for each in operations(cluster) if isinstance(each, DeleteRange)]
    assert sorted(deleted_in, key=lambda ranges: ranges[0].first) == [
        (MicroshardRange(0, 8),),
        (MicroshardRange(8, 16),),
    ]


async def test_a_shard_with_as_many_microshards_as_expected_but_others_does_not_delete_in_them_for_it(
    start_cluster: Any,
) -> None:
    cluster = await start_cluster(shards=2)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": "" for i in range(50)})

        def swap(node: Any, request: Any) -> Any:
            # Shard 1 has deleted in its half; before shard 2 does, the two have changed halves.
            if isinstance(request, Write) and request.shard == 2 and not cluster.ranges:
                cluster.ranges = {1: (MicroshardRange(8, 16),), 2: (MicroshardRange(0, 8),)}
                cluster.version = 2
            return cluster.serve(node, request)

        cluster.script = swap
        assert await db.delete_prefix("k") == 16
        assert cluster.rows == {}


async def test_a_deletion_that_was_done_in_part_does_not_count_as_surely_not_done(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=2)

    def refuse(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and request.shard == 2:
            return Failure(request.request, ErrorCode.PERMISSION_DENIED, "no")
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        cluster.script = refuse
        with pytest.raises(shoal.PermissionDenied, match="1 of 2 parts") as caught:
            await db.delete_prefix("k")
    assert caught.value.maybe_applied


async def test_a_deletion_that_was_done_in_part_and_found_nobody_else_is_of_unknown_outcome(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=2)

    def refuse(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and request.shard == 2:
            return Failure(request.request, ErrorCode.UNAVAILABLE, "no")
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        cluster.script = refuse
        with pytest.raises(shoal.OutcomeUnknown, match="does no harm"):
            await db.delete_prefix("k", timeout=0.5)


async def test_a_failed_deletion_of_a_range_is_raised(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=2)

    def refuse(node: Any, request: Any) -> Any:
        if isinstance(request, Write):
            return Failure(request.request, ErrorCode.OVERLOADED, "no")
        return cluster.serve(node, request)

    cluster.script = refuse
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.Overloaded):
            await db.delete_prefix("k", timeout=0.5)


# -- pipelines ---------------------------------------------------------------------------------------------------------


async def test_a_pipeline_takes_all_kinds_of_calls_in_the_order_of_their_keys(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        pipeline = db.pipeline().increment("n", 2).increment("n").put_if_absent("a", "1", ttl=5).put_if_absent("a", "2")
        pipeline.compare_and_set("a", "1", "3").get("a").touch("a", 3).touch("none").delete("n", durability="fast")
        pipeline.write([shoal.put("w/1", "x"), shoal.increment("w/n")], when=[shoal.key_absent("w/1")]).get("w/1")
        pipeline.exists("a", consistency="eventual").put("f", "", durability="fast", ttl=1)
        *results, written, read, there, fast = await pipeline.execute()
    assert results[:8] == [2, 3, True, False, True, b"3", True, False]
    assert isinstance(written, shoal.WriteResult)
    assert written.results == (1,)
    assert (read, there) == (b"x", True)
    assert isinstance(fast, shoal.WriteResult)
    assert fast.durability == "fast"


async def test_errors_of_a_pipeline_stand_at_their_places(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("text", "abc")

        def queued() -> Any:
            pipeline = db.pipeline().increment("text").put("ok", "")
            return pipeline.write([shoal.put("x", "")], when=[shoal.key_absent("text")])

        bad, good, failed = await queued().execute(raise_on_error=False)
        assert isinstance(bad, shoal.InvalidArgument)
        assert isinstance(good, shoal.WriteResult)
        assert isinstance(failed, shoal.ConditionFailed)
        with pytest.raises(shoal.InvalidArgument) as caught:
            await queued().execute()
        assert set(caught.value.failed_keys) == {b"text", b"x"}
        with pytest.raises(shoal.ConditionFailed) as condition:
            await db.pipeline().write([shoal.put("x", "")], when=[shoal.key_absent("text")]).execute()
        assert condition.value.found == b"abc"


@pytest.mark.parametrize("durability", ["quorum", "fast"])
async def test_what_a_node_refuses_in_one_call_harms_no_other_call(start_cluster: Any, durability: Any) -> None:
    cluster = await start_cluster()

    def picky(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and b"bad" in bytes(request.operations):
            return Failure(request.request, ErrorCode.INVALID_ARGUMENT, "not that one")
        return cluster.serve(node, request)

    cluster.script = picky
    async with shoal.AsyncClient(cluster.url()) as db:
        keys = ["bad-1" if number == 30 else "bad-2" if number == 77 else f"k{number}" for number in range(100)]
        answers = await asyncio.gather(
            *(db.put(key, "v", durability=durability) for key in keys), return_exceptions=True
        )
    refused = [key for key, answer in zip(keys, answers, strict=True) if isinstance(answer, shoal.InvalidArgument)]
    assert refused == ["bad-1", "bad-2"]
    assert all(
        isinstance(answer, shoal.WriteResult) for key, answer in zip(keys, answers, strict=True) if key[0] == "k"
    )
    assert len(cluster.applied) < 20


async def test_what_others_left_no_room_for_in_a_log_entry_travels_in_another(cluster: Any) -> None:
    sizes: list[int] = []

    def serve(node: Any, request: Any) -> Any:
        if not isinstance(request, Write):
            return cluster.serve(node, request)
        count = len(operations_decoder.decode(request.operations))
        sizes.append(count)
        results = [Applied([1]), *[Impossible(0, "too large together", again=True)] * (count - 1)]
        return Written(request.request, 7 + len(sizes), results)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("ready", "")
        cluster.script = serve
        assert await asyncio.gather(*(db.touch(f"large-{number}", 60) for number in range(4))) == [True] * 4
    assert sizes == [4, 3, 2, 1]
