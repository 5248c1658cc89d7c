"""What reads take in memory that wait at replicas, in the node's account of requests: booked where they are not served at once.

They are in no client's queue any more, and a leader that hears from nobody has them wait until it knows that it leads no more.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.protocol.messages import Read, Scan

from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.request_costs import decoded_bytes
from shoal_server.node.waiting import QueuedRead

READ_BYTES = 400
"""What a read takes besides what it lists."""
MICROSHARD_BYTES = 8


class HeldReads:
    """See the module's first line. Whoever has them held keeps what was booked, and releases that."""

    __slots__ = ("_memory",)

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory

    def hold(self, reads: Iterable[QueuedRead]) -> int:
        """Book these reads, whether there is room or not: they were admitted. Return how much that is (bytes)."""
        size = sum(map(bytes_of, reads))
        self._memory.add(Account.REQUESTS, size)
        return size

    def release(self, size: int) -> None:
        """They wait no more."""
        self._memory.give_back(Account.REQUESTS, size)


def bytes_of(queued: QueuedRead) -> int:
    """Return about what a read takes in memory that waits."""
    read = queued.read
    size = READ_BYTES + MICROSHARD_BYTES * len(queued.microshards)
    if type(read) is Read:
        return size + sum(map(len, read.keys)) + decoded_bytes(read)
    return size + len(read.start) + len(read.end) + decoded_bytes(read) if type(read) is Scan else size
