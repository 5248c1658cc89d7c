"""The migrator, between two shards in memory: what is called in which order, and failures and ends at each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace
from shoal.errors import InvalidArgument, Unavailable
from shoal.protocol.messages import ReplicaStatus, StatusReply
from shoal.protocol.migration import (
    UNREAD,
    ClearedRange,
    EndedMigration,
    MigrationCursor,
    MigrationEnd,
    MigrationStatus,
    MovedRow,
    MovingRows,
)
from shoal.shardmap import MicroshardRange
from shoal_shardmanager.control.rows import MoveMicroshards
from shoal_shardmanager.process import migrator as migrator_module
from shoal_shardmanager.process.migrator import CannotSeal, Migrator

SOURCE, TARGET, OPERATION = 1, 2, 7
RANGES = (MicroshardRange(0, 4),)
WORK = MoveMicroshards(SOURCE, TARGET, RANGES)
PAGE_ROWS = 8
CALLS_MAX = 48
EMPTY = ReplicaStatus(0, "leader", "", 1, 0, 0, 0, 0, 0, 0, (), ())
STATUS = StatusReply(1, "n", "c", "i", "s", 1, 5, (), "", 1 << 40, ())


class Shards:
    """Both shards' logs, reduced to what a migration does to them. `calls` are those that arrived, in order."""

    def __init__(self, keys: int = 40, writes: int = 30) -> None:
        self.random = Random(keys)
        self.rows = {f"k{number:03}".encode(): b"0" for number in range(keys)}
        self.index = 1
        self.journal: list[tuple[int, bytes]] = []
        self.outgoing: MigrationStatus | None = None
        self.incoming: MigrationStatus | None = None
        self.arrived: dict[bytes, bytes] = {}
        self.adopted = False
        self.writes_left = writes
        self.calls: list[str] = []
        self.fail_at = -1
        self.lose_at = -1
        self.second_read: asyncio.Event | None = None

    def write(self) -> None:
        """Somebody writes, as long as the source takes it."""
        sealed = self.outgoing is not None and self.outgoing.sealed
        if self.writes_left == 0 or sealed:
            return
        self.writes_left -= 1
        self.index += 1
        key = self.random.choice([*self.rows, b"new%d" % self.index])
        if self.random.random() < 0.2:
            self.rows.pop(key, None)
        else:
            self.rows[key] = b"%d" % self.index
        if self.outgoing is not None:
            self.journal.append((self.index, key))

    def call(self, name: str) -> bool:
        """A call arrives; return whether its answer does."""
        self.calls.append(name)
        self.write()
        if len(self.calls) == self.fail_at:
            raise Unavailable("made to fail")
        return len(self.calls) != self.lose_at

    def answer(self, arrives: bool) -> None:
        if not arrives:
            raise Unavailable("made to lose the answer")


