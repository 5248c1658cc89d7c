"""Which shard queues to look at: those that something has happened to, in the next turn; others when their wait is over."""

from __future__ import annotations

from typing import Generic

from shoal.routing.calls import NEVER, W
from shoal.routing.shard_queue import ShardQueue


class Schedule(Generic[W]):
    """`next_check`: when something has to be done at the latest, if nothing happens (seconds of the driver's clock)."""

    def __init__(self) -> None:
        self.next_check = NEVER
        self._touched: list[ShardQueue[W]] = []
        self._blocked: dict[ShardQueue[W], None] = {}
        self._waiting: dict[ShardQueue[W], float] = {}

    def touch(self, shard_queue: ShardQueue[W]) -> None:
        """Have the shard queue looked at in the next turn."""
        if not shard_queue.dirty:
            shard_queue.dirty = True
            self._touched.append(shard_queue)

    def take_touched(self) -> list[ShardQueue[W]]:
        """Take out those to look at now."""
        touched, self._touched = self._touched, []
        return touched

    def block(self, shard_queue: ShardQueue[W]) -> None:
        """Have the shard queue looked at when its wait is over."""
        self._blocked[shard_queue] = None
        self.next_check = min(self.next_check, shard_queue.blocked_until)

    def look_at(self, shard_queue: ShardQueue[W], until: float) -> None:
        """Have the shard queue, some of whose calls wait by themselves, looked at by then."""
        self._waiting[shard_queue] = min(until, self._waiting.get(shard_queue, NEVER))
        self.next_check = min(self.next_check, until)

    def unblock(self, now: float) -> float:
        """Touch the shard queues whose wait is over; return when the next one's is."""
        due = NEVER
        for shard_queue in list(self._blocked):
            if shard_queue.blocked_until <= now:
                del self._blocked[shard_queue]
                self.touch(shard_queue)
            else:
                due = min(due, shard_queue.blocked_until)
        for shard_queue, until in list(self._waiting.items()):
            if until <= now:
                del self._waiting[shard_queue]
                self.touch(shard_queue)
            else:
                due = min(due, until)
        return due
