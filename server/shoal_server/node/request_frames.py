"""The frames that clients send: requests out of bytes, and in words what is wrong with those that are none.

A request with a number, or anything else, out of its range (see `shoal.bounds`) is refused alone: it is answered,
and the rest of its frame is served. Where that cannot be, since nobody knows which request it is, the frame is refused.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeAlias, get_args

import msgspec
from msgspec import inspect
from shoal.bounds import MAX_NUMBER, MAX_SHARDS
from shoal.errors import ErrorCode
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.frames import Decoder, request_decoder, traced_request_decoder
from shoal.protocol.hot_keys import GetHotKeys
from shoal.protocol.messages import (
    LONG_FRAME_BYTES,
    LONG_FRAME_MESSAGES,
    MAX_FRAME_ELEMENTS,
    MAX_FRAME_REQUESTS,
    Failure,
    GetShardMap,
    GetStatus,
    InstallShardMap,
    OpenSession,
    Ping,
    Read,
    ReadPage,
    Request,
    Scan,
    TracedRequest,
    Traces,
    Write,
)

from shoal_server.node.elements import ELEMENT_NS, arrays_and_bytes_in, arrays_in, length_of_array
from shoal_server.node.request_lists import TooManyFields, encoded_items, has_lists

_raw_decoder: Decoder[list[msgspec.Raw]] = Decoder(list[msgspec.Raw])
_one_decoder: Decoder[TracedRequest] = Decoder(TracedRequest)
_TYPES: dict[int, type[msgspec.Struct]] = {
    kind.__struct_config__.tag: kind for kind in get_args(Request) if isinstance(kind.__struct_config__.tag, int)
}
OF_CLIENTS = frozenset(
    (OpenSession, Write, Read, ReadPage, Scan, GetShardMap, GetStatus, Ping, GetHotKeys, ReadChecksum)
)
"""What anybody may ask who may connect: data, and how things are."""
OF_MANAGERS = frozenset(_TYPES.values()) - OF_CLIENTS
"""All else changes the cluster, or how a node works: it is for managers and operators."""
TAGS_OF_MANAGERS = frozenset(tag for tag, kind in _TYPES.items() if kind in OF_MANAGERS)
Received: TypeAlias = Request | Failure
"""A request, or what one that made no sense is answered."""

MAX_IN_WORDS = 16
"""Requests of a frame that are told what is wrong with them; the others hear that they are like these."""
MAX_REFUSED = 1024
"""Requests of a frame that are refused one by one: with more the connection ends, since whoever sends them is no client."""
MAX_MAP_ARRAYS = 16 * MAX_SHARDS
"""Of the shard maps in a frame: a shard has seven, and one for each range."""
SPARSE_BYTES = 8 * 1024
"""A frame of no more bytes is decoded whatever it asks for, and whoever asks."""
_MESSAGE_BYTES = 400
"""Of a frame whose messages are longer in the mean, it takes less to look at each of them than at all bytes."""
_FLAT = frozenset(kind.__struct_config__.tag for kind in (Write, Read, ReadPage, Scan, Traces))
"""Messages with one list at most, behind nothing but numbers, and nothing in it but what has no lists, or pairs."""
_HEAD_BYTES = 32
"""In so many bytes are a message's tag and number, however they are written."""
_LIST_BYTES = 96
"""Likewise the numbers before its list, and how long that is."""
_ONE = 0x91
"""So begins a frame of one message."""
_STEP = re.compile(r"\[(\d+|\.\.\.)\]")
_LENGTH_BYTES = {0xDC: 2, 0xDD: 4}
"""In so many bytes the length of an array follows that begins with this, in MessagePack; shorter ones begin with theirs."""


class TooManyRequests(Exception):
    """A frame has more requests than any may, or more that make no sense."""


def decode_requests(body: bytes, *, traced: bool) -> tuple[list[TracedRequest], list[Failure]]:
    """Return the requests of a frame, and the answers to those that are refused.

    Args:
        traced: `Traces` are among what may come.

    Raises:
        TooManyRequests: so it says, and nothing of it was decoded; or more than `MAX_REFUSED` of them make no sense.
        msgspec.MsgspecError: the frame cannot be understood.
    """
    if len(body) > LONG_FRAME_BYTES or (body and body[0] in _LENGTH_BYTES):
        _check_number(body)
    # An element takes a byte at the least.
    if len(body) > MAX_FRAME_ELEMENTS:
        _check_elements(body)
    try:
        return (traced_request_decoder if traced else request_decoder).decode(body), []  # type: ignore[return-value]
    except msgspec.ValidationError as error:
        return _decode_each(body, error, traced)