class Connection:
    """A connection to either leader: what `AdminConnection` offers a migrator."""

    def __init__(self, shards: Shards, shard: int) -> None:
        self.shards = shards
        self.shard = shard
        self.busy = False
        self.closed = False

    def close(self) -> None:
        self.closed = True

    async def _turn(self) -> None:
        """Let others go on; a connection bears one question at a time."""
        assert not self.busy
        assert not self.closed
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False

    async def status(self) -> StatusReply:
        await self._turn()
        shards = self.shards
        arrives = shards.call(f"status {self.shard}")
        if self.shard == SOURCE:
            replica = replace(EMPTY, shard=SOURCE, outgoing=shards.outgoing, ranges=RANGES)
        else:
            ended = (EndedMigration(OPERATION, MigrationEnd.ADOPTED),) if shards.adopted else ()
            replica = replace(EMPTY, shard=TARGET, incoming=shards.incoming, migrations_ended=ended)
        shards.answer(arrives)
        return replace(STATUS, replicas=(replica,))

    async def begin_incoming(
        self, shard: int, migration: int, source: int, ranges: tuple[MicroshardRange, ...]
    ) -> None:
        await self._turn()
        arrives = self.shards.call("take")
        assert (self.shard, shard, source, ranges) == (TARGET, TARGET, SOURCE, RANGES)
        if self.shards.incoming is None and not self.shards.adopted:
            self.shards.incoming = MigrationStatus(migration, source, ranges)
        self.shards.answer(arrives)

    async def begin_outgoing(
        self,
        shard: int,
        migration: int,
        target: int,
        ranges: tuple[MicroshardRange, ...],
        confirmed: MigrationCursor = UNREAD,
    ) -> None:
        await self._turn()
        arrives = self.shards.call("trim" if confirmed.scanned else "give")
        if confirmed.scanned:
            assert self.shards.incoming is not None
            assert self.shards.incoming.cursor.scanned
            assert self.shards.incoming.cursor.mark >= confirmed.mark, "only what is stored may be forgotten"
            self.shards.journal = [entry for entry in self.shards.journal if entry[0] > confirmed.mark]
        assert (self.shard, shard, target, ranges) == (SOURCE, SOURCE, TARGET, RANGES)
        if self.shards.outgoing is None:
            self.shards.outgoing = MigrationStatus(migration, target, ranges)
        self.shards.answer(arrives)

    async def read_moving(self, shard: int, migration: int, cursor: MigrationCursor, *, max_bytes: int) -> MovingRows:
        await self._turn()
        shards = self.shards
        arrives = shards.call("read")
        if shards.second_read is not None and shards.calls.count("read") == 2:
            shards.second_read.set()
        assert (self.shard, shard, migration) == (SOURCE, SOURCE, OPERATION)
        assert shards.outgoing is not None
        sealed = shards.outgoing.sealed
        rows: list[MovedRow]
        if not cursor.scanned:
            mark = shards.index if cursor.mark < 0 else cursor.mark
            following = [key for key in sorted(shards.rows) if key > cursor.after][:PAGE_ROWS]
            rows = [(0, key, shards.rows[key]) for key in following]
            over = len(following) < PAGE_ROWS
            page = MigrationCursor(mark, over, b"" if over else following[-1])
            done = False
        else:
            entries = [entry for entry in shards.journal if entry[0] > cursor.mark][:PAGE_ROWS]
            rows = [(0, key, shards.rows.get(key)) for _, key in entries]
            done = len(entries) < PAGE_ROWS
            page = MigrationCursor(shards.index if done else entries[-1][0], True, complete=done and sealed)
        shards.answer(arrives)
        return MovingRows(1, [], rows, page, done, sealed)

    async def store_moved(
        self,
        shard: int,
        migration: int,
        number: int,
        cleared: list[ClearedRange],
        rows: list[MovedRow],
        cursor: MigrationCursor,
        behind: MigrationCursor,
    ) -> None:
        await self._turn()
        shards = self.shards
        if shards.second_read is not None:
            await shards.second_read.wait()
        arrives = shards.call("store")
        assert (self.shard, shard, migration) == (TARGET, TARGET, OPERATION)
        assert shards.incoming is not None
        if number > shards.incoming.number:
            raise InvalidArgument(f"number {number} leaves some out")
        if number == shards.incoming.number:
            if behind != shards.incoming.cursor:
                raise InvalidArgument("it does not follow what is stored")
            for _, key, row in rows:
                if row is None:
                    shards.arrived.pop(key, None)
                else:
                    shards.arrived[key] = row
            shards.incoming = replace(shards.incoming, number=number + 1, cursor=cursor)
        shards.answer(arrives)

    async def seal_microshards(self, shard: int, migration: int, map_version: int) -> None:
        await self._turn()
        arrives = self.shards.call("seal")
        assert map_version == 6
        assert self.shards.outgoing is not None
        self.shards.outgoing = replace(self.shards.outgoing, sealed=True)
        self.shards.answer(arrives)

    async def adopt_microshards(self, shard: int, migration: int, map_version: int) -> None:
        await self._turn()
        shards = self.shards
        arrives = shards.call("adopt")
        assert map_version == 6
        if not shards.adopted:
            assert shards.incoming is not None
            if not shards.incoming.cursor.complete:
                raise InvalidArgument("something is missing")
            shards.adopted, shards.incoming = True, None
        shards.answer(arrives)


