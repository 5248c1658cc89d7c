"""HTTP/2 as a caller sends it, frame by frame: what may go on to gRPC, and what has to wait. Pure.

gRPC takes whatever comes, and hands calls on that were given up long before. So here it is counted, as the heads of frames say
it: which calls are under way, how long their messages are, which are given up. A call that is given up costs as much as one
that is answered, and a message is held in memory from its first byte on, so both are asked for before they go on.

Nothing is changed of what a caller says, but that each of its calls gets a name, as one more header: a CONTINUATION behind its
own, which refers to no table and so is the same to every decoder (RFC 7541, 6.2.2). By that the API knows whose a call is.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

PREFACE_BYTES = 24
HEAD_BYTES = 9
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
PREFACE = -1
END_STREAM, END_HEADERS = 1, 4
PREFIX_BYTES = 5
"""Before each message of gRPC: whether it is compressed, and its length."""
FRAMES_A_TURN = 128
"""Then it is somebody else's turn: a frame is looked at in about a microsecond, and may be nine bytes long."""
CALL_NAME = "shoal-call"


class Wait(Enum):
    """What a connection waits for."""

    NOTHING = 0
    TURN = 1
    RESET = 2
    """That another call may be given up."""
    ROOM = 3
    """Room for a message."""


class Ledger(Protocol):
    """Who is asked."""

    def may_reset(self) -> bool:
        """Say whether a call that is under way may be given up now."""
        ...

    def take(self, size: int) -> bool:
        """Take room for a message, or say that there is none."""
        ...

    def give_back(self, size: int) -> None:
        """A message is gone."""
        ...


class Incoming:
    """What has come of a call.

    Attributes:
        held: room that it has taken (bytes).
        left: what is missing of the message that is coming (bytes), which began at `since` and is `size` long.
    """

    __slots__ = ("held", "left", "prefix", "since", "size")

    def __init__(self) -> None:
        self.held = 0
        self.left = 0
        self.size = 0
        self.since = 0.0
        self.prefix = b""


