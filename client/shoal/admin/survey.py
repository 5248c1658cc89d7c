"""What all nodes of a cluster say of themselves at one time, and what is wrong with it.

`survey` asks; the rest is pure, so that every verdict can be tested without a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ssl import SSLContext

from shoal.admin.connection import DEFAULT_TIMEOUT_SECONDS, AdminConnection
from shoal.bounds import REPLAY_LAG_ENTRIES
from shoal.errors import ShoalError, Unavailable
from shoal.protocol.failures import ReplicaFailure
from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply
from shoal.shardmap import NodeAddress, Shard, ShardMap, microshards_in

PATIENCE_SECONDS = 1.0
SURVEY_INTERVAL_SECONDS = 0.1


class ProblemKind(StrEnum):
    """What can be wrong with a cluster, the worst first."""

    SHARD_WITHOUT_LEADER = "shard_without_leader"
    MICROSHARDS_UNSERVED = "microshards_unserved"
    NODE_UNREACHABLE = "node_unreachable"
    NODE_NOT_WRITABLE = "node_not_writable"
    NODE_NOT_LEADING = "node_not_leading"
    REPLICAS_DIFFER = "replicas_differ"
    REPLICA_FAILED = "replica_failed"
    REPLICA_MISSING = "replica_missing"
    REPLICA_DISCONNECTED = "replica_disconnected"
    REPLICA_BEHIND = "replica_behind"


_PASSING = frozenset({ProblemKind.MICROSHARDS_UNSERVED, ProblemKind.REPLICA_BEHIND})
"""What is so for a moment while all is well: under load, and while microshards go from shard to shard."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, with which node or shard, and a sentence for people."""

    kind: ProblemKind
    message: str
    node: str | None = None
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of the shard map, its status and the map it knows, or why it gave none.

    `stranger`: what answers at its address is not that node.
    """

    node: NodeAddress
    status: StatusReply | None
    problem: str = ""
    shard_map: ShardMap | None = None
    stranger: bool = False


@dataclass(frozen=True, slots=True)
class Examination:
    """A survey, what is wrong with it, and the target indexes that replicas were measured by."""

    survey: Survey
    problems: tuple[Problem, ...]
    target_indexes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ShardLeader:
    """A shard's leader as that node itself reports it."""

    node: str
    replica: ReplicaStatus


