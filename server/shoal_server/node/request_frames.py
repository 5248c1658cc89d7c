"""The frames that clients send: requests out of bytes, and in words what is wrong with those that are none.

A request with a number, or anything else, out of its range (see `shoal.bounds`) is refused alone: it is answered,
and the rest of its frame is served. Where that cannot be, since nobody knows which request it is, the frame is refused.
"""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
from msgspec import inspect
from shoal.bounds import MAX_NUMBER
from shoal.errors import ErrorCode
from shoal.protocol.frames import Decoder, request_decoder, traced_request_decoder
from shoal.protocol.messages import (
    LONG_FRAME_BYTES,
    LONG_FRAME_MESSAGES,
    MAX_FRAME_REQUESTS,
    Failure,
    Request,
    TracedRequest,
    Traces,
)

_raw_decoder: Decoder[list[msgspec.Raw]] = Decoder(list[msgspec.Raw])
_one_decoder: Decoder[TracedRequest] = Decoder(TracedRequest)
_any_decoder: Decoder[Any] = Decoder(Any)
_TYPES: dict[int, type[msgspec.Struct]] = {
    kind.__struct_config__.tag: kind for kind in get_args(Request) if isinstance(kind.__struct_config__.tag, int)
}
_STEP = re.compile(r"\[(\d+|\.\.\.)\]")
_LENGTH_BYTES = {0xDC: 2, 0xDD: 4}
"""In so many bytes the length of an array follows that begins with this, in MessagePack; shorter ones begin with theirs."""


class TooManyRequests(Exception):
    """A frame has more requests than any may."""


def decode_requests(body: bytes, *, traced: bool) -> tuple[list[TracedRequest], list[Failure]]:
    """Return the requests of a frame, and the answers to those that are refused.

    Args:
        traced: `Traces` are among what may come.

    Raises:
        TooManyRequests: so it says; nothing of it was decoded.
        msgspec.MsgspecError: the frame cannot be understood.
    """
    if len(body) > LONG_FRAME_BYTES or (body and body[0] in _LENGTH_BYTES):
        _check_number(body)
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


def _decode_each(
    body: bytes, error: msgspec.ValidationError, traced: bool
) -> tuple[list[TracedRequest], list[Failure]]:
    requests: list[TracedRequest] = []
    failures: list[Failure] = []
    for raw in _raw_decoder.decode(body):
        try:
            request = _one_decoder.decode(raw)
        except msgspec.ValidationError as wrong:
            failures.append(_refusal(raw, wrong))
            continue
        if isinstance(request, Traces) and not traced:
            raise error
        requests.append(request)
    return requests, failures


def _refusal(raw: msgspec.Raw, error: msgspec.ValidationError) -> Failure:
    fields = _any_decoder.decode(raw)
    kind = _TYPES.get(fields[0]) if isinstance(fields, list) and fields and isinstance(fields[0], int) else None
    if kind is None or len(fields) < 2 or type(fields[1]) is not int or not -MAX_NUMBER <= fields[1] <= MAX_NUMBER:
        raise error
    return Failure(fields[1], ErrorCode.INVALID_ARGUMENT.value, in_words(error, kind))


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
        message = _any_decoder.decode(_raw_decoder.decode(body)[int(steps[0])])
        kind = next(each for each in _members(union) if each.__struct_config__.tag == message[0])
    except (msgspec.MsgspecError, StopIteration, LookupError, ValueError, TypeError):
        return str(error)
    return f"{_named(kind, steps[1:])}: {what}"


def _members(union: Any) -> tuple[type[msgspec.Struct], ...]:
    return tuple(each for member in get_args(union) for each in (get_args(member) or (member,)))


def _named(kind: Any, steps: list[str]) -> str:
    """Return the place that `steps` lead to in a message: the names of its fields, as far as they are sure."""
    found = inspect.type_info(kind)
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
