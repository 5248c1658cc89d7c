"""Bytes to messages and back, without a socket: length-prefixed frames, each one list of messages.

A frame is a 4-byte big-endian length, the checksum of its body in as many, and that many bytes of MessagePack. `FrameReader`
cuts frames out of whatever pieces the transport delivers; `BadLength` is raised on the length alone, before any of the
frame is buffered, and `FrameDamaged` before anything of the frame is decoded.
"""

from __future__ import annotations

from struct import Struct as _Layout
from typing import Any, Generic, TypeVar

import msgspec

from shoal.protocol.checksum import checksum
from shoal.protocol.messages import MAX_FRAME_BYTES, Answer, Greeting, Operation, Request, TracedRequest

_HEADER = _Layout(">II")
HEADER_BYTES = _HEADER.size


class BadFrame(Exception):
    """What arrived is no frame of ours: nothing after it on the connection can be relied on."""


class FrameDamaged(BadFrame):
    """A frame is not what its sender sent: TCP's own checksum lets one flip in some thousands through."""


class BadLength(BadFrame):
    """The other side announced an empty frame, or one beyond the limit: it is broken, hostile, or not a Shoal peer at all."""


_SMALL_PIECE_BYTES = 2048
_FRAME_BYTES = 512
"""What a frame counts besides its bytes where only so much is taken at once: each is some work, whatever is in it."""
_ALL = 1 << 62


class FrameReader:
    """Cuts a byte stream into frames. Holds at most one incomplete frame, of at most `max_bytes`.

    The pieces of an incomplete frame are only joined once it is complete, so that a long one is copied once; small ones are
    joined before, since each by itself takes more than what is in it.

    Attributes:
        held: bytes of the incomplete frame that are there, and of what was not looked at yet.
        more: something was not looked at yet, since enough was taken at once.
    """

    __slots__ = ("_at", "_limit", "_max_bytes", "_missing", "_pieces", "held", "more")

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES, first_max_bytes: int | None = None) -> None:
        """
        Args:
            first_max_bytes: of the first frame, from somebody who is not known yet; None: it is like all others.
        """
        self.held = 0
        self.more = False
        self._pieces: list[bytes] = []
        self._at = 0
        self._missing = 0
        self._max_bytes = max_bytes
        self._limit = max_bytes if first_max_bytes is None else min(max_bytes, first_max_bytes)

    def feed(self, data: bytes, at_once: int = _ALL) -> list[bytes]:
        """Take what arrived; return the bodies of the frames that it completes.

        Args:
            at_once: cut out about so many bytes of frames, at least one frame; where that leaves `more`, it is to be asked for
                by feeding nothing.

        Raises:
            BadLength: a length that no frame has, or beyond the limit, was announced.
            FrameDamaged: a frame has not the checksum that it came with.
        """
        pieces = self._pieces
        at = 0
        if self.more:
            at, rest = self._at, pieces.pop()
            data = rest + data if data else rest
            self.more = False
            self.held = 0
        elif pieces:
            if len(data) < _SMALL_PIECE_BYTES and len(pieces[-1]) < _SMALL_PIECE_BYTES:
                pieces[-1] += data
            else:
                pieces.append(data)
            self._missing -= len(data)
            self.held += len(data)
            if self._missing > 0:
                return []
            data = b"".join(pieces)
            pieces.clear()
            self.held = 0
        bodies: list[bytes] = []
        size = len(data)
        missing = HEADER_BYTES
        while size - at >= HEADER_BYTES:
            length, expected = _HEADER.unpack_from(data, at)
            if not 0 < length <= self._limit:
                raise BadLength(f"a frame of {length} bytes was announced; from 1 to {self._limit} are accepted")
            end = at + HEADER_BYTES + length
            if end > size:
                missing += length
                break
            body = data[at + HEADER_BYTES : end]
            if checksum(body) != expected:
                raise FrameDamaged(f"a frame of {length} bytes arrived damaged: its checksum is another")
            bodies.append(body)
            self._limit = self._max_bytes
            at = end
            at_once -= _FRAME_BYTES + length
            if at_once <= 0 and at < size:
                pieces.append(data)
                self._at = at
                self.held = size - at
                self.more = True
                return bodies
        if at < size:
            pieces.append(data[at:] if at else data)
            self.held = size - at
            self._missing = missing - self.held
        return bodies


_encoder = msgspec.msgpack.Encoder()


def encode_frame(messages: list[Any]) -> bytes:
    """Encode one frame: header and body, ready for the socket."""
    body = _encoder.encode(messages)
    return _HEADER.pack(len(body), checksum(body)) + body


def encode_frames(
    messages: list[Any], max_bytes: int = MAX_FRAME_BYTES, soft_bytes: int = MAX_FRAME_BYTES
) -> list[bytes]:
    """Encode messages as one frame, or as several where they have more than `soft_bytes` together.

    Raises:
        BadLength: one message alone does not fit into `max_bytes`.
    """
    frame = encode_frame(messages)
    size = len(frame) - HEADER_BYTES
    if size <= soft_bytes and size <= max_bytes:
        return [frame]
    if len(messages) > 1:
        half = len(messages) // 2
        return [
            *encode_frames(messages[:half], max_bytes, soft_bytes),
            *encode_frames(messages[half:], max_bytes, soft_bytes),
        ]
    if size > max_bytes:
        raise BadLength(f"a message of {size} bytes; a frame holds at most {max_bytes}")
    return [frame]


T = TypeVar("T")


class Decoder(Generic[T]):
    """Decodes what came from outside, as one type."""

    __slots__ = ("_decode",)

    def __init__(self, kind: Any) -> None:
        """`kind`: the type; `Any` decodes without one."""
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def decode(self, data: bytes | memoryview | msgspec.Raw) -> T:
        """
        Raises:
            msgspec.MsgspecError: it is not of that type, or is nested too deeply to tell. How deep is too deep depends on
                where it is decoded; what is valid is never nested so deeply.
        """
        try:
            return self._decode(data)  # type: ignore[no-any-return]
        except RecursionError:
            raise msgspec.DecodeError("it is nested too deeply") from None


greeting_decoder: Decoder[list[Greeting]] = Decoder(list[Greeting])
request_decoder: Decoder[list[Request]] = Decoder(list[Request])
traced_request_decoder: Decoder[list[TracedRequest]] = Decoder(list[TracedRequest])
answer_decoder: Decoder[list[Answer]] = Decoder(list[Answer])
operations_decoder: Decoder[list[Operation]] = Decoder(list[Operation])


def encode_operations(operations: list[Operation]) -> bytes:
    """Encode the operations of one `Write`."""
    return _encoder.encode(operations)
