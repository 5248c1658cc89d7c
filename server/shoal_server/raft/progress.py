"""What a leader knows of one other replica, and how much it may send it.

PROBE: where the replica's log agrees with ours is not known; one message at a time. REPLICATE: it is known; messages go
out as fast as the window allows, before the earlier ones are accepted. SNAPSHOT: what the replica needs is no longer in
the log; nothing is sent until its snapshot is there. (The states are etcd/raft's.)
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from shoal_server.invariants import invariant
from shoal_server.raft.config import RaftConfig


class ProgressState(Enum):
    """How a replica is fed."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One replica, as its leader sees it.

    What counts is what the present life of its process has shown. A process that died may have left less on its disk
    than it had acknowledged, where the disk lies; so a new life has to show again what it has (see `answered_by`).

    Args:
        life: of its process, the newest that has answered; 0 where no answer has said which.
        match: up to here its log, on its disk, is known to be ours.
        acknowledged: what earlier lives had shown, for as long as the present one has neither shown nor disproved it.
        next: the next entry to send.
        commit: the commit position it is known to have.
        promise: under which promise to our node it last answered an append of this term (0: none yet). As long as that
            one is in force it knows who leads, and its support counts for a lease.
        reachable: messages have a way to it, as far as is known.
        sent_at, heard_at: when something was last sent to it, and last heard from it that moved `match`.
    """

    __slots__ = (
        "_config",
        "_inflight",
        "_inflight_bytes",
        "acknowledged",
        "commit",
        "heard_at",
        "life",
        "match",
        "next",
        "promise",
        "reachable",
        "sent_at",
        "state",
    )

    def __init__(self, config: RaftConfig, next_index: int, now: int) -> None:
        self._config = config
        self._inflight: deque[tuple[int, int]] = deque()
        self._inflight_bytes = 0
        self.state = ProgressState.PROBE
        self.life = 0
        self.match = 0
        self.acknowledged = 0
        self.next = next_index
        self.commit = 0
        self.promise = 0
        self.reachable = True
        self.sent_at = 0
        self.heard_at = now

    @property
    def may_send(self) -> bool:
        """Whether the window has room for another append."""
        if self.state is ProgressState.REPLICATE:
            return (
                len(self._inflight) < self._config.max_inflight_messages
                and self._inflight_bytes < self._config.max_inflight_bytes
            )
        return self.state is ProgressState.PROBE and not self._inflight

    def sent(self, last: int, size: int, now: int) -> None:
        """Take note that an append up to `last` was sent."""
        invariant(last >= self.match, "nothing is sent that is known to be there")
        self._inflight.append((last, size))
        self._inflight_bytes += size
        self.sent_at = now
        if self.state is ProgressState.REPLICATE:
            self.next = last + 1

    def answered_by(self, life: int) -> bool:
        """Take note of the life of its process that an answer is of (0: not said); return whether that is still alive.

        With the first answer of a new life, probing begins where the one before had come to.
        """
        if 0 < life < self.life:
            return False
        if life > self.life:
            self.life = life
            if self.match:
                self.acknowledged = max(self.acknowledged, self.match)
                if self.state is not ProgressState.SNAPSHOT:
                    self.probe()
                self.match = 0
                self.commit = 0
        return True

    def accepted(self, match: int, truncated_index: int, now: int) -> bool:
        """Take note that its log agrees up to `match`; return whether that is news.

        Args:
            truncated_index: the leader's own log begins behind it: a replica that needs what is before stays SNAPSHOT.
        """
        inflight = self._inflight
        while inflight and inflight[0][0] <= match:
            self._inflight_bytes -= inflight.popleft()[1]
        news = match > self.match
        if news:
            self.match = match
            self.heard_at = now
            if match >= self.acknowledged:
                self.acknowledged = 0
        if self.state is not ProgressState.REPLICATE and match >= max(self.match, truncated_index):
            self._become(ProgressState.REPLICATE)
            self.next = self.match + 1
        self.next = max(self.next, self.match + 1)
        return news

    def rejected(self, at: int, next_index: int) -> bool:
        """Take note that it has no such entry `at`; go on from `next_index`. Late rejections are told apart and ignored."""
        if self.state is ProgressState.REPLICATE:
            if at <= self.match:
                return False
        elif self.state is ProgressState.SNAPSHOT or at != self.next - 1:
            return False
        self.next = max(self.match + 1, min(next_index, at))
        self._become(ProgressState.PROBE)
        return True

    def take_lost(self, at: int) -> int:
        """It has no such entry `at`: return up to where its earlier lives had acknowledged that one and others, or 0.

        Not 0: entries are gone that were said to be on its disk. It is said once.
        """
        if not 0 < at <= self.acknowledged:
            return 0
        lost, self.acknowledged = self.acknowledged, 0
        return lost

    def probe(self) -> None:
        """Messages may have been lost: begin again at what is known to be there, or where the probing had come to."""
        if self.state is ProgressState.REPLICATE:
            self.next = self.match + 1
        self._become(ProgressState.PROBE)

    def await_snapshot(self) -> None:
        self._become(ProgressState.SNAPSHOT)

    def snapshot_ended(self, index: int) -> None:
        """A snapshot at `index` may be there: probe from behind it."""
        self.next = max(self.match, index) + 1
        self._become(ProgressState.PROBE)

    @property
    def outstanding(self) -> bool:
        return bool(self._inflight)

    def _become(self, state: ProgressState) -> None:
        self.state = state
        self._inflight.clear()
        self._inflight_bytes = 0
