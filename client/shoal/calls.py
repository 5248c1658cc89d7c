"""Calls and the batches they travel in: plain objects, passed between the router and whoever drives it.

A call's `waiter` is whatever its submitter wants told (a future, for asyncio); the router never looks into it. It is
None from the moment the call is over: completed, expired or cancelled. So "completed exactly once" means: whoever
takes the waiter out of a call sets it to None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import msgspec

from shoal.protocol.messages import Operation

if TYPE_CHECKING:
    from shoal.lanes import Lane

W = TypeVar("W")

NEVER = float("inf")


class Call(msgspec.Struct, Generic[W], eq=False, gc=False):
    """One operation on one key that somebody waits for.

    Args:
        deadline: seconds of the driver's monotonic clock.
        size: bytes that the operation takes in a batch.

    Not tracked by the garbage collector: nothing that a call refers to refers back to it.
    """

    waiter: W | None
    deadline: float
    size: int


class WriteCall(Call[W], eq=False, gc=False):
    """A put or delete."""

    operation: Operation

    @property
    def key(self) -> bytes:
        return self.operation.key

    @property
    def verb(self) -> str:
        return type(self.operation).__name__.lower()


class ReadCall(Call[W], eq=False, gc=False):
    """A read; `whole` asks for the `Entry`, otherwise the value alone is the result."""

    key: bytes
    whole: bool

    @property
    def verb(self) -> str:
        return "get"


C = TypeVar("C", bound="Call[Any]")


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
        for call in (*calls, *self.take_all()):
            self.add(call)

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


class Exchange(Generic[W]):
    """Something to be asked of a shard's leader until it is answered.

    `in_flight`: an attempt is unanswered. `request` and `epoch` (the lane's, then) are of the last attempt, 0 if none.
    """

    __slots__ = ("epoch", "in_flight", "lane", "request")

    def __init__(self, lane: Lane[W]) -> None:
        self.lane = lane
        self.epoch = 0
        self.request = 0
        self.in_flight = False


class WriteBatch(Exchange[W]):
    """The calls of one `Write`. Once made, its operations, session and number never change.

    `uncertain`: an attempt that is over may have been applied.
    """

    __slots__ = ("calls", "latest", "number", "operations", "session", "uncertain")

    def __init__(
        self,
        lane: Lane[W],
        calls: list[WriteCall[W]],
        operations: msgspec.Raw,
        session: int,
        number: int,
        latest: float,
    ) -> None:
        super().__init__(lane)
        self.calls = calls
        self.operations = operations
        self.session = session
        self.number = number
        self.latest = latest
        self.uncertain = False

    @property
    def maybe_applied(self) -> bool:
        return self.in_flight or self.uncertain


class ReadBatch(Exchange[W]):
    """The calls of one `Read`."""

    __slots__ = ("calls", "latest")

    def __init__(self, lane: Lane[W], calls: list[ReadCall[W]], latest: float) -> None:
        super().__init__(lane)
        self.calls = calls
        self.latest = latest


class Opening(Exchange[W]):
    """An `OpenSession` of a lane."""

    __slots__ = ()


AnyBatch: TypeAlias = WriteBatch[W] | ReadBatch[W]