class Requests:
    """See the module's first lines.

    Attributes:
        calls: those under way, by the number of their stream.
        coming: those whose message has not come to its end.
        waits_for: what is waited for, of what was fed.
    """

    __slots__ = (
        "_at",
        "_incoming",
        "_kind",
        "_last",
        "_ledger",
        "_left",
        "_message_most",
        "_named",
        "_naming",
        "_number",
        "_rest",
        "_stream",
        "_wanted",
        "calls",
        "coming",
        "now",
        "waits_for",
    )

    def __init__(self, number: int, message_most: int, ledger: Ledger) -> None:
        """
        Args:
            number: of the connection.
            message_most: gRPC refuses a message that is longer.
        """
        self.calls: dict[int, Incoming] = {}
        self.coming: dict[int, Incoming] = {}
        self.waits_for = Wait.NOTHING
        self.now = 0.0
        self._number = number
        self._message_most = message_most
        self._ledger = ledger
        self._rest = b""
        self._at = 0
        self._kind = PREFACE
        self._left = PREFACE_BYTES
        self._stream = self._last = 0
        self._naming = self._named = False
        self._incoming: Incoming | None = None
        self._wanted: Incoming | None = None

    def feed(self, data: bytes) -> None:
        """Something has come."""
        self._rest = self._rest[self._at :] + data if self._at < len(self._rest) else data
        self._at = 0

    def go_on(self, now: float) -> list[bytes]:
        """Return what may go on now; `waits_for` says why the rest may not.

        Args:
            now: seconds, monotonic.
        """
        self.now = now
        if self._wanted is not None and not self._begin_message(self._wanted):
            return []
        self.waits_for = Wait.NOTHING
        data, out = self._rest, list[bytes]()
        at = start = self._at
        frames = 0
        end = len(data)
        while at < end and self.waits_for is Wait.NOTHING:
            if not self._left:
                if end - at < HEAD_BYTES:
                    break
                if frames == FRAMES_A_TURN:
                    self.waits_for = Wait.TURN
                    break
                frames += 1
                if not self._begin_frame(data, at):
                    break
                if self._naming and data[at + 4] & END_HEADERS and self._kind in (HEADERS, CONTINUATION):
                    out += (data[start : at + 4], bytes((data[at + 4] & ~END_HEADERS,)))
                    start = at + 5
                    self._naming, self._named = False, True
                at += HEAD_BYTES
            else:
                step = min(self._left, end - at)
                if self._incoming is not None:
                    step = self._take_message(self._incoming, data, at, step)
                at += step
                self._left -= step
            if self._named and not self._left:
                out += (data[start:at], self._name())
                start = at
                self._named = False
        if start < at:
            out.append(data[start:at])
        self._at = at
        return out

    def answered(self, stream: int) -> None:
        """A call is over."""
        incoming = self.calls.pop(stream, None)
        self.coming.pop(stream, None)
        if incoming is not None and incoming.held:
            self._ledger.give_back(incoming.held)
            incoming.held = 0

    def done_with(self, stream: int, size: int) -> None:
        """Of what a call has sent so much is held no more (bytes)."""
        incoming = self.calls.get(stream)
        if incoming is not None:
            size = min(size, incoming.held)
            incoming.held -= size
            self._ledger.give_back(size)

    def close(self) -> int:
        """The connection is over: return how many calls have been given up with it."""
        given_up = len(self.calls)
        for stream in list(self.calls):
            self.answered(stream)
        self._wanted = None
        self._rest, self._at = b"", 0
        return given_up

    def _begin_frame(self, data: bytes, at: int) -> bool:
        """Look at the head of a frame; say whether it may go on."""
        kind = data[at + 3]
        stream = int.from_bytes(data[at + 5 : at + HEAD_BYTES]) & 0x7FFFFFFF
        self._incoming = None
        if kind == DATA:
            self._incoming = self.calls.get(stream)
        elif kind == HEADERS:
            self._naming = stream > self._last
            if self._naming:
                self._last = stream
                self.calls[stream] = Incoming()
        elif kind == RST_STREAM and stream in self.calls:
            if not self._ledger.may_reset():
                self.waits_for = Wait.RESET
                return False
            self.answered(stream)
        self._kind, self._stream = kind, stream
        self._left = int.from_bytes(data[at : at + 3])
        return True

    def _name(self) -> bytes:
        """Return the frame that ends a call's headers with its name."""
        value = f"{self._number}.{self._last}".encode()
        block = b"\x00" + bytes((len(CALL_NAME),)) + CALL_NAME.encode() + bytes((len(value),)) + value
        return frame(CONTINUATION, END_HEADERS, self._last, block)

    def _take_message(self, incoming: Incoming, data: bytes, at: int, size: int) -> int:
        """Look at bytes of messages; return how many of them may go on."""
        done = 0
        while done < size:
            if incoming.left:
                step = min(incoming.left, size - done)
                incoming.left -= step
                done += step
                if not incoming.left:
                    self.coming.pop(self._stream, None)
                continue
            step = min(PREFIX_BYTES - len(incoming.prefix), size - done)
            incoming.prefix += data[at + done : at + done + step]
            done += step
            if len(incoming.prefix) == PREFIX_BYTES and not self._begin_message(incoming):
                break
        return done

    def _begin_message(self, incoming: Incoming) -> bool:
        """Take room for a message whose length is known; say whether there was any."""
        length = int.from_bytes(incoming.prefix[1:])
        size = min(length, self._message_most)
        if size and self.calls.get(self._stream) is incoming and not self._ledger.take(size):
            self._wanted = incoming
            self.waits_for = Wait.ROOM
            return False
        self._wanted = None
        incoming.prefix = b""
        incoming.left = length
        if self.calls.get(self._stream) is incoming:
            incoming.held += size
            if length:
                incoming.size, incoming.since = size, self.now
                self.coming[self._stream] = incoming
        return True


class Answers:
    """HTTP/2 as gRPC answers: which calls come to their end."""

    __slots__ = ("_head", "_left", "_requests")

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._left = 0
        self._head = b""

    def feed(self, data: bytes) -> None:
        """Look at what goes to the caller."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                at += step
                self._left -= step
                continue
            missing = HEAD_BYTES - len(self._head)
            head = self._head + data[at : at + missing]
            at += missing
            if len(head) < HEAD_BYTES:
                self._head = head
                return
            self._head = b""
            self._left = int.from_bytes(head[:3])
            if head[3] == RST_STREAM or (head[3] == HEADERS and head[4] & END_STREAM):
                self._requests.answered(int.from_bytes(head[5:]) & 0x7FFFFFFF)


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Return a frame."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def farewell(error: int, words: str) -> bytes:
    """Return what a server says that takes no calls: its settings, and the end, with words."""
    body = (0).to_bytes(4, "big") + error.to_bytes(4, "big") + words.encode()
    return frame(SETTINGS, 0, 0, b"") + frame(GOAWAY, 0, 0, body)
