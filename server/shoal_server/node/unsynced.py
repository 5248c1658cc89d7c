"""What a turn's batch holds back until it is on disk: positions to report, messages and answers to release."""

from __future__ import annotations

import msgspec
from shoal.protocol.messages import Answer

from shoal_server.raft.group import Group
from shoal_server.raft.messages import RaftMessage
from shoal_server.raft.ready import Ready


class Unsynced(msgspec.Struct):
    """See the module's first line.

    Args:
        ticket: the sync that covers the batch; 0: it is not asked for yet.
        must_sync: something in the batch must be on disk before anybody hears of it.
        terms, persisted: what groups are to be told that they have on disk: a term, an entry's index and term.
    """

    ticket: int = 0
    must_sync: bool = False
    terms: list[tuple[Group, int]] = []
    persisted: list[tuple[Group, int, int]] = []
    messages: list[tuple[str, RaftMessage]] = []
    answers: list[tuple[int, Answer]] = []

    def hold(self, group: Group, ready: Ready) -> None:
        """Take in what of a `Ready` waits for the batch that its entries are stored in."""
        if ready.hard_state is not None:
            self.terms.append((group, ready.hard_state.term))
            self.must_sync = True
        if ready.entries:
            last = ready.entries[-1]
            self.persisted.append((group, last.index, last.term))
            self.must_sync = True
        self.messages += ready.durable_messages
