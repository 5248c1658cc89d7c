"""Whatever lists a request has, it costs what they do, takes memory as they do, and is refused where they are too long."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect
from shoal.protocol.messages import MAX_FRAME_ELEMENTS, InstallShardMap, Ping, Read, Request, Scan
from shoal.protocol.quotas import QuotaShare, SetQuotaShares
from shoal_server.node import request_frames, request_lists
from shoal_server.node.request_costs import cost_of, decoded_bytes
from shoal_server.node.request_frames import TooManyRequests, decode_requests
from shoal_server.node.request_lists import UNKNOWN_FIELDS_MAX, encoded_items, has_lists, items_of

REQUESTS = get_args(Request)


def made(found: inspect.Type, count: int) -> Any:
    """Return something of a type, in which all lists have so many items, as it is encoded."""
    while isinstance(found, inspect.Metadata):
        found = found.type
    match found:
        case inspect.StructType():
            tag = [] if found.tag is None else [found.tag]
            return [*tag, *(made(field.type, count) for field in found.fields)]
        case inspect.ListType() | inspect.VarTupleType():
            return [made(found.item_type, min(count, 2))] * count
        case inspect.TupleType():
            return [made(each, count) for each in found.item_types]
        case inspect.UnionType():
            return made(next(each for each in found.types if not isinstance(each, inspect.NoneType)), count)
        case inspect.BytesType():
            return bytes(found.min_length or 0)
        case inspect.StrType():
            return "n"
        case inspect.BoolType():
            return True
        case inspect.FloatType():
            return 1.0
        case _:
            return 1


def request_of(kind: Any, count: int) -> Any:
    return msgspec.convert(made(inspect.type_info(kind), count), kind, strict=True)


def lists_of(value: Any) -> int:
    """Return how many items there are in the lists of something decoded, those in others included."""
    if isinstance(value, msgspec.Struct):
        return sum(lists_of(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, list | tuple):
        return len(value) + sum(lists_of(each) for each in value if isinstance(each, msgspec.Struct))
    return 0


LISTED = [kind for kind in REQUESTS if lists_of(request_of(kind, 3))]


def test_the_types_with_lists_are_found() -> None:
    assert {kind for kind in REQUESTS if has_lists(kind)} == set(LISTED)
    assert {Read, Scan, InstallShardMap, SetQuotaShares} <= set(LISTED)


@pytest.mark.parametrize("kind", LISTED, ids=lambda kind: kind.__name__)
def test_what_a_request_lists_is_counted_before_and_after_it_is_decoded(kind: Any) -> None:
    for count in (0, 1, 50):
        request = request_of(kind, count)
        encoded = memoryview(msgspec.msgpack.encode(request))
        assert items_of(request)[0] == encoded_items(encoded, kind, 1_000_000) == lists_of(request)
        most = max(0, lists_of(request) - 1)
        assert encoded_items(encoded, kind, most) == min(lists_of(request), most + 1)


@pytest.mark.parametrize("kind", LISTED, ids=lambda kind: kind.__name__)
def test_what_a_request_lists_has_its_cost_and_takes_memory(kind: Any) -> None:
    none, many = request_of(kind, 0), request_of(kind, 60)
    listed = lists_of(many) - lists_of(none)
    assert cost_of(many, 0, 0) - cost_of(none, 0, 0) >= 100 * listed
    assert decoded_bytes(many) - decoded_bytes(none) >= 40 * listed


def test_a_request_with_a_long_unknown_field_is_refused_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_: Any) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(request_frames.request_decoder, "_decode", decode)
    junk = msgspec.msgpack.encode([[17, 1, [0] * MAX_FRAME_ELEMENTS]])
    with pytest.raises(TooManyRequests, match="a Ping of 65544 bytes"):
        decode_requests(junk, traced=False)
    shares = [35, 1, 1, 1, [[1, 1, 1, False]], [0] * MAX_FRAME_ELEMENTS]
    with pytest.raises(TooManyRequests, match="a SetQuotaShares with 65541 bytes behind"):
        decode_requests(msgspec.msgpack.encode([shares]), traced=False)
    fields = [35, 1, 1, 1, [[1, 1, 1, False]], *[0] * MAX_FRAME_ELEMENTS]
    with pytest.raises(TooManyRequests, match="with 65541 fields, where 5 are known"):
        decode_requests(msgspec.msgpack.encode([fields]), traced=False)


def test_a_request_of_a_newer_program_is_taken() -> None:
    shares = [[index, 1, 1, False] for index in range(20_000)]
    longer = msgspec.msgpack.encode([[35, 1, 1, 1, shares, *range(UNKNOWN_FIELDS_MAX)]])
    [request], failures = decode_requests(longer, traced=False)
    assert not failures
    assert len(request.shares) == 20_000


def test_no_more_is_listed_than_a_frame_may_have() -> None:
    shares = tuple(QuotaShare(index, 1, 1) for index in range(MAX_FRAME_ELEMENTS))
    [request], _ = decode_requests(msgspec.msgpack.encode([SetQuotaShares(1, 1, 1, shares)]), traced=False)
    assert request.shares == shares
    with pytest.raises(TooManyRequests, match=f"more than {MAX_FRAME_ELEMENTS} keys"):
        decode_requests(
            msgspec.msgpack.encode([SetQuotaShares(1, 1, 1, shares), SetQuotaShares(2, 1, 1, shares[:1])]),
            traced=False,
        )


def test_a_frame_that_cannot_have_too_much_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(_: Any) -> None:
        raise AssertionError("it was counted")

    monkeypatch.setattr(request_lists._raw_decoder, "_decode", count)
    body = msgspec.msgpack.encode([[17, 1, [0] * 65_000]])
    assert decode_requests(body, traced=False) == ([Ping(1)], [])


def test_a_map_founds_no_more_shards_than_there_can_be() -> None:
    body = msgspec.msgpack.encode([[19, 1, [1, "c", [], [], []], [1] * 100_000]])
    [], [failure] = decode_requests(body, traced=False)
    assert "InstallShardMap.found" in failure.message
