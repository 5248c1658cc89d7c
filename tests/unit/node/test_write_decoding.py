"""How much there is in a batch is known without decoding it, and right for whatever is encoded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import Atomic, Delete, DeleteRange, KeyPresent, Operation, Put
from shoal.shardmap import MicroshardRange
from shoal_server.node.elements import elements_in
from shoal_server.node.write_decoding import (
    MAX_ELEMENTS,
    MAX_OPERATIONS,
    SMALL_BYTES,
    TooManyOperations,
    decode_write,
)

SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=300),
    st.text(max_size=300),
    st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=40)),
)
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=60,
)


def elements(item: Any) -> int:
    if isinstance(item, list):
        return 1 + sum(map(elements, item))
    if isinstance(item, dict):
        return 1 + sum(elements(key) + elements(value) for key, value in item.items())
    return 1


@given(ANYTHING)
def test_elements_are_counted_as_they_are_decoded(item: Any) -> None:
    encoded, count = msgspec.msgpack.encode(item), elements(item)
    assert elements_in(encoded, count) == count
    assert elements_in(encoded, count - 1) == count


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65_535, 65_536, 70_000])
def test_sizes_of_every_width_are_passed_over(size: int) -> None:
    for item in (
        bytes(size),
        "x" * size,
        [0] * size,
        {str(n): n for n in range(size)},
        msgspec.msgpack.Ext(5, bytes(size)),
    ):
        encoded = msgspec.msgpack.encode([item, item, 1])
        assert elements_in(encoded, elements([item, item, 1])) == elements([item, item, 1])
        assert elements_in(encoded, elements([item, item, 1]) - 1) == elements([item, item, 1])


@given(st.binary(max_size=200))
def test_what_is_no_messagepack_is_counted_all_the_same(garbage: bytes) -> None:
    assert 0 <= elements_in(garbage, 50) <= 51


@pytest.mark.parametrize(
    "operations",
    [
        [Put(b"k" * 20, b"v" * 250, 5)] * (MAX_OPERATIONS - 1),
        [Put(bytes(range(256)), bytes(range(256)) * 4090)] * 8,
        [Atomic([KeyPresent(b"k%d" % n)], [Put(b"k%d" % n, b"v" * 500)]) for n in range(2500)],
    ],
    ids=["puts", "large values", "atomic"],
)
def test_what_is_accepted_is_decoded_however_large_it_is(operations: list[Operation]) -> None:
    encoded = encode_operations(operations)
    assert len(encoded) > SMALL_BYTES
    assert decode_write(encoded) == operations


@pytest.mark.parametrize(
    "operations",
    [
        [Delete(b"k")] * (MAX_OPERATIONS + 1),
        [Atomic([KeyPresent(b"key")] * MAX_ELEMENTS, [])] * 5,
        [DeleteRange((MicroshardRange(1, 2),) * MAX_ELEMENTS, b"", b"")] * 9,
        [Atomic([KeyPresent(b"k")] * 80_000, [])],
    ],
    ids=["operations", "conditions", "ranges", "fewer bytes"],
)
def test_what_would_be_too_much_is_refused_undecoded(
    operations: list[Operation], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = encode_operations(operations)
    with pytest.raises(TooManyOperations, match=f"{len(operations)} operations"):
        decode_write(encoded)
