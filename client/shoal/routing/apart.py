"""Calls that go apart from the others of their shard queue, since the leader lacks what one of them is about.

A request is refused whole. A batch that the leader refused for that, a few times within a moment, as when microshards come
to a shard, waits by itself, and then is divided by what its calls are about, in halves, until those about the same
microshards are alone. If these are refused, too, they are *unserved*: they and those that come after them wait here, one of
them asks now and then, and the rest follow it once it is served. So no other call waits for them, nor do calls that are
about only some of these microshards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeAlias

from shoal.protocol.messages import DeleteRange
from shoal.routing.calls import NEVER, STRONG_READ, AnyCall, C, CallQueue, ReadCall, ScanCall, Trouble, W, WriteCall
from shoal.shardmap import Keyspace, Ranges, one_microshard, ranges_of

ATTEMPTS_A_SECOND = 50
"""So many requests for what is unserved a shard queue makes at the most, however much that is."""

ANSWER_SECONDS = 0.25
"""For so long an attempt is waited for before the next one is made."""

PATIENCE = 3
"""So often a batch that is refused is asked for again as it is, before it is divided."""

_Kind: TypeAlias = tuple[type, bool]
"""Of calls that travel in one batch: their class, and whether they are fast writes."""


class Wait:
    """For what and until when (seconds) a batch waits by itself; `refusals` are those in a row."""

    __slots__ = ("refusals", "trouble", "until")

    def __init__(self, refusals: int, trouble: Trouble, until: float) -> None:
        self.refusals = refusals
        self.trouble = trouble
        self.until = until


class Part(CallQueue[Any]):
    """Calls of one kind that travel without others.

    `asks`: they are unserved, and are sent to learn whether they still are. `trouble` is why they go apart.
    """

    __slots__ = ("asks", "trouble")

    def __init__(self, trouble: Trouble, *, asks: bool) -> None:
        super().__init__()
        self.trouble = trouble
        self.asks = asks


class Unserved(CallQueue[Any]):
    """Calls of one kind about the same microshards, some of which the leader lacks; there may be none just now.

    `trouble` is its last refusal, `retries` are those in a row. `retry_at`: when one of them asks again; `asked`: one has
    been sent since the last refusal.
    """

    __slots__ = ("asked", "retries", "retry_at", "trouble")

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble = trouble
        self.retries = 0
        self.retry_at = 0.0
        self.asked = True


class Apart(Generic[W]):
    """See the module's first lines. `parts` are to be sent as soon as that may be.

    `_next_attempt`: attempts that were refused are repeated one after the other, from then on (seconds).
    """

    __slots__ = ("_keyspace", "_next_attempt", "_unserved", "parts")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._unserved: dict[tuple[_Kind, Ranges], Unserved] = {}
        self._next_attempt = 0.0
        self.parts: list[Part] = []

    @property
    def queues(self) -> list[CallQueue[Any]]:
        return [*self.parts, *self._unserved.values()]

    @property
    def has_calls(self) -> bool:
        return any(queue.calls for queue in self.queues)

    @property
    def forgotten(self) -> bool:
        """Nothing is apart, nor was a moment ago."""
        return not (self.parts or self._unserved)

    def divide(self, calls: Sequence[AnyCall[W]], trouble: Trouble) -> Unserved | None:
        """Take in the calls of a batch that the leader refused.

        Those that are about different microshards go on as two parts. Else they are unserved, and their queue is returned,
        for the next attempt to be put off where it was asked.
        """
        groups: dict[tuple[_Kind, Ranges], list[AnyCall[W]]] = {}
        for call in calls:
            if call.waiter is not None:
                if not isinstance(call, WriteCall):
                    # Whatever replicas would do: it has come to the leader, and must not bring others of the part to one.
                    call.max_staleness_ms = STRONG_READ
                groups.setdefault(self._about(call), []).append(call)
        if not groups:
            return None
        if len(groups) > 1:
            divided = list(groups.values())
            middle = len(divided) // 2
            for half in (divided[:middle], divided[middle:]):
                part = Part(trouble, asks=False)
                for group in half:
                    for call in group:
                        part.add(call)
                self.parts.append(part)
            return None
        ((about, alike),) = groups.items()
        unserved = self._unserved.get(about)
        if unserved is None:
            unserved = self._unserved[about] = Unserved(trouble)
        unserved.trouble = trouble
        for call in alike:
            unserved.add(call)
        return unserved

    def put_off(self, unserved: Unserved, delay: float, now: float) -> None:
        """An attempt of unserved calls was refused: another one is made in `delay` seconds, or later if many wait for one."""
        turn = max(now, self._next_attempt)
        self._next_attempt = turn + 1 / ATTEMPTS_A_SECOND
        unserved.retry_at = max(now + delay, turn)
        unserved.retries += 1
        unserved.asked = False

    def ask_due(self, now: float) -> float:
        """Make parts of unserved calls that are to ask now, one of each queue; return when the next ones are.

        What nobody has asked for in the meantime is forgotten.
        """
        due = NEVER
        for about, unserved in list(self._unserved.items()):
            if unserved.retry_at <= now:
                unserved.drop_closed()
                if not unserved.calls:
                    del self._unserved[about]
                    continue
                part = Part(unserved.trouble, asks=True)
                for call in unserved.take(1, 0):
                    part.add(call)
                self.parts.append(part)
                unserved.retry_at = now + ANSWER_SECONDS
                unserved.asked = True
            due = min(due, unserved.retry_at)
        return due

    def sort(self, calls: list[C]) -> tuple[list[C], list[C]]:
        """Return the calls that may travel together, and those that would be refused for all that is known."""
        served: list[C] = []
        unserved: list[C] = []
        for call in calls:
            (unserved if self._about(call) in self._unserved else served).append(call)
        return served, unserved

    def wait_of(self, call: AnyCall[W]) -> Wait:
        """Return what a batch of calls that are known to be unserved waits for."""
        return Wait(PATIENCE, self._unserved[self._about(call)].trouble, 0.0)

    def keep(self, calls: list[C]) -> list[C]:
        """Take in the calls that are known to be unserved; return the others."""
        served, unserved = self.sort(calls)
        for call in unserved:
            self._unserved[self._about(call)].add(call)
        return served

    def release(self, calls: Sequence[AnyCall[W]]) -> Iterator[AnyCall[W]]:
        """The leader served these calls: yield those that were unserved, and are not any more.

        Microshards come to a shard many at a time, so all others may ask now.
        """
        served = dict.fromkeys(map(self._about, calls))
        released = [self._unserved.pop(about) for about in served if about in self._unserved]
        if released:
            self._next_attempt = 0.0
            for unserved in self._unserved.values():
                if not unserved.asked:
                    unserved.retry_at = 0.0
        for unserved in released:
            yield from unserved.take_all()

    def _about(self, call: Any) -> tuple[_Kind, Ranges]:
        """Return what has to be equal of calls that are served, or not, together."""
        kind = (type(call), isinstance(call, WriteCall) and call.fast)
        if isinstance(call, ReadCall):
            return kind, one_microshard(self._keyspace.microshard_of(call.key))
        if isinstance(call, ScanCall):
            return kind, call.ranges
        assert isinstance(call, WriteCall), "a call is a write, a read or a scan"
        if isinstance(call.operation, DeleteRange):
            return kind, call.operation.ranges
        if call.microshards is not None:
            return kind, ranges_of(call.microshards)
        return kind, one_microshard(self._keyspace.microshard_of(call.key))
