"""Single situations of a group: each was once lost, slow, or wrong, here or in another implementation."""

from __future__ import annotations

from typing import Any

import pytest
from shoal_server.raft.config import RaftConfig
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipRefused
from shoal_server.raft.messages import (
    NEEDS_SNAPSHOT,
    AppendEntries,
    AppendRejected,
    CommitNotice,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    LeaderQuestion,
    Resigned,
    TermPassed,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    sealed,
)
from shoal_server.raft.ready import NotLeader, TooManyUncommitted, TransferInProgress, TransferRefused
from shoal_server.raft.state import Role

from .harness import MS, SECOND, Harness, follow, kinds

# -- elections


def test_a_vote_and_its_term_wait_for_the_disk_and_a_pre_vote_does_not() -> None:
    harness = Harness()
    ready = harness.step("n2", VoteRequest(1, 1, 0, 0, True, False))
    assert (kinds(ready.messages), ready.hard_state) == ([("n2", "VoteResponse")], None)
    ready = harness.step("n2", VoteRequest(1, 1, 0, 0, False, False))
    assert (kinds(ready.durable_messages), ready.messages) == ([("n2", "VoteResponse")], [])
    assert ready.hard_state == HardState(1, "n2")


def test_one_vote_a_term() -> None:
    harness = Harness()
    harness.step("n2", VoteRequest(1, 1, 0, 0, False, False))
    ready = harness.step("n3", VoteRequest(1, 1, 0, 0, False, False))
    assert ready.durable_messages == [("n3", VoteResponse(1, 1, False, False))]


def test_a_replica_under_a_promise_grants_no_vote_asks_its_leader_and_keeps_its_term() -> None:
    harness = Harness()
    follow(harness, "n2", 3)
    ready = harness.step("n3", VoteRequest(1, 7, 9, 9, False, False))
    assert ready.durable_messages == [("n3", VoteResponse(1, 3, False, False))]
    assert ready.messages == [("n2", LeaderQuestion(1, 3))]
    assert (harness.group.term, harness.group.leader) == (3, "n2")


def test_the_leader_itself_may_bid_a_replica_under_a_promise_to_vote_for_another() -> None:
    harness = Harness()
    follow(harness, "n2", 3)
    ready = harness.step("n3", VoteRequest(1, 4, 9, 9, False, True))
    assert ready.durable_messages == [("n3", VoteResponse(1, 4, True, False))]


def test_a_replica_under_a_promise_does_not_campaign_even_when_it_is_told_to() -> None:
    harness = Harness()
    follow(harness, "n2", 3)
    harness.group.campaign(harness.now)
    assert harness.group.role is Role.FOLLOWER
    assert harness.group.leader == "n2"


def test_a_restarted_replica_votes_for_nobody_while_a_promise_of_its_former_life_may_last() -> None:
    harness = Harness(hard_state=HardState(4, "n2"))
    for pre in (True, False):
        ready = harness.step("n3", VoteRequest(1, 5, 9, 9, pre, False))
        assert ready.durable_messages == [("n3", VoteResponse(1, 4, False, pre))]
    harness.group.campaign(harness.now)
    assert harness.group.role is Role.FOLLOWER
    harness.now += SECOND
    ready = harness.step("n3", VoteRequest(1, 5, 9, 9, False, False))
    assert ready.durable_messages == [("n3", VoteResponse(1, 5, True, False))]


def test_a_candidate_asks_for_votes_only_when_its_own_is_on_disk() -> None:
    harness = Harness()
    harness.group.campaign(harness.now)
    assert kinds(harness.ready().messages) == [("n2", "VoteRequest"), ("n3", "VoteRequest")]
    ready = harness.step("n2", VoteResponse(1, 1, True, True))
    assert kinds(ready.durable_messages) == [("n2", "VoteRequest"), ("n3", "VoteRequest")]
    assert (ready.messages, ready.hard_state) == ([], HardState(1, "n1"))


def test_a_lone_voter_shows_nobody_a_term_that_is_not_on_its_disk() -> None:
    harness = Harness(voters=("n1",), learners=("n2",))
    harness.supported_by("n2")
    harness.group.campaign(harness.now)
    first = harness.ready()
    harness.group.propose([b"x"])
    second = harness.ready()
    assert first.hard_state == HardState(1, "n1")
    assert "AppendEntries" not in [kind for _, kind in kinds(first.messages + second.messages)]
    assert ("n2", "AppendEntries") in kinds(first.durable_messages + second.durable_messages)
    harness.sync(first)
    harness.sync(second)
    harness.accept("n2")
    harness.group.propose([b"y"])
    assert kinds(harness.ready().messages) == [("n2", "AppendEntries")]


