"""Random entries against a plain dictionary, and against the same entries cut into other batches and through a restart.

The model shares no code with the state machine: a dictionary of (value, seq, expiry), looped over.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.messages import (
    Applied,
    Atomic,
    AtomicOperation,
    Condition,
    ConditionNotMet,
    Delete,
    DeleteRange,
    Impossible,
    Increment,
    KeyAbsent,
    KeyPresent,
    Operation,
    Put,
    RangeUnchanged,
    SeqEquals,
    Touch,
    ValueEquals,
    ValueEqualsOrAbsent,
)
from shoal.shardmap import Ranges, microshards_in, ranges_of
from shoal_server.shard.commands import PurgeCommand
from shoal_server.storage.watched import WatchedEngine

LIMIT = 1 << 63
KEYS = [b"a", b"b", b"c", b"p/1", b"p/2", b"p/3", b"q/1", b"z"]
BOUNDS = [b"", b"a", b"b\x00", b"p/", b"p/2", b"p0", b"\xff"]


@dataclass
class Purge:
    """Purge what is due when it is this entry's turn."""


@dataclass
class Step:
    """An entry: how far the leader's clock moves before it (it may fall back), the default TTL, what it does."""

    clock: int
    default_ttl: int
    content: list[Operation] | Purge


# -- the model


class Model:
    """What a shard must do, in the plainest terms."""

    def __init__(self, microshard_of: Any) -> None:
        self.rows: dict[bytes, tuple[bytes, int, int]] = {}
        self.microshard_of = microshard_of
        self.now = self.seq = self.default_ttl = 0

    def visible(self, wall: int = 0) -> dict[bytes, tuple[bytes, int, int]]:
        """The rows that have not expired: by the log's time, or by the reader's clock where that is later."""
        now = max(self.now, wall)
        return {key: row for key, row in sorted(self.rows.items()) if not row[2] or row[2] > now}

    def in_range(self, ranges: Ranges, start: bytes, end: bytes) -> list[bytes]:
        return [
            key
            for key in sorted(self.rows)
            if key >= start and (not end or key < end) and self.microshard_of(key) in set(microshards_in(ranges))
        ]

    def expiry(self, ttl: int) -> int:
        ttl = self.default_ttl if ttl == -1 else ttl
        return self.now + ttl if ttl else 0

    def digest(self, ranges: Ranges, start: bytes, end: bytes) -> bytes:
        visible = self.visible()
        found = [(visible[key][1], key) for key in self.in_range(ranges, start, end) if key in visible]
        text = b"".join(seq.to_bytes(8, "big") + len(key).to_bytes(4, "big") + key for seq, key in found)
        return len(found).to_bytes(4, "big") + blake2b(text, digest_size=16).digest()

    def holds(self, condition: Condition) -> bool:
        if isinstance(condition, RangeUnchanged):
            return self.digest(condition.ranges, condition.start, condition.end) == condition.digest
        value, seq, _ = self.visible().get(condition.key, (None, 0, 0))
        if isinstance(condition, KeyPresent):
            return value is not None
        if isinstance(condition, KeyAbsent):
            return value is None
        if isinstance(condition, SeqEquals):
            return seq == condition.seq
        return value == condition.value or (isinstance(condition, ValueEqualsOrAbsent) and value is None)

    def do(self, operation: AtomicOperation) -> list[int] | None:
        """Return what the operation results in, or None where it cannot be done."""
        found = self.visible().get(operation.key)
        if isinstance(operation, Put):
            self.rows[operation.key] = (operation.value, self.seq, self.expiry(operation.ttl_ms))
            return []
        if isinstance(operation, Delete):
            self.rows.pop(operation.key, None)
            return []
        if isinstance(operation, Touch):
            if found:
                self.rows[operation.key] = (found[0], self.seq, self.expiry(operation.ttl_ms))
            return [1 if found else 0]
        text, _, expiry = found or (b"0", 0, self.expiry(operation.ttl_ms))
        total = int(text) + operation.by if text.lstrip(b"-").isdigit() else LIMIT
        if not -LIMIT <= total < LIMIT:
            return None
        self.rows[operation.key] = (str(total).encode(), self.seq, expiry)
        return [total]

    def operation(self, operation: Operation) -> object:
        """Return its result as (kind, ...), or None where it has none."""
        if isinstance(operation, DeleteRange):
            for key in self.in_range(operation.ranges, operation.start, operation.end):
                del self.rows[key]
            if operation.end and operation.start >= operation.end:
                return ("applied", [0])
            return ("applied", [len(list(microshards_in(operation.ranges)))])
        if not isinstance(operation, Atomic):
            done = self.do(operation)
            if isinstance(operation, Put | Delete):
                return None
            return ("impossible", 0) if done is None else ("applied", done)
        for number, condition in enumerate(operation.conditions):
            if not self.holds(condition):
                key = b"" if isinstance(condition, RangeUnchanged) else condition.key
                value, seq, _ = self.visible().get(key, (None, 0, 0))
                return ("not met", number, seq, value)
        before, values = dict(self.rows), list[int]()
        for number, part in enumerate(operation.operations):
            done = self.do(part)
            if done is None:
                self.rows = before
                return ("impossible", number)
            values += done
        return ("applied", values)

    def write(self, clock: int, default_ttl: int, operations: list[Operation]) -> list[object]:
        """Apply an entry with one write; return the results of those operations that have one."""
        self.now = max(self.now, clock)
        self.seq += 1
        self.default_ttl = default_ttl
        return [result for result in map(self.operation, operations) if result is not None]


