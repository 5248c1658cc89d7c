"""Calls, and queues of them: plain objects, passed between the router and whoever drives it.

A call's `waiter` is whatever its submitter wants told (a future, for asyncio); the router never looks into it. It is
None from the moment the call is over: completed, expired or cancelled. So "completed exactly once" means: whoever
takes the waiter out of a call sets it to None.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from shoal.errors import ErrorCode
from shoal.key_sets import keys_of
from shoal.protocol.messages import (
    Atomic,
    Delete,
    DeleteRange,
    Operation,
    Put,
)
from shoal.sessions import SessionVector
from shoal.shardmap import Ranges, count_in

W = TypeVar("W")

NEVER = float("inf")


STRONG_READ = -1
"""In place of the staleness that a read accepts: the leader has to answer."""

_SHOWN_KEY_BYTES = 64


def shown(key: bytes) -> str:
    """Return a key as messages show it: shortened where it is long."""
    return repr(key) if len(key) <= _SHOWN_KEY_BYTES else f"{key[:_SHOWN_KEY_BYTES]!r}..."


class Call(msgspec.Struct, Generic[W], eq=False, gc=False):
    """Something that somebody waits for.

    Args:
        deadline: seconds of the driver's monotonic clock.
        size: bytes that it takes in a batch.

    Not tracked by the garbage collector: nothing that a call refers to refers back to it. Every kind has a `session_vector`,
    where it belongs to a session, which takes in what it is answered.
    """

    waiter: W | None
    deadline: float
    size: int


class WriteCall(Call[W], eq=False, gc=False):
    """One operation.

    Args:
        fast: acknowledged when the leader has queued it: for puts and deletes only.
        microshards: those that an operation without a single key depends on; all have to be of one shard.
        together: its caller makes many at once.
    """

    operation: Operation
    session_vector: SessionVector | None = None
    fast: bool = False
    microshards: Collection[int] | None = None
    together: bool = False

    @property
    def key(self) -> bytes:
        """The key of an operation that has a single one."""
        return keys_of(self.operation)[0]

    @property
    def has_result(self) -> bool:
        return not isinstance(self.operation, Put | Delete)

    @property
    def changes(self) -> bool:
        """Whether it may change anything: a transaction that wrote nothing only compares, and may be asked again."""
        return not isinstance(self.operation, Atomic) or bool(self.operation.operations)

    @property
    def what(self) -> str:
        """The call, as messages name it."""
        operation = self.operation
        if isinstance(operation, DeleteRange):
            return (
                f"delete of the keys from {shown(operation.start)} to {shown(operation.end) if operation.end else 'the last'}"
                f" in {count_in(operation.ranges)} microshards"
            )
        keys = keys_of(operation)
        if isinstance(operation, Atomic):
            named = ", ".join(shown(key) for key in keys[:3]) + (", ..." if len(keys) > 3 else "")
            return f"atomic write of keys {named or '(none)'}"
        return f"{type(operation).__name__.lower()} of key {shown(keys[0])}"


class ReadCall(Call[W], eq=False, gc=False):
    """A read of one key.

    Args:
        whole: the `Entry` is asked for, otherwise the value alone is the result.
        max_staleness_ms: of what a replica may answer, 0 for any; `STRONG_READ`: the leader is to answer.
        together: its caller makes many at once.
    """

    key: bytes
    whole: bool
    session_vector: SessionVector | None = None
    max_staleness_ms: int = STRONG_READ
    together: bool = False

    @property
    def what(self) -> str:
        """The call, as messages name it."""
        return f"get of key {shown(self.key)}"


class Turns:
    """Of one scan, or whatever else asks for pages, among the others of this client: see pages.py.

    `serial`: its number among them, 0 as long as it has none. `pages`: that of its newest page, in the order in which they are
    sent. `row_bytes`: the size of a row, in the mean of the
    last page; 0 where there was none. `begun`: it was let begin.
    """

    __slots__ = ("begun", "pages", "row_bytes", "serial")

    def __init__(self) -> None:
        self.serial = 0
        self.pages = 0
        self.begun = False
        self.row_bytes = 0.0


class ScanCall(Call[W], eq=False, gc=False):
    """A read of one page of the rows of the microshards `ranges`, which all have to be of one shard.

    Args:
        turns: of the scan that it is of; None: by turns of its shard.
    """

    ranges: Ranges
    start: bytes
    end: bytes
    reverse: bool
    keys_only: bool
    max_rows: int
    session_vector: SessionVector | None = None
    max_staleness_ms: int = STRONG_READ
    turns: Turns | None = None

    @property
    def what(self) -> str:
        """The call, as messages name it."""
        return f"scan of the keys from {shown(self.start)} to {shown(self.end) if self.end else 'the last'}"


AnyCall: TypeAlias = WriteCall[W] | ReadCall[W] | ScanCall[W]

C = TypeVar("C", bound="Call[Any]")


class Trouble:
    """Why requests of a shard queue are not getting through just now: the last refusal or failure.

    `reason`: of what there is too much, as `Overloaded` has it.
    """

    __slots__ = ("code", "message", "reason", "retry_after")

    def __init__(self, code: ErrorCode, message: str, retry_after: float | None = None, reason: str = "") -> None:
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.reason = reason


class CallQueue(Generic[C]):
    """Calls of one shard that are in no batch yet. `size` is the sum of theirs.

    No deadline of a queued call is before `earliest` or after `latest`; both are bounds, not exact.
    """

    __slots__ = ("calls", "earliest", "latest", "size")

    def __init__(self) -> None:
        self.calls: list[C] = []
        self.size = 0
        self.earliest = NEVER
        self.latest = 0.0

    def add(self, call: C) -> None:
        self.calls.append(call)
        self.size += call.size
        deadline = call.deadline
        if deadline > self.latest:
            self.latest = deadline
        if deadline < self.earliest:
            self.earliest = deadline

    def put_back(self, calls: list[C]) -> None:
        """Put calls at the front again."""
        self.calls[:0] = calls
        for call in calls:
            self.size += call.size
            self.latest = max(self.latest, call.deadline)
            self.earliest = min(self.earliest, call.deadline)

    def take_all(self) -> list[C]:
        """Take out every call."""
        calls, self.calls, self.size = self.calls, [], 0
        self.earliest, self.latest = NEVER, 0.0
        return calls

    def drop_closed(self) -> None:
        """Forget calls that are over, and make the bounds exact."""
        for call in self.take_all():
            if call.waiter is not None:
                self.add(call)

    def take(self, max_calls: int, max_bytes: int) -> list[C]:
        """Take out the first calls, as many as fit but at least one, without those that are over. May return []."""
        calls = self.calls
        if len(calls) <= max_calls and self.size <= max_bytes:
            self.calls = []
            self.size = 0
            self.earliest = NEVER
        else:
            count, size = 0, 0
            for call in calls:
                size += call.size
                if count and (size > max_bytes or count == max_calls):
                    size -= call.size
                    break
                count += 1
            self.calls = calls[count:]
            self.size -= size
            calls = calls[:count]
        return [call for call in calls if call.waiter is not None]
