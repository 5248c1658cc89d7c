"""A write on condition of a range pauses where many removed rows are in the way, and comes to what it would come to without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from random import Random
from typing import Any

import pytest
from shoal.protocol.digest import RangeDigest
from shoal.protocol.messages import (
    Applied,
    Atomic,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Increment,
    Operation,
    Put,
    RangeUnchanged,
)
from shoal.shardmap import MicroshardRange
from shoal_server.raft.messages import Entry, EntryKind, sealed
from shoal_server.shard import overlay
from shoal_server.shard.commands import Commands, encode_commands
from shoal_server.shard.costs import ENTRY_US
from shoal_server.shard.machine import CommandOutcome
from shoal_server.shard.overlay import PATIENCE_PASSED
from shoal_server.storage.engine import Family, Piece, Reader
from shoal_server.storage.watched import WatchedEngine
from sortedcontainers import SortedSet

EVERYWHERE = (MicroshardRange(0, 8),)
AT_ONCE = 1000
EMPTY = RangeDigest().value()


class MarkedEngine(WatchedEngine):
    """An engine with marks of removed rows; `passed`: how many of them readers have passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = SortedSet()
        self.passed = 0
        self.tidied = 0

    def reader(self, family: Family, *, fill_cache: bool = True) -> Reader:
        return MarkedReader(super().reader(family, fill_cache=fill_cache), self)

    def tidy(self) -> None:
        self.tidied += 1


