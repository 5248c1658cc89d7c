"""What a leadership knows of keyspaces' quotas, and what it wants each node to be told: shares by demand, and who is full.

Nothing of it is stored: a manager that takes over finds in the nodes' reports which shares are in force, and what was asked
for. The shares of a node that does not answer stay its own as long as another node is connected with it, since it may serve
on; else they are for the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from shoal.bounds import WHOLE
from shoal.protocol.messages import StatusReply
from shoal.protocol.quotas import QuotaShare, QuotaUse
from shoal.quotas import sharers_of
from shoal.shardmap import Keyspace

from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.placement_input import Loads
from shoal_shardmanager.control.quota_shares import next_shares, shares_for
from shoal_shardmanager.control.state import ClusterState

DEAL_MS = 2_000
FADE_MS = 3_000
"""Demand that falls is forgotten within about this; demand that rises counts at once."""
LEAST_MS = 500
"""Between two counts, or a rate is mostly chance."""
TOO_SMALL = WHOLE // 100
"""Nobody is told of a difference of less than this."""


@dataclass(frozen=True, slots=True)
class NodeShares:
    """What a node is to be told."""

    epoch: int
    number: int
    shares: tuple[QuotaShare, ...]


@dataclass(slots=True)
class _Demand:
    """Operations a second that are asked of a node in a keyspace; counters as of its report at `at_ms`."""

    at_ms: int
    reads: int
    writes: int
    reads_rate: float = 0.0
    writes_rate: float = 0.0

    def take(self, use: QuotaUse, at_ms: int) -> None:
        elapsed = at_ms - self.at_ms
        if elapsed < LEAST_MS:
            return
        # A counter that went back is that of a process that began anew.
        kept = math.exp(-elapsed / FADE_MS)
        self.reads_rate = max(max(0, use.asked_reads - self.reads) * 1000 / elapsed, kept * self.reads_rate)
        self.writes_rate = max(max(0, use.asked_writes - self.writes) * 1000 / elapsed, kept * self.writes_rate)
        self.at_ms, self.reads, self.writes = at_ms, use.asked_reads, use.asked_writes


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Which nodes can be told anything.

    Args:
        silent: those that do not answer; `gone`: with whom no other node is connected, either.
        settled: none of the others will take any more what an earlier leadership has sent.
    """

    silent: frozenset[str]
    gone: frozenset[str]
    settled: bool

    @classmethod
    def of(cls, nodes: frozenset[str], observed: ObservedState, epoch: int) -> _Nodes:
        statuses = {node: observed.fresh(node) for node in nodes}
        silent = frozenset(node for node, status in statuses.items() if status is None)
        heard = {peer for node in observed.reports if (s := observed.fresh(node)) for peer in s.connected_peers}
        settled = all(status is None or status.quota_epoch == epoch for status in statuses.values())
        return cls(silent, silent - heard, settled)


@dataclass(slots=True)
class _KindOfQuota:
    """The reads, or the writes, of one keyspace: what each node is to come to, and what it has been asked to take last."""

    targets: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def deal(self, quota: int, demand: dict[str, float]) -> None:
        targets = shares_for(quota, demand)
        if targets.keys() != self.targets.keys() or any(
            abs(target - self.targets[node]) > TOO_SMALL for node, target in targets.items()
        ):
            self.targets = targets

    def step(self, reported: dict[str, int], nodes: _Nodes) -> dict[str, int]:
        """Return what each node is to take now."""
        held = {node: max(share, self.asked.get(node, 0)) for node, share in reported.items() if node not in nodes.gone}
        self.asked = next_shares(self.targets, held, nodes.silent, may_raise=nodes.settled)
        return self.asked