def _check_number(body: bytes) -> None:
    most = LONG_FRAME_MESSAGES if len(body) > LONG_FRAME_BYTES else MAX_FRAME_REQUESTS
    length = _LENGTH_BYTES.get(body[0])
    number = body[0] & 0x0F if length is None else int.from_bytes(body[1 : 1 + length], "big")
    if number > most:
        raise TooManyRequests(
            f"a frame of {len(body)} bytes with {number} requests; one of that length has at most {most}: send several frames"
        )


def _check_elements(body: bytes) -> None:
    """Refuse what is long to decode, and many times as large then, before it is."""
    if length_of_array(body) * _MESSAGE_BYTES > len(body) and arrays_and_bytes_in(body) <= MAX_FRAME_ELEMENTS:
        return
    elements = arrays = 0
    for raw in _messages(body):
        message = memoryview(raw)
        tag, _ = _head_of(raw)
        if tag == InstallShardMap.__struct_config__.tag:
            arrays += arrays_in(bytes(message))
            if arrays > MAX_MAP_ARRAYS:
                raise TooManyRequests(f"a shard map with more than {MAX_MAP_ARRAYS} lists in it")
        elif tag not in _FLAT or not 0x90 <= message[0] <= 0x9F:
            kind = None if tag is None else _TYPES.get(tag)
            if kind is not None:
                elements += _items_in(message, kind, MAX_FRAME_ELEMENTS - elements)
        elif tag != Write.__struct_config__.tag:
            elements += _length_of_list(message)
        if elements > MAX_FRAME_ELEMENTS:
            raise TooManyRequests(
                f"a frame with more than {MAX_FRAME_ELEMENTS} keys and ranges in its requests: send several frames"
            )


def _items_in(message: memoryview, kind: type, most: int) -> int:
    if len(message) > MAX_FRAME_ELEMENTS and not has_lists(kind):
        raise TooManyRequests(f"a {kind.__name__} of {len(message)} bytes: it has no more in it than a few fields")
    try:
        return encoded_items(message, kind, most)
    except TooManyFields as error:
        raise TooManyRequests(str(error)) from None


def asks_for(body: bytes, tags: frozenset[int]) -> bool:
    """Say whether a frame has a message with one of these tags, before it is decoded.

    Raises:
        TooManyRequests: so it says.
        msgspec.MsgspecError: it is no frame.
    """
    _check_number(body)
    return any(_head_of(raw)[0] in tags for raw in _raw_decoder.decode(body))


def _decode_each(
    body: bytes, error: msgspec.ValidationError, traced: bool
) -> tuple[list[TracedRequest], list[Failure]]:
    requests: list[TracedRequest] = []
    failures: list[Failure] = []
    for raw in _messages(body):
        try:
            request = _one_decoder.decode(raw)
        except msgspec.ValidationError as wrong:
            if len(failures) == MAX_REFUSED:
                raise TooManyRequests(
                    f"more than {MAX_REFUSED} requests of one frame make no sense: {failures[0].message}"
                ) from None
            failures.append(_refusal(raw, wrong, in_full=len(failures) < MAX_IN_WORDS))
            continue
        if isinstance(request, Traces) and not traced:
            raise error
        requests.append(request)
    return requests, failures


def _messages(body: bytes) -> list[msgspec.Raw] | list[memoryview]:
    """Return the messages of a frame, encoded. One that is alone is not looked through for its end."""
    return [memoryview(body)[1:]] if body[0] == _ONE else _raw_decoder.decode(body)


def _length_of_list(message: memoryview) -> int:
    """Return how long a list is that comes behind nothing but numbers: 0 for what is none."""
    head, at = bytes(message[:_LIST_BYTES]), 1
    number: int | None = 0
    while number is not None:
        start = at
        number, at = _number_at(head, at)
    return length_of_array(head[start:])