def test_a_lone_voter_commits_nothing_before_its_own_disk_has_it() -> None:
    harness = Harness(voters=("n1",))
    harness.group.campaign(harness.now)
    ready = harness.ready()
    assert harness.group.log.commit_index == 0
    harness.sync(ready)
    assert harness.group.log.commit_index == 1


def test_a_replica_that_is_no_voter_never_campaigns() -> None:
    harness = Harness(voters=("n2", "n3"), learners=("n1",))
    harness.tick(20 * SECOND)
    assert harness.group.role is Role.FOLLOWER
    harness.step("n2", TimeoutNow(1, 1))
    assert harness.group.role is Role.FOLLOWER


# -- who has given up


def test_what_a_leader_says_it_gave_up_never_covers_the_term_that_it_leads() -> None:
    harness = Harness()
    harness.group.step("n3", VoteResponse(1, 7, False, True), harness.now)
    harness.lead()
    term = harness.group.term
    ready = harness.step("n2", LeaderQuestion(1, term - 1))
    assert ready.messages == [("n2", Resigned(1, term - 1))]
    assert harness.step("n2", LeaderQuestion(1, term)).messages == []


def test_what_a_candidate_says_it_gave_up_does_not_cover_the_term_that_it_may_win() -> None:
    harness = Harness()
    harness.group.campaign(harness.now)
    harness.ready()
    harness.step("n2", VoteResponse(1, 1, True, True))
    assert harness.group.role is Role.CANDIDATE
    assert harness.step("n3", LeaderQuestion(1, harness.group.term)).messages == []


def test_a_late_resignation_from_an_earlier_term_does_not_unbind_a_replica() -> None:
    harness = Harness()
    follow(harness, "n2", 8)
    harness.step("n2", Resigned(1, 7))
    assert harness.group.leader == "n2"
    harness.step("n2", Resigned(1, 8))
    assert harness.group.leader == ""
    assert harness.group.active


def test_an_answer_of_a_newer_term_does_not_unbind_a_replica_that_asked_nothing() -> None:
    harness = Harness()
    follow(harness, "n2", 3)
    harness.step("n3", VoteResponse(1, 9, False, True))
    assert (harness.group.term, harness.group.leader) == (3, "n2")


def test_a_leader_without_a_quorum_steps_down_and_says_so_to_all() -> None:
    harness = Harness()
    harness.supported_by("n2", "n3")
    harness.lead()
    harness.tick(1500 * MS)
    assert harness.group.is_leader
    ready = harness.tick(1000 * MS)
    assert not harness.group.is_leader
    assert kinds(ready.messages) == [("n2", "Resigned"), ("n3", "Resigned")]


# -- leases and reads


def test_a_lease_needs_a_commit_of_the_own_term_and_answers_under_the_promise_in_force() -> None:
    harness = Harness()
    harness.supported_by("n2")
    ready = harness.lead()
    assert harness.group.read_index(harness.now) is None
    harness.sync(ready)
    harness.accept("n2")
    assert harness.group.read_index(harness.now) == 1
    harness.liveness.on_answer("n2", HeartbeatAnswer(harness.now, SECOND, 2), harness.now)
    assert harness.group.read_index(harness.now) is None, "under a new promise n2 has not answered yet"
    assert harness.group.read_index(harness.now + 2 * SECOND) is None


def test_a_lease_is_over_before_the_message_that_hands_leadership_over() -> None:
    harness = Harness()
    harness.supported_by("n2", "n3")
    harness.sync(harness.lead())
    harness.accept("n2")
    harness.group.transfer_leadership("n2", harness.now)
    assert kinds(harness.ready().messages)[-1] == ("n2", "TimeoutNow")
    assert harness.group.read_index(harness.now) is None
    harness.supported_by("n2", "n3")
    harness.tick(RaftConfig().transfer_timeout_ns)
    harness.group.propose([b"goes on"])
    assert harness.group.read_index(harness.now) is None, "the target may still win in this term"