def told(result: object) -> object:
    """A result of the state machine in the model's terms."""
    if isinstance(result, Applied):
        return ("applied", result.values)
    if isinstance(result, Impossible):
        return ("impossible", result.operation)
    assert isinstance(result, ConditionNotMet)
    return ("not met", result.condition, result.found_seq, result.found)


# -- random entries

key = st.sampled_from(KEYS)
value = st.sampled_from([b"", b"1", b"-5", b"text", b"9223372036854775807"])
ttl = st.sampled_from([-1, 0, 1, 5, 20, 1000])
ranges = st.sets(st.integers(0, 7), min_size=1).map(ranges_of)
bound = st.sampled_from(BOUNDS)
single = st.one_of(
    st.builds(Put, key, value, ttl),
    st.builds(Delete, key),
    st.builds(Touch, key, ttl),
    st.builds(Increment, key, st.sampled_from([1, -3, LIMIT - 1, -LIMIT]), ttl),
)
condition = st.one_of(
    st.builds(KeyPresent, key),
    st.builds(KeyAbsent, key),
    st.builds(ValueEquals, key, value),
    st.builds(ValueEqualsOrAbsent, key, value),
    st.builds(SeqEquals, key, st.integers(0, 12)),
    st.builds(RangeUnchanged, ranges, bound, bound, st.sampled_from([b"right", b"wrong"])),
)
operation = st.one_of(
    single,
    single,
    st.builds(DeleteRange, ranges, bound, bound),
    st.builds(Atomic, st.lists(condition, max_size=2), st.lists(single, max_size=4)),
)
steps = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 0, 1, 3, 10, 50, -20]),
        st.sampled_from([0, 0, 7]),
        st.one_of(
            st.lists(operation, min_size=1, max_size=5), st.lists(operation, min_size=1, max_size=5), st.just(Purge())
        ),
    ),
    min_size=1,
    max_size=25,
)


def with_right_digests(operations: list[Operation], model: Model) -> list[Operation]:
    """Put in the digests as of before the write, where one is to be right."""

    def right(condition: Condition) -> Condition:
        if isinstance(condition, RangeUnchanged) and condition.digest == b"right":
            digest = model.digest(condition.ranges, condition.start, condition.end)
            return RangeUnchanged(condition.ranges, condition.start, condition.end, digest)
        return condition

    return [
        Atomic([right(condition) for condition in operation.conditions], operation.operations)
        if isinstance(operation, Atomic)
        else operation
        for operation in operations
    ]


