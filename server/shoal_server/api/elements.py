"""How many elements an encoded message has, counted before it is decoded.

An element without content takes two bytes on the wire, and some 64 in memory besides the decoder's time: a largest message
has room for 4.6 million of them. So they are counted first, field by field, and only as far as the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shoal_server.invariants import invariant

ELEMENTS_MAX = 100_000
"""The most of one message: operations, rows, keys and conditions, those within operations included."""
UNCOUNTED_BYTES = 2 * ELEMENTS_MAX
"""A message of so few cannot have more: each takes a tag and a length."""
VARINT_BYTES_MAX = 10
_VARINT, _FIXED_64, _LENGTH, _GROUP_BEGIN, _GROUP_END, _FIXED_32 = range(6)
"""Wire types: the lowest three bits of a tag."""


class _Malformed(Exception):
    """The bytes are no message; decoding comes no further than this either, and says so."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is counted of a type of messages.

    Args:
        elements: the tags of its repeated fields.
        inside: those of fields whose messages have elements or messages of their own, and the shapes of these.
        others: how many other fields one message may have: each once, and one of each oneof.
    """

    elements: frozenset[int]
    inside: dict[int, Shape]
    others: int


def shape_of(descriptor: Any) -> Shape:
    """Return the shape of a type of messages, which has no messages of its own type in it."""
    elements: set[int] = set()
    inside: dict[int, Shape] = {}
    others: set[str] = set()
    for field in descriptor.fields:
        tag = field.number << 3 | _LENGTH
        if field.is_repeated:
            invariant(
                field.type in (field.TYPE_MESSAGE, field.TYPE_STRING, field.TYPE_BYTES),
                "repeated fields of requests are messages, texts or bytes: others may be packed",
            )
            elements.add(tag)
        else:
            others.add((field.containing_oneof or field).name)
        if field.message_type is not None:
            shape = shape_of(field.message_type)
            if shape.elements or shape.inside:
                inside[tag] = shape
    return Shape(frozenset(elements), inside, len(others))


def has_too_many(data: bytes, shape: Shape) -> bool:
    """Return whether an encoded message has more than `ELEMENTS_MAX` elements, as far as it can be decoded at all.

    Other fields that are given more often than any encoder does count as elements: they cost as much.
    """
    return len(data) > UNCOUNTED_BYTES and _count(data, 0, len(data), shape, 0) > ELEMENTS_MAX


def _count(data: bytes, at: int, end: int, shape: Shape, found: int) -> int:
    """Return `found` and the elements in `data[at:end]`, or more than `ELEMENTS_MAX` as soon as there are."""
    elements, inside, others = shape.elements, shape.inside, shape.others
    try:
        while at < end and found <= ELEMENTS_MAX:
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _varint(data, at - 1)
            if tag in elements:
                found += 1
            elif others:
                others -= 1
            else:
                found += 1
            kind = tag & 7
            if kind == _LENGTH:
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = _varint(data, at - 1)
                if size and tag in inside:
                    found = _count(data, at, min(at + size, end), inside[tag], found)
                at += size
            elif kind == _VARINT:
                _, at = _varint(data, at)
            elif kind == _FIXED_64:
                at += 8
            elif kind == _FIXED_32:
                at += 4
            elif kind not in (_GROUP_BEGIN, _GROUP_END):  # what is in a group is counted as if it were not
                return found
    except (IndexError, _Malformed):
        return found
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends.

    Raises:
        IndexError: the bytes end before it does.
        _Malformed: it is longer than numbers are.
    """
    value = data[at] & 0x7F
    last = at
    while data[last] >= 0x80:
        last += 1
        if last == at + VARINT_BYTES_MAX:
            raise _Malformed
        value |= (data[last] & 0x7F) << 7 * (last - at)
    return value, last + 1