class Survey:
    """The answers of all nodes to one round of questions."""

    def __init__(self, shard_map: ShardMap, nodes: Sequence[NodeReport]) -> None:
        self.shard_map = shard_map
        self.nodes = tuple(nodes)
        self._replicas: dict[tuple[int, str], ReplicaStatus] = {}
        self._leaders: dict[int, ShardLeader] = {}
        for node, replica in self._reported():
            self._replicas[replica.shard, node] = replica
            known = self._leaders.get(replica.shard)
            if replica.role == "leader" and (known is None or known.replica.term < replica.term):
                self._leaders[replica.shard] = ShardLeader(node, replica)

    def _reported(self) -> Iterator[tuple[str, ReplicaStatus]]:
        for report in self.nodes:
            for replica in report.status.replicas if report.status is not None else ():
                yield report.node.id, replica

    def report(self, node: str) -> NodeReport | None:
        """Return what node `node` said, or None where the map has no such node."""
        return next((report for report in self.nodes if report.node.id == node), None)

    def leader(self, shard: int) -> ShardLeader | None:
        """Return the leader of a shard: of several that claim it, the one of the newest term."""
        return self._leaders.get(shard)

    def replica(self, shard: int, node: str) -> ReplicaStatus | None:
        """Return what `node` reports of its replica of `shard`."""
        return self._replicas.get((shard, node))

    def progress(self, shard: int, node: str) -> PeerProgress | None:
        """Return what the leader of `shard` knows of its replica on `node`."""
        leader = self.leader(shard)
        if leader is None:
            return None
        return next((peer for peer in leader.replica.peers if peer.node == node), None)

    def target_indexes(self) -> dict[int, int]:
        """Return the last log index of every shard that has a leader: where its replicas must get to."""
        return {shard: leader.replica.last_index for shard, leader in self._leaders.items()}

    def in_step(self, shard: Shard, target_indexes: Mapping[int, int]) -> int:
        """Return how many replicas of `shard` are connected, hold its log up to `target_indexes`, and have about applied it."""
        if self.leader(shard.id) is None:
            return 0
        return sum(
            1
            for node in shard.replicas
            if self._behind(shard, node, target_indexes) is None and self._failure(shard, node) is None
        )

    def unserved(self, shard: Shard) -> list[int]:
        """Return the microshards that the map gives a shard and that it lacks by its leader's log, in order."""
        leader = self.leader(shard.id)
        if leader is None:
            return []
        return sorted(set(microshards_in(shard.ranges)).difference(microshards_in(leader.replica.ranges)))

    def problems(self, target_indexes: Mapping[int, int]) -> list[Problem]:
        """Return all that is wrong, the worst first; empty only when every shard has its leader and all its replicas.

        Args:
            target_indexes: shard -> log index up to which each replica must hold the log (see `target_indexes`). Taken
                from an earlier survey, they tell a replica that stays behind from one that is a moment behind under load.
        """
        found: list[Problem] = []
        reachable = {report.node.id for report in self.nodes if report.status is not None}
        for report in self.nodes:
            found.extend(self._node_problems(report))
        for shard in self.shard_map.shards:
            found.extend(self._failures(shard))
            if self.leader(shard.id) is None:
                found.append(
                    Problem(ProblemKind.SHARD_WITHOUT_LEADER, f"shard {shard.id} has no leader", shard=shard.id)
                )
                continue
            unserved = self.unserved(shard)
            if unserved:
                message = (
                    f"shard {shard.id} lacks {len(unserved)} microshards by its log that the map gives it (the first is "
                    f"{unserved[0]}): their keys can be neither read nor written"
                )
                found.append(Problem(ProblemKind.MICROSHARDS_UNSERVED, message, shard=shard.id))
            found.extend(self._differences(shard))
            for node in shard.replicas:
                # An unreachable node is one problem, not one for each of its replicas; a failed replica is behind, too.
                problem = self._behind(shard, node, target_indexes) if node in reachable else None
                if problem is not None and self._failure(shard, node) is None:
                    found.append(problem)
        order = list(ProblemKind)
        return sorted(found, key=lambda problem: order.index(problem.kind))

    def _node_problems(self, report: NodeReport) -> Iterator[Problem]:
        node = report.node
        if report.status is None:
            count = sum(1 for shard in self.shard_map.shards if node.id in shard.replicas)
            gone = f"another answers as node {node.id}" if report.stranger else f"node {node.id} is unreachable"
            yield Problem(
                ProblemKind.NODE_UNREACHABLE, f"{gone}, and with it {count} replicas: {report.problem}", node=node.id
            )
        elif report.status.not_writable:
            yield Problem(
                ProblemKind.NODE_NOT_WRITABLE,
                f"node {node.id} takes no writes: {report.status.not_writable}",
                node=node.id,
            )
        elif report.status.not_leading:
            yield Problem(
                ProblemKind.NODE_NOT_LEADING,
                f"node {node.id} is not to lead: {report.status.not_leading}",
                node=node.id,
            )

    def _failure(self, shard: Shard, node: str) -> ReplicaFailure | None:
        """Return how the replica of `shard` on `node` has failed, if it has."""
        replica = self.replica(shard.id, node)
        return None if replica is None else replica.failure

    def _failures(self, shard: Shard) -> Iterator[Problem]:
        for node in shard.replicas:
            failure = self._failure(shard, node)
            if failure is not None:
                message = f"shard {shard.id} on node {node}: the replica has failed ({failure})"
                yield Problem(ProblemKind.REPLICA_FAILED, message, node, shard.id)

    def _differences(self, shard: Shard) -> Iterator[Problem]:
        comparison = self._leaders[shard.id].replica.comparison
        if comparison is not None and comparison.divergence is not None:
            message = (
                f"the replicas of shard {shard.id} have {comparison.divergence}; none of them is known to be right"
            )
            yield Problem(ProblemKind.REPLICAS_DIFFER, message, shard=shard.id)

    def _behind(self, shard: Shard, node: str, target_indexes: Mapping[int, int]) -> Problem | None:
        """Return what keeps the replica of `shard` on `node` from being in step with the leader, which must exist."""
        leader = self._leaders[shard.id]
        where = f"shard {shard.id} on node {node}"
        # It may be of entries that the leader of then never committed and that of now does not have.
        target_index = min(target_indexes.get(shard.id, leader.replica.last_index), leader.replica.last_index)
        replica = self.replica(shard.id, node)
        if replica is None:
            return Problem(ProblemKind.REPLICA_MISSING, f"{where}: no such replica there", node, shard.id)
        lag = target_index - replica.applied_index
        to_apply = None
        if lag > REPLAY_LAG_ENTRIES:
            message = f"{where}: {lag} log entries to apply before it answers"
            to_apply = Problem(ProblemKind.REPLICA_BEHIND, message, node, shard.id)
        if node == leader.node:
            return to_apply
        progress = self.progress(shard.id, node)
        if progress is None:
            return Problem(
                ProblemKind.REPLICA_MISSING, f"{where}: the leader {leader.node} does not count it", node, shard.id
            )
        if not progress.supported:
            return Problem(
                ProblemKind.REPLICA_DISCONNECTED,
                f"{where}: the leader {leader.node} does not hear from it",
                node,
                shard.id,
            )
        if progress.match_index < target_index:
            return Problem(
                ProblemKind.REPLICA_BEHIND,
                f"{where}: {target_index - progress.match_index} log entries behind ({progress.state})",
                node,
                shard.id,
            )
        return to_apply


