"""Transactions: all or nothing, validated against everything that was read, within one shard."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import shoal
from shoal import transactions
from shoal.errors import ErrorCode
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Atomic, Failure, RangeUnchanged, Read, Scan, SeqEquals, Write


def commits(cluster: Any) -> list[Atomic]:
    sent = [operation for write in cluster.applied for operation in operations_decoder.decode(write.operations)]
    return [operation for operation in sent if isinstance(operation, Atomic)]


async def test_reads_are_conditions_and_writes_operations_of_one_atomic_write(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a/1", "x")
        async with db.transaction() as tx:
            assert await tx.get("a/1") == b"x"
            assert await tx.get("a/2") is None
            assert await tx.get("a/2") is None
            tx.put("a/2", "y", ttl=5)
            tx.delete("a/1")
            assert await tx.get("a/2") == b"y"
            assert await tx.get("a/1") is None
            assert cluster.rows[b"a/1"][0] == b"x"
        assert tx.result is not None
        assert tx.result.seq == 2
        assert await db.get_many(["a/1", "a/2"]) == [None, b"y"]
    (commit,) = commits(cluster)
    assert commit.conditions == [SeqEquals(b"a/1", 1), SeqEquals(b"a/2", 0)]
    assert [type(each).__name__ for each in commit.operations] == ["Put", "Delete"]
    assert commit.operations[0].ttl_ms == 5000  # type: ignore[union-attr]
    assert len(cluster.of_kind(Read)) == 3


async def test_a_change_of_what_was_read_is_a_conflict_and_nothing_is_written(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a/1", "x")
        with pytest.raises(shoal.TransactionConflict, match="do it again") as caught:
            async with db.transaction() as tx:
                await tx.get("a/1")
                await db.put("a/1", "changed")
                tx.put("a/2", "lost")
        assert caught.value.retryable
        assert not caught.value.maybe_applied
        assert await db.get("a/2") is None
        assert tx.result is None


async def test_an_exception_in_the_block_sends_nothing(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(RuntimeError, match="mine"):
            async with db.transaction() as tx:
                tx.put("a/1", "x")
                raise RuntimeError("mine")
        with pytest.raises(shoal.InvalidArgument, match="block"):
            await tx.get("a/1")
        with pytest.raises(shoal.InvalidArgument, match="block"):
            tx.put("a/1", "x")
    assert cluster.asked == []


@pytest.mark.parametrize(("reads", "validated"), [(0, False), (1, False), (2, True)])
async def test_what_was_only_read_is_validated_where_it_was_more_than_one_read(
    cluster: Any, reads: int, validated: bool
) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        async with db.transaction() as tx:
            for i in range(reads):
                await tx.get(f"a/{i}")
        assert (tx.result is not None) is validated
        if validated:
            with pytest.raises(shoal.TransactionConflict):
                async with db.transaction() as tx:
                    await tx.get("a/0")
                    await db.put("a/0", "")
                    await tx.get("a/1")
    assert len(commits(cluster)) == 2 * validated


async def test_scans_see_own_writes_and_are_one_condition_each_whatever_their_pages_are(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"a/{i}": str(i) for i in range(10)})
        for reverse in (False, True):
            async with db.transaction() as tx:
                tx.put("a/3", "mine")
                tx.put("a/35", "new")
                tx.delete("a/4")
                tx.put("a/99", "last")
                rows = [row async for row in tx.scan("a/", page_rows=3, reverse=reverse)]
                expected = {b"a/%d" % i: b"%d" % i for i in range(10) if i != 4}
                expected |= {b"a/3": b"mine", b"a/35": b"new", b"a/99": b"last"}
                assert rows == sorted(expected.items(), reverse=reverse)
                limited = [key async for key, _ in tx.scan("a/", limit=4, page_rows=3, reverse=reverse)]
                assert limited == sorted(expected, reverse=reverse)[:4]
                tx.delete("a/3")
                tx.delete("a/35")
                tx.put("a/4", "4")
                tx.delete("a/99")
            assert tx.result is not None
            await db.put("a/3", "3")
    ranges = [each for each in commits(cluster)[0].conditions if isinstance(each, RangeUnchanged)]
    assert len(ranges) == 2
    assert [(each.start, each.end) for each in ranges] == [(b"a/", b"a0"), (b"a/", b"a/3\0")]


@pytest.mark.parametrize("change", ["insert", "delete", "update", "beyond"])
async def test_rows_that_appear_vanish_or_change_in_a_range_that_was_read_are_a_conflict(
    cluster: Any, change: str
) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"a/{i}": str(i) for i in range(10)})

        async def counted() -> None:
            async with db.transaction() as tx:
                found = [key async for key, _ in tx.scan("a/", end="a/5", page_rows=2)]
                if change == "delete":
                    await db.delete("a/2")
                else:
                    await db.put({"insert": "a/25", "update": "a/2", "beyond": "a/5"}[change], "new")
                tx.put("a/count", str(len(found)))

        if change == "beyond":
            await counted()
            assert await db.get("a/count") == b"5"
        else:
            with pytest.raises(shoal.TransactionConflict, match="unchanged"):
                await counted()


async def test_keys_of_a_second_shard_are_refused_when_they_are_touched(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    async with shoal.AsyncClient(cluster.url()) as db:
        async with db.transaction() as tx:
            await tx.get("a/1")
            with pytest.raises(shoal.CrossShard, match="shard"):
                for i in range(20):
                    tx.put(f"{i}/x", "")
            with pytest.raises(shoal.CrossShard):
                for i in range(20):
                    await tx.get(f"{i}/x")
            with pytest.raises(shoal.CrossShard, match="delimiter"):
                tx.scan("a")
            with pytest.raises(shoal.CrossShard):
                for i in range(20):
                    tx.scan(f"{i}/")
            tx._writes.clear()
        with pytest.raises(shoal.CrossShard):
            async with db.transaction() as tx:
                for i in range(20):
                    tx.put(f"{i}/x", "")
    assert cluster.applied == []


async def test_a_keyspace_of_one_shard_may_be_scanned_whole(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": "" for i in range(5)})
        async with db.transaction() as tx:
            rows = tx.scan(page_rows=2)
            assert len([row async for row in rows]) == 5
            with pytest.raises(shoal.InvalidArgument, match="cursor"):
                _ = rows.cursor
            tx.put("k9", "")
        with pytest.raises(shoal.TransactionConflict):
            async with db.transaction() as tx:
                assert len([row async for row in tx.scan("k")]) == 6
                await db.put("k8", "")
                tx.put("k7", "")


async def test_what_a_transaction_reads_is_bounded(cluster: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(transactions, "MAX_READS", 10)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"a/{i:02}": "" for i in range(20)})
        with pytest.raises(shoal.TooLarge, match="10 keys"):
            async with db.transaction() as tx:
                async for _ in tx.scan("a/", page_rows=4):
                    pass
        with pytest.raises(shoal.TooLarge):
            async with db.transaction() as tx:
                for i in range(11):
                    await tx.get(f"a/{i}")
        with pytest.raises(shoal.InvalidArgument):
            async with db.transaction() as tx:
                await tx.get("")
        with pytest.raises(shoal.TooLarge, match="value"):
            async with db.transaction() as tx:
                tx.put("a/1", bytes(2 << 20))


async def test_what_a_transaction_reads_is_bounded_in_bytes(cluster: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(transactions, "MAX_READ_BYTES", 10_000)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"a/{i:02}": "x" * 1000 for i in range(20)})
        with pytest.raises(shoal.TooLarge, match="MiB"):
            async with db.transaction() as tx:
                async for _ in tx.scan("a/", page_rows=4):
                    pass
        with pytest.raises(shoal.TooLarge, match="MiB"):
            async with db.transaction() as tx:
                for i in range(11):
                    await tx.get(f"a/{i:02}")


@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_that_were_only_read_are_validated_together(cluster: Any, reverse: bool) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"a/{i}": "" for i in range(6)})
        async with db.transaction() as tx:
            assert len([row async for row in tx.scan("a/", page_rows=2, reverse=reverse)]) == 6
        assert len(commits(cluster)[-1].conditions) == 1
        with pytest.raises(shoal.TransactionConflict):
            async with db.transaction() as tx:
                assert len([row async for row in tx.scan("a/", page_rows=2, reverse=reverse)]) == 6
                await db.put("a/3", "changed")
        with pytest.raises(shoal.TransactionConflict):
            async with db.transaction() as tx:
                assert len([row async for row in tx.scan("a/", page_rows=3, reverse=reverse)]) == 6
                await db.delete("a/0")


async def test_run_repeats_what_others_got_in_between_of(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:

        async def add(tx: shoal.AsyncTransaction) -> int:
            count = int(await tx.get("a/n") or 0) + 1
            tx.put("a/n", str(count))
            return count

        counts = await asyncio.gather(*(db.run(add) for _ in range(20)))
        assert sorted(counts) == list(range(1, 21))
        assert await db.get("a/n") == b"20"


async def test_run_gives_up_at_its_deadline_and_passes_other_errors_on(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        attempts = 0

        async def unlucky(tx: shoal.AsyncTransaction) -> None:
            nonlocal attempts
            attempts += 1
            await tx.get("a/n")
            await db.put("a/n", "")
            tx.put("a/m", "")

        with pytest.raises(shoal.TransactionConflict):
            await db.run(unlucky, timeout=0.15)
        assert attempts > 1

        async def broken(tx: shoal.AsyncTransaction) -> None:
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            await db.run(broken)
        with pytest.raises(shoal.InvalidArgument):
            await db.run(broken, timeout=0)


async def test_the_deadline_is_the_whole_transactions(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")

        def mute(node: Any, request: Any) -> Any:
            return None if isinstance(request, Write | Scan) else cluster.serve(node, request)

        cluster.script = mute
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            async with db.transaction(timeout=0.1) as tx:
                tx.put("a/1", "")
        assert caught.value.maybe_applied
        with pytest.raises(shoal.DeadlineExceeded) as of_scan:
            async with db.transaction(timeout=0.05) as tx:
                async for _ in tx.scan("a/"):
                    pass
        assert not of_scan.value.maybe_applied


async def test_what_was_only_read_never_counts_as_perhaps_done(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")

        def mute(node: Any, request: Any) -> Any:
            return None if isinstance(request, Write) else cluster.serve(node, request)

        cluster.script = mute
        with pytest.raises(shoal.DeadlineExceeded, match="try again") as caught:
            async with db.transaction(timeout=0.1) as tx:
                await tx.get("a/1")
                await tx.get("a/2")
    assert not caught.value.maybe_applied


async def test_what_was_only_read_is_compared_again_where_the_first_answer_is_lost_for_good(cluster: Any) -> None:
    compared = 0

    def lose_then_forget(node: Any, request: Any) -> Any:
        nonlocal compared
        if not isinstance(request, Write):
            return cluster.serve(node, request)
        compared += 1
        if compared == 1:
            node.drop_connections()
            return None
        if compared == 2:
            return Failure(request.request, ErrorCode.SESSION_EXPIRED.value, "forgotten")
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("warm", "")
        cluster.script = lose_then_forget
        async with db.transaction() as tx:
            await tx.get("a/1")
            await tx.get("a/2")
    assert compared == 3


async def test_a_transaction_of_a_session_is_seen_by_its_reads(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        session = db.session()
        async with session.transaction() as tx:
            tx.put("a/1", "x")
        cluster.asked.clear()
        assert await session.get("a/1") == b"x"
        assert cluster.of_kind(Read)[0].freshness.min_seq == 1
