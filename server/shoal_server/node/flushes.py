"""When a node's engine is to be flushed, and what a flush that has ended has brought to disk for good.

A flush is wanted where a log is long, much was applied that a crash would have to apply again, or a new replica waits for
what made it to be on disk. One is under way at a time, and covers what each replica had applied when it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shoal_server.invariants import invariant
from shoal_server.node.agenda import Agenda
from shoal_server.node.replica import Replica
from shoal_server.node.splits import Splits


class Flushes:
    """See the module's first lines.

    `wanted`: one is to begin once none is under way. `unflushed` entries were applied since the last one began; where they
    are `entries_max`, another is wanted.
    """

    __slots__ = ("_agenda", "_flushing", "_replicas", "_splits", "_ticket", "entries_max", "unflushed", "wanted")

    def __init__(self, replicas: Mapping[int, Replica], splits: Splits, agenda: Agenda, entries_max: int) -> None:
        """
        Args:
            replicas: those of the node, by shard, at every moment.
            entries_max: see the class.
        """
        self.wanted = False
        self._replicas = replicas
        self._splits = splits
        self._agenda = agenda
        self.entries_max = entries_max
        self.unflushed = 0
        self._ticket = 0
        self._flushing: dict[Replica, int] | None = None

    def split(self, replicas: Iterable[Replica]) -> None:
        """These have applied something: a replica that was split off one of them waits for a flush."""
        if self._flushing is None and _has_split(replicas):
            self.wanted = True

    def forget(self, replica: Replica) -> None:
        """What a flush under way covers of this replica is of rows that are gone."""
        if self._flushing is not None:
            self._flushing.pop(replica, None)

    def begin(self) -> int | None:
        """Begin one where it is wanted; return the ticket of the one that is under way, None where there is none."""
        if self.wanted and self._flushing is None:
            self.wanted = False
            self.unflushed = 0
            self._flushing = {replica: replica.machine.state.index for replica in self._replicas.values()}
            self._ticket += 1
        return self._ticket if self._flushing is not None else None

    def ended(self, ticket: int) -> None:
        """Everything applied by the turns up to that of `ticket` is on disk."""
        flushing, self._flushing = self._flushing, None
        invariant(ticket == self._ticket and flushing is not None, "one flush at a time")
        for replica, index in (flushing or {}).items():
            replica.log_length.flushed(index)
            self._splits.flushed(replica, index)
            replica.machine.microshards.flushed(index)
            self._agenda.mark(replica)
        # What was split off since the flush began waits for the next one.
        self.wanted |= _has_split(self._replicas.values())


def _has_split(replicas: Iterable[Replica]) -> bool:
    """Say whether a flush is what a new replica waits for that one of these has split off."""
    return any(replica.machine.microshards.split_offs for replica in replicas)