class MarkedReader:
    """Passes over so many marks in a piece as `AT_ONCE`."""

    def __init__(self, reader: Reader, engine: MarkedEngine) -> None:
        self._reader = reader
        self._engine = engine

    def read(
        self,
        start: bytes,
        end: bytes,
        max_rows: int,
        max_bytes: int,
        *,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> Piece:
        marks = list(islice(self._engine.marks.irange(start, end, (True, False)), AT_ONCE + 1))
        bound = marks[AT_ONCE] if len(marks) > AT_ONCE else end
        piece = self._reader.read(start, bound, max_rows, max_bytes, keys_only=keys_only)
        resume = bound if piece.resume is None and bound < end else piece.resume
        passed = sum(mark < (resume or end) for mark in marks)
        self._engine.passed += passed
        return piece._replace(resume=resume, passed=passed)

    def heads(self, spans: Sequence[tuple[bytes, bytes]], *, reverse: bool = False) -> list[bytes | Piece | None]:
        return self._reader.heads(spans, reverse=reverse)

    def few_keys(self, spans: Sequence[tuple[bytes, bytes]], max_keys: int) -> list[list[bytes] | None]:
        return self._reader.few_keys(spans, max_keys)

    def close(self) -> None:
        self._reader.close()


@pytest.fixture
def marked(make_replica: Callable[..., Any]) -> tuple[Any, MarkedEngine]:
    engine = MarkedEngine()
    replica = make_replica(engine)
    replica.open_session()
    return replica, engine


def entries_of(replica: Any, *entries: Commands) -> list[Entry]:
    index = replica.machine.state.index
    return [
        sealed(1, 1, index + place, EntryKind.COMMAND, encode_commands(entry)) for place, entry in enumerate(entries, 1)
    ]


def turn(replica: Any, entries: list[Entry], max_us: int | None = ENTRY_US) -> list[list[CommandOutcome]]:
    """Apply what is left of entries, as much as a turn does."""
    machine, batch = replica.machine, replica.engine.batch()
    left = [entry for entry in entries if entry.index > machine.state.index]
    results = machine.apply(left, batch, {}, max_us=max_us)
    replica.engine.write_unlogged(batch)
    return [outcomes for _, outcomes in results]


def empty(start: bytes = b"", end: bytes = b"") -> RangeUnchanged:
    return RangeUnchanged(EVERYWHERE, start, end, EMPTY)


def mark(replica: Any, engine: MarkedEngine, count: int) -> None:
    """Have there been rows that are gone, in all microshards."""
    prefixes = list(replica.machine.prefixes.values())
    engine.marks.update(prefixes[n % len(prefixes)] + b"q%06d" % n for n in range(count))


def test_each_turn_passes_over_so_many_removed_rows_and_the_next_comes_further(
    marked: tuple[Any, MarkedEngine],
) -> None:
    """One of 46 bytes took every replica 0.3 s of a core, over 200,000 rows that had been removed one by one."""
    replica, engine = marked
    mark(replica, engine, 60_000)
    entries = entries_of(
        replica,
        replica.commands(replica.write_command(Put(b"before", b"v"))),
        replica.commands(replica.write_command(Put(b"k", b"v"), Atomic([empty(b"q", b"r")], [Put(b"l", b"v")]))),
        replica.commands(replica.write_command(Put(b"behind", b"v"))),
    )
    outcomes: list[list[CommandOutcome]] = []
    turns = 0
    while len(outcomes) < 3:
        before, engine.passed = replica.machine.state, 0
        done = turn(replica, entries)
        outcomes += done
        turns += 1
        assert engine.passed <= PATIENCE_PASSED + AT_ONCE
        assert replica.machine.applied_us >= engine.passed, "others have their turns by it"
        if not done:
            assert replica.machine.state == before
            assert replica.stored_keys() == [b"before"], "nothing of a write is done that pauses"
    assert [[each.results for each in entry] for entry in outcomes] == [[[]], [[Applied([])]], [[]]]
    assert replica.stored_keys() == [b"before", b"behind", b"k", b"l"]
    assert 60_000 // (PATIENCE_PASSED + AT_ONCE) <= turns <= 60_000 // PATIENCE_PASSED + 3
    assert engine.tidied == turns - 2, "and the engine was asked to have them out of the way"


def test_what_was_read_before_a_pause_is_not_taken_for_what_is_there_later(marked: tuple[Any, MarkedEngine]) -> None:
    """The pause is behind another entry of the turn, which changes what the condition is about."""
    replica, engine = marked
    mark(replica, engine, 20_000)
    command = replica.write_command(Atomic([empty(b"q", b"r")], []))
    first = entries_of(
        replica,
        replica.commands(replica.write_command(Put(b"q", b"in the range"))),
        replica.commands(command),
    )
    outcomes = turn(replica, first)
    assert len(outcomes) == 1
    while len(outcomes) < 2:
        outcomes += turn(replica, first)
    assert outcomes[1][0].results == [ConditionNotMet(0, 0, None)]


def test_whoever_applies_without_a_bound_does_not_pause(marked: tuple[Any, MarkedEngine]) -> None:
    replica, engine = marked
    mark(replica, engine, 20_000)
    entries = entries_of(replica, replica.commands(replica.write_command(Atomic([empty()], []))))
    assert len(turn(replica, entries, None)) == 1


def test_an_entry_pauses_before_its_first_write_only(marked: tuple[Any, MarkedEngine]) -> None:
    """Of one that has others before it, those are done: its leader was of a Shoal that put them together."""
    replica, engine = marked
    mark(replica, engine, 20_000)
    plain, conditional = replica.write_command(Put(b"a", b"v")), replica.write_command(Atomic([empty(b"q")], []))
    [outcomes] = turn(replica, entries_of(replica, replica.commands(plain, conditional)))
    assert len(outcomes) == 2


def some_operation(random: Random) -> Operation:
    key, other = sorted((b"q%03d" % random.randrange(200), b"q%03d" % random.randrange(200)))
    kind = random.randrange(6)
    if kind < 2:
        return Put(key, b"v", random.choice([0, 0, 50]))
    if kind == 2:
        return Delete(key)
    if kind == 3:
        return DeleteRange(EVERYWHERE, key, other)
    if kind == 4:
        return Atomic([empty(key, other)], [Put(key, b"w"), Delete(other), Increment(b"n")])
    return Increment(b"n%d" % random.randrange(3))


@pytest.mark.parametrize("seed", range(25))
def test_replicas_come_to_the_same_wherever_they_pause(
    make_replica: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    monkeypatch.setattr(overlay, "PATIENCE_PASSED", random.choice([1, 100, 400]))
    monkeypatch.setattr(overlay, "WORTH_REMEMBERING", random.choice([0, 20]))
    one, other = make_replica(MarkedEngine()), make_replica(MarkedEngine())
    for replica in (one, other):
        replica.open_session()
        for microshard in range(8):
            prefix = replica.machine.prefixes[microshard]
            marks = Random(seed)
            replica.engine.marks.update(
                prefix + b"q%03d%03d" % (marks.randrange(200), marks.randrange(999)) for _ in range(2000)
            )
    made: list[Commands] = []
    for _ in range(30):
        operations = [
            [some_operation(random) for _ in range(random.randint(1, 4))] for _ in range(random.randint(1, 3))
        ]
        made.append(one.commands(*(one.write_command(*each) for each in operations)))
        one.now += random.randrange(30)
    entries = entries_of(one, *made)
    whole = [outcomes for entry in entries for outcomes in turn(one, [entry], None)]
    paused, outcomes, at = 0, list[list[CommandOutcome]](), 0
    while len(outcomes) < len(entries):
        at = max(at, min(len(entries), len(outcomes) + random.randint(1, 5)))
        done = turn(other, entries[:at])
        outcomes += done
        paused += not done
    assert outcomes == whole
    assert other.stored() == one.stored()
    assert other.machine.state == one.machine.state
    assert paused
