"""What counts as wrong with a cluster."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace
from shoal.admin.survey import NodeReport, ProblemKind, Survey
from shoal.admin.survey import survey as ask
from shoal.errors import Unavailable
from shoal.protocol.comparison import ComparisonStatus, Divergence
from shoal.protocol.failures import FailureKind, ReplicaFailure
from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

NODES = ("n1", "n2", "n3")
SHARD = Shard(1, 1, (MicroshardRange(0, 4),), NODES)
SHARD_MAP = ShardMap(1, "c", tuple(NodeAddress(n, "h:1") for n in NODES), (Keyspace(1, "k", 4, b"/"),), (SHARD,))


def replica(role: str, *, term: int = 1, last_index: int = 10, peers: tuple[PeerProgress, ...] = ()) -> ReplicaStatus:
    status = ReplicaStatus(1, role, "", term, 1, last_index, last_index, last_index, 1, 100, NODES, (), peers)
    return replace(status, ranges=SHARD.ranges)


def progress(node: str, match_index: int = 10) -> PeerProgress:
    return PeerProgress(node, "voter", match_index, "replicate", True)


def report(node: str, *replicas: ReplicaStatus) -> NodeReport:
    status = StatusReply(1, node, "c", "i", "0", 1, 1, (), "", 1, replicas)
    return NodeReport(NodeAddress(node, "h:1"), status)


def survey(*reports: NodeReport) -> Survey:
    return Survey(SHARD_MAP, reports)


def kinds(found: Survey, target_indexes: dict[int, int]) -> list[ProblemKind]:
    return [problem.kind for problem in found.problems(target_indexes)]


def test_a_survey_is_of_the_map_by_which_the_nodes_answered(fake):
    """A shard may be split after a node has greeted, and before it says what it has."""
    changes = [[1] * 16, [2, 3] * 8]

    def change() -> None:
        if changes:
            fake.reshard(changes.pop())

    fake.script.before_status = change
    found = asyncio.run(ask(list(fake.addresses.values())))
    assert found.shard_map.version == fake.version == 4
    assert {report.status.map_version for report in found.nodes} == {4}


def test_a_survey_of_a_map_that_never_stays_ends(fake):
    fake.script.before_status = lambda: fake.reshard([1] * 16)
    with pytest.raises(Unavailable, match="again and again"):
        asyncio.run(ask(list(fake.addresses.values()), 0.3))


def test_of_two_that_claim_to_lead_the_newer_term_does():
    found = survey(
        report("n1", replica("leader", term=4, peers=())),
        report("n2", replica("leader", term=5, peers=(progress("n1"), progress("n3")))),
        report("n3", replica("voter")),
    )
    assert found.leader(1).node == "n2"
    assert kinds(found, found.target_indexes()) == []


def test_microshards_that_the_map_gives_a_shard_and_its_leader_lacks_are_a_problem():
    leader = replica("leader", peers=(progress("n2"), progress("n3")))
    lacking = replace(leader, ranges=(MicroshardRange(1, 4),))
    found = survey(report("n1", lacking), report("n2", replica("voter")), report("n3", replica("voter")))
    [problem] = found.problems(found.target_indexes())
    assert (problem.kind, problem.shard) == (ProblemKind.MICROSHARDS_UNSERVED, 1)
    assert "lacks 1 microshards by its log that the map gives it (the first is 0)" in problem.message


def test_a_replica_behind_now_but_past_the_earlier_mark_is_in_step():
    found = survey(
        report("n1", replica("leader", last_index=20, peers=(progress("n2", 18), progress("n3", 20)))),
        report("n2", replica("voter")),
        report("n3", replica("voter")),
    )
    assert kinds(found, {1: 15}) == []
    assert kinds(found, found.target_indexes()) == [ProblemKind.REPLICA_BEHIND]
    assert found.in_step(SHARD, {1: 15}) == 3
    assert found.in_step(SHARD, found.target_indexes()) == 2


def test_a_mark_beyond_the_leaders_log_asks_for_no_more_than_the_log():
    found = survey(
        report("n1", replica("leader", last_index=20, peers=(progress("n2", 20), progress("n3", 20)))),
        report("n2", replica("voter")),
        report("n3", replica("voter")),
    )
    assert kinds(found, {1: 33}) == []


def test_replicas_that_differ_are_a_problem_until_a_later_comparison_finds_none():
    divergence = Divergence(9, 0, 3, "from microshard 0 to the last row", (("n1",), ("n2", "n3")))
    for found, expected in ((divergence, [ProblemKind.REPLICAS_DIFFER]), (None, [])):
        leader = replace(
            replica("leader", peers=(progress("n2"), progress("n3"))), comparison=ComparisonStatus(-1, 1, found)
        )
        seen = survey(report("n1", leader), report("n2", replica("voter")), report("n3", replica("voter")))
        assert kinds(seen, {}) == expected
        for problem in seen.problems({}):
            assert problem.shard == 1
            assert "log index 9" in problem.message
            assert "n1; n2 and n3" in problem.message


def test_a_node_that_lacks_its_replica_is_a_problem():
    found = survey(
        report("n1", replica("leader", peers=(progress("n2"), progress("n3")))),
        report("n2", replica("voter")),
        report("n3"),
    )
    assert kinds(found, {}) == [ProblemKind.REPLICA_MISSING]


def test_a_replica_that_the_leader_does_not_count_is_a_problem():
    found = survey(
        report("n1", replica("leader", peers=(progress("n2"),))),
        report("n2", replica("voter")),
        report("n3", replica("voter")),
    )
    assert kinds(found, {}) == [ProblemKind.REPLICA_MISSING]


@pytest.mark.parametrize("failed", ["n1", "n3"])
def test_a_replica_that_has_failed_is_one_problem_and_not_in_step(failed: str):
    failure = ReplicaFailure(FailureKind.DAMAGED, "rows of the data family cannot be read", 9)
    roles = {"n1": "voter", "n2": "leader", "n3": "voter"}
    replicas = {
        node: replace(
            replica(role, peers=(progress("n1", 3), progress("n3", 3)) if role == "leader" else ()),
            failure=failure if node == failed else None,
        )
        for node, role in roles.items()
    }
    replicas["n2"] = replace(replicas["n2"], peers=(progress("n1", 10), progress("n3", 10)))
    found = survey(*(report(node, each) for node, each in replicas.items()))
    [problem] = found.problems({})
    assert (problem.kind, problem.node, problem.shard) == (ProblemKind.REPLICA_FAILED, failed, 1)
    assert "damaged: rows of the data family cannot be read" in problem.message
    assert found.in_step(SHARD, {}) == 2


def test_the_worst_comes_first():
    found = Survey(
        SHARD_MAP,
        [
            NodeReport(NodeAddress("n1", "h:1"), None, "gone"),
            report("n2", replica("voter")),
            report("n3", replica("voter")),
        ],
    )
    assert kinds(found, {}) == [ProblemKind.SHARD_WITHOUT_LEADER, ProblemKind.NODE_UNREACHABLE]
    assert found.in_step(SHARD, {}) == 0


@pytest.mark.parametrize("slow", ["n1", "n2"])
def test_a_replica_that_has_much_of_its_log_to_apply_is_not_in_step_though_it_leads(slow: str):
    """A node that was killed serves nothing of a shard until it has applied again what had not been flushed."""

    def told(node: str, role: str, peers: tuple[PeerProgress, ...] = ()) -> NodeReport:
        known = replica(role, last_index=5_000, peers=peers)
        return report(node, replace(known, applied_index=3_999 if node == slow else 4_000))

    peers = (progress("n2", 5_000), progress("n3", 5_000))
    found = survey(told("n1", "leader", peers), told("n2", "voter"), told("n3", "voter"))
    (problem,) = found.problems(found.target_indexes())
    assert (problem.kind, problem.node) == (ProblemKind.REPLICA_BEHIND, slow)
    assert "1001 log entries to apply before it answers" in problem.message
    assert found.in_step(SHARD, found.target_indexes()) == 2