def test_a_read_that_came_before_the_first_commit_of_the_term_is_begun_by_time_alone() -> None:
    harness = Harness(voters=("n1",))
    harness.group.campaign(harness.now)
    ready = harness.ready()
    harness.group.start_read(5, harness.now)
    assert harness.ready().reads == []
    harness.sync(ready)
    assert harness.tick(10 * MS).reads == [(5, 1)]


def test_reads_of_a_leader_that_is_deposed_fail() -> None:
    harness = Harness()
    harness.sync(harness.lead())
    harness.accept("n2")
    harness.group.start_read(5, harness.now)
    ready = harness.step("n3", AppendEntries(1, 9, 0, 0, 0, [], 1))
    assert ready.failed_reads == [5]


# -- replication


def test_a_commit_that_the_leaders_own_disk_completes_is_made_known() -> None:
    harness = Harness(voters=("n1", "n2"))
    harness.supported_by("n2")
    ready = harness.lead()
    harness.accept("n2")
    harness.tick(10 * MS)
    harness.tick(10 * MS)
    assert harness.group.log.commit_index == 0
    harness.sync(ready)
    assert harness.group.log.commit_index == 1
    assert harness.group.active
    assert ("n2", "CommitNotice") in kinds(harness.tick(100 * MS).messages)
    harness.accept("n2", commit=1)
    harness.tick(10 * MS)
    assert not harness.group.active, "once all know it, the group is at rest"


def test_entries_of_older_terms_are_committed_only_with_one_of_the_leaders_own() -> None:
    """The case of figure 8 in the Raft paper: entry 1 is on a majority and may yet be replaced."""
    harness = Harness()
    follow(harness, "n2", 2, [sealed(1, 2, 1, EntryKind.COMMAND, b"old")])
    harness.step("n2", Resigned(1, 2))
    ready = harness.lead()
    harness.group.persisted(1, 2)
    harness.accept("n2", match=1)
    assert harness.group.log.commit_index == 0
    harness.sync(ready)
    harness.accept("n2", match=2)
    assert harness.group.log.commit_index == 2


def test_a_peer_that_promises_nothing_is_not_sent_probes_for_ever() -> None:
    harness = Harness()
    harness.supported_by("n2")
    ready = harness.lead()
    harness.sync(ready)
    harness.accept("n2")
    harness.accept("n2", commit=1)
    harness.tick(200 * MS)
    assert not harness.group.active, "a dead third replica keeps nobody awake"
    harness.supported_by("n3")
    assert harness.group.active
    assert ("n3", "AppendEntries") in kinds(harness.tick(10 * MS).messages)


def lead_with_a_log_that_was_cut_off() -> Harness:
    """n1 leads; its log held entries 1 to 5 of term 2 and begins behind 4 now; n3 has not answered its first probe."""
    harness = Harness()
    entries = [sealed(1, 2, index, EntryKind.COMMAND, b"x") for index in range(1, 6)]
    harness.sync(follow(harness, "n2", 2, entries))
    harness.step("n2", CommitNotice(1, 2, 5, 1))
    harness.step("n2", Resigned(1, 2))
    harness.group.compact(4)
    harness.supported_by("n2", "n3")
    harness.sync(harness.lead())
    harness.accept("n2")
    return harness


def test_a_first_probe_that_is_lost_does_not_cost_a_snapshot() -> None:
    harness = lead_with_a_log_that_was_cut_off()
    for _ in range(2):
        ready = harness.tick(200 * MS)
        assert ready.snapshots_wanted == []
        sent = [message for peer, message in ready.messages if peer == "n3" and type(message) is AppendEntries]
        assert [message.previous_index for message in sent] == [5]


def test_a_snapshot_that_was_refused_or_whose_success_was_not_heard_of_is_followed_by_a_question() -> None:
    harness = lead_with_a_log_that_was_cut_off()
    term = harness.group.term
    assert harness.step("n3", AppendRejected(1, term, 5, 0, 1, 1)).snapshots_wanted == ["n3"]
    harness.group.snapshot_ended("n3", 0)
    ready = harness.ready()
    assert (kinds(ready.messages), ready.snapshots_wanted) == ([("n3", "AppendEntries")], [])
    assert ready.messages[0][1].previous_index == 4, "the earliest that can be asked for"
    assert harness.step("n3", AppendRejected(1, term, 4, 0, 1, 1)).snapshots_wanted == ["n3"], "it does lack entries"
    harness.group.snapshot_ended("n3", 0)
    harness.ready()
    assert harness.accept("n3").snapshots_wanted == []
    assert [peer.state for peer in harness.group.status().peers] == ["replicate", "replicate"]


