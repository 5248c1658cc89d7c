"""Between the messages of the public API and the client library's arguments and results."""

from __future__ import annotations

from typing import Protocol

import shoal
from shoal.arguments import MAX_SECONDS
from shoal.errors import InvalidArgument
from shoal.protocol.messages import AtomicOperation, Condition
from shoal.results import Consistency, Durability, Entry

from shoal_server.api.generated import shoal_pb2 as pb

_CONSISTENCIES: dict[int, Consistency | None] = {
    pb.CONSISTENCY_UNSPECIFIED: None,
    pb.CONSISTENCY_STRONG: "strong",
    pb.CONSISTENCY_READ_YOUR_WRITES: "read_your_writes",
    pb.CONSISTENCY_EVENTUAL: "eventual",
}
_DURABILITIES: dict[int, Durability] = {
    pb.DURABILITY_UNSPECIFIED: "quorum",
    pb.DURABILITY_QUORUM: "quorum",
    pb.DURABILITY_FAST: "fast",
}
DURABILITY_NUMBERS = {"quorum": pb.DURABILITY_QUORUM, "fast": pb.DURABILITY_FAST}


class Expiring(Protocol):
    """A message that may have a time to live."""

    ttl_ms: int

    def HasField(self, field_name: str) -> bool: ...  # noqa: N802 - protobuf's


class Leveled(Protocol):
    """A request that says how fresh its reads are to be."""

    consistency: pb.Consistency
    max_staleness_ms: int


def consistency_of(request: Leveled) -> Consistency | None:
    """Return the level that was asked for, or None where none was.

    Raises:
        InvalidArgument: it is none.
    """
    number = int(request.consistency)
    if number not in _CONSISTENCIES:
        raise InvalidArgument(f"{number} is no consistency; {', '.join(pb.Consistency.keys())} are")
    return _CONSISTENCIES[number]


def max_staleness_of(request: Leveled) -> float | None:
    """Return the bound on staleness in seconds, or None where there is none.

    Raises:
        InvalidArgument: it can be none.
    """
    bound = request.max_staleness_ms
    if not 0 <= bound <= MAX_SECONDS * 1000:
        raise InvalidArgument(f"max_staleness_ms is from 0, for none, to {MAX_SECONDS * 1000}, not {bound}")
    return bound / 1000 if bound else None


def durability_of(number: int) -> Durability:
    """Return the durability that was asked for.

    Raises:
        InvalidArgument: it is none.
    """
    if number not in _DURABILITIES:
        raise InvalidArgument(f"{number} is no durability; {', '.join(pb.Durability.keys())} are")
    return _DURABILITIES[number]


def ttl_of(message: Expiring) -> float | None:
    """Return a time to live in seconds; None: the keyspace's default.

    Raises:
        InvalidArgument: it can be none.
    """
    if not message.HasField("ttl_ms"):
        return None
    if not 0 <= message.ttl_ms <= MAX_SECONDS * 1000:
        raise InvalidArgument(f"ttl_ms is from 0, for ever, to {MAX_SECONDS * 1000}, not {message.ttl_ms}")
    return message.ttl_ms / 1000


def step_of(message: pb.Increment | pb.IncrementRequest) -> int:
    """Return by how much to increment."""
    return message.by if message.HasField("by") else 1


def expected_of(message: pb.CompareAndSet | pb.CompareAndSetRequest) -> bytes | None:
    """Return the value that is to be there; None: that there is to be none."""
    return message.expected if message.HasField("expected") else None


def operation_of(message: pb.Operation) -> AtomicOperation:
    """Return an operation of a write.

    Raises:
        InvalidArgument: it is none, or its arguments are wrong.
    """
    match message.WhichOneof("operation"):
        case "put":
            return shoal.put(message.put.key, message.put.value, ttl_of(message.put))
        case "delete":
            return shoal.delete(message.delete.key)
        case "touch":
            return shoal.touch(message.touch.key, ttl_of(message.touch))
        case "increment":
            return shoal.increment(message.increment.key, step_of(message.increment), ttl_of(message.increment))
        case _:
            raise InvalidArgument("an operation of a write is a put, delete, touch or increment; this one is not set")


def condition_of(message: pb.Condition) -> Condition:
    """Return a condition of a write.

    Raises:
        InvalidArgument: it is none, or its arguments are wrong.
    """
    match message.WhichOneof("condition"):
        case "key_present":
            return shoal.key_present(message.key_present.key)
        case "key_absent":
            return shoal.key_absent(message.key_absent.key)
        case "value_equals":
            return shoal.value_equals(message.value_equals.key, message.value_equals.value)
        case "value_equals_or_absent":
            wanted = message.value_equals_or_absent
            return shoal.value_equals_or_absent(wanted.key, wanted.value)
        case "seq_equals":
            if message.seq_equals.seq < 0:
                raise InvalidArgument(f"seq_equals.seq is from 0, for no value, not {message.seq_equals.seq}")
            return shoal.seq_equals(message.seq_equals.key, message.seq_equals.seq)
        case _:
            raise InvalidArgument("a condition of a write is not set")


def entry_message(entry: Entry) -> pb.Entry:
    """Return an entry as the API shows it."""
    return pb.Entry(
        value=entry.value,
        seq=entry.seq,
        expires_at_ms=None if entry.expires_at is None else round(entry.expires_at * 1000),
        staleness_ms=round(entry.staleness * 1000),
        served_by=entry.served_by,
    )
