"""What the doctor finds, rule by rule, on evidence made by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from shoal.admin.hot_keys import HotKeyRate
from shoal.admin.survey import NodeReport, Survey
from shoal.protocol.comparison import ComparisonStatus, Divergence
from shoal.protocol.failures import FailureKind, ReplicaFailure
from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply
from shoal.protocol.migration import MigrationStatus
from shoal.protocol.node_memory import MemoryUse
from shoal.protocol.quotas import QuotaUse
from shoal.protocol.shedding import ShedRequests
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap
from shoal_shardmanager.control.controller import OTHER_CLUSTER, OTHER_IDENTITY
from shoal_shardmanager.doctor import judge as judge_module
from shoal_shardmanager.doctor.evidence import (
    ClockReading,
    ControlPlane,
    Evidence,
    Finding,
    ManagerAnswer,
    RunningOperation,
    Severity,
    SilentNode,
)
from shoal_shardmanager.doctor.judge import judge

NODES = ("n1", "n2", "n3")
SHARD = Shard(1, 1, (MicroshardRange(0, 4),), NODES)
SHARD_MAP = ShardMap(3, "c", tuple(NodeAddress(n, f"{n}:1") for n in NODES), (Keyspace(1, "k", 4, b"/"),), (SHARD,))
CONTROL = ControlPlane(asked=True, manager="m1", map_version=3)
HOUR_MS = 3_600_000


def replica(role: str, **changes: object) -> ReplicaStatus:
    peers = tuple(PeerProgress(node, "voter", 10, "replicate", True) for node in NODES) if role == "leader" else ()
    lease = 900 if role == "leader" else 0
    status = ReplicaStatus(1, role, "n1", 2, 9, 10, 10, 10, 1, lease, NODES, (), peers, ranges=SHARD.ranges)
    return replace(status, **changes)


def status(node: str, **changes: object) -> StatusReply:
    """What a node says that is well; n1 leads."""
    peers = tuple(other for other in NODES if other != node)
    role = "leader" if node == "n1" else "voter"
    reply = StatusReply(1, node, "c", "i", "1.0", HOUR_MS, 3, peers, "", 1 << 40, (replica(role),))
    return replace(reply, **changes)


def evidence(*statuses: StatusReply, control: ControlPlane = CONTROL, **others: object) -> Evidence:
    """Evidence in which the nodes say `statuses`, those not named are well, and those that say None are gone."""
    said = {each.node: each for each in statuses}
    reports = [NodeReport(node, said.get(node.id, status(node.id))) for node in SHARD_MAP.nodes]
    return Evidence(Survey(SHARD_MAP, reports), {1: 10}, (), control, **others)  # type: ignore[arg-type]


def without(found: Evidence, *gone: str) -> Evidence:
    """The evidence with nodes that do not answer."""
    reports = [
        NodeReport(report.node, None, "connection refused") if report.node.id in gone else report
        for report in found.survey.nodes
    ]
    return replace(found, survey=Survey(SHARD_MAP, reports))


def codes(found: Evidence) -> list[str]:
    return [finding.code for finding in judge(found)]


def only(found: Evidence) -> Finding:
    (finding,) = judge(found)
    return finding


def test_of_a_cluster_that_is_well_there_is_nothing_to_say():
    assert judge(evidence()) == []


def test_a_node_that_is_gone_is_found_and_that_the_next_one_must_not_go():
    found = {finding.code: finding for finding in judge(without(evidence(), "n3"))}
    assert set(found) == {"node_unreachable", "no_voter_to_spare"}
    assert found["node_unreachable"].node == "n3"
    assert "connection refused" in found["node_unreachable"].what


def test_a_lost_majority_comes_first_and_says_whose_return_helps():
    followers = evidence(status("n1", replicas=(replica("voter"),)))
    worst = judge(without(followers, "n2", "n3"))[0]
    assert (worst.severity, worst.code, worst.shard) == (Severity.CRITICAL, "shard_without_leader", 1)
    assert "n2, n3" in worst.advice


def test_replicas_that_differ_are_critical_and_the_advice_is_to_look_which_are_right():
    divergence = Divergence(9, 0, 3, "from microshard 0 to the last row", (("n1",), ("n2",)))
    leader = replica("leader", comparison=ComparisonStatus(1000, 4, divergence))
    finding = only(evidence(status("n1", replicas=(leader,))))
    assert (finding.severity, finding.code, finding.shard) == (Severity.CRITICAL, "replicas_differ", 1)
    assert "n1; n2" in finding.what
    assert "find out which" in finding.advice


@pytest.mark.parametrize("kind", ["damaged", "diverged", "stuck"])
def test_a_failed_replica_is_named_with_its_node_and_shard_and_what_to_do(kind: str):
    failed = replica("voter", failure=ReplicaFailure(kind, "at log index 9"))
    finding = only(evidence(status("n2", replicas=(failed,))))
    assert (finding.severity, finding.code, finding.node, finding.shard) == (
        Severity.WARNING,
        "replica_failed",
        "n2",
        1,
    )
    assert f"{kind}: at log index 9" in finding.what
    assert ("cannot apply" if kind == "stuck" else "is being rebuilt") in finding.advice


def test_a_failed_replica_of_a_shard_that_nobody_leads_is_critical():
    failed = replica("voter", failure=ReplicaFailure(FailureKind.DAMAGED, "rows cannot be read"))
    found = {finding.code: finding for finding in judge(evidence(status("n1", replicas=(failed,))))}
    assert found["replica_failed"].severity is Severity.CRITICAL
    assert "nothing to rebuild it from" in found["replica_failed"].advice
    assert "elects within seconds" not in found["shard_without_leader"].advice


def test_a_shard_that_is_electing_is_told_from_one_that_cannot():
    (finding,) = [f for f in judge(evidence(status("n1", replicas=(replica("voter"),)))) if f.shard == 1]
    assert finding.code == "shard_without_leader"
    assert "a majority answers" in finding.advice


@pytest.mark.parametrize(
    ("changes", "severity", "code"),
    [
        ({"not_writable": "full", "not_leading": "full"}, Severity.CRITICAL, "node_not_writable"),
        ({"not_leading": "slow"}, Severity.WARNING, "node_not_leading"),
        ({"not_leading": "off", "clock_problem": "off"}, Severity.WARNING, "clock_off"),
        ({"damaged_families": ("data",)}, Severity.WARNING, "tables_damaged"),
        ({"disk_free_bytes": 1 << 20}, Severity.WARNING, "disk_nearly_full"),
        ({"uptime_ms": 5000}, Severity.INFO, "node_young"),
        ({"connected_peers": ("n1",)}, Severity.WARNING, "peers_not_connected"),
        ({"map_version": 2}, Severity.WARNING, "map_old"),
        ({"software": "0.9"}, Severity.WARNING, "versions_differ"),
        ({"replicas": ()}, Severity.WARNING, "replica_missing"),
    ],
)
def test_what_is_wrong_with_one_node_is_found(changes: dict[str, object], severity: Severity, code: str):
    finding = only(evidence(status("n2", **changes)))
    assert (finding.severity, finding.code) == (severity, code)
    assert finding.advice


def test_a_drained_node_is_worth_knowing_of():
    finding = only(evidence(control=replace(CONTROL, drained=("n2",))))
    assert (finding.severity, finding.code, finding.node) == (Severity.INFO, "node_drained", "n2")
    assert "shoal undrain n2" in finding.advice


def test_a_leader_without_support_and_a_replica_that_it_does_not_hear():
    peers = tuple(PeerProgress(node, "voter", 10, "replicate", node != "n3") for node in NODES)
    found = evidence(status("n1", replicas=(replica("leader", peers=peers, lease_ms=0),)))
    assert codes(found) == ["replica_disconnected", "leader_without_lease"]


def test_replicas_of_one_node_that_lag_are_one_finding():
    peers = (PeerProgress("n2", "voter", 4, "replicate", True), PeerProgress("n3", "voter", 10, "replicate", True))
    finding = only(evidence(status("n1", replicas=(replica("leader", peers=peers),))))
    assert (finding.code, finding.node) == ("replica_behind", "n2")


def reading(node: str, offset_ms: int, took_ms: int = 10) -> ClockReading:
    return ClockReading(node, 1_000_000, 1_000_000 + took_ms // 2 + offset_ms, 1_000_000 + took_ms)


@pytest.mark.parametrize(
    ("offset_ms", "took_ms", "wrong"), [(2000, 10, True), (-2000, 10, True), (300, 10, False), (2000, 5000, False)]
)
def test_clocks_that_differ_for_certain_are_found(offset_ms: int, took_ms: int, wrong: bool):
    clocks = (reading("n1", 0), reading("n2", offset_ms, took_ms), reading("n3", 0))
    found = judge(replace(evidence(), clocks=clocks))
    assert [(finding.code, finding.node) for finding in found] == ([("clocks_differ", "n2")] if wrong else [])


def test_a_clock_that_its_node_found_wrong_is_one_finding_whatever_we_see():
    clocks = (reading("n1", 0), reading("n2", 30_000), reading("n3", 0))
    off = "its wall clock is 30.0 s ahead of what the clocks of 2 other nodes say"
    found = judge(replace(evidence(status("n2", not_leading=off, clock_problem=off)), clocks=clocks))
    assert [(finding.code, finding.node) for finding in found] == [("clock_off", "n2")]
    slow_too = evidence(status("n2", not_leading="the disk is slow", clock_problem=off))
    assert codes(slow_too) == ["node_not_leading", "clock_off"]


def test_a_node_that_leads_since_nobody_else_can_is_not_said_to_lead_nothing():
    leading = evidence(status("n1", not_leading="off", clock_problem="off"))
    finding = next(each for each in judge(leading) if each.code == "clock_off")
    assert finding.what.startswith("node n1 leads 1 shards, and only where nobody else can")
    assert "leads nothing" not in finding.what
    assert not any("leads nothing" in problem.message for problem in leading.survey.problems({}))


def test_a_node_that_does_not_say_the_time_is_no_finding():
    assert codes(replace(evidence(), clocks=(reading("n1", 0), ClockReading("n2", 1, 0, 2)))) == []


def test_the_control_plane_being_down_is_a_warning_and_not_asking_is_none():
    assert only(evidence(control=ControlPlane(asked=True, problem="nobody there"))).code == "no_controller"
    assert only(evidence(control=ControlPlane(asked=False))).severity is Severity.INFO
    finding = only(evidence(managers=(ManagerAnswer("m1:1"), ManagerAnswer("m2:1", "refused"))))
    assert (finding.code, "m2:1" in finding.what) == ("manager_unreachable", True)


def test_a_node_that_only_the_manager_does_not_hear_is_found():
    silent = replace(CONTROL, silent=(SilentNode("n2", "active", "no answer"),))
    assert only(evidence(control=silent)).code == "node_not_trusted"
    assert "node_not_trusted" not in codes(without(evidence(control=silent), "n2"))


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (OTHER_CLUSTER.format(node="n2", theirs="a", ours="b"), "start them with empty ones"),
        (OTHER_IDENTITY.format(node="n2"), "the data folder it had"),
        ("no answer", "try the network"),
    ],
)
def test_the_remedy_is_that_of_the_reason_why_a_manager_does_not_take_a_node(reason: str, advice: str):
    silent = replace(CONTROL, silent=(SilentNode("n2", "active", reason),))
    assert advice in only(evidence(control=silent)).advice


def test_a_node_whose_place_another_has_taken_is_not_said_to_be_silent():
    found = evidence()
    reports = [
        NodeReport(report.node, None, "n2:1 is of another cluster", stranger=True) if report.node.id == "n2" else report
        for report in found.survey.nodes
    ]
    survey = Survey(SHARD_MAP, reports)
    finding = next(each for each in judge(replace(found, survey=survey)) if each.node == "n2")
    assert (finding.code, "does not answer" in finding.what) == ("node_is_another", False)
    assert "new-cluster-id" in finding.advice
    assert not any("unreachable" in problem.message for problem in survey.problems({}))


@pytest.mark.parametrize(
    ("seconds", "waiting", "stuck"),
    [(5, "", False), (5, "for n2", False), (90, "for n2", True), (90, "", False), (900, "", True)],
)
def test_operations_that_do_not_go_on_are_found(seconds: float, waiting: str, stuck: bool):
    operation = RunningOperation(7, "move", "shard 1", "catch-up", seconds, waiting)
    found = evidence(control=replace(CONTROL, operations=(operation,)))
    assert codes(found) == (["operation_stuck"] if stuck else [])


def test_findings_are_documented_by_their_codes():
    page = Path(__file__).resolve().parents[3] / "docs" / "observability.md"
    section = page.read_text().split("\n## `shoal doctor`")[1].split("\n## ")[0]
    documented = {
        code for row in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for code in re.findall(r"`(\w+)`", row)
    }
    rules = Path(judge_module.__file__).parent
    source = "\n".join(module.read_text() for module in sorted(rules.glob("*.py")))
    named = set(re.findall(r'^ +"([a-z]+(?:_[a-z]+)+)",$', source, re.MULTILINE))
    replicas = {kind.value for kind in judge_module._REPLICA_ADVICE}
    assert named | replicas == documented


def test_findings_are_json():
    assert b'"severity":"info"' in msgspec.json.encode(only(evidence(control=ControlPlane(asked=False))))


def test_microshards_that_the_map_names_and_the_shard_lacks_are_found_and_who_has_them():
    left, gone = (MicroshardRange(0, 3),), (MicroshardRange(3, 4),)
    child = replica("leader", shard=9, ranges=gone)
    said = only(evidence(status("n1", replicas=(replica("leader", ranges=left), child))))
    assert (said.code, said.severity, said.shard) == ("microshards_unserved", Severity.CRITICAL, 1)
    assert "1 microshards (the first is 3)" in said.what
    assert "shard 9 has some of them" in said.what
    assert "`shoal settle 1`" in said.advice


def test_a_membership_with_a_node_that_there_is_not_is_found():
    leader = replica("leader", followers=("n9",), membership_version=2, membership_committed=True)
    said = only(evidence(status("n1", replicas=(leader,))))
    assert (said.code, said.severity, said.shard, said.node) == ("membership_not_in_map", Severity.WARNING, 1, "n9")
    assert "replicas on nodes that are not there: n9" in said.what
    assert "takes such a member out" in said.advice


def test_a_membership_that_the_map_is_about_to_follow_is_no_finding():
    leader = replica("leader", voters=NODES[:2], membership_version=2, membership_committed=True)
    assert judge(evidence(status("n1", replicas=(leader,)))) == []


def test_a_shard_that_has_nothing_left_of_what_the_map_gives_it_is_found():
    said = only(evidence(status("n1", replicas=(replica("leader", ranges=()),))))
    assert (said.code, "4 microshards (the first is 0)" in said.what) == ("microshards_unserved", True)


def test_microshards_that_are_copied_are_no_finding():
    moving = MigrationStatus(7, 2, (MicroshardRange(3, 4),))
    running = (RunningOperation(1, "move-microshards", "3", "copy", 1.0),)
    under_way = msgspec.structs.replace(CONTROL, operations=running)
    assert judge(evidence(status("n1", replicas=(replica("leader", outgoing=moving),)), control=under_way)) == []


@pytest.mark.parametrize("driven", [True, False])
def test_microshards_that_stay_between_two_shards_are_found_and_who_is_to_finish_it(driven: bool):
    moving = MigrationStatus(7, 2, (MicroshardRange(3, 4),), sealed=True)
    running = (RunningOperation(1, "move-microshards", "3", "seal", 1.0),) if driven else ()
    control = msgspec.structs.replace(CONTROL, operations=running)
    leader = replica("leader", ranges=(MicroshardRange(0, 3),), outgoing=moving)
    found = {one.code: one for one in judge(evidence(status("n1", replicas=(leader,)), control=control))}
    assert ("migration_without_operation" in found) == (not driven)
    advice = found["microshards_unserved"].advice
    assert ("`shoal operations`" in advice, "`shoal settle 1`" in advice) == (driven, not driven)


def test_a_migration_that_no_operation_drives_is_found():
    stray = MigrationStatus(7, 2, (MicroshardRange(3, 4),))
    said = only(evidence(status("n1", replicas=(replica("leader", outgoing=stray),))))
    assert said.code == "migration_without_operation"
    assert "`shoal settle 1`" in said.advice
    not_asked = msgspec.structs.replace(CONTROL, asked=False)
    found = codes(evidence(status("n1", replicas=(replica("leader", outgoing=stray),)), control=not_asked))
    assert "migration_without_operation" not in found


def quota(**changes: object) -> QuotaUse:
    return replace(QuotaUse(1, 333_333, 333_333, False, 10, 10, 0), **changes)


def with_keyspace(found: Evidence, keyspace: Keyspace) -> Evidence:
    shard_map = replace(SHARD_MAP, keyspaces=(keyspace,))
    return replace(found, survey=Survey(shard_map, found.survey.nodes))


def test_a_keyspace_that_is_held_to_its_quota_is_good_to_know_and_a_full_one_is_wrong():
    keyspace = Keyspace(1, "carts", 4, b"/", reads_per_second=500, max_bytes=1000)
    refusing = [status(node, quotas=(quota(refused=9, refused_ms=ago),)) for node, ago in (("n1", 500), ("n2", 90_000))]
    said = only(with_keyspace(evidence(*refusing), keyspace))
    assert (said.code, said.severity) == ("keyspace_at_quota", Severity.INFO)
    assert "quota of 500 reads a second: within the last half minute some of it was refused by n1" in said.what
    said = only(with_keyspace(evidence(*(status(node, quotas=(quota(full=True),)) for node in NODES)), keyspace))
    assert (said.code, said.severity) == ("keyspace_full", Severity.WARNING)
    assert "(1000)" in said.what
    assert "`shoal keyspace alter carts --max-bytes SIZE`" in said.advice
    assert judge(with_keyspace(evidence(status("n1", quotas=(quota(keyspace=9, full=True),))), keyspace)) == []


def test_a_node_that_turns_requests_away_is_found_with_the_reason_and_the_keyspace():
    shed = (ShedRequests("node_busy", "interactive", 1, 30), ShedRequests("node_busy", "batch", 0, 5))
    said = only(evidence(status("n2", shed=shed, queue_delay_us=45_000)))
    assert (said.code, said.severity, said.node) == ("node_sheds", Severity.WARNING, "n2")
    assert "turned away 35 requests" in said.what
    assert "(node_busy), most of them of keyspace k; requests wait for 45 ms" in said.what
    few = (ShedRequests("node_busy", "interactive", 1, 3), ShedRequests("quota", "interactive", 1, 900))
    assert judge(evidence(status("n2", shed=few))) == [], "a moment's, and what quotas refuse is another finding"


def test_a_node_whose_memory_is_nearly_full_is_found_with_what_it_is_full_of():
    uses = (MemoryUse("entries", 95 << 20, 100 << 20, 3), MemoryUse("answers", 80 << 20, 100 << 20, 0))
    said = only(evidence(status("n3", memory=(*uses, MemoryUse("log_cache", 100, 100, 0)))))
    assert (said.code, said.severity, said.node) == ("memory_nearly_full", Severity.WARNING, "n3")
    assert "95.0 MiB of entries in memory, of 100.0 MiB that it may; 3 times there was no room" in said.what
    assert "its followers do not keep up" in said.advice


def test_a_disk_that_falls_behind_is_found():
    said = only(
        evidence(status("n3", writes_slowed="31 files: writes are let through at 0.1 MB/s", write_pressure=0.9))
    )
    assert (said.code, said.severity, said.node) == ("disk_behind", Severity.WARNING, "n3")
    assert "31 files" in said.what


def test_a_very_hot_key_is_named_with_what_the_application_can_do():
    def found(**changes: object) -> list[Finding]:
        hot = HotKeyRate("k", 1, b"user:1", 0, 0, 0, 0.5)
        return judge(evidence(hot_keys=(dataclasses.replace(hot, **changes),)))

    (read,), (written,) = found(reads=5000), found(writes=900)
    assert {(each.code, each.severity, each.shard) for each in (read, written)} == {("hot_key", Severity.INFO, 1)}
    assert (
        "key 'user:1' of keyspace k is read 5000 and written 0 times a second, 50% of what is asked of shard 1"
        in read.what
    )
    assert ("eventual" in read.advice, "split it" in read.advice) == (True, False)
    assert ("eventual" in written.advice, "split it" in written.advice) == (False, True)
    assert found(reads=5000, share=0.01) == found(reads=100) == []
