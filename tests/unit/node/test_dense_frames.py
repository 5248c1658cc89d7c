"""Frames of a few bytes an element: what takes long to decode is refused before, and what is decoded is reckoned as it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    MAX_FRAME_ELEMENTS,
    MAX_FRAME_REQUESTS,
    MAX_READ_KEYS,
    InstallShardMap,
    Put,
    Read,
    Scan,
    TraceContext,
    TracedRequest,
    Traces,
    Write,
)
from shoal.shardmap import MicroshardRange
from shoal.transport import connection
from shoal_server.node import request_frames
from shoal_server.node.client_queue import QUEUED_BYTES
from shoal_server.node.memory import Account
from shoal_server.node.request_frames import SPARSE_BYTES, TooManyRequests, decode_requests

RANGES = (MicroshardRange(1, 2),)


def scan(number: int, ranges: int) -> Scan:
    return Scan(number, 1, 1, 60_000, RANGES * ranges, b"", b"", reverse=False, keys_only=False, max_rows=10)


def read(number: int, keys: int) -> Read:
    return Read(number, 1, 1, 60_000, [b"ab"] * keys)


def traces(number: int) -> Traces:
    return Traces(number, (TraceContext(bytes(16), bytes(8)),) * 16)


def shards_map(nodes: Any, shards: int, ranges: int) -> InstallShardMap:
    known = nodes.nodes[nodes.leader].routes.map
    shard = msgspec.structs.replace(known.shards[0], ranges=RANGES * ranges)
    return InstallShardMap(1, msgspec.structs.replace(known, shards=(shard,) * shards))


DENSE: list[list[TracedRequest]] = [
    [scan(number, 65_000) for number in range(20)],
    [read(number, MAX_READ_KEYS) for number in range(2)],
    [scan(number, 60) for number in range(10_000)],
    [scan(1, 65_000), *(read(number, 0) for number in range(10_000)), read(2, 1000)],
    [traces(number) for number in range(5000)],
]


@pytest.mark.parametrize("requests", DENSE, ids=["scans", "reads", "short", "uneven", "traces"])
def test_a_frame_with_too_much_in_it_is_refused_undecoded(
    requests: list[TracedRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = msgspec.msgpack.encode(requests)

    def decode(_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(request_frames.traced_request_decoder, "_decode", decode)
    monkeypatch.setattr(request_frames._one_decoder, "_decode", decode)
    with pytest.raises(TooManyRequests, match=f"more than {MAX_FRAME_ELEMENTS} keys"):
        decode_requests(body, traced=True)


@pytest.mark.parametrize(
    "requests",
    [
        [scan(1, 65_000)],
        [read(1, MAX_READ_KEYS)],
        [read(number, 1) for number in range(MAX_FRAME_REQUESTS)],
        [
            Write(
                1, 1, 1, b"s" * 16, 1, 0, encode_operations([Put(bytes(range(256)) * 10, bytes(range(256)) * 4000)] * 4)
            )
        ],
        [each for number in range(2048) for each in (traces(number), read(number, 1))],
    ],
    ids=["a scan", "a read", "many", "values", "traces"],
)
def test_what_clients_send_is_decoded(requests: list[TracedRequest]) -> None:
    body = msgspec.msgpack.encode(requests)
    assert len(body) > SPARSE_BYTES
    assert decode_requests(body, traced=True) == (requests, [])


def test_a_map_with_more_in_it_than_one_can_have_is_refused_undecoded(nodes: Any) -> None:
    for shards, ranges in ((100_000, 1), (10, 60_000)):
        body = msgspec.msgpack.encode([shards_map(nodes, shards, ranges)])
        with pytest.raises(TooManyRequests, match="shard map"):
            decode_requests(body, traced=False)
    requests, failures = decode_requests(msgspec.msgpack.encode([shards_map(nodes, 5000, 3)]), traced=False)
    assert not failures
    assert len(requests) == 1


def test_clients_divide_what_is_too_much_for_one_frame() -> None:
    requests: list[TracedRequest] = [read(number, 4096) for number in range(100)]
    frames = list(connection._in_frames(requests))
    assert [request for frame in frames for request in frame] == requests
    for frame in frames:
        assert decode_requests(msgspec.msgpack.encode(frame), traced=False) == (frame, [])
    assert list(connection._in_frames([read(1, MAX_READ_KEYS), read(2, 1)])) == [[read(1, MAX_READ_KEYS)], [read(2, 1)]]
    assert list(connection._in_frames([])) == []


@pytest.mark.parametrize(("request_", "each"), [(scan(1, 50_000), 100), (read(1, 60_000), 43)], ids=["ranges", "keys"])
def test_what_is_decoded_takes_as_much_of_the_account_as_of_memory(nodes: Any, request_: Any, each: int) -> None:
    node = nodes.nodes[nodes.leader]
    body = msgspec.msgpack.encode([request_])
    node.client_connected(7, b"")
    count = 0
    while True:
        count += 1
        if not node.receive_client(7, [request_], len(body)):
            break
    assert count * 50_000 * each <= 2 * (QUEUED_BYTES + 50_000 * each)
    assert node.memory.used(Account.REQUESTS) >= 50_000 * each
    node.client_gone(7)
    assert node.memory.used(Account.REQUESTS) == 0


def test_a_long_request_that_is_alone_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def split(_: Any) -> None:
        raise AssertionError("it was")

    monkeypatch.setattr(request_frames._raw_decoder, "_decode", split)
    things = 1_000_000
    head = b"\x91\x97\x0c\x05\x01\x01\xcd\x10\x00"
    with pytest.raises(TooManyRequests):
        decode_requests(head + b"\xdd" + things.to_bytes(4, "big") + b"\x80" * things, traced=False)
    _, [failure] = decode_requests(head + b"\xdf" + things.to_bytes(4, "big") + b"\x80" * 2 * things, traced=False)
    assert failure.message.startswith("Read.keys: ")
