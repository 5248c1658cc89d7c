"""Scans: every row once and in order, in bounded memory, whatever becomes of the shards meanwhile."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
import shoal
from shoal.protocol.messages import Freshness, Scan, ScanPage
from shoal.shardmap import count_in

ROWS = {b"k%03d" % i: b"v%d" % i for i in range(200)}


async def filled(cluster: Any, rows: dict[bytes, bytes] = ROWS) -> None:
    for at, (key, value) in enumerate(rows.items()):
        cluster.rows[key] = (value, at + 1)
    cluster.seq = len(rows)


async def taken(rows: Any) -> list[Any]:
    return [row async for row in rows]


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("page_rows", [1, 7, 1000])
async def test_rows_come_in_key_order_over_all_shards(start_cluster: Any, shards: int, page_rows: int) -> None:
    cluster = await start_cluster(nodes=2, shards=shards)
    await filled(cluster)
    expected = list(ROWS.items())
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await taken(db.scan(page_rows=page_rows)) == expected
        assert await taken(db.scan(page_rows=page_rows, reverse=True)) == expected[::-1]
        assert await taken(db.scan("k01", page_rows=page_rows)) == expected[10:20]
        assert await taken(db.scan("k", start="k190", end="k195", page_rows=page_rows)) == expected[190:195]
        assert await taken(db.scan(start="k190", keys_only=True, page_rows=page_rows)) == list(ROWS)[190:]
        assert await taken(db.scan(limit=33, page_rows=page_rows)) == expected[:33]
        assert await taken(db.scan(limit=5, reverse=True, page_rows=page_rows)) == expected[::-1][:5]
        assert await taken(db.scan("none", page_rows=page_rows)) == []


async def test_a_scan_of_one_partition_asks_one_shard(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    await filled(cluster, {b"ann/%d" % i: b"" for i in range(10)} | {b"bob/%d" % i: b"" for i in range(10)})
    async with shoal.AsyncClient(cluster.url()) as db:
        assert len(await taken(db.scan("ann/"))) == 10
        assert len(await taken(db.scan(start="bob/3", end="bob/5"))) == 2
    scans = cluster.of_kind(Scan)
    assert len(scans) == 2
    assert all(count_in(scan.ranges) == 1 for scan in scans)


async def test_memory_is_bounded_by_two_pages_a_shard(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    await filled(cluster)
    async with shoal.AsyncClient(cluster.url()) as db:
        rows = db.scan(page_rows=5)
        async for _ in rows:
            await asyncio.sleep(0.001)  # lets what is fetched ahead arrive
            served = len(cluster.of_kind(Scan)) * 5
            assert served - rows._returned <= 2 * 4 * 5


async def test_an_abandoned_scan_stops_asking(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=2)
    await filled(cluster)
    async with shoal.AsyncClient(cluster.url()) as db:
        async for _ in db.scan(page_rows=2):
            break
        await asyncio.sleep(0.02)
        assert len(cluster.of_kind(Scan)) <= 4
        assert await db.get("k000") == b"v0"


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_cursor_goes_on_behind_the_row_it_was_at(start_cluster: Any, reverse: bool) -> None:
    cluster = await start_cluster(shards=4)
    await filled(cluster)
    expected = list(ROWS.items())[150:190:1]
    if reverse:
        expected.reverse()
    async with shoal.AsyncClient(cluster.url()) as db, shoal.AsyncClient(cluster.url()) as other:
        got: list[Any] = []
        cursor = db.scan("k", start="k150", limit=40 if not reverse else None, end="k190", reverse=reverse).cursor
        while True:
            rows = other.scan(cursor=cursor, page_rows=4)
            for _ in range(7):
                row = await anext(rows, None)
                if row is None:
                    break
                got.append(row)
            cursor = rows.cursor
            if row is None:
                break
        assert got == expected
        assert await taken(db.scan(cursor=cursor)) == []
        with pytest.raises(shoal.InvalidArgument, match="keys_only"):
            db.scan(cursor=cursor, keys_only=True)
        with pytest.raises(shoal.InvalidArgument, match="keyspace"):
            db.keyspace("other").scan(cursor=cursor)
        with pytest.raises(shoal.InvalidArgument, match="cursor"):
            db.scan(cursor="garbage")
        keys = db.scan("k", keys_only=True)
        assert [await anext(keys), await anext(keys)] == [b"k000", b"k001"]
        assert await anext(db.scan(cursor=keys.cursor, keys_only=True)) == b"k002"


@pytest.mark.parametrize("how", [{}, {"reverse": True}, {"consistency": "eventual"}])
async def test_no_row_is_missing_when_a_shard_is_divided_meanwhile(start_cluster: Any, how: Any) -> None:
    for moment in range(0, 24, 3):
        cluster = await start_cluster(nodes=2, shards=1)
        await filled(cluster)
        expected = list(ROWS.items())
        if how.get("reverse"):
            expected.reverse()
        asked = 0

        def divide(node: Any, request: Any, cluster: Any = cluster, moment: int = moment) -> Any:
            nonlocal asked
            if isinstance(request, Scan):
                asked += 1
                if asked == moment:
                    cluster.shard_count, cluster.version, cluster.leaders[2] = 2, 2, "n2"
            return cluster.serve(node, request)

        cluster.script = divide
        async with shoal.AsyncClient(cluster.url()) as db:
            assert await taken(db.scan(page_rows=10, **how)) == expected


async def test_scans_survive_lost_connections_and_new_leaders(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=2)
    await filled(cluster)
    random = Random(7)

    def trouble(node: Any, request: Any) -> Any:
        if isinstance(request, Scan) and random.random() < 0.2:
            if random.random() < 0.5:
                node.drop_connections()
                return None
            cluster.leaders[request.shard] = random.choice(cluster.names)
        return cluster.serve(node, request)

    cluster.script = trouble
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await taken(db.scan(page_rows=10)) == list(ROWS.items())


async def test_weak_scans_go_to_replicas_that_are_fresh_enough(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    await filled(cluster)
    cluster.lag = {"n1": (0, 9000), "n2": (0, 9000)}
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await taken(db.scan(consistency="eventual", max_staleness=10)) == list(ROWS.items())
        assert cluster.of_kind(Scan)[0].freshness == Freshness(False, 0, 10_000)
        cluster.asked.clear()
        assert await taken(db.scan(consistency="eventual", max_staleness=1)) == list(ROWS.items())
        assert cluster.of_kind(Scan)[-1].freshness.strong
        cluster.script = lambda node, request: None
        with pytest.raises(shoal.DeadlineExceeded, match="scan of the keys"):
            await taken(db.scan(timeout=0.05))


async def test_a_scan_that_failed_goes_on_when_asked_again(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=2)
    await filled(cluster)
    async with shoal.AsyncClient(cluster.url()) as db:
        rows = db.scan(page_rows=10, timeout=0.05)
        got = [await anext(rows) for _ in range(15)]
        cluster.script = lambda node, request: None
        with pytest.raises(shoal.DeadlineExceeded):
            while True:
                got.append(await anext(rows))
        cluster.script = None
        got += await taken(rows)
        assert got == list(ROWS.items())


async def test_a_page_that_does_not_fit_its_question_ends_the_connection(cluster: Any) -> None:
    await filled(cluster)
    spoiled: list[ScanPage] = []

    def spoil(node: Any, request: Any) -> Any:
        answer = cluster.serve(node, request)
        if isinstance(answer, ScanPage) and len(spoiled) < 3:
            bad = [
                ScanPage(request.request, 1, "n1", [b"k"], [], [1], None),
                ScanPage(request.request, 1, "n1", [b"k"], [b"v"], [], None),
                ScanPage(request.request, 1, "n1", [], [], [], request.start),
            ][len(spoiled)]
            spoiled.append(bad)
            return bad
        return answer

    cluster.script = spoil
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await taken(db.scan(page_rows=150)) == list(ROWS.items())
    assert len(spoiled) == 3


@pytest.mark.parametrize(
    "how",
    [{"limit": -1}, {"limit": 1.5}, {"page_rows": 0}, {"start": "b", "end": "a"}, {"start": 5}, {"timeout": 0}],
)
async def test_wrong_arguments_of_scans_are_refused(cluster: Any, how: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        with pytest.raises(shoal.InvalidArgument):
            db.scan(**how)
        assert await taken(db.scan(limit=0)) == []
        assert await taken(db.scan("b", end="a")) == []
    assert cluster.asked == []