class Port:
    """The manager, for a migrator."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.connections: list[Connection] = []
        self.sealed = False
        self.newer_than = 0
        self.cancelled = False
        self.rests: list[float] = []
        self.busy = False

    async def connect(self, shard: int) -> Connection:
        self.connections.append(Connection(self.shards, shard))
        return self.connections[-1]

    async def sealing(self, operation: int) -> int:
        assert operation == OPERATION
        assert self.shards.outgoing is not None
        assert not self.shards.outgoing.sealed or self.sealed, "it is written before the source is sealed"
        if self.cancelled:
            raise CannotSeal("it was cancelled")
        self.sealed = True
        return 6

    async def adopted(self, operation: int, newer_than: int) -> None:
        assert self.shards.adopted, "it is written after the target has adopted"
        self.newer_than = newer_than

    def is_busy(self, shards: tuple[int, int]) -> bool:
        assert shards == (WORK.source, WORK.target)
        return self.busy

    async def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)


async def carried_over(shards: Shards, port: Port, limit: Callable[[], int] = lambda: 0) -> Migrator:
    migrator = Migrator(OPERATION, WORK, port, limit)
    await asyncio.wait_for(migrator.run(), 10.0)
    return migrator


def check_arrival(shards: Shards, port: Port) -> None:
    assert shards.adopted
    assert shards.arrived == shards.rows
    assert port.newer_than > 0
    assert all(connection.closed for connection in port.connections)


async def test_a_migrator_takes_gives_copies_seals_and_has_adopted_in_this_order() -> None:
    shards = Shards()
    port = Port(shards)
    migrator = await carried_over(shards, port)
    check_arrival(shards, port)
    calls = shards.calls
    assert calls[:5] == ["status 1", "status 2", "take", "give", "status 2"]
    assert calls[calls.index("seal") :] == ["seal", "read", "store", "adopt"]
    assert port.newer_than == 6
    assert migrator.progress.rows >= 40
    assert not migrator.progress.trouble


async def test_what_is_stored_of_the_journal_is_forgotten_while_more_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrator_module, "SMALL_ROUND_BYTES", 0)
    shards = Shards(writes=1_000)
    port = Port(shards)
    await carried_over(shards, port)
    check_arrival(shards, port)
    assert "trim" in shards.calls[: shards.calls.index("seal")]
    assert len(shards.journal) < shards.index // 2, "far fewer than there were changes"


async def test_the_next_page_is_read_while_one_is_stored() -> None:
    shards = Shards(writes=0)
    shards.second_read = asyncio.Event()  # the first page is not stored before it
    port = Port(shards)
    await carried_over(shards, port)
    check_arrival(shards, port)


@pytest.mark.parametrize("kind", ["fail_at", "lose_at"])
@pytest.mark.parametrize("call", range(1, CALLS_MAX))
async def test_any_call_may_fail_or_lose_its_answer(call: int, kind: str) -> None:
    shards = Shards()
    setattr(shards, kind, call)
    port = Port(shards)
    await carried_over(shards, port)
    check_arrival(shards, port)
    if call <= len(shards.calls):
        assert port.rests == [0.1]


@pytest.mark.parametrize("call", range(1, CALLS_MAX))
async def test_another_migrator_goes_on_where_one_ended(call: int) -> None:
    shards = Shards()
    port = Port(shards)
    first = asyncio.create_task(Migrator(OPERATION, WORK, port, lambda: 0).run())
    while len(shards.calls) < call and not first.done():
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    stored = shards.incoming.number if shards.incoming is not None else 1
    done = len(shards.calls)
    await carried_over(shards, port)
    check_arrival(shards, port)
    if stored > 3 and not port.sealed:
        assert shards.calls[done:].count("store") < 12, "what has arrived is not copied again"


async def test_a_late_migrator_does_no_harm_beside_a_new_one() -> None:
    shards = Shards()
    port = Port(shards)
    await asyncio.gather(carried_over(shards, port), carried_over(shards, port))
    check_arrival(shards, port)


async def test_a_cancelled_operation_is_not_sealed() -> None:
    shards = Shards()
    port = Port(shards)
    port.cancelled = True
    await carried_over(shards, port)
    assert "seal" not in shards.calls
    assert all(connection.closed for connection in port.connections)


async def test_trouble_is_told_and_tried_again_after_longer_and_longer_pauses() -> None:
    shards = Shards()
    port = Port(shards)
    migrator = Migrator(OPERATION, WORK, port, lambda: 0)
    told: list[str] = []

    async def refuse(shard: int) -> Connection:
        told.append(migrator.progress.note.waiting)
        if len(told) < 8:
            raise Unavailable("shard 1 reports no leader")
        return Connection(shards, shard)

    port.connect = refuse  # type: ignore[method-assign]
    await migrator.run()
    assert port.rests == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert "tried 7 times, the last time: shard 1 reports no leader" in told[7]
    assert shards.adopted


async def test_a_limit_slows_the_copying_and_not_the_catching_up() -> None:
    shards = Shards(writes=30)
    port = Port(shards)
    size = sum(len(key) + len(row) for key, row in shards.rows.items())
    await carried_over(shards, port, lambda: 10)
    check_arrival(shards, port)
    assert sum(port.rests) == pytest.approx(size / 10, rel=0.5)


async def test_where_clients_wait_a_page_is_followed_by_a_rest_as_long_as_it_took() -> None:
    size = 0
    rests = []
    for busy, limit in ((False, 10), (True, 10), (True, 0)):
        shards = Shards()
        port = Port(shards)
        port.busy = busy
        await carried_over(shards, port, lambda limit=limit: limit)
        check_arrival(shards, port)
        rests.append(sum(port.rests))
        size = sum(len(key) + len(row) for key, row in shards.rows.items())
    assert rests[0] == pytest.approx(size / 10, rel=0.5)
    assert rests[1] == pytest.approx(2 * rests[0], rel=0.1)
    assert rests[2] > 0, "also where copying has no limit"
