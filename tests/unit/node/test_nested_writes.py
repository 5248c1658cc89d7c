"""What is nested deeply, or has fields that nobody knows, is refused where it arrives and never comes into the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shoal.errors import ErrorCode
from shoal.protocol.frames import encode_operations, request_decoder
from shoal.protocol.messages import (
    MAX_FRAME_ELEMENTS,
    Atomic,
    Delete,
    DeleteRange,
    Failure,
    Increment,
    KeyAbsent,
    KeyPresent,
    OpenSession,
    Operation,
    Ping,
    Put,
    RangeUnchanged,
    SeqEquals,
    Touch,
    ValueEquals,
    ValueEqualsOrAbsent,
    Write,
)
from shoal.shardmap import MicroshardRange
from shoal_server.node.request_frames import TooManyRequests, decode_requests

EVERYWHERE = (MicroshardRange(0, 4),)
CONDITIONS = [
    KeyPresent(b"k"),
    KeyAbsent(b"k"),
    ValueEquals(b"k", b"v"),
    ValueEqualsOrAbsent(b"k", b"v"),
    SeqEquals(b"k", 0),
    RangeUnchanged(EVERYWHERE, b"", b"", bytes(24)),
]
OPERATIONS: list[Operation] = [
    Put(b"k", b"v", 5),
    Delete(b"k"),
    Touch(b"k", 5),
    Increment(b"k", 1),
    DeleteRange(EVERYWHERE, b"", b""),
    Atomic([CONDITIONS[0]], [Put(b"k", b"v", 5)]),
    *(Atomic([condition], []) for condition in CONDITIONS),
]


def nested(depth: int) -> bytes:
    return b"\x91" * (depth - 1) + b"\x90"


def with_more(packed: bytes, path: list[int], more: bytes) -> bytes:
    """Put `more` behind the last item of the array that `path` leads to."""
    raws = msgspec.msgpack.decode(packed, type=list[msgspec.Raw])
    parts = [bytes(memoryview(raw)) for raw in raws]
    if path:
        parts[path[0]] = with_more(parts[path[0]], path[1:], more)
    else:
        parts.append(more)
    assert len(parts) < 16
    return bytes([0x90 + len(parts)]) + b"".join(parts)


def arrays_within(item: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Yield where arrays that stand for structs are: those that begin with a tag, and ranges."""
    found = []
    if isinstance(item, list):
        if item and all(isinstance(each, int | bytes | list) for each in item) and isinstance(item[0], int):
            found.append(path)
        for place, each in enumerate(item):
            found.extend(arrays_within(each, (*path, place)))
    return found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: type(operation).__name__)
@pytest.mark.parametrize("depth", [1, 3, 966, 969, 970, 971, 972, 2000])
def test_no_part_of_a_write_has_a_field_that_nobody_knows(nodes: Any, operation: Operation, depth: int) -> None:
    plain = encode_operations([operation])
    places = arrays_within(msgspec.msgpack.decode(plain))
    assert places
    session = nodes.ask_and_wait(nodes.leader, lambda number: OpenSession(number, 1)).session
    for place in places:
        operations = with_more(plain, list(place), nested(depth))
        request = nodes.ask(nodes.leader, lambda number, sent=operations: Write(number, 1, 1, session, 1, 5000, sent))
        failure = nodes.answer(request)
        assert isinstance(failure, Failure)
        assert failure.code == ErrorCode.INVALID_ARGUMENT
    log = nodes.replica(nodes.leader).group.log
    assert log.commit_index == log.last_index
    assert all(nodes.replica(node).failure is None for node in nodes.nodes)


@pytest.mark.parametrize("depth", [970, 5000, 1_000_000])
def test_a_frame_that_is_nested_too_deeply_is_refused_in_words(depth: int) -> None:
    ping = bytes(memoryview(msgspec.msgpack.encode([Ping(7)])))
    body = with_more(ping, [0], nested(depth))
    try:
        assert request_decoder.decode(body) == [Ping(7)]
    except msgspec.DecodeError as error:
        assert "nested too deeply" in str(error)
    try:
        assert decode_requests(body, traced=False) == ([Ping(7)], [])
    except TooManyRequests:
        assert depth > MAX_FRAME_ELEMENTS
    except msgspec.MsgspecError as error:
        assert "nested too deeply" in str(error)
