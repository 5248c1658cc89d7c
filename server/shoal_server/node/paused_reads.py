"""Reads that take several turns: pages of scans that have come to the end of a piece, and those that no turn had time to begin.

They wait in the queue of whoever asked (fair_queue.py), and every piece is paid for in its rounds. A page that was begun has an
open reader, which holds back compaction and keeps what was removed since. So few are open, of each client and of the node; none
is for longer than `HELD_NS`, nor for a client that does not read its answers. A page that has to let go of its reader ends
where it has come to; where it has nothing to give yet, it is begun anew.

Pure: times are passed in.
"""

from __future__ import annotations

from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.waiting import QueuedRead
from shoal_server.shard.merging import MergedScan, ScannedPage

HELD_NS = 2_000_000_000
OPEN_OF_CLIENT = 4
OPEN_OF_NODE = 64
"""Readers that are open between turns, at the most."""


class PausedRead:
    """A read that a turn has taken, and that waits for another one with time for it.

    Attributes:
        reads: those of the replica where it was admitted, whoever that is: to be recognized by.
        scan: its page in the making, since `opened_at` (ns); None before it is begun, and when it has let go of its reader.
        page: what it had come to then, where that is anything.
        seq, staleness_ms: of the state that the page is read from: of the moment when it was begun, whatever has been
            applied since.
        held: what there is of the page in memory, as booked among the node's answers (bytes).
        charged: what its client was charged for the next piece, as far as its cost is not known (ns); cost: of all so far.
    """

    __slots__ = (
        "_memory",
        "_open_reads",
        "charged",
        "cost",
        "held",
        "opened_at",
        "page",
        "queued",
        "reads",
        "scan",
        "seq",
        "staleness_ms",
    )

    def __init__(
        self, reads: object, queued: QueuedRead, charged: int, open_reads: OpenReads, memory: MemoryBudget
    ) -> None:
        self._open_reads = open_reads
        self._memory = memory
        self.held = 0
        self.reads = reads
        self.queued = queued
        self.charged = charged
        self.cost = 0
        self.scan: MergedScan | None = None
        self.page: ScannedPage | None = None
        self.opened_at = 0
        self.seq = 0
        self.staleness_ms = 0

    @property
    def is_begun(self) -> bool:
        """Whether it is settled which state it is read from."""
        return self.scan is not None or self.page is not None

    def pause(self) -> None:
        """It goes on in another turn, and is open until then, if it is."""
        if self.scan is not None:
            self._open_reads.add(self)
            size = self.scan.size
            self._memory.change(Account.ANSWERS, size - self.held)
            self.held = size

    def let_go(self) -> None:
        """Close the reader: what was read so far is the page, or is forgotten where that is nothing."""
        if self.scan is not None:
            self.page = self.scan.end()
            self.scan = None
            if self.page is None:
                self._give_back()

    def end(self) -> None:
        """The page was given, or nobody waits for it."""
        self._open_reads.remove(self)
        self.let_go()
        self._give_back()
        self.page = None

    def _give_back(self) -> None:
        self._memory.give_back(Account.ANSWERS, self.held)
        self.held = 0


class OpenReads:
    """The paused reads that have an open reader."""

    __slots__ = ("_by_client", "_due", "count")

    def __init__(self) -> None:
        self.count = 0
        self._by_client: dict[int, list[PausedRead]] = {}
        self._due = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be opened, whoever asks."""
        return self.count >= OPEN_OF_NODE

    def has_room(self, client: int) -> bool:
        """Say whether one more may be opened for a client."""
        return not self.is_full and len(self._by_client.get(client, ())) < OPEN_OF_CLIENT

    def add(self, read: PausedRead) -> None:
        """Note a read that is open, and is so between turns; it may have been noted before."""
        theirs = self._by_client.setdefault(read.queued.client, [])
        if read not in theirs:
            if not self.count:
                self._due = read.opened_at + HELD_NS
            theirs.append(read)
            self.count += 1

    def remove(self, read: PausedRead) -> None:
        """Forget a read, whether it was noted or not: it is done, or not open any more."""
        theirs = self._by_client.get(read.queued.client)
        if theirs is not None and read in theirs:
            theirs.remove(read)
            self.count -= 1
            if not theirs:
                del self._by_client[read.queued.client]

    def let_go_of(self, client: int) -> None:
        """Close the readers of a client that has gone, or does not read its answers."""
        theirs = self._by_client.pop(client, [])
        self.count -= len(theirs)
        for read in theirs:
            read.let_go()

    def expire(self, now: int) -> None:
        """Close the readers that have been open for too long."""
        if not self.count or now < self._due:
            return
        self._due = now + HELD_NS
        for read in [read for theirs in self._by_client.values() for read in theirs]:
            until = read.opened_at + HELD_NS
            if now >= until:
                self.remove(read)
                read.let_go()
            else:
                self._due = min(self._due, until)