def _refusal(raw: msgspec.Raw | memoryview, error: msgspec.ValidationError, *, in_full: bool) -> Failure:
    tag, number = _head_of(raw)
    kind = None if tag is None else _TYPES.get(tag)
    if kind is None or number is None or not -MAX_NUMBER <= number <= MAX_NUMBER:
        raise error
    words = in_words(error, kind) if in_full else "it makes no sense, as others of its frame, which were told why"
    return Failure(number, ErrorCode.INVALID_ARGUMENT.value, words)


def _head_of(raw: msgspec.Raw | memoryview) -> tuple[int | None, int | None]:
    """Return the first two items of an array where they are numbers, None for what is none: nothing else is decoded.

    Whatever comes behind may be a million things, of which each takes memory.
    """
    head = bytes(memoryview(raw)[:_HEAD_BYTES])
    first = head[0] if head else 0
    if 0x90 <= first <= 0x9F:
        length, at = first & 0x0F, 1
    elif first in _LENGTH_BYTES:
        at = 1 + _LENGTH_BYTES[first]
        length = int.from_bytes(head[1:at], "big")
    else:
        return None, None
    tag, at = _number_at(head, at) if length else (None, at)
    return tag, _number_at(head, at)[0] if tag is not None and length > 1 else None


def _number_at(head: bytes, at: int) -> tuple[int | None, int]:
    """Return the number that begins there, None where there is none, and where it ends."""
    first = head[at] if at < len(head) else 0xC0
    at += 1
    if first <= 0x7F:
        return first, at
    if first >= 0xE0:
        return first - 0x100, at
    if not 0xCC <= first <= 0xD3:
        return None, at
    end = at + (1 << (first & 0x03))
    return int.from_bytes(head[at:end], "big", signed=first >= 0xD0), end


def in_words(error: msgspec.ValidationError, kind: Any) -> str:
    """Say what is wrong with a message, or a list of them, and where: fields by their names.

    Args:
        kind: the type that it was to be decoded as.
    """
    what, at, path = str(error).partition(" - at `$")
    return f"{_named(kind, _STEP.findall(path))}: {what}" if at else what


def frame_in_words(error: msgspec.ValidationError, body: bytes, union: Any) -> str:
    """Say what is wrong with a frame of messages of `union`, and where.

    Args:
        error: with which its decoder refused it.
    """
    what, _, path = str(error).partition(" - at `$")
    steps = _STEP.findall(path)
    try:
        _check_number(body)
        tag, _ = _head_of(_raw_decoder.decode(body)[int(steps[0])])
        kind = next(each for each in _members(union) if each.__struct_config__.tag == tag)
    except (TooManyRequests, msgspec.MsgspecError, StopIteration, LookupError, ValueError):
        return str(error)
    return f"{_named(kind, steps[1:])}: {what}"


def decoding_ns(body: bytes) -> int:
    """Return about what it takes to decode a frame (ns): of what is none of these each byte takes some."""
    return arrays_and_bytes_in(body) * ELEMENT_NS + len(body)


def _members(union: Any) -> tuple[type[msgspec.Struct], ...]:
    return tuple(each for member in get_args(union) for each in (get_args(member) or (member,)))


@cache
def _shape_of(kind: Any) -> inspect.Type:
    """Return what a message of a kind looks like: it takes as long to find as hundreds of them to decode."""
    return inspect.type_info(kind)


def _named(kind: Any, steps: list[str]) -> str:
    """Return the place that `steps` lead to in a message: the names of its fields, as far as they are sure."""
    found = _shape_of(kind)
    names = [found.cls.__name__] if isinstance(found, inspect.StructType) else []
    for step in steps:
        while isinstance(found, inspect.Metadata):
            found = found.type
        if isinstance(found, inspect.StructType):
            place = int(step) - (found.tag is not None) if step.isdigit() else len(found.fields)
            if not 0 <= place < len(found.fields):
                break
            names.append(found.fields[place].name)
            found = found.fields[place].type
            if isinstance(found, inspect.UnionType):
                # Which of the alternatives it is to be, the path does not say.
                structs = [each for each in found.types if isinstance(each, inspect.StructType)]
                if len(structs) != 1:
                    break
                found = structs[0]
        elif isinstance(found, inspect.ListType | inspect.VarTupleType):
            found = found.item_type
        else:
            break
    return ".".join(names)
