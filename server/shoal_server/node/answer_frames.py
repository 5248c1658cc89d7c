"""The frames of answers that go to a client: answers in, bytes out, none of them longer than the client takes.

An answer that fits no frame is answered by a failure that says so, and costs no other answer anything.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from shoal.errors import ErrorCode
from shoal.protocol.frames import HEADER_BYTES, encode_frame
from shoal.protocol.messages import Answer, Done, Failure, Refused, SessionOpened, Working, Written

ARRAY_BYTES = 5
"""What a frame's body has besides its messages, at the most."""

_DOES = (Written, SessionOpened, Done)
"""Answers to what may have changed something."""

_encode = msgspec.msgpack.Encoder().encode


def answer_frames(answers: list[Answer], max_bytes: int) -> tuple[list[bytes], list[Failure]]:
    """Return the frames of a turn's answers to a client, and the failures in them that stand for answers of too many bytes.

    Args:
        max_bytes: of the body of a frame.
    """
    frame = encode_frame(cast(list[Any], answers))
    if len(frame) - HEADER_BYTES <= max_bytes:
        return [frame], []
    frames: list[bytes] = []
    failures: list[Failure] = []
    gathered: list[msgspec.Raw] = []
    room = max_bytes - ARRAY_BYTES
    size = 0
    for answer in answers:
        encoded = _encode(answer)
        if len(encoded) > room:
            failure = _too_large(answer, len(encoded), room)
            failures.append(failure)
            encoded = _encode(failure)
        if size + len(encoded) > room and gathered:
            frames.append(encode_frame(gathered))
            gathered, size = [], 0
        gathered.append(msgspec.Raw(encoded))
        size += len(encoded)
    frames.append(encode_frame(gathered))
    return frames, failures


def _too_large(answer: Answer, size: int, room: int) -> Failure:
    # What has no number has no size to speak of.
    request = -1 if isinstance(answer, Working | Refused) else answer.request
    return Failure(
        request,
        ErrorCode.TOO_LARGE.value,
        f"the answer has {size} bytes, and a frame holds at most {room}: ask for less at once, or have nodes take larger "
        "frames (limits.max_frame)",
        maybe_applied=isinstance(answer, _DOES),
    )
