"""The doctor's judgement: from evidence to findings. Pure, so that each rule can be tested by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median_low

from shoal.admin.survey import Problem, ProblemKind
from shoal.protocol.messages import StatusReply
from shoal.shardmap import Shard

from shoal_shardmanager.control.controller import HAS_ANOTHER_FOLDER, IS_OF_ANOTHER_CLUSTER
from shoal_shardmanager.control.memberships import is_news, refused, reported, unknown_members
from shoal_shardmanager.doctor import overload
from shoal_shardmanager.doctor.evidence import Evidence, Finding, Severity
from shoal_shardmanager.doctor.holdings import stray_migrations, unserved_microshards

CLOCK_SKEW_MS_MAX = 500
"""Nodes that keep time differ by far less; by twice this they lead nothing."""
DISK_FREE_BYTES_LOW = 1 << 30
YOUNG_SECONDS = 60
STUCK_SECONDS = 600
WAITS_SECONDS = 60

_ORDER = list(Severity)


def judge(evidence: Evidence) -> list[Finding]:
    """Return all there is to say, the worst first."""
    found: list[Finding] = []
    for rule in _RULES:
        found.extend(rule(evidence))
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def _statuses(evidence: Evidence) -> Iterator[StatusReply]:
    for report in evidence.survey.nodes:
        if report.status is not None:
            yield report.status


def _shards_without_leader(evidence: Evidence) -> Iterator[Finding]:
    reachable = {status.node for status in _statuses(evidence)}
    by_cause: dict[tuple[str, ...], list[int]] = defaultdict(list)
    failed: list[int] = []
    for shard in evidence.survey.shard_map.shards:
        if evidence.survey.leader(shard.id) is None:
            gone = sorted(node for node in shard.voters if node not in reachable)
            if any(
                (replica := evidence.survey.replica(shard.id, node)) and replica.failure is not None
                for node in shard.voters
            ):
                failed.append(shard.id)
                continue
            majority_left = 2 * (len(shard.voters) - len(gone)) > len(shard.voters)
            by_cause[() if majority_left else tuple(gone)].append(shard.id)
    causes = [*by_cause.items(), *([((), failed)] if failed else [])]
    for gone_nodes, shards in causes:
        if shards is failed:
            advice = "replicas of theirs have failed, and those that are left do not elect: see what is said of each"
        elif gone_nodes:
            advice = (
                f"a majority of their voters is gone ({', '.join(gone_nodes)}): start one of these again on its data folder; "
                "no other copy can take its place"
            )
        else:
            advice = (
                "a majority answers, and elects within seconds; if this stays, see `shoal shards` and the nodes' logs"
            )
        yield Finding(
            Severity.CRITICAL,
            "shard_without_leader",
            f"{len(shards)} shards ({_some(shards)}) have no leader: their keys can be neither written nor read strongly",
            advice,
            shard=shards[0],
        )


def _nodes(evidence: Evidence) -> Iterator[Finding]:
    for report in evidence.survey.nodes:
        node, status = report.node, report.status
        if status is None:
            shards = sum(node.id in shard.replicas for shard in evidence.survey.shard_map.shards)
            if report.stranger:
                yield Finding(
                    Severity.WARNING,
                    "node_is_another",
                    f"another answers as node {node.id}, so that {shards} replicas are missing: {report.problem}",
                    f"if that is node {node.id}'s own folder, of which only the cluster's id differs, end it and give it the "
                    "others' id (`shoal new-cluster-id`); else start the node on its own data folder, at its own address",
                    node=node.id,
                )
                continue
            yield Finding(
                Severity.WARNING,
                "node_unreachable",
                f"node {node.id} does not answer, and with it {shards} replicas: {report.problem}",
                "see whether its process runs and read the end of its log; start it again on its data folder, or, if it is "
                f"lost for good, `shoal remove-node {node.id}` after its replicas have been replaced",
                node=node.id,
            )
            continue
        if status.not_writable:
            yield Finding(
                Severity.CRITICAL,
                "node_not_writable",
                f"node {node.id} takes no writes: {status.not_writable}",
                "make room on its disk; it goes on by itself",
                node=node.id,
            )
        elif status.not_leading and status.not_leading != status.clock_problem:
            yield Finding(
                Severity.WARNING,
                "node_not_leading",
                f"node {node.id} leads nothing: {status.not_leading}",
                "look at its disk (other load, a failing device); it goes on by itself once that is well",
                node=node.id,
            )
        elif status.disk_free_bytes < DISK_FREE_BYTES_LOW:
            yield Finding(
                Severity.WARNING,
                "disk_nearly_full",
                f"node {node.id} has {status.disk_free_bytes >> 20} MiB of disk left",
                "make room, or add nodes and `shoal rebalance`, before it has to turn writes away",
                node=node.id,
            )
        if status.damaged_families:
            yield Finding(
                Severity.WARNING,
                "tables_damaged",
                f"node {node.id} has damaged tables ({', '.join(status.damaged_families)}), which it does not compact",
                "look at its disk in the machine's log, and start the node again: it writes these tables anew, or says in its "
                'log why not (see "A replica has failed" in docs/operating.md); if it happens again, '
                f"`shoal drain {node.id}`",
                node=node.id,
            )
        if status.uptime_ms < 1000 * YOUNG_SECONDS:
            yield Finding(
                Severity.INFO,
                "node_young",
                f"node {node.id} was started {status.uptime_ms / 1000:.0f} s ago",
                "if nobody restarted it, its log says why it ended",
                node=node.id,
            )


_REPLICA_ADVICE = {
    ProblemKind.REPLICA_MISSING: "a node that was just given a replica opens it within seconds; else see `shoal why {shard}`",
    ProblemKind.REPLICA_DISCONNECTED: "its node hangs, or cannot be reached from the leader's: try the network between them",
    ProblemKind.REPLICA_BEHIND: "it catches up by itself; if it does not, its disk or network cannot keep up with the writes",
}


def _replicas(evidence: Evidence) -> Iterator[Finding]:
    by_node: dict[tuple[str, ProblemKind], list[Problem]] = defaultdict(list)
    for problem in evidence.survey.problems(evidence.target_indexes):
        if problem.kind in _REPLICA_ADVICE and problem.node is not None:
            by_node[problem.node, problem.kind].append(problem)
    for (node, kind), problems in by_node.items():
        first = problems[0]
        more = f" (and {len(problems) - 1} more replicas there)" if len(problems) > 1 else ""
        advice = _REPLICA_ADVICE[kind].format(shard=first.shard)
        shard = first.shard or 0
        yield Finding(Severity.WARNING, kind.value, first.message + more, advice, node=node, shard=shard)


_FAILURE_ADVICE = {
    "damaged": "it is being rebuilt from its leader, and is whole in a moment; its disk or file system has lost what was "
    "written: look at the machine's log, and if it happens to a node again, `shoal drain {node}`",
    "diverged": "it is being rebuilt from its leader, and is whole in a moment; a disk or memory there changes what it keeps: "
    "if it happens to a node again, `shoal drain {node}`",
    "stuck": 'it cannot apply an entry of its log: see "A replica has failed" in docs/operating.md',
}
_NO_COPY_ADVICE = (
    "nobody leads the shard, so that there is nothing to rebuild it from: start the nodes again that have its other "
    'replicas; if none is left, see "A replica has failed" in docs/operating.md'
)


def _failures(evidence: Evidence) -> Iterator[Finding]:
    for problem in evidence.survey.problems(evidence.target_indexes):
        if problem.kind is not ProblemKind.REPLICA_FAILED or problem.node is None or problem.shard is None:
            continue
        replica = evidence.survey.replica(problem.shard, problem.node)
        kind = "" if replica is None or replica.failure is None else replica.failure.kind
        led = evidence.survey.leader(problem.shard) is not None
        advice = _FAILURE_ADVICE.get(kind, _FAILURE_ADVICE["stuck"]) if led else _NO_COPY_ADVICE
        yield Finding(
            Severity.WARNING if led else Severity.CRITICAL,
            "replica_failed",
            problem.message,
            advice.format(node=problem.node),
            node=problem.node,
            shard=problem.shard,
        )


def _differences(evidence: Evidence) -> Iterator[Finding]:
    for problem in evidence.survey.problems(evidence.target_indexes):
        if problem.kind is ProblemKind.REPLICAS_DIFFER and problem.shard is not None:
            yield Finding(
                Severity.CRITICAL,
                "replicas_differ",
                problem.message,
                "find out which node's rows are right, have it lead, and give every other replica to another node: the new "
                'one is made from the leader\'s (see "Replicas differ" in docs/operating.md); look at the disks and the '
                "memory of the nodes",
                shard=problem.shard,
            )


def _thin_shards(evidence: Evidence) -> Iterator[Finding]:
    """Shards that the next failure takes away: a leader, and no voter to spare."""
    reachable = {status.node for status in _statuses(evidence)}

    def spare(shard: Shard) -> int:
        return sum(node in reachable for node in shard.voters) - (len(shard.voters) // 2 + 1)

    thin = [
        shard.id
        for shard in evidence.survey.shard_map.shards
        if evidence.survey.leader(shard.id) is not None and len(shard.voters) > 1 and spare(shard) == 0
    ]
    if thin:
        yield Finding(
            Severity.WARNING,
            "no_voter_to_spare",
            f"{len(thin)} shards ({_some(thin)}) have just a majority of their voters: one more failure stops them",
            "bring the missing nodes back before anything else is restarted",
        )


def _leases(evidence: Evidence) -> Iterator[Finding]:
    unsupported = [
        shard.id
        for shard in evidence.survey.shard_map.shards
        if (leader := evidence.survey.leader(shard.id)) is not None and not leader.replica.lease_ms
    ]
    if unsupported:
        yield Finding(
            Severity.WARNING,
            "leader_without_lease",
            f"the leaders of {len(unsupported)} shards ({_some(unsupported)}) are not supported by a majority just now",
            "a moment after an election this is normal; if it stays, heartbeats between nodes are lost or late",
        )


def _peers(evidence: Evidence) -> Iterator[Finding]:
    reachable = {status.node for status in _statuses(evidence)}
    for status in _statuses(evidence):
        lost = sorted(reachable - {status.node} - set(status.connected_peers))
        if lost:
            yield Finding(
                Severity.WARNING,
                "peers_not_connected",
                f"node {status.node} has no connection to {', '.join(lost)}, which answer us",
                "try the network from its machine to theirs (one direction may work alone); its log says peer_not_connected",
                node=status.node,
            )


def _versions(evidence: Evidence) -> Iterator[Finding]:
    by_version: dict[str, list[str]] = defaultdict(list)
    for status in _statuses(evidence):
        by_version[status.software].append(status.node)
    if len(by_version) > 1:
        listed = "; ".join(f"{version}: {', '.join(nodes)}" for version, nodes in sorted(by_version.items()))
        yield Finding(
            Severity.WARNING,
            "versions_differ",
            f"nodes run different versions ({listed})",
            "finish the upgrade: `shoal rolling-restart`",
        )


def _maps(evidence: Evidence) -> Iterator[Finding]:
    newest = max([evidence.control.map_version, *(status.map_version for status in _statuses(evidence))], default=0)
    for status in _statuses(evidence):
        if status.map_version < newest:
            yield Finding(
                Severity.WARNING,
                "map_old",
                f"node {status.node} routes by shard map {status.map_version}, the newest is {newest}",
                "the manager that runs the controller installs it within seconds: see that one does",
                node=status.node,
            )


def _memberships(evidence: Evidence) -> Iterator[Finding]:
    """Memberships that the map cannot follow: no node would take it."""
    shard_map = evidence.survey.shard_map
    for shard in shard_map.shards:
        leader = evidence.survey.leader(shard.id)
        if leader is None or not is_news(shard, leader.replica):
            continue
        problem = refused(reported(shard, leader.replica), shard_map)
        if not problem:
            continue
        unknown = unknown_members(leader.replica, shard_map)
        if unknown:
            advice = (
                "the shard manager takes such a member out of the group within seconds, unless it answers: then start that "
                "node again with --join, or end it. With no manager, start one; `shoal settle` and moves do not help"
            )
        else:
            advice = "the map keeps the membership before it; change that of the group again, and report it"
        yield Finding(
            Severity.WARNING,
            "membership_not_in_map",
            f"the map cannot follow shard {shard.id}'s membership of version {leader.replica.membership_version}: {problem}",
            advice,
            node=unknown[0] if unknown else "",
            shard=shard.id,
        )


def _clocks_off(evidence: Evidence) -> Iterator[Finding]:
    """Clocks that their own nodes found wrong."""
    for status in _statuses(evidence):
        if status.clock_problem:
            led = sum(replica.role == "leader" for replica in status.replicas)
            leads = f"leads {led} shards, and only where nobody else can" if led else "leads nothing"
            yield Finding(
                Severity.WARNING,
                "clock_off",
                f"node {status.node} {leads}: {status.clock_problem}",
                "have its machine keep time by NTP; the node leads again once its clock is within half of "
                "timing.clock_tolerance, ten seconds after it was found wrong at the earliest. One that hears no other node "
                "takes a clock that was set right only when it is started again",
                node=status.node,
            )


def _clocks(evidence: Evidence) -> Iterator[Finding]:
    """Clocks that differ from the median one by more than the bound, whenever between question and answer they were read."""
    offsets = {
        clock.node: (clock.shown_ms - clock.answered_ms, clock.shown_ms - clock.asked_ms)
        for clock in evidence.clocks
        if clock.shown_ms
    }
    off = {status.node for status in _statuses(evidence) if status.clock_problem}
    median = median_low([(least + most) // 2 for least, most in offsets.values()]) if offsets else 0
    for node, (least, most) in offsets.items():
        ahead, behind = least - median, median - most
        if max(ahead, behind) > CLOCK_SKEW_MS_MAX and node not in off:
            yield Finding(
                Severity.WARNING,
                "clocks_differ",
                f"the clock of node {node} is {max(ahead, behind)} ms {'ahead of' if ahead > 0 else 'behind'} the others'",
                "have all machines keep time by NTP: a node that is further off leads nothing",
                node=node,
            )


def _control(evidence: Evidence) -> Iterator[Finding]:
    control = evidence.control
    if not control.asked:
        yield Finding(
            Severity.INFO,
            "managers_not_asked",
            "no manager was asked: operations and the control plane were not looked at",
            "name them with --managers, --config or SHOAL_MANAGERS",
        )
    elif control.problem:
        yield Finding(
            Severity.WARNING,
            "no_controller",
            f"no manager runs the controller: {control.problem}",
            "start the managers again (a majority of them): data is served without, but nothing is healed or moved",
        )
    for manager in evidence.managers:
        if manager.problem:
            yield Finding(
                Severity.WARNING,
                "manager_unreachable",
                f"the manager at {manager.address} does not answer: {manager.problem}",
                "start it again on its data folder",
            )
    unreachable = {report.node.id for report in evidence.survey.nodes if report.status is None}
    for node in control.drained:
        yield Finding(
            Severity.INFO,
            "node_drained",
            f"node {node} is drained: it is given no replicas",
            f"`shoal undrain {node}` lets it take some again, `shoal remove-node {node}` parts with it",
            node=node,
        )
    for silent in control.silent:
        if silent.id not in unreachable:
            yield Finding(
                Severity.WARNING,
                "node_not_trusted",
                f"node {silent.id} ({silent.state}) answers us, but not the manager {control.manager}: {silent.reason}",
                _silent_advice(silent.reason),
                node=silent.id,
            )


def _silent_advice(reason: str) -> str:
    if IS_OF_ANOTHER_CLUSTER in reason:
        return (
            "end the managers, move their data folders away, and start them with empty ones: they learn the cluster from its "
            'nodes (see "Go back to a copy" in docs/operating.md); nothing is healed or moved before'
        )
    if HAS_ANOTHER_FOLDER in reason:
        return "end it, and start it again on the data folder it had, or with a new id"
    return "try the network between the two"


def _operations(evidence: Evidence) -> Iterator[Finding]:
    for operation in evidence.control.operations:
        name = f"operation {operation.id} ({operation.kind} {operation.subject})"
        seconds = operation.step_seconds
        if operation.waiting and seconds >= WAITS_SECONDS:
            why = f"waits for {seconds:.0f} s in step {operation.step}: {operation.waiting}"
        elif seconds >= STUCK_SECONDS:
            why = f"has been in step {operation.step} for {seconds / 60:.0f} min"
        else:
            continue
        yield Finding(
            Severity.WARNING,
            "operation_stuck",
            f"{name} {why}",
            f"remove the cause, or `shoal cancel {operation.id}`; `shoal operations {operation.id}` says more",
            operation=operation.id,
        )


def _some(shards: list[int]) -> str:
    shown = ", ".join(map(str, shards[:5]))
    return shown if len(shards) <= 5 else f"{shown}, ..."


_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _shards_without_leader,
    _differences,
    _failures,
    _nodes,
    _thin_shards,
    _replicas,
    _leases,
    _peers,
    _control,
    _operations,
    _maps,
    unserved_microshards,
    _memberships,
    stray_migrations,
    _versions,
    _clocks_off,
    _clocks,
    overload.shedding_nodes,
    overload.memory_nearly_full,
    overload.disks_behind,
    overload.keyspaces_at_quota,
    overload.hot_keys,
)