async def examine(
    seeds: Sequence[str],
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    wait_seconds: float = 0.0,
    tls: SSLContext | None = None,
) -> Examination:
    """Survey the cluster until nothing is wrong, or for `wait_seconds`; return the last survey and its problems.

    What passes by itself is given at least `PATIENCE_SECONDS`, such as a replica that is behind to get to where the leader
    was at first: under load every replica is a moment behind at any instant.

    Raises:
        Unavailable: no seed answered, until the end.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    target_indexes: dict[int, int] = {}
    while True:
        waited = loop.time() - started
        try:
            found = await survey(seeds, timeout_seconds, tls)
        except Unavailable:
            if waited >= wait_seconds:
                raise
        else:
            target_indexes = found.target_indexes() | target_indexes
            problems = found.problems(target_indexes)
            passing = all(problem.kind in _PASSING for problem in problems)
            patience = max(wait_seconds, PATIENCE_SECONDS if passing else 0.0)
            if not problems or waited >= patience:
                return Examination(found, tuple(problems), target_indexes)
        await asyncio.sleep(SURVEY_INTERVAL_SECONDS)


async def survey(
    seeds: Sequence[str], timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, tls: SSLContext | None = None
) -> Survey:
    """Fetch every node's status, all at once, by the newest shard map that any of them knows.

    The seed (`host:port`) that answers first may just have come back and know an old map. Where a node goes by a newer
    map when it says what it has, all are asked again: what a shard has given another since would be counted twice, or not
    at all.

    Raises:
        Unavailable: no seed answered, or the map changed again and again.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_seconds
    shard_map = await fetch_shard_map(seeds, timeout_seconds, tls)
    while True:
        reports = await asyncio.gather(
            *(_report(node, shard_map.cluster_id, timeout_seconds, tls) for node in shard_map.nodes)
        )
        known = [report.shard_map for report in reports if report.shard_map is not None]
        newest = max([shard_map, *known], key=lambda one: one.version)
        if newest.version == shard_map.version:
            return Survey(shard_map, reports)
        if loop.time() >= until:
            raise Unavailable(f"the shard map changed again and again for {timeout_seconds:g} s; try again")
        shard_map = newest


async def fetch_shard_map(
    seeds: Sequence[str], timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, tls: SSLContext | None = None
) -> ShardMap:
    """Return the shard map of the first of `seeds` that answers, with the leaders that this node knows.

    Raises:
        Unavailable: no seed answered.
    """
    asked = [asyncio.create_task(_greeted_map(seed, timeout_seconds, tls)) for seed in seeds]
    reasons: list[str] = []
    try:
        for answer in asyncio.as_completed(asked):
            try:
                return await answer
            except ShoalError as error:
                reasons.append(str(error))
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise Unavailable("no node answered: " + "; ".join(reasons))


async def _greeted_map(seed: str, timeout_seconds: float, tls: SSLContext | None) -> ShardMap:
    async with await AdminConnection.open(seed, timeout_seconds, tls) as node:
        return node.welcome.shard_map


async def _report(node: NodeAddress, cluster_id: str, timeout_seconds: float, tls: SSLContext | None) -> NodeReport:
    try:
        async with await AdminConnection.open(node.address, timeout_seconds, tls) as connection:
            status = await connection.status()
            shard_map = connection.welcome.shard_map
            if status.map_version > shard_map.version:
                shard_map = await connection.shard_map()
    except ShoalError as error:
        return NodeReport(node, None, str(error))
    if cluster_id and status.cluster_id and status.cluster_id != cluster_id:
        problem = f"{node.address} is of another cluster: of id {status.cluster_id}, this one's is {cluster_id}"
        return NodeReport(node, None, problem, stranger=True)
    if status.node != node.id:
        problem = f"{node.address} is node {status.node} of cluster {status.cluster}"
        return NodeReport(node, None, problem, stranger=True)
    return NodeReport(node, status, shard_map=shard_map)
