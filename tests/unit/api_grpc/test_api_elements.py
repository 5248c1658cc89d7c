"""What a message has is counted before it is decoded."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from shoal_server.api import elements
from shoal_server.api.elements import has_too_many, shape_of
from shoal_server.api.generated import shoal_pb2 as pb

BATCH = shape_of(pb.BatchRequest.DESCRIPTOR)
MOST = 1000


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "ELEMENTS_MAX", MOST)
    monkeypatch.setattr(elements, "UNCOUNTED_BYTES", 0)


def field(number: int, content: bytes) -> bytes:
    """A field with a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def counted(message: Any) -> int:
    """Count by what is decoded."""
    found = 0
    for described, value in message.ListFields():
        values = list(value) if described.is_repeated else [value]
        found += len(values) if described.is_repeated else 0
        if described.message_type is not None:
            found += sum(map(counted, values))
    return found


def random_batch(random: Random) -> pb.BatchRequest:
    def content() -> bytes:
        return random.randbytes(random.choice((0, 1, 5, 200)))

    def operation() -> pb.Operation:
        return random.choice(
            (
                pb.Operation(put=pb.Put(key=content(), value=content(), ttl_ms=random.randrange(2**40))),
                pb.Operation(delete=pb.Delete(key=content())),
                pb.Operation(),
            )
        )

    def one(number: int) -> pb.BatchOperation:
        write = pb.Write(
            operations=[operation() for _ in range(random.randrange(4))],
            conditions=[pb.Condition(key_absent=pb.KeyAbsent(key=content())) for _ in range(random.randrange(3))],
        )
        swap = pb.CompareAndSet(key=content(), value=content(), expected=content())
        return random.choice(
            (
                pb.BatchOperation(id=number, get=content()),
                pb.BatchOperation(id=number, write=write),
                pb.BatchOperation(id=2**63 + number, compare_and_set=swap),
            )
        )

    return pb.BatchRequest(
        keyspace="some", session="", timeout_ms=2**40, operations=[one(number) for number in range(30)]
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_counted_is_what_is_decoded(monkeypatch, seed):
    message = random_batch(Random(seed))
    data, count = message.SerializeToString(), counted(message)
    monkeypatch.setattr(elements, "ELEMENTS_MAX", count)
    assert not has_too_many(data, BATCH)
    monkeypatch.setattr(elements, "ELEMENTS_MAX", count - 1)
    assert has_too_many(data, BATCH)


EMPTY_PUT, EMPTY_TOUCH = field(5, b""), field(7, b"")


@pytest.mark.parametrize(
    "data",
    [
        field(10, b"") * (MOST + 1),
        field(10, field(11, field(1, b"") * MOST)),
        field(10, field(11, field(1, b"") * 10 + field(2, b"") * 10)) * 50,
        field(10, (EMPTY_PUT + EMPTY_TOUCH) * MOST),
        field(1, b"") * (MOST + 20),
        field(999, b"") * (MOST + 20),
        b"\x28\x01" * (MOST + 20),
        (b"\xbb\x3e" + field(10, b"") + b"\xbc\x3e") * (MOST + 1),
        b"\xd2\x80\x00\x00" * (MOST + 1),
    ],
    ids=[
        "operations", "parts of one write", "parts of many writes", "kinds of one operation", "one field again and again",
        "an unknown field", "a number again and again", "groups", "tags that are longer than they need to be",
    ],
)  # fmt: skip
def test_too_many(data):
    assert has_too_many(data, BATCH)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 100,
        b"\x52",
        b"\x52\xff\xff\xff\xff\x0f",
        b"\x28",
        b"\x2f" * (2 * MOST),
        field(10, b"\x5a\x7f\x0a") * 2,
        field(10, field(5, b"\x0a\x00" * (2 * MOST))),
        field(1, b"\x52\x00" * (2 * MOST)),
    ],
    ids=[
        "no tag", "no length", "a length beyond the end", "no number", "no kind of field", "a part beyond its end",
        "a put of which only the last key counts", "text that looks like operations",
    ],
)  # fmt: skip
def test_not_too_many_or_nothing_that_can_be_decoded(data):
    assert not has_too_many(data, BATCH)


def test_a_message_that_is_too_small_to_have_too_many_is_not_counted(monkeypatch):
    data = field(10, b"") * (MOST + 1)
    monkeypatch.setattr(elements, "UNCOUNTED_BYTES", len(data))
    assert not has_too_many(data, BATCH)
    assert has_too_many(data + b"\x28\x01", BATCH)
