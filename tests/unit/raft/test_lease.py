"""A lease rests on promises that are in force and were given by replicas that know, under them, who leads."""

from __future__ import annotations

from shoal_server.raft.config import RaftConfig, Timing
from shoal_server.raft.leader import Leader
from shoal_server.raft.liveness import Liveness
from shoal_server.raft.log import Log
from shoal_server.raft.messages import AppendAccepted, Entry, HeartbeatAnswer, Membership, sealed

SECOND = 1_000_000_000
TIMING = Timing()


class NothingStored:
    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        raise AssertionError("everything is in memory")

    def term(self, index: int) -> int:
        raise AssertionError("everything is in memory")


class LeadingNode:
    """Node a leads b and c in term 1, with its first entry committed."""

    def __init__(self) -> None:
        self.liveness = Liveness("a", 1, TIMING, 0)
        self.log = Log(NothingStored(), truncated_index=0, truncated_term=0, last_index=0, applied_index=0)
        self.leader = Leader(
            1,
            "a",
            1,
            config=RaftConfig(),
            liveness=self.liveness,
            log=self.log,
            membership=Membership(1, ("a", "b", "c")),
            send=lambda node, message: None,
            now=SECOND,
        )
        self.log.append([sealed(1, 1, 1, 0, b"")])
        self.log.take_unhanded()
        self.log.persisted(1, 1)

    def promise(self, node: str, number: int, now: int) -> None:
        self.liveness.on_answer(node, HeartbeatAnswer(now, TIMING.support_ns, number), now)

    def accept(self, node: str, promise: int, now: int) -> None:
        self.leader.on_accepted(node, AppendAccepted(1, 1, 1, 0, promise), now)


def test_a_majority_that_knows_its_leader_under_its_promise_gives_a_lease() -> None:
    node = LeadingNode()
    node.promise("b", 7, SECOND)
    assert node.leader.lease_until() == 0, "nothing of this term is committed"
    node.accept("b", 7, SECOND)
    assert node.leader.lease_until() == SECOND + TIMING.lease_ns


def test_a_promise_given_anew_counts_only_after_its_giver_has_shown_that_it_knows_the_leader() -> None:
    # The giver restarted, or its promise had run out and it may have campaigned: it need not know the leader any more.
    node = LeadingNode()
    node.promise("b", 7, SECOND)
    node.accept("b", 7, SECOND)
    node.promise("b", 8, 5 * SECOND)
    assert node.liveness.supported_until("b") == 5 * SECOND + TIMING.lease_ns
    assert node.leader.lease_until() == 0
    node.accept("b", 7, 5 * SECOND)
    assert node.leader.lease_until() == 0, "a late answer under the old promise says nothing of the new one"
    node.accept("b", 8, 5 * SECOND)
    assert node.leader.lease_until() == 5 * SECOND + TIMING.lease_ns


def test_support_of_a_replica_that_never_answered_does_not_count() -> None:
    node = LeadingNode()
    node.promise("b", 7, SECOND)
    node.accept("b", 7, SECOND)
    node.promise("c", 3, 9 * SECOND)
    assert node.leader.lease_until() == SECOND + TIMING.lease_ns


def test_leadership_on_its_way_to_another_ends_the_lease_for_the_rest_of_the_term() -> None:
    node = LeadingNode()
    for peer in ("b", "c"):
        node.promise(peer, 7, SECOND)
        node.accept(peer, 7, SECOND)
    node.leader.begin_transfer("b", SECOND)
    assert node.leader.lease_until() == 0
    node.leader.tick(SECOND + RaftConfig().transfer_timeout_ns)
    assert node.leader.transfer is None
    assert node.leader.lease_until() == 0