def test_proposals_are_refused_past_the_bound_and_commits_of_older_terms_do_not_raise_it() -> None:
    harness = Harness(config=RaftConfig(max_uncommitted_bytes=100))
    follow(harness, "n2", 2, [sealed(1, 2, 1, EntryKind.COMMAND, b"x" * 90)])
    harness.step("n2", Resigned(1, 2))
    harness.group.persisted(1, 2)
    harness.sync(harness.lead())
    harness.group.propose([b"y" * 60])
    harness.accept("n2", match=2)
    assert harness.group.log.commit_index == 2
    with pytest.raises(TooManyUncommitted):
        harness.group.propose([b"z" * 60])
    harness.sync(harness.ready())
    harness.group.persisted(3, harness.group.term)
    harness.accept("n2", match=3)
    harness.group.propose([b"z" * 60])


def test_an_acceptance_waits_for_the_disk() -> None:
    harness = Harness()
    ready = follow(harness, "n2", 2, [sealed(1, 2, 1, EntryKind.EMPTY, b"")])
    assert kinds(ready.durable_messages) == [("n2", "AppendAccepted")]
    assert ready.messages == []


def test_an_old_leader_is_told_the_newer_term() -> None:
    harness = Harness()
    follow(harness, "n2", 5)
    ready = harness.step("n3", AppendEntries(1, 4, 0, 0, 0, [], 1))
    assert ready.messages == [("n3", TermPassed(1, 5))]


# -- refusals


def test_what_only_a_leader_can_do_is_refused_elsewhere() -> None:
    group = Harness().group
    with pytest.raises(NotLeader):
        group.propose([b"x"])
    with pytest.raises(NotLeader):
        group.transfer_leadership("n2", 0)
    with pytest.raises(NotLeader):
        group.propose_membership(MembershipChange(ChangeKind.REMOVE, "n2"), 0)


def test_one_change_of_membership_at_a_time_and_none_before_the_term_has_committed() -> None:
    harness = Harness()
    harness.supported_by("n2", "n3", "n4")
    ready = harness.lead()
    add = MembershipChange(ChangeKind.ADD_LEARNER, "n4")
    with pytest.raises(MembershipRefused, match="own term"):
        harness.group.propose_membership(add, harness.now)
    harness.sync(ready)
    harness.accept("n2")
    harness.group.propose_membership(add, harness.now)
    with pytest.raises(MembershipRefused, match="not committed yet"):
        harness.group.propose_membership(MembershipChange(ChangeKind.ADD_LEARNER, "n5"), harness.now)
    harness.sync(harness.ready())
    harness.accept("n2")
    with pytest.raises(MembershipRefused, match="let it catch up first"):
        harness.group.propose_membership(MembershipChange(ChangeKind.PROMOTE, "n4"), harness.now)
    harness.accept("n4")
    harness.group.propose_membership(MembershipChange(ChangeKind.PROMOTE, "n4"), harness.now)
    assert harness.group.membership.voters == ("n1", "n2", "n3", "n4")


def test_a_follower_is_promoted_while_the_last_entries_are_on_their_way_to_it_and_not_before() -> None:
    harness = Harness(config=RaftConfig(promotable_lag_entries=3))
    harness.supported_by("n2", "n3", "n4")
    harness.sync(harness.lead())
    harness.accept("n2")
    harness.group.propose_membership(MembershipChange(ChangeKind.ADD_LEARNER, "n4"), harness.now)
    harness.sync(harness.ready())
    harness.accept("n2")
    harness.accept("n4")
    level = harness.group.log.last_index
    for _ in range(4):
        harness.group.propose([b"x"])
    harness.sync(harness.ready())
    harness.accept("n2", level + 4)
    promote = MembershipChange(ChangeKind.PROMOTE, "n4")
    with pytest.raises(MembershipRefused, match=f"the log up to {level} of {level + 4}: let it catch up first"):
        harness.group.propose_membership(promote, harness.now)
    harness.accept("n4", level + 1)
    harness.group.propose_membership(promote, harness.now)
    assert harness.group.membership.voters == ("n1", "n2", "n3", "n4")


