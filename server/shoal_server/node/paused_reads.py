"""Reads that take several turns: pages of scans that have come to the end of a piece, and those that no turn had time to begin.

They wait in the queue of whoever asked (fair_queue.py), and every piece is paid for in its rounds. A page that was begun has an
open reader, which holds back compaction and keeps what was removed since. So few are open, of each client and of the node, and
none for a client that does not read its answers. One that has been open for `HELD_NS` ends where it has come to; and if that is
nowhere, since it still looks for what comes first in each of very many microshards, what was done of it may be in vain.

So no more are kept open than are answered in time: `OpenReads.places`. Every page has its first piece, and most are whole with
that; what is not, and finds no place, is begun anew when it is given one. Invariant: the page that has been open for longest is
never let go of for the sake of others, or of time, before it has anything to give. Each of its turns brings it further, and
its work is bounded: it is answered, and then another one has been open for longest. So however many ask for however much, pages
are answered.

Pure: times are passed in.
"""

from __future__ import annotations

from typing import Protocol

from shoal_server.node.memory import Account, MemoryBudget
from shoal_server.node.waiting import QueuedRead
from shoal_server.shard.merging import MergedScan, ScannedPage

HELD_NS = 2_000_000_000
SOON_NS = HELD_NS // 2
"""While pages are answered within this, there may be more of them at a time."""
OPEN_OF_CLIENT = 4
OPEN_AT_FIRST = 8
OPEN_OF_NODE = 64
"""Readers that are open between turns, at the most."""


class Admitted(Protocol):
    """The reads of a replica that has admitted one."""

    def give_back(self, queued: QueuedRead) -> None:
        """It is not done there."""


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
        needs_place: it had nothing to give when it let go of its reader: it is begun again when it may keep that.
        until: its reader may be open until then (ns).
    """

    __slots__ = (
        "_memory",
        "_open_reads",
        "charged",
        "cost",
        "held",
        "needs_place",
        "opened_at",
        "page",
        "queued",
        "reads",
        "scan",
        "seq",
        "staleness_ms",
        "until",
    )

    def __init__(
        self, reads: Admitted, queued: QueuedRead, charged: int, open_reads: OpenReads, memory: MemoryBudget
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
        self.needs_place = False
        self.opened_at = 0
        self.until = 0
        self.seq = 0
        self.staleness_ms = 0

    @property
    def is_begun(self) -> bool:
        """Whether it is settled which state it is read from."""
        return self.scan is not None or self.page is not None

    @property
    def has_rows(self) -> bool:
        """Whether there would be something to give if it were to end now."""
        return self.page is not None or (self.scan is not None and self.scan.has_rows)

    def pause(self, *, others_wait: bool) -> None:
        """It goes on in another turn, and is open until then, if it is and there is a place for it.

        Args:
            others_wait: for a place.
        """
        if self.scan is None:
            return
        if not self._open_reads.add(self, others_wait=others_wait):
            self.let_go()
        else:
            size = self.scan.size
            self._memory.change(Account.ANSWERS, size - self.held)
            self.held = size
            if self.has_rows and self._memory.is_tight(Account.ANSWERS):
                # What is left is for answers to others: it ends where it has come to.
                self._open_reads.remove(self)
                self.let_go()

    def let_go(self) -> None:
        """Close the reader: what was read so far is the page, or is forgotten where that is nothing."""
        if self.scan is not None:
            self.page = self.scan.end()
            self.scan = None
            if self.page is None:
                self.needs_place = True
                self._give_back()

    def give_up(self) -> None:
        """It is not done here: it is asked for anew."""
        self.reads.give_back(self.queued)
        self.end()

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
    """The paused reads that have an open reader.

    Attributes:
        count: how many there are.
        places: how many may be, as far as there is memory: as many as were answered in time lately.
    """

    __slots__ = ("_answered", "_by_client", "_due", "_memory", "_promised", "count", "places")

    def __init__(self, memory: MemoryBudget) -> None:
        self.count = 0
        self.places = OPEN_AT_FIRST
        self._memory = memory
        self._by_client: dict[int, list[PausedRead]] = {}
        self._due = 0
        self._promised = 0
        self._answered = 0

    @property
    def free(self) -> int:
        """How many more may be opened."""
        # Where memory is short there is one at a time, and what is left of it is for answers to others.
        places = 1 if self._memory.is_tight(Account.ANSWERS) else self.places
        return places - self.count - self._promised

    def has_room(self, client: int) -> bool:
        """Say whether one more may be begun for a client."""
        return len(self._by_client.get(client, ())) < OPEN_OF_CLIENT

    def promise(self, read: PausedRead) -> None:
        """Have a read find a place, if it needs one, when it is begun in this turn."""
        if read.needs_place:
            self._promised += 1
            read.queued.has_place = True

    def add(self, read: PausedRead, *, others_wait: bool) -> bool:
        """Note a read that is open, and is so between turns; say whether it may be. It may have been noted before.

        Args:
            others_wait: for a place, and have done so for longer than one that was not promised any.
        """
        client = read.queued.client
        theirs = self._by_client.get(client)
        if theirs is not None and read in theirs:
            return True
        if not ((self.free > 0 and not others_wait) or (read.queued.has_place and self.count < OPEN_OF_NODE)):
            return False
        if not self.count:
            self._due = read.opened_at + HELD_NS
        read.until = read.opened_at + HELD_NS
        self._by_client.setdefault(client, []).append(read)
        self.count += 1
        return True

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

    def answered(self, read: PausedRead, now: int) -> None:
        """A read is answered: there may be more at a time where as many as there may be now are answered soon."""
        if read not in self._by_client.get(read.queued.client, ()):
            return
        if self.count >= self.places and now - read.opened_at <= SOON_NS:
            self._answered += 1
            if self._answered >= self.places:
                self._answered = 0
                self.places = min(self.places + 1, OPEN_OF_NODE)

    def begin_turn(self, now: int) -> None:
        """Close the readers that have been open for too long, but for the one that is so for longest and has nothing yet.

        Where others have nothing either, there are too many at a time: half of all are let go of, those that were opened last,
        and the others have as much time again.
        """
        self._promised = 0
        if not self.count or now < self._due:
            return
        reads = sorted(
            (read for theirs in self._by_client.values() for read in theirs), key=lambda read: read.opened_at
        )
        late = [read for read in reads if now >= read.until]
        in_vain = [read for read in late if not read.has_rows]
        kept = max(1, len(reads) // 2) if in_vain and in_vain != reads[:1] else len(reads)
        if late and in_vain != reads[:1]:
            self._answered = 0
            self.places = kept if kept < len(reads) else max(1, self.places - 1)
        for count, read in enumerate(reads):
            if count >= kept or (now >= read.until and read.has_rows):
                self.remove(read)
                read.let_go()
            elif now >= read.until:
                read.until = now + HELD_NS
        self._due = min([read.until for theirs in self._by_client.values() for read in theirs], default=now)
