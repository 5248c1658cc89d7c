"""The asyncio client: the same calls, for many tasks of one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import pytest
import shoal

from .conftest import Database


@pytest.fixture
async def db(database: Database) -> AsyncIterator[shoal.AsyncClient]:
    async with shoal.AsyncClient(database.url, timeout=20) as client:
        yield client


async def taken(rows: shoal.AsyncScan[Any]) -> list[Any]:
    return [row async for row in rows]


async def test_one_key(db: shoal.AsyncClient, ns: str) -> None:
    written = await db.put(f"{ns}/k", "v", ttl=60)
    entry = await db.get_entry(f"{ns}/k")
    assert entry is not None
    assert (entry.value, entry.seq) == (b"v", written.seq)
    assert 50 < (await db.ttl(f"{ns}/k") or 0) < 61
    assert await db.touch(f"{ns}/k", 0)
    assert await db.ttl(f"{ns}/k") == inf
    assert await db.exists(f"{ns}/k")
    await db.delete(f"{ns}/k")
    assert await db.get(f"{ns}/k") is None
    assert (await db.put(f"{ns}/k", "v", durability="fast")).durability == "fast"
    await db.touch(f"{ns}/k", 0.02)
    await asyncio.sleep(0.06)
    assert await db.get(f"{ns}/k") is None


async def test_a_thousand_tasks_get_their_own_answers(db: shoal.AsyncClient, ns: str) -> None:
    await asyncio.gather(*(db.put(f"{ns}-{number}", str(number)) for number in range(1000)))
    values = await asyncio.gather(*(db.get(f"{ns}-{number}") for number in range(1000)))
    assert values == [b"%d" % number for number in range(1000)]
    assert await db.get_many([f"{ns}-{number}" for number in range(1000)]) == values
    await db.delete_many([f"{ns}-{number}" for number in range(1000)])
    assert await taken(db.scan(f"{ns}-")) == []


async def test_concurrent_increments_are_all_counted(db: shoal.AsyncClient, ns: str) -> None:
    sums = await asyncio.gather(*(db.increment(f"{ns}-n") for _ in range(1000)))
    assert sorted(sums) == list(range(1, 1001))


async def test_a_race_has_one_winner(db: shoal.AsyncClient, ns: str) -> None:
    won = await asyncio.gather(*(db.put_if_absent(f"{ns}-k", str(runner)) for runner in range(50)))
    assert won.count(True) == 1
    winner = won.index(True)
    assert await db.get(f"{ns}-k") == b"%d" % winner
    swapped = await asyncio.gather(*(db.compare_and_set(f"{ns}-k", str(winner), f"x{at}") for at in range(50)))
    assert swapped.count(True) == 1


async def test_an_atomic_write_is_all_or_nothing(db: shoal.AsyncClient, ns: str) -> None:
    ops = [shoal.put(f"{ns}/a", "1"), shoal.increment(f"{ns}/n")]
    assert (await db.write(ops, when=[shoal.key_absent(f"{ns}/a")])).results == (1,)
    with pytest.raises(shoal.ConditionFailed) as caught:
        await db.write(ops, when=[shoal.key_absent(f"{ns}/a")])
    assert caught.value.found == b"1"
    assert await db.get(f"{ns}/n") == b"1"


@pytest.mark.parametrize("separator", ["/", "-"])
async def test_scans_go_on_where_they_were(db: shoal.AsyncClient, ns: str, separator: str) -> None:
    keys = [f"{ns}{separator}{number:03}".encode() for number in range(200)]
    await db.put_many(dict.fromkeys(keys, "v"))
    scan = db.scan(f"{ns}{separator}", keys_only=True, page_rows=9)
    got = [await anext(scan) for _ in range(50)]
    got += await taken(db.scan(cursor=scan.cursor, keys_only=True, page_rows=50))
    assert got == keys
    assert await taken(db.scan(f"{ns}{separator}", limit=3, reverse=True, keys_only=True)) == keys[:-4:-1]
    await db.delete_prefix(f"{ns}{separator}")
    assert await taken(db.scan(f"{ns}{separator}")) == []


async def test_transactions_conflict_and_run_tries_again(db: shoal.AsyncClient, ns: str) -> None:
    async def add(tx: shoal.AsyncTransaction) -> None:
        tx.put(f"{ns}/n", str(int(await tx.get(f"{ns}/n") or 0) + 1))

    await asyncio.gather(*(db.run(add) for _ in range(20)))
    assert await db.get(f"{ns}/n") == b"20"
    with pytest.raises(shoal.TransactionConflict):
        async with db.transaction() as tx:
            await taken(tx.scan(f"{ns}/"))
            await db.put(f"{ns}/phantom", "v")
            tx.put(f"{ns}/n", "0")
    assert await db.get(f"{ns}/n") == b"20"


async def test_a_session_reads_its_writes_and_its_token_goes_on(db: shoal.AsyncClient, ns: str) -> None:
    session = db.session()
    for number in range(50):
        await session.put(f"{ns}-{number}", str(number))
        assert await session.get(f"{ns}-{number}") == b"%d" % number
    other = db.session(session.token())
    assert await other.get_many([f"{ns}-{number}" for number in range(50)]) == [b"%d" % number for number in range(50)]
    with pytest.raises(shoal.InvalidArgument):
        db.session(session.token()[:-3])
    entry = await other.get_entry(f"{ns}-1", consistency="eventual", max_staleness=60)
    assert entry is None or entry.staleness <= 60


async def test_a_pipeline(db: shoal.AsyncClient, ns: str) -> None:
    pipeline = db.pipeline().put(f"{ns}/k", "1").increment(f"{ns}/k").touch(f"{ns}/k", 60).get(f"{ns}/k")
    _, total, touched, value = await pipeline.execute()
    assert (total, touched, value) == (2, True, b"2")


async def test_a_cancelled_call_does_not_mix_up_answers(db: shoal.AsyncClient, ns: str) -> None:
    await db.put_many({f"{ns}-{number}": str(number) for number in range(100)})
    for round_ in range(20):
        tasks = [asyncio.ensure_future(db.get(f"{ns}-{number}")) for number in range(100)]
        await asyncio.sleep(0.0002 * (round_ % 4))
        for task in tasks[::3]:
            task.cancel()
        values = await asyncio.gather(*tasks, return_exceptions=True)
        for number, value in enumerate(values):
            assert value == b"%d" % number or (number % 3 == 0 and isinstance(value, asyncio.CancelledError))


async def test_a_refused_call_harms_none_that_are_made_with_it(db: shoal.AsyncClient, ns: str) -> None:
    await db.put(f"{ns}/text", "x")
    answers = await asyncio.gather(
        db.put(f"{ns}/a", "v", ttl=1e11),
        db.increment(f"{ns}/text"),
        db.put(f"{ns}/b", "v"),
        db.write([shoal.increment(f"{ns}/n{number}") for number in range(1_600)]),
        db.write([shoal.increment(f"{ns}/n{number}") for number in range(1_600)]),
        db.put("", "v"),
        db.get(f"{ns}/text"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [
        shoal.InvalidArgument,
        shoal.InvalidArgument,
        shoal.WriteResult,
        shoal.WriteResult,
        shoal.WriteResult,
        shoal.InvalidArgument,
        bytes,
    ]
