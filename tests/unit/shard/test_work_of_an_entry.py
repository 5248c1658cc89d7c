"""Applying a write takes as much work as was reckoned for it beforehand, times a constant, whatever is in it.

Work is counted, not timed: the steps of the interpreter in all code that applies. So it finds what is done once for each
operation and each row, be it in a loop that nobody thinks of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import count
from random import Random
from types import FrameType
from typing import Any

import pytest
from shoal.protocol.digest import RangeDigest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Atomic,
    Delete,
    DeleteRange,
    Increment,
    KeyAbsent,
    Operation,
    Put,
    RangeUnchanged,
    Touch,
)
from shoal.shardmap import MicroshardRange, one_microshard
from shoal.write_costs import WRITE_US
from shoal_server.shard.costs import write_cost
from shoal_server.shard.overlay import Overlay
from shoal_server.storage.memory import ChangeKind, MemoryEngine

EVERYWHERE = (MicroshardRange(0, 8),)
STEPS_FOR_A_MICROSECOND = 150
BYTES_FOR_A_MICROSECOND = 256
COUNTED = ("shoal_server/", "shoal/", "sortedcontainers", __file__)


def steps(work: Callable[[], object]) -> int:
    """Return how many steps the interpreter makes in what applies writes."""
    counted = count()

    def local(_frame: FrameType, event: str, _arg: object) -> Any:
        if event == "opcode":
            next(counted)
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        if not any(place in frame.f_code.co_filename for place in COUNTED):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return next(counted)


KINDS: dict[str, Callable[[int], Operation]] = {
    "puts": lambda n: Put(b"u%06d" % n, b"v"),
    "puts of stored rows": lambda n: Put(b"s%06d" % (n % 500), b"v"),
    "deletes of stored rows": lambda n: Delete(b"s%06d" % (n % 500)),
    "puts that expire": lambda n: Put(b"e%06d" % n, b"v", 1000),
    "increments": lambda n: Increment(b"n%06d" % (n % 50)),
    "touches": lambda n: Touch(b"s%06d" % (n % 500), 1000),
    "ranges elsewhere": lambda n: DeleteRange(one_microshard(n % 8), b"w%06d" % n, b"w%06dx" % n),
    "ranges of stored rows": lambda n: DeleteRange(EVERYWHERE, b"s%06d" % (n % 500), b"s%06d" % (n % 500 + 5)),
    "ranges of what was put": lambda n: DeleteRange(EVERYWHERE, b"u%06d" % max(0, n - 20), b"u%06d" % n),
    "ranges of all": lambda _: DeleteRange(EVERYWHERE, b"", b""),
    "conditions on keys": lambda n: Atomic([KeyAbsent(b"u%06d" % n)], [Put(b"u%06d" % n, b"v")]),
    "conditions on nothing": lambda n: Atomic([empty(b"x%06d" % n, b"z")], [Put(b"u%06d" % n, b"v")]),
    "conditions on nothing, elsewhere": lambda n: Atomic([empty(b"x", b"z", n % 8)], [Put(b"u%06d" % n, b"v")]),
    "conditions on stored rows": lambda n: Atomic([empty(b"s", b"t")], [Put(b"u%06d" % n, b"v")]),
    "conditions on what was put": lambda n: Atomic([empty(b"u", b"v")], [Delete(b"u%06d" % n)]),
}


def empty(start: bytes, end: bytes, microshard: int | None = None) -> RangeUnchanged:
    where = EVERYWHERE if microshard is None else one_microshard(microshard)
    return RangeUnchanged(where, start, end, RangeDigest().value())


def a_write(random: Random, kinds: list[str]) -> tuple[list[Operation], int]:
    """Return operations of some kinds, in turns or one kind after another, and what they are reckoned to cost."""
    in_turns = random.random() < 0.5
    operations: list[Operation] = []
    for place, kind in enumerate(kinds):
        share: list[Operation] = []
        while write_cost(share, 0) < WRITE_US // len(kinds):
            share += [KINDS[kind](len(share) + n) for n in range(10)]
        operations = share if not place else [*operations, *share]
    if in_turns:
        random.shuffle(operations)
    return operations, write_cost(operations, len(encode_operations(operations)))


def work_of(make_replica: Callable[..., Any], random: Random, kinds: list[str]) -> float:
    """Return how many steps there are for a reckoned microsecond of a write of some kinds of operations."""
    operations, cost = a_write(random, kinds)
    replica = make_replica(MemoryEngine(), 1, 0, 8)
    replica.write(*(Put(b"s%06d" % n, b"v") for n in range(500)))
    command = replica.commands(replica.write_command(*operations))
    return steps(lambda: replica.apply(command)) / cost


@pytest.mark.parametrize("seed", range(12))
def test_a_write_takes_as_much_work_as_was_reckoned(make_replica: Callable[..., Any], seed: int) -> None:
    random = Random(seed)
    kinds = random.sample(sorted(KINDS), random.randint(2, 4))
    assert work_of(make_replica, random, kinds) < STEPS_FOR_A_MICROSECOND, kinds


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_so_does_one_of_a_single_kind_beside_puts(make_replica: Callable[..., Any], kind: str) -> None:
    assert work_of(make_replica, Random(1), ["puts", kind]) < STEPS_FOR_A_MICROSECOND


@pytest.mark.parametrize("size", [8, 1000, 60_000])
def test_the_bytes_of_a_range_are_reckoned_in_each_of_its_microshards(
    make_replica: Callable[..., Any], size: int
) -> None:
    replica = make_replica(MemoryEngine(), 1, 0, 8)
    for part in range(5):
        replica.write(*(Put(b"%d-%06d" % (part, n), b"v") for n in range(1000)))
    operations: list[Operation] = [
        DeleteRange(EVERYWHERE, b"%d-" % part + bytes(size), b"%d-" % part + b"\xff" * size) for part in range(5)
    ]
    batch = replica.engine.batch()
    replica.apply(replica.commands(replica.write_command(*operations)), batch=batch)
    ranges = [(start, end) for kind, _, start, end in batch.changes if kind is ChangeKind.DELETE_RANGE]
    assert len(ranges) == 5 * 8
    written = sum(len(start) + len(end) for start, end in ranges)
    assert written < BYTES_FOR_A_MICROSECOND * write_cost(operations, len(encode_operations(operations)))


def _clear_that_walks(self: Overlay, spans: list[tuple[bytes, bytes]]) -> None:
    """As it was: goes through all that was changed before."""
    for key in list(self.rows):
        if any(start <= key < end for start, end in spans):
            del self.rows[key]
    for start, end in spans:
        self._cleared.add(start, end)


def _scan_that_walks(self: Overlay, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """As it was."""
    changed = sorted((key, row) for key, row in self.rows.items() if start <= key < end)
    kept = ((key, row) for key, row in self._stored(start, end))
    for key, row in merge(kept, changed, key=lambda item: item[0]):
        if row is not None:
            yield key, row


@pytest.mark.parametrize(
    ("name", "planted", "kind"),
    [
        ("clear", _clear_that_walks, "ranges elsewhere"),
        ("scan", _scan_that_walks, "conditions on nothing, elsewhere"),
    ],
)
def test_what_walks_through_all_changes_for_each_range_is_found(
    make_replica: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, planted: Any, kind: str
) -> None:
    monkeypatch.setattr(Overlay, name, planted)
    assert work_of(make_replica, Random(1), ["puts", kind]) > 2 * STEPS_FOR_A_MICROSECOND
