"""Who waits at a replica, and for what: commands for the turn's log entry, entries for their commit, reads for a position."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from shoal.protocol.messages import Operation, Read, ReadPage, Scan
from shoal.protocol.migration import ReadMoving

from shoal_server.node.counters import Served, TimedRequest
from shoal_server.shard.commands import Command, WriteCommand
from shoal_server.shard.sessions import session_name


class QueuedCommand(msgspec.Struct):
    """A client's command that waits for this turn's log entry. `size` in bytes; `operations` as decoded when checked, which
    take about `decoded_bytes`.

    `fast`: it is answered as soon as it is in the log. `cost`: of a write, as `shard.costs` reckons. `taken`: of its keyspace's
    quota of writes, which is given back if nothing is done of it. `begins_entry`: it is the first of its log entry, so that
    applying can pause before it. `timeout_ms`: for how long its caller waits, 0: nobody says; `held_at`: since when it is kept
    while leadership is on its way (ns), 0: it is not.
    """

    client: int
    request: int
    command: Command
    operations: list[Operation] | None
    size: int
    fast: bool = False
    cost: int = 0
    taken: int = 0
    begins_entry: bool = False
    timeout_ms: int = 0
    decoded_bytes: int = 0
    held_at: int = 0


class QueuedRead(msgspec.Struct):
    """A client's read that waits for a lease or a ReadIndex round, or for the replica to be fresh enough.

    `weak`: it may be served by a replica that does not lead. `taken`: so far, of its keyspace's quota of reads. `deadline`:
    until when it waits there (ns). `arrived`: when it came, where that was before the turn that it was queued in (ns); else 0.
    `held`: what is booked for it by itself (held_reads.py). `has_place`: it may be open between turns, whoever else would be
    (paused_reads.py).
    """

    client: int
    read: Read | ReadPage | Scan | ReadMoving
    microshards: list[int]
    weak: bool = False
    taken: int = 0
    deadline: int = 0
    arrived: int = 0
    held: int = 0
    has_place: bool = False


class WaitingReads(msgspec.Struct):
    """Reads that are served at one position: `index`, None while leadership is not certain. `arrived`: when they did (ns).

    `held`: what is booked for them (bytes).
    """

    index: int | None
    reads: list[QueuedRead]
    arrived: int
    held: int = 0


class Proposal(msgspec.Struct):
    """Who waits for the commands of a log entry that this node proposed, in their order.

    `arrived`, `proposed`, `synced`: when the first of them came in, was proposed, and was on this node's own disk (ns).
    """

    term: int
    waiters: list[tuple[int, int]]
    arrived: int = 0
    proposed: int = 0
    synced: int = 0

    def timed(
        self, shard: int, index: int, waiter: tuple[int, int], command: Command | None, settled: int, outcome: str
    ) -> TimedRequest:
        """Return where the time of one of the waiters went.

        Args:
            command: the waiter's, where its session is to be named.
            settled: when the entry was committed (ns); 0 where it is not, or the waiter did not wait for it.
            outcome: the code of the error that it ended with, or "".
        """
        named = command if type(command) is WriteCommand else None
        client, request = waiter
        return TimedRequest(
            served=Served.WRITE_QUORUM,
            shard=shard,
            requests=len(self.waiters),
            client=client,
            request=request,
            session="" if named is None else session_name(named.session),
            number=0 if named is None else named.number,
            index=index,
            term=self.term,
            arrived=self.arrived,
            proposed=self.proposed,
            synced=self.synced,
            settled=settled,
            outcome=outcome,
        )


@dataclass(slots=True)
class WaitingTransfer:
    """A client's TransferLeader, until the target leads or the time is over."""

    client: int
    request: int
    target: str
    deadline: int
