"""What could harm the replicas is refused before it is in the log: once there, it would harm them all, again and again."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.bounds import MAX_MS, MAX_ROWS, MAX_SEQ
from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Atomic,
    Delete,
    DeleteRange,
    Failure,
    Freshness,
    Increment,
    KeyPresent,
    Operation,
    Put,
    RangeUnchanged,
    ReadPage,
    Rows,
    Scan,
    SeqEquals,
    Touch,
    Written,
)
from shoal.shardmap import MicroshardRange, Ranges, one_microshard
from shoal.write_costs import EXPIRING_US, PLAIN_US, RANGE_US, READING_US, SPAN_US, TOUCH_US, WRITE_US
from shoal_server.node import write_decoding
from shoal_server.node.admission import MAX_TTL_MS
from shoal_server.node.settings import Limits

BIG = (1 << 64) - 1
WRONG = ErrorCode.INVALID_ARGUMENT
LARGE = ErrorCode.TOO_LARGE
LONGEST = Limits().max_key_bytes

EVERYWHERE = (MicroshardRange(0, 4),)
MALFORMED: list[Ranges] = [
    (),
    (MicroshardRange(0, 5),),
    (MicroshardRange(4, 5),),
    (MicroshardRange(-1, 2),),
    (MicroshardRange(0, 0),),
    (MicroshardRange(2, 1),),
    (MicroshardRange(0, BIG),),
    (MicroshardRange(BIG - 1, BIG),),
    (MicroshardRange(2, 3), MicroshardRange(0, 1)),
    (MicroshardRange(0, 2), MicroshardRange(1, 3)),
    (MicroshardRange(1, 2),) * 2,
]

REFUSED: list[tuple[Operation, ErrorCode]] = [
    (Put(b"", b"v"), WRONG),
    (Put(bytes(5000), b"v"), LARGE),
    (Put(b"k", b"v", -2), WRONG),
    (Put(b"k", b"v", MAX_TTL_MS + 1), WRONG),
    (Put(b"k", b"v", BIG), WRONG),
    (Touch(b"k", BIG), WRONG),
    (Touch(b"", 1), WRONG),
    (Increment(b""), WRONG),
    *((DeleteRange(ranges, b"", b""), WRONG) for ranges in MALFORMED),
    (Increment(b"n", BIG), WRONG),
    (Atomic([SeqEquals(b"k", -1)], []), WRONG),
    (Atomic([SeqEquals(b"k", BIG)], []), WRONG),
    (Atomic([RangeUnchanged(one_microshard(0), b"", b"", bytes(1000))], []), WRONG),
    (Atomic([], [Put(b"k", b"v", BIG)]), WRONG),
    (Atomic([], [Put(b"k", bytes((1 << 20) + 1))]), LARGE),
    (Atomic([KeyPresent(b"")], []), WRONG),
    *((Atomic([RangeUnchanged(ranges, b"", b"", b"")], []), WRONG) for ranges in MALFORMED),
    (DeleteRange(one_microshard(0), bytes(LONGEST + 2), b""), LARGE),
    (DeleteRange(one_microshard(0), b"", bytes(LONGEST + 2)), LARGE),
    (Atomic([RangeUnchanged(one_microshard(0), b"", bytes(LONGEST + 2), b"")], []), LARGE),
    (Atomic([RangeUnchanged(EVERYWHERE, bytes(LONGEST), bytes(LONGEST), b"")] * 80, []), LARGE),
    (Atomic([], [Touch(b"k")] * 2000), LARGE),
    (Atomic([KeyPresent(b"k")] * 5000, []), LARGE),
    (Atomic([RangeUnchanged(EVERYWHERE, b"", b"", b"")] * 1000, []), LARGE),
    (Atomic([RangeUnchanged(EVERYWHERE, b"", b"", (10_000).to_bytes(4, "big") + bytes(16))], []), LARGE),
]


@pytest.mark.parametrize(("operation", "code"), REFUSED, ids=lambda value: repr(value)[:60])
def test_an_operation_that_cannot_be_meant_is_refused_and_nothing_else(
    nodes: Any, operation: Operation, code: ErrorCode
) -> None:
    refused = nodes.answer(nodes.write(Put(b"other", b"v"), operation))
    assert isinstance(refused, Failure)
    assert (refused.code, refused.maybe_applied) == (code.value, False)
    assert nodes.stored_keys(nodes.leader) == []
    assert isinstance(nodes.answer(nodes.write(Put(b"other", b"v"))), Written)


ODD: list[Operation] = [
    Increment(b"n", (1 << 63) - 1),
    Increment(b"n", -(1 << 63)),
    DeleteRange(EVERYWHERE, b"z", b"a"),
    DeleteRange(one_microshard(0), b"a", b"a"),
    DeleteRange(one_microshard(0), bytes(LONGEST + 1), b"\xff" * (LONGEST + 1)),
    Atomic([], []),
    Atomic([SeqEquals(b"k", 0), SeqEquals(b"k", (1 << 63) - 1)], [Delete(b"k")]),
    Atomic([RangeUnchanged(EVERYWHERE, b"z", b"a", b"short")], [Delete(b"k")]),
    Atomic([KeyPresent(b"k")] * 500, [Increment(b"k")] * 500),
    Put(b"k", b"v", MAX_TTL_MS),
]


@pytest.mark.parametrize("operation", ODD, ids=lambda value: repr(value)[:60])
def test_odd_operations_are_answered_and_every_replica_goes_on(nodes: Any, operation: Operation) -> None:
    assert isinstance(nodes.answer(nodes.write(operation)), Written)
    assert isinstance(nodes.answer(nodes.write(operation, Put(b"k", b"v"), operation)), Written)
    nodes.pass_time(50)
    assert len({nodes.replica(name).machine.state for name in nodes.nodes}) == 1


@pytest.mark.parametrize(
    ("operation", "most"),
    [
        (Put(b"k", b""), WRITE_US // PLAIN_US),
        (Delete(b"k"), WRITE_US // PLAIN_US),
        (Put(b"k", b"", 5), WRITE_US // (PLAIN_US + EXPIRING_US)),
        (Increment(b"none"), WRITE_US // READING_US),
        (Touch(b"none", 1), WRITE_US // TOUCH_US),
        (DeleteRange(EVERYWHERE, b"a", b"b"), WRITE_US // (RANGE_US + 4 * SPAN_US)),
        (DeleteRange(EVERYWHERE, bytes(1024), b"\xff" * 1024), WRITE_US // (RANGE_US + 4 * (SPAN_US + 16))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_write_is_so_much_work_and_no_more(nodes: Any, operation: Operation, most: int) -> None:
    """Applying 8 MiB of the smallest puts took seconds, and so did 259 KiB of puts and range deletes."""
    fitting = most - len(encode_operations([operation] * most)) // 1024 // PLAIN_US - 1
    assert isinstance(nodes.answer(nodes.write(*[operation] * fitting)), Written)
    refused = nodes.answer(nodes.write(*[operation] * (most + 1)))
    assert isinstance(refused, Failure)
    assert (refused.code, refused.maybe_applied) == (LARGE.value, False)
    assert f"{most + 1} operations" in refused.message
    assert f"at most {WRITE_US // 1000} ms are accepted" in refused.message
    assert "Write less at once" in refused.message


def test_a_million_operations_are_refused_before_any_is_looked_at(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(encoded: bytes) -> list[Operation]:
        raise AssertionError("nobody looks at them")

    monkeypatch.setattr(write_decoding.operations_decoder, "_decode", decode)
    for operations in ([Put(b"k", b"")] * 1_000_000, [Atomic([], [Put(b"k", b"")] * 1_000_000)]):
        refused = nodes.answer(nodes.write(*operations))
        assert isinstance(refused, Failure)
        assert refused.code == LARGE.value


def test_numbers_and_sessions_that_nobody_gave_out_are_refused(nodes: Any) -> None:
    for number in (0, -1, BIG):
        refused = nodes.answer(nodes.write(Put(b"k", b"v"), number=number))
        assert isinstance(refused, Failure)
        assert refused.code == WRONG.value
    nodes.forget_session()
    unknown = nodes.answer(nodes.write(Put(b"k", b"v"), number=MAX_SEQ))
    assert isinstance(unknown, Failure)
    assert unknown.code == ErrorCode.SESSION_EXPIRED.value


@pytest.mark.parametrize("ranges", MALFORMED, ids=repr)
def test_readers_of_no_microshards_or_of_such_as_there_are_not_are_refused(nodes: Any, ranges: Ranges) -> None:
    for make in (
        lambda request: Scan(request, 1, 1, 1000, ranges, b"", b"", False, False, 10),
        lambda request: ReadPage(request, 1, 1, 1000, ranges, b"", 10),
    ):
        refused = nodes.ask_and_wait(nodes.leader, make)
        assert isinstance(refused, Failure)
        assert refused.code == WRONG.value


def test_reads_and_scans_with_odd_bounds_are_answered(nodes: Any) -> None:
    leader = nodes.leader
    for freshness in (Freshness(), Freshness(False, 0, 0), Freshness(False, 1, MAX_MS)):
        assert isinstance(nodes.answer(nodes.read(leader, b"k", freshness=freshness)), Rows)
        assert isinstance(nodes.answer(nodes.read(leader, freshness=freshness)), Rows)
    for freshness in (Freshness(False, 0, -5), Freshness(False, -1, 0), Freshness(False, BIG, 0)):
        never = nodes.answer(nodes.read(nodes.others[0], b"k", freshness=freshness))
        assert isinstance(never, Failure)
        assert never.code == WRONG.value
    for max_rows in (0, MAX_ROWS):
        page = nodes.ask_and_wait(
            leader,
            lambda request, rows=max_rows: Scan(
                request, 1, 1, 1000, EVERYWHERE, b"z", b"a", True, False, rows, Freshness()
            ),
        )
        assert (page.keys, page.resume) == ([], None)