# -- the tests


@given(steps)
def test_results_reads_and_scans_are_those_of_a_dictionary(make_replica: Any, steps: list[Step]) -> None:
    replica = make_replica(WatchedEngine())
    replica.open_session()
    model = Model(lambda key: replica.machine.route([key])[0])
    model.seq, model.now = replica.machine.state.seq, replica.now
    for step in steps:
        replica.now += step.clock
        replica.default_ttl = step.default_ttl
        if isinstance(step.content, Purge):
            while replica.purge(limit=3):
                model.now = max(model.now, replica.now)
                model.seq += 1
            model.rows = model.visible(replica.now)
            assert replica.stored_keys() == sorted(model.rows), "a purge leaves nothing that has expired"
        else:
            digests_as_of = Model(model.microshard_of)
            digests_as_of.rows, digests_as_of.now = model.rows, max(model.now, replica.now)
            operations = with_right_digests(step.content, digests_as_of)
            results = [told(result) for result in replica.write(*operations)]
            assert results == model.write(replica.now, step.default_ttl, operations)
        assert replica.machine.state.seq == model.seq
        visible = model.visible(replica.now)
        for name in KEYS:
            assert replica.entry(name) == visible.get(name, (None, 0, 0))
        expected = [(name, row[0]) for name, row in visible.items()]
        assert replica.scan() == expected
        assert replica.scan(b"b", b"q") == [row for row in expected if b"b" <= row[0] < b"q"]
        assert [row for page in replica.pages(reverse=True, max_rows=2) for row in page] == expected[::-1]


@given(steps, st.data())
def test_replicas_agree_however_their_batches_are_cut_and_wherever_they_restart(
    make_replica: Any, steps: list[Step], data: st.DataObject
) -> None:
    """One replica applies entry by entry; another in batches of any size; a third restarts from an older flushed state."""
    first = make_replica(WatchedEngine())
    openings = [first.opening(capacity=1), first.opening(capacity=1)]
    entries = [first.commands(opening) for opening in openings]
    results = first.apply(entries[0]) + first.apply(entries[1])
    first.session = openings[1].session
    for step in steps:
        first.now += step.clock
        first.default_ttl = step.default_ttl
        if isinstance(step.content, Purge):
            now = first.machine.now(first.now)
            command: Any = PurgeCommand(first.machine.expiry.due(now, 3))
        else:
            command = first.write_command(*step.content)
            if data.draw(st.booleans(), "repeated"):
                first.number -= 1
        entries.append(first.commands(command))
        results += first.apply(entries[-1])

    batched = make_replica(WatchedEngine())
    again: list[Any] = []
    while len(again) < len(entries):
        size = data.draw(st.integers(1, len(entries)), "batch")
        again += batched.apply(*entries[len(again) : len(again) + size])
    assert again == results
    assert batched.stored() == first.stored()

    flushed_at = data.draw(st.integers(0, len(entries)), "flushed at")
    crashed_at = data.draw(st.integers(flushed_at, len(entries)), "crashed at")
    engine = WatchedEngine()
    replica = make_replica(engine)
    replica.apply(*entries[:flushed_at])
    flushed = engine.copy_tables()
    replica.apply(*entries[flushed_at:crashed_at])
    engine.tables = flushed
    restarted = make_replica(engine)
    assert restarted.apply(*entries[flushed_at:]) == results[flushed_at:]
    assert restarted.stored() == first.stored()
    assert restarted.machine.state == first.machine.state
    for replica in (first, batched, restarted):
        stored_index = [row[1] for row in replica.machine.expiry.due(1 << 60, 1000)]
        assert replica.machine.expiry.due_at <= min(stored_index, default=1 << 63)
