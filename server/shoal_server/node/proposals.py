"""The log entries that a replica has proposed, and who waits for what comes of them."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import ErrorCode
from shoal.protocol.messages import Done, SessionOpened, Written

from shoal_server.invariants import invariant
from shoal_server.node.counters import NodeCounters, Served
from shoal_server.node.outbox import NOBODY, Outbox
from shoal_server.node.refusals import Refusals
from shoal_server.node.waiting import Proposal, QueuedCommand
from shoal_server.raft.messages import Entry
from shoal_server.shard.commands import Command, OpenSessionCommand, PurgeCommand, SetClockCommand, WriteCommand
from shoal_server.shard.costs import ENTRY_US, command_cost
from shoal_server.shard.machine import CommandOutcome, Prepared
from shoal_server.shard.sessions import CommandVerdict

_UPKEEP = (PurgeCommand, SetClockCommand)
"""What a leader proposes by itself, one at a time."""


class Proposals:
    """See the module's first line.

    Invariant: whoever waits is answered exactly once: with the outcome when the entry is applied, or with `not_leader` as
    soon as this node no longer leads (the outcome is then for deduplication to find out).

    Attributes:
        waiting: by log index, who waits for an entry.
        prepared: by log index, what need not be decoded again when it is applied; `prepared_bytes`: of those not applied yet.
        results: what became of the commands of entries applied just now, until `answer_applied`.
        upkeep: what a leader proposes by itself is under way.
    """

    __slots__ = ("_counters", "_refusals", "_shard", "prepared", "prepared_bytes", "results", "upkeep", "waiting")

    def __init__(self, shard: int, counters: NodeCounters, refusals: Refusals) -> None:
        self.waiting: dict[int, Proposal] = {}
        self.prepared: dict[int, Prepared] = {}
        self.prepared_bytes = 0
        self.results: list[tuple[Entry, list[CommandOutcome]]] = []
        self.upkeep = False
        self._shard = shard
        self._counters = counters
        self._refusals = refusals

    def prepare(self, index: int, prepared: Prepared) -> None:
        """Keep what was decoded of the entry at `index`."""
        self.prepared[index] = prepared
        self.prepared_bytes += prepared.size

    def applied(self, results: list[tuple[Entry, list[CommandOutcome]]]) -> None:
        """Take note of what has become of entries; `answer_applied` is to follow in this turn."""
        self.results = results
        for entry, _ in results:
            prepared = self.prepared.get(entry.index)
            if prepared is not None:
                self.prepared_bytes -= prepared.size

    def answer_applied(self, outbox: Outbox) -> None:
        """Answer those who wait for what was applied."""
        results, self.results = self.results, []
        proposals = self.waiting
        for entry, outcomes in results:
            proposal = proposals.pop(entry.index, None)
            if proposal is None:
                continue
            prepared = self.prepared.pop(entry.index)
            if self.upkeep and any(isinstance(command, _UPKEEP) for command in prepared.commands.commands):
                self.upkeep = False
            if proposal.term != entry.term:
                for client, request in proposal.waiters:
                    self._refusals.not_leader(client, request, outbox)
                continue
            commands = prepared.commands.commands
            answered = 0
            for (client, request), outcome, command in zip(proposal.waiters, outcomes, commands, strict=True):
                if client != NOBODY:
                    answered += 1
                    self.answer(client, request, outcome, command, outbox)
                elif type(command) is WriteCommand:
                    invariant(
                        outcome.verdict is CommandVerdict.NEW,
                        "a fast write that was acknowledged is done when it is applied",
                    )
            if answered:
                self._counters.waited.append((Served.WRITE_QUORUM, proposal.arrived, answered))
                if proposal.arrived < self._counters.slow_before:
                    self._note_slow(entry.index, proposal, commands[0])
                if self._counters.watched:
                    self.note_watched(entry.index, proposal, proposal.waiters)

    def answer(self, client: int, request: int, outcome: CommandOutcome, command: Command, outbox: Outbox) -> None:
        verdict = outcome.verdict
        if verdict is CommandVerdict.NEW or verdict is CommandVerdict.DUPLICATE:
            if type(command) is OpenSessionCommand:
                outbox.answer(client, SessionOpened(request, command.session))
            elif type(command) is WriteCommand:
                outbox.answer(client, Written(request, outcome.seq, outcome.results))
            else:
                outbox.answer(client, Done(request))
        elif verdict is CommandVerdict.REFUSED:
            outbox.fail(client, request, ErrorCode.INVALID_ARGUMENT, outcome.reason)
        elif verdict is CommandVerdict.NOT_HERE:
            self._refusals.not_here(client, request, outbox)
        elif verdict is CommandVerdict.UNKNOWN_SESSION:
            outbox.fail(
                client,
                request,
                ErrorCode.SESSION_EXPIRED,
                f"shard {self._shard} does not know this session (any more), or it is somebody else's: open a new one",
                route=self._refusals.route,
            )
        elif verdict is CommandVerdict.FORGOTTEN:
            outbox.fail(
                client,
                request,
                ErrorCode.OUTCOME_UNKNOWN,
                f"the write was done, at seq {outcome.seq}, but what came of its operations is not remembered any more",
                maybe_applied=True,
            )
        else:
            outbox.fail(
                client,
                request,
                ErrorCode.OUTCOME_UNKNOWN,
                "the write's number is far behind its session's newest: a late duplicate, not applied now",
                maybe_applied=True,
            )

    def _note_slow(self, index: int, proposal: Proposal, command: Command | None, outcome: str = "") -> None:
        """Note a log entry whose writes took too long; `command` is the first of them, where it is known."""
        settled = 0 if outcome else self._counters.began
        self._counters.slow.append(proposal.timed(self._shard, index, proposal.waiters[0], command, settled, outcome))

    def note_watched(
        self, index: int, proposal: Proposal, waiters: list[tuple[int, int]], *, fast: bool = False, outcome: str = ""
    ) -> None:
        """Note a log entry for those of its waiters whom somebody watches; `fast`: they are answered before its commit."""
        settled = 0 if fast or outcome else self._counters.began
        for waiter in waiters:
            if waiter in self._counters.watched:
                self._counters.timed.append(proposal.timed(self._shard, index, waiter, None, settled, outcome))

    def synced(self, index: int, now: int) -> None:
        """This node's own disk has the log up to `index`."""
        for proposed, proposal in self.waiting.items():
            if proposed > index:
                break
            if not proposal.synced:
                proposal.synced = now

    def leadership_lost(self, outbox: Outbox) -> None:
        """Answer those who wait for a leader that no longer is one."""
        proposals, self.waiting = self.waiting, {}
        self.prepared, self.prepared_bytes = {}, 0
        self.upkeep = False
        for index, proposal in proposals.items():
            awaited = any(client != NOBODY for client, _ in proposal.waiters)
            if awaited and proposal.arrived < self._counters.slow_before:
                self._note_slow(index, proposal, None, ErrorCode.NOT_LEADER.value)
            if self._counters.watched:
                self.note_watched(index, proposal, proposal.waiters, outcome=ErrorCode.NOT_LEADER.value)
            for client, request in proposal.waiters:
                self._refusals.not_leader(client, request, outbox, maybe_applied=True)

    def fail_all(self, outbox: Outbox) -> None:
        """Answer everybody who waits: the replica is being removed."""
        proposals, self.waiting = self.waiting, {}
        for proposal in proposals.values():
            for client, request in proposal.waiters:
                self._refusals.not_leader(client, request, outbox, maybe_applied=True)


def into_entries(queue: Iterable[QueuedCommand], entry_bytes: int) -> list[list[QueuedCommand]]:
    """Put commands, in order, into log entries: as few as the bounds of size (`entry_bytes`) and of work allow."""
    entries: list[list[QueuedCommand]] = []
    size = cost = 0
    for item in queue:
        item_cost = item.cost or command_cost(item.command)
        if not entries or item.begins_entry or size + item.size > entry_bytes or cost + item_cost > ENTRY_US:
            entries.append([])
            size = cost = 0
        entries[-1].append(item)
        size += item.size
        cost += item_cost
    return entries
