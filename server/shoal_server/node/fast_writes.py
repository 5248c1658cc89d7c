"""Which writes may be acknowledged before they are applied: those of which it is certain what applying them will do.

A fast write is acknowledged when its entry is queued, before deduplication has decided. So whatever stands before it in
the log, applied or not, must leave it something that is done, at the seq that its entry has. Applied is what the state
machine says; of the rest, this node knows what it has proposed itself, in this term. Where that leaves a doubt, the
write is not refused: it is acknowledged like any other, when it has been applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal_server.node.waiting import QueuedCommand
from shoal_server.shard.commands import (
    BeginIncomingCommand,
    BeginOutgoingCommand,
    CancelCommand,
    DigestCommand,
    ForgetCommand,
    FoundCommand,
    PurgeCommand,
    SetClockCommand,
    StoreMovedCommand,
    WriteCommand,
)
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.shard.sessions import CommandVerdict

_NO_DOUBT_BEHIND = frozenset(
    (
        WriteCommand,
        PurgeCommand,
        SetClockCommand,
        DigestCommand,
        FoundCommand,
        BeginIncomingCommand,
        BeginOutgoingCommand,
        StoreMovedCommand,
        ForgetCommand,
        CancelCommand,
    )
)
"""What takes away no session, no microshard, and changes no seq. Everything else, also what is yet to be invented, may:
an opening forgets sessions, a split and a seal part with microshards, an adoption raises the seqs."""


class FastWrites:
    """What the leader of a replica knows of the entries that it has proposed and not applied yet.

    `_certain_from`: nothing is certain before that index is applied. `_newest` and `_older` have the newest number that
    was proposed for each session; all entries that `_older` is about are applied once `_older_until` is.
    """

    __slots__ = ("_certain_from", "_last", "_machine", "_newest", "_older", "_older_until", "_term")

    def __init__(self, machine: ShardStateMachine) -> None:
        self._machine = machine
        self._term = 0
        self._certain_from = 0
        self._last = 0
        self._newest: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}
        self._older_until = 0

    def proposed(self, term: int, index: int, items: Sequence[QueuedCommand]) -> None:
        """Take note of an entry that this node has proposed, and leave `fast` only what is certain to be done."""
        applied = self._machine.state.index
        if term != self._term:
            # What stands before it was proposed by others, or in another leadership of this node.
            self._term = term
            self._certain_from = index - 1
            self._newest, self._older, self._older_until = {}, {}, 0
        elif applied >= self._older_until:
            self._older, self._older_until = self._newest, self._last
            self._newest = {}
        self._last = index
        if not _NO_DOUBT_BEHIND.issuperset(type(item.command) for item in items):
            self._certain_from = index
        certain = applied >= self._certain_from
        newest = self._newest
        for item in items:
            command = item.command
            if type(command) is not WriteCommand:
                continue
            session, number = command.session, command.number
            latest = newest.get(session, 0)
            if item.fast:
                item.fast = (
                    certain and number > latest and number > self._older.get(session, 0) and self._is_new(command)
                )
            if number > latest:
                # Also where an older entry has a larger number: that will be forgotten before this one is applied.
                newest[session] = number

    def _is_new(self, command: WriteCommand) -> bool:
        judgement = self._machine.sessions.judge(command.session, command.number, command.identity)
        return judgement.verdict is CommandVerdict.NEW
