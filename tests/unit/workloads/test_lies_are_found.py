"""Each workload finds the lies that it is there for, told by a client that stands before an honest database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any

import pytest
import shoal
from shoal_chaos.workloads import base, expiry
from shoal_chaos.workloads.append_lists import AppendLists
from shoal_chaos.workloads.bank import Bank
from shoal_chaos.workloads.base import Workload
from shoal_chaos.workloads.counting import Counting
from shoal_chaos.workloads.expiry import Expiry
from shoal_chaos.workloads.locks import Locks
from shoal_chaos.workloads.on_call import OnCall
from shoal_chaos.workloads.queues import Queues
from shoal_chaos.workloads.ranges import Ranges
from shoal_chaos.workloads.registers import Registers
from shoal_chaos.workloads.scans import Scans
from shoal_chaos.workloads.sessions import Sessions
from shoal_chaos.workloads.sets import Sets
from shoal_chaos.workloads.staleness import Staleness
from shoal_chaos.workloads.suite import Suite
from shoal_chaos.workloads.swaps import Swaps

SECONDS = 0.4
MOMENTS = 10
PACE_SECONDS = 0.005


class Liar:
    """Passes everything on to a client. Its subclasses do not."""

    def __init__(self, db: shoal.AsyncClient) -> None:
        self.db = db
        self.chance = Random(5)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def lies(self, share: float = 0.2) -> bool:
        return self.chance.random() < share


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PACE_SECONDS", PACE_SECONDS)
    monkeypatch.setattr(expiry, "TTL_SECONDS", (0.1, 0.3))


@pytest.fixture
async def db() -> AsyncIterator[shoal.AsyncClient]:
    async with shoal.AsyncClient("embedded://") as client:
        yield client


async def found_by(workload: Workload, db: Any, said: str) -> str:
    """Run a workload until it has seen a violation of which this is said, for some moments at the most; return what it saw."""
    stop = asyncio.Event()

    async def look() -> None:
        # On a busy machine little is done in a moment.
        for _ in range(MOMENTS):
            await asyncio.sleep(SECONDS)
            if any(said in each for each in workload.violations()):
                break
        stop.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        group.create_task(workload.run(db, stop))
    return "\n".join(workload.violations())


async def must_find(said: str, workload: Workload, db: Any) -> None:
    assert said in await found_by(workload, db, said)


async def test_an_honest_database_has_no_violations(db: shoal.AsyncClient) -> None:
    suite = Suite("t", Random(1), [db, db])
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(SECONDS, stop.set)
    await suite.run(stop)
    assert suite.violations() == []
    assert all(workload.recorder.done > 0 for workload in suite.workloads)


class ForgetsDeletions(Liar):
    """Of what was deleted it brings some back."""

    async def delete_range(self, start: str, end: str, **how: Any) -> int:
        return 1 if self.lies() else await self.db.delete_range(start, end, **how)


class ForgetsPuts(Liar):
    async def put(self, key: str, value: bytes, **how: Any) -> Any:
        return shoal.WriteResult(1) if self.lies() else await self.db.put(key, value, **how)


class DoesWhatItRefuses(Liar):
    async def put(self, key: str, value: bytes, **how: Any) -> Any:
        result = await self.db.put(key, value)
        if self.lies():
            raise shoal.Unavailable("surely not done")
        return result


class RemembersOldValues(Liar):
    """Answers some reads with what the key had when it was read before."""

    def __init__(self, db: shoal.AsyncClient) -> None:
        super().__init__(db)
        self.old: dict[str, Any] = {}

    async def get_entry(self, key: str, **how: Any) -> Any:
        if self.lies(0.5) and key in self.old:
            return self.old[key]
        self.old[key] = await self.db.get_entry(key, **how)
        return self.old[key]

    def session(self, token: str | None = None, **how: Any) -> Any:
        twin = type(self)(self.db.session(token, **how))
        twin.old = self.old
        return twin


class CountsTwice(Liar):
    async def increment(self, key: str, by: int, **how: Any) -> int:
        if self.lies():
            await self.db.increment(key, by)
        return await self.db.increment(key, by, **how)


class AlwaysExchanges(Liar):
    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes, **how: Any) -> bool:
        await self.db.put(key, value)
        return True


class NeverExchanges(Liar):
    async def compare_and_set(self, key: str, expected: bytes | None, value: bytes, **how: Any) -> bool:
        await self.db.compare_and_set(key, expected, value)
        return False


class GivesEverybodyTheLock(Liar):
    async def put_if_absent(self, key: str, value: bytes, **how: Any) -> bool:
        await self.db.put(key, value, ttl=how["ttl"])
        return True


class NeverExpires(Liar):
    async def put(self, key: str, value: bytes, *, ttl: float, **how: Any) -> Any:
        return await self.db.put(key, value, **how)


class ExpiresEarly(Liar):
    async def put(self, key: str, value: bytes, *, ttl: float, **how: Any) -> Any:
        return await self.db.put(key, value, ttl=ttl / 2, **how)


@pytest.mark.parametrize(
    ("workload", "liar", "said"),
    [
        (Registers, ForgetsPuts, "not linearizable"),
        (Registers, DoesWhatItRefuses, "surely not done"),
        (Registers, RemembersOldValues, "not linearizable"),
        (Counting, CountsTwice, "its increments allow only"),
        (Swaps, AlwaysExchanges, "not linearizable"),
        (Swaps, NeverExchanges, "surely not done"),
        (Locks, GivesEverybodyTheLock, "at once"),
        (Expiry, NeverExpires, "after it had expired"),
        (Expiry, ExpiresEarly, "before it expires"),
    ],
)
async def test_a_lie_is_found(db: shoal.AsyncClient, workload: type[Workload], liar: type[Liar], said: str) -> None:
    await must_find(said, workload("t", Random(3)), liar(db))


async def test_a_weak_read_that_is_older_than_it_says_is_found(db: shoal.AsyncClient) -> None:
    await must_find("said that is at most", Staleness("t", Random(3), [RemembersOldValues(db)]), db)


async def test_a_session_that_goes_back_is_found(db: shoal.AsyncClient) -> None:
    await must_find("Session s", Sessions("t", Random(3), [RemembersOldValues(db)]), db)


async def test_transactions_that_validate_only_what_they_write_are_found(
    db: shoal.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = shoal.AsyncTransaction._commit

    async def snapshot_isolation(self: shoal.AsyncTransaction) -> None:
        self._entries = {key: entry for key, entry in self._entries.items() if key in self._writes}
        self._pages = []
        await commit(self)

    monkeypatch.setattr(shoal.AsyncTransaction, "_commit", snapshot_isolation)
    await must_find(": G2", OnCall("t", Random(3)), db)
    await must_find("No serial order", Bank("t", Random(3)), db)


class LosesMoney(Liar):
    def scan(self, prefix: bytes, **how: Any) -> Any:
        return self.db.scan(prefix, limit=4, **how)


async def test_an_account_missing_from_an_audit_is_found(db: shoal.AsyncClient) -> None:
    await must_find("where 500 is at all times", Bank("t", Random(3)), LosesMoney(db))


class LosesRowsOfScans(Liar):
    """Leaves a row out of some scans."""

    def scan(self, *args: Any, **how: Any) -> Any:
        async def rows() -> AsyncIterator[Any]:
            left_out = self.chance.randrange(3) if self.lies() else -1
            number = 0
            async for row in self.db.scan(*args, **how):
                if number != left_out:
                    yield row
                number += 1

        return rows()


class RepeatsRowsOfScans(Liar):
    def scan(self, *args: Any, **how: Any) -> Any:
        async def rows() -> AsyncIterator[Any]:
            async for row in self.db.scan(*args, **how):
                yield row
                if self.lies():
                    yield row

        return rows()


@pytest.mark.parametrize(
    ("workload", "liar", "said"),
    [
        (Sets, ForgetsPuts, "had been acknowledged or seen before"),
        (Sets, LosesRowsOfScans, "had been acknowledged or seen before"),
        (Sets, RepeatsRowsOfScans, "more than once"),
        (Sets, DoesWhatItRefuses, "surely not done"),
        (Scans, ForgetsPuts, "not linearizable"),
        (Scans, LosesRowsOfScans, "not linearizable"),
        (Scans, RepeatsRowsOfScans, "and then"),
        (Ranges, ForgetsDeletions, "are there that are deleted"),
        (Ranges, LosesRowsOfScans, "are missing"),
        (Ranges, RepeatsRowsOfScans, "twice"),
    ],
)
async def test_a_lie_about_rows_is_found(
    db: shoal.AsyncClient, workload: type[Workload], liar: type[Liar], said: str
) -> None:
    await must_find(said, workload("t", Random(3)), liar(db))


class Commits:
    """Stands in for the commit of transactions."""

    def __init__(self) -> None:
        self.chance = Random(5)
        self.commit = shoal.AsyncTransaction._commit

    def lies(self) -> bool:
        return self.chance.random() < 0.2


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Commits, Any], Awaitable[None]]], None]:
    """Have transactions commit in another way."""

    def replace(how: Callable[[Commits, Any], Awaitable[None]]) -> None:
        stand_in = Commits()

        async def commit(self: shoal.AsyncTransaction) -> None:
            await how(stand_in, self)

        monkeypatch.setattr(shoal.AsyncTransaction, "_commit", commit)

    return replace


async def validates_nothing(commits: Commits, tx: Any) -> None:
    tx._entries, tx._pages = {}, []
    await commits.commit(tx)


async def forgets_some(commits: Commits, tx: Any) -> None:
    if not commits.lies():
        await commits.commit(tx)


async def commits_what_it_refuses(commits: Commits, tx: Any) -> None:
    await commits.commit(tx)
    if commits.lies():
        raise shoal.TransactionConflict("surely not done")


@pytest.mark.parametrize(
    ("workload", "how", "said"),
    [
        (AppendLists, validates_nothing, "lost append"),
        (AppendLists, forgets_some, "lost append"),
        (AppendLists, commits_what_it_refuses, "G1a"),
        (Queues, validates_nothing, "taken"),
        (Queues, forgets_some, "was taken twice"),
        (Queues, commits_what_it_refuses, "surely not done"),
        (Bank, commits_what_it_refuses, "G1a"),
    ],
)
async def test_a_lie_about_a_commit_is_found(
    db: shoal.AsyncClient, commits: Any, workload: type[Workload], how: Any, said: str
) -> None:
    commits(how)
    await must_find(said, workload("t", Random(3)), db)


class ExpiresSooner(Liar):
    """A row's time is up by `early` seconds too soon, as by a clock that is ahead."""

    early = 0.0

    async def put(self, key: str, value: bytes, *, ttl: float, **how: Any) -> Any:
        return await self.db.put(key, value, ttl=ttl - self.early, **how)


@pytest.mark.parametrize(
    ("tolerance_ms", "early", "is_found"), [(0, 0.15, True), (100, 0.15, False), (100, 0.28, True)]
)
async def test_clocks_may_be_wrong_by_twice_the_tolerance_and_no_more(
    db: shoal.AsyncClient, monkeypatch: pytest.MonkeyPatch, tolerance_ms: int, early: float, is_found: bool
) -> None:
    monkeypatch.setattr(expiry, "TTL_SECONDS", (0.3, 0.32))
    monkeypatch.setattr(expiry, "TOUCH_SHARE", 0.0)
    workload, liar = Expiry("t", Random(3)), ExpiresSooner(db)
    workload.allow_clocks(tolerance_ms)
    liar.early = early
    said = "before it expires"
    assert (said in await found_by(workload, liar, said)) is is_found
