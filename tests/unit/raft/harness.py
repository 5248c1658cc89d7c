"""One replica among peers that a test plays; time stands where the test says."""

from __future__ import annotations

from random import Random

from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.group import Group
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.messages import (
    AppendAccepted,
    AppendEntries,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    Membership,
    RaftMessage,
    Stepped,
    VoteResponse,
)
from shoal_server.raft.ready import Ready

MS = 1_000_000
SECOND = 1000 * MS


class NothingStored:
    """A reader of a log that is in memory as a whole."""

    def term(self, index: int) -> int:
        raise AssertionError(f"entry {index} is in memory")

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        raise AssertionError(f"entries {first} to {end} are in memory")


class Harness:
    """One replica, n1 unless another is named, among peers played by the test. Time stands where `now` says."""

    def __init__(
        self,
        voters: tuple[str, ...] = ("n1", "n2", "n3"),
        learners: tuple[str, ...] = (),
        hard_state: HardState | None = None,
        config: RaftConfig | None = None,
        node: str = "n1",
    ) -> None:
        self.now = 10 * SECOND
        self.liveness = Liveness(node, 1, Timing(), self.now)
        log = Log(NothingStored(), truncated_index=0, truncated_term=0, last_index=0, applied_index=0)
        self.group = Group(
            1,
            node,
            config=config or RaftConfig(),
            timing=Timing(),
            liveness=self.liveness,
            log=log,
            hard_state=hard_state or HardState(0, ""),
            membership=Membership(1, voters, learners),
            membership_index=0,
            random=Random(1),
            now=self.now,
            priority=0,
        )

    def step(self, sender: str, message: Stepped) -> Ready:
        self.group.step(sender, message, self.now)
        return self.ready()

    def ready(self) -> Ready:
        ready = self.group.ready(self.now)
        while entries := self.group.committed():
            self.group.applied(entries[-1].index)
        return ready

    def sync(self, ready: Ready) -> Ready:
        if ready.hard_state is not None:
            self.group.term_persisted(ready.hard_state.term)
        if ready.entries:
            self.group.persisted(ready.entries[-1].index, ready.entries[-1].term)
        return self.ready()

    def supported_by(self, *peers: str) -> None:
        """Let `peers` promise the replica's node their support, from now on."""
        for peer in peers:
            self.liveness.on_answer(peer, HeartbeatAnswer(self.now, SECOND, 1), self.now)
            self.group.wake(self.now)

    def support(self, peer: str) -> None:
        """Promise `peer` support, from now on."""
        self.liveness.on_heartbeat(peer, Heartbeat(1, 2, 1, True), self.now)

    def lead(self, ready: bool = True) -> Ready:
        """Be elected by n2's votes."""
        self.group.campaign(self.now)
        self.ready()
        self.sync(self.step("n2", VoteResponse(1, self.group.term + 1, True, True)))
        self.group.step("n2", VoteResponse(1, self.group.term, True, False), self.now)
        assert self.group.is_leader
        return self.ready() if ready else Ready()

    def accept(self, peer: str, match: int | None = None, commit: int = 0) -> Ready:
        match = self.group.log.last_index if match is None else match
        return self.step(peer, AppendAccepted(1, self.group.term, match, commit, 1))

    def tick(self, after: int = 0) -> Ready:
        self.now += after
        self.group.tick(self.now)
        return self.ready()


def kinds(messages: list[tuple[str, RaftMessage]]) -> list[tuple[str, str]]:
    return [(peer, type(message).__name__) for peer, message in messages]


def follow(harness: Harness, leader: str, term: int, entries: list[Entry] | None = None) -> Ready:
    """Let `leader` lead the replica in `term`, which is on disk, under a promise that is in force."""
    harness.support(leader)
    log = harness.group.log
    ready = harness.step(
        leader, AppendEntries(1, term, log.last_index, log.last_term, log.commit_index, entries or [], 1)
    )
    harness.group.term_persisted(term)
    return ready