@dataclass(slots=True)
class QuotaDealing:
    """See the module's first lines.

    `epoch`: of the leadership. `used_bytes`: what keyspaces with a quota of bytes have, as counted last; `full`: those that
    have as many as they may.
    """

    epoch: int = 0
    used_bytes: dict[int, int] = field(default_factory=dict)
    full: frozenset[int] = frozenset()
    _number: int = 0
    _dealt_ms: int = 0
    _dealt_for: object = None
    _demand: dict[tuple[str, int], _Demand] = field(default_factory=dict)
    _kinds: dict[tuple[int, str], _KindOfQuota] = field(default_factory=dict)
    _told: dict[str, tuple[QuotaShare, ...]] = field(default_factory=dict)

    def wanted(self, state: ClusterState, observed: ObservedState, loads: Loads) -> dict[str, NodeShares]:
        """Return whom to tell what now: the nodes that do not report yet what they are to have."""
        sharers = sharers_of(state.map)
        if not sharers:
            self._kinds, self._demand, self._told = {}, {}, {}
            self.used_bytes, self.full = {}, frozenset()
            return {}
        keyspaces = {each.id: each for each in state.map.keyspaces if each.id in sharers}
        uses = {(node, use.keyspace): use for node, each in observed.reports.items() for use in each.status.quotas}
        nodes = _Nodes.of(frozenset().union(*sharers.values()), observed, self.epoch)
        self._measure(observed, uses)
        self.used_bytes = {
            number: _bytes(state, observed, loads, number) for number, each in keyspaces.items() if each.max_bytes
        }
        self.full = frozenset(number for number, used in self.used_bytes.items() if used >= keyspaces[number].max_bytes)
        self._deal(keyspaces, {number: known - nodes.gone for number, known in sharers.items()}, observed.now_ms)
        shares: dict[str, list[QuotaShare]] = {}
        for number, sharing in sorted(sharers.items()):
            # Of what is not reported yet a node will take an equal share, when it has the map.
            known = {node: uses.get((node, number)) for node in sharing}
            equal = WHOLE // len(sharing)
            reads = {node: equal if use is None else use.reads for node, use in known.items()}
            writes = {node: equal if use is None else use.writes for node, use in known.items()}
            reads, writes = (
                self._kinds[number, kind].step(reported, nodes)
                for kind, reported in (("reads", reads), ("writes", writes))
            )
            for node in sorted(sharing - nodes.silent):
                share = QuotaShare(number, reads[node], writes[node], number in self.full)
                shares.setdefault(node, []).append(share)
        return {
            node: told
            for node, of_node in shares.items()
            if (told := self._to_tell(node, tuple(of_node), observed)) is not None
        }

    def _measure(self, observed: ObservedState, uses: dict[tuple[str, int], QuotaUse]) -> None:
        for (node, number), use in uses.items():
            at_ms = observed.reports[node].at_ms
            known = self._demand.get((node, number))
            if known is None:
                self._demand[node, number] = _Demand(at_ms, use.asked_reads, use.asked_writes)
            else:
                known.take(use, at_ms)

    def _deal(self, keyspaces: dict[int, Keyspace], sharers: dict[int, frozenset[str]], now_ms: int) -> None:
        """Deal anew, where it is time to, or others share, or other quotas."""
        quotas = {number: (each.reads_per_second, each.writes_per_second) for number, each in keyspaces.items()}
        dealt_for = (quotas, sharers)
        if now_ms - self._dealt_ms < DEAL_MS and dealt_for == self._dealt_for:
            return
        self._dealt_ms, self._dealt_for = now_ms, dealt_for
        present = {(node, number) for number, nodes in sharers.items() for node in nodes}
        self._demand = {key: demand for key, demand in self._demand.items() if key in present}
        kinds: dict[tuple[int, str], _KindOfQuota] = {}
        for number, nodes in sharers.items():
            known = {node: self._demand.get((node, number)) for node in nodes}
            reads = {node: 0.0 if each is None else each.reads_rate for node, each in known.items()}
            writes = {node: 0.0 if each is None else each.writes_rate for node, each in known.items()}
            for kind, quota, demand in (("reads", quotas[number][0], reads), ("writes", quotas[number][1], writes)):
                kinds[number, kind] = self._kinds.get((number, kind), _KindOfQuota())
                kinds[number, kind].deal(max(1, quota), demand)
        self._kinds = kinds

    def _to_tell(self, node: str, shares: tuple[QuotaShare, ...], observed: ObservedState) -> NodeShares | None:
        status = observed.fresh(node)
        if status is None or _has(status, self.epoch, shares):
            return None
        if self._told.get(node) != shares:
            self._told[node] = shares
            self._number += 1
        return NodeShares(self.epoch, self._number, shares)


def _has(status: StatusReply, epoch: int, shares: tuple[QuotaShare, ...]) -> bool:
    """Say whether a node has the shares that it is to have, of those keyspaces that it knows to have quotas."""
    known = {use.keyspace: QuotaShare(use.keyspace, use.reads, use.writes, use.full) for use in status.quotas}
    wanted = [share for share in shares if share.keyspace in known]
    return (status.quota_epoch == epoch or not wanted) and all(known[share.keyspace] == share for share in wanted)


def _bytes(state: ClusterState, observed: ObservedState, loads: Loads, keyspace: int) -> int:
    """Return what the rows of a keyspace have, each counted once: by its shards' leaders, as far as these are known."""
    total = 0
    for shard in state.map.shards:
        if shard.keyspace == keyspace:
            leader = observed.leader(shard.id)
            total += loads.bytes_of(shard.id, None if leader is None else leader.node, shard.replicas)
    return total
