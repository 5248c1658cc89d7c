"""The lists in requests, found by what their types say: how many items there are, before and after they are decoded.

What a request lists is what it costs, and what it takes in memory; a type that is new is reckoned by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect
from shoal.protocol.frames import Decoder

from shoal_server.node.elements import KEY_BYTES, RANGE_BYTES, length_of_array

SCALAR_BYTES = 40
"""A number in a list, with its place there."""
FIELD_BYTES = (RANGE_BYTES - KEY_BYTES) // 2
"""Of a struct, or a tuple, in a list: of each field besides what it has by itself."""
UNKNOWN_FIELDS_MAX = 16
"""So many more than are known may be at the end of what is encoded, from a newer program."""
UNKNOWN_BYTES_MAX = 4096
"""Likewise, of all of them."""

_raw_decoder: Decoder[list[msgspec.Raw]] = Decoder(list[msgspec.Raw])


class TooManyFields(Exception):
    """What is encoded has more fields than anybody will give it."""


def items_of(request: Any) -> tuple[int, int]:
    """Return how many items the lists in a request have, and about what these take in memory, beyond what was encoded."""
    items = size = 0
    kind: type = type(request)
    for values, each, inner in _lists_in(kind):
        found = values(request)
        items += len(found)
        size += len(found) * each
        if inner is not None:
            for item in found:
                more, bytes_more = items_of(item)
                items += more
                size += bytes_more
    return items, size


def has_lists(kind: type) -> bool:
    """Say whether there are any in what is of that type."""
    return bool(_lists_in(kind))


def encoded_items(encoded: msgspec.Raw | memoryview, kind: type, most: int) -> int:
    """Return how many items the lists have in what is encoded as a `kind`, or that there are more than `most`.

    What is none has none: whoever decodes it will say so.

    Raises:
        TooManyFields: so it says.
        msgspec.MsgspecError: it is not MessagePack.
    """
    return min(_encoded_items(encoded, _shape_of(kind), most), most + 1)


def _encoded_items(encoded: msgspec.Raw | memoryview, shape: inspect.Type, most: int) -> int:
    if isinstance(shape, inspect.StructType):
        offset = int(shape.tag is not None)
        known = len(shape.fields) + offset
        there = length_of_array(memoryview(encoded))
        if there > known + UNKNOWN_FIELDS_MAX:
            raise TooManyFields(f"a {shape.cls.__name__} with {there} fields, where {known} are known")
        if not there:
            return 0
        parts = _raw_decoder.decode(encoded)[offset:]
        unknown = sum(len(memoryview(part)) for part in parts[len(shape.fields) :])
        if unknown > UNKNOWN_BYTES_MAX:
            raise TooManyFields(f"a {shape.cls.__name__} with {unknown} bytes behind the fields that are known")
        items = 0
        for part, field in zip(parts, shape.fields, strict=False):
            if items <= most:
                items += _encoded_items(part, _shape(field.type), most - items)
        return items
    if not isinstance(shape, inspect.ListType | inspect.VarTupleType):
        return 0
    items = length_of_array(memoryview(encoded))
    of = _shape(shape.item_type)
    if 0 < items <= most and isinstance(of, inspect.StructType) and has_lists(of.cls):
        for part in _raw_decoder.decode(encoded):
            if items <= most:
                items += _encoded_items(part, of, most - items)
    return items


@cache
def _shape_of(kind: type) -> inspect.Type:
    """Return what is in a type: it takes as long to find as hundreds of messages to decode."""
    return _shape(inspect.type_info(kind))


@cache
def _lists_in(kind: type) -> tuple[tuple[Callable[[Any], Any], int, type | None], ...]:
    """Return of each list how to find it, what an item takes, and the type of one where that has lists itself."""
    shape = _shape_of(kind)
    return tuple(_found(shape, lambda value: value)) if isinstance(shape, inspect.StructType) else ()


def _found(
    shape: inspect.StructType, value: Callable[[Any], Any]
) -> Iterator[tuple[Callable[[Any], Any], int, type | None]]:
    for field in shape.fields:
        of = _shape(field.type)

        def there(whole: Any, name: str = field.name) -> Any:
            found = value(whole)
            return () if found is None else getattr(found, name)

        def struct(whole: Any, name: str = field.name) -> Any:
            found = value(whole)
            return None if found is None else getattr(found, name)

        if isinstance(of, inspect.StructType):
            yield from _found(of, struct)
        elif isinstance(of, inspect.ListType | inspect.VarTupleType):
            item = _shape(of.item_type)
            inner = item.cls if isinstance(item, inspect.StructType) and has_lists(item.cls) else None
            yield there, _bytes_of(item), inner


def _bytes_of(item: inspect.Type) -> int:
    if isinstance(item, inspect.StructType):
        return KEY_BYTES + len(item.fields) * FIELD_BYTES
    if isinstance(item, inspect.TupleType):
        return KEY_BYTES + len(item.item_types) * FIELD_BYTES
    return KEY_BYTES if isinstance(item, inspect.BytesType | inspect.StrType) else SCALAR_BYTES


def _shape(found: inspect.Type) -> inspect.Type:
    """Return what a field's type comes to: without its bounds, and where it may be absent, as it is when it is not."""
    while isinstance(found, inspect.Metadata):
        found = found.type
    if isinstance(found, inspect.UnionType):
        found = next((_shape(each) for each in found.types if not isinstance(each, inspect.NoneType)), found)
    return found