def test_no_proposal_is_taken_while_leadership_is_on_its_way() -> None:
    harness = Harness()
    harness.sync(harness.lead())
    harness.accept("n2")
    for target in ("n1", "n9"):
        with pytest.raises(TransferRefused):
            harness.group.transfer_leadership(target, harness.now)
    harness.group.transfer_leadership("n3", harness.now)
    with pytest.raises(TransferInProgress):
        harness.group.propose([b"x"])
    assert "TimeoutNow" not in [kind for _, kind in kinds(harness.ready().messages)], "n3 lacks entries yet"


# -- nodes


def test_a_leader_whose_process_began_a_new_life_is_reported_so_that_its_groups_wake() -> None:
    harness = Harness()
    follow(harness, "n2", 3)
    assert not harness.group.active
    harness.liveness.on_heartbeat("n2", Heartbeat(2, 5, 4, True), harness.now)
    assert harness.liveness.expired(harness.now) == ["n2"]
    harness.group.wake(harness.now)
    assert harness.group.active
    assert harness.liveness.expired(harness.now) == []


@pytest.mark.parametrize("sent_at", [10 * SECOND - 1, 99 * SECOND])
def test_an_answer_to_an_earlier_life_of_this_process_gives_no_support(sent_at: int) -> None:
    harness = Harness()
    harness.liveness.on_answer("n2", HeartbeatAnswer(sent_at, SECOND, 1), harness.now)
    assert harness.liveness.supported_until("n2") == 0


def test_quiet_groups_cost_nothing_and_still_elect_when_their_leaders_node_dies(make_cluster: Any) -> None:
    cluster = make_cluster(1, 3, groups=3)
    for number in range(3):
        cluster.await_leader(number)
    cluster.run_until(cluster.is_quiet, 3 * SECOND)
    sent: list[str] = []
    cluster.tap = lambda _sender, _receiver, message: sent.append(type(message).__name__)
    cluster.run(2 * SECOND)
    assert set(sent) == {"Heartbeat", "HeartbeatAnswer"}
    cluster.tap = None
    dead = cluster.leader(0)
    dead.crash()
    cluster.run(2 * SECOND)
    assert all(cluster.leader(number) not in (None, dead) for number in range(3))


def test_a_cut_between_two_replicas_that_both_see_the_third_deposes_nobody_for_ever(make_cluster: Any) -> None:
    cluster = make_cluster(3, 3)
    leader = cluster.await_leader()
    other = next(name for name in cluster.names if name != leader.name)
    cluster.part(leader.name, other)
    cluster.run(5 * SECOND)
    terms = max(node.groups[0].term for node in cluster.nodes.values())
    cluster.run(20 * SECOND)
    assert max(node.groups[0].term for node in cluster.nodes.values()) <= terms + 1
    assert cluster.leader().propose(0)


def leader_with_a_replica_that_has_lost_its_log() -> Harness:
    """n2 had accepted two entries more than were committed, and has then said that its log is gone."""
    harness = Harness(voters=("n1", "n2", "n3"))
    harness.sync(harness.lead())
    harness.accept("n2")
    # The leader's own disk has not got that far, so they are not committed.
    harness.group.propose([b"one", b"two"])
    harness.ready()
    harness.accept("n2")
    assert harness.group.log.commit_index == 1
    ready = harness.step("n2", AppendRejected(1, harness.group.term, 1, 0, NEEDS_SNAPSHOT, 1))
    assert ready.snapshots_wanted == ["n2"]
    return harness


def test_what_a_replica_had_accepted_does_not_count_any_more_when_its_log_is_lost() -> None:
    harness = leader_with_a_replica_that_has_lost_its_log()
    harness.group.persisted(3, harness.group.term)
    harness.ready()
    assert harness.group.log.commit_index == 1, "nobody but the leader has them"
    harness.accept("n3")
    assert harness.group.log.commit_index == 3


def test_a_replica_that_has_lost_its_log_is_sent_what_comes_behind_its_snapshot() -> None:
    harness = leader_with_a_replica_that_has_lost_its_log()
    harness.group.snapshot_ended("n2", 1)
    sent = [message for peer, message in harness.ready().messages if peer == "n2" and type(message) is AppendEntries]
    assert [message.previous_index for message in sent] == [1]
