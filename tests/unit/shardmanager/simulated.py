"""A cluster without nodes: enough of Raft membership and of nodes' answers to drive the controller, and to catch it out.

It shares no decision with what it tests, and checks on every change that no shard is left with fewer voters than asked for,
without a quorum of nodes that run, or without a copy that counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random

from msgspec.structs import replace
from shoal.map_rules import refuse_map
from shoal.protocol.messages import PeerProgress, ReplicaStatus, StatusReply
from shoal.protocol.migration import EndedMigration
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap, without_ranges
from shoal_shardmanager import placement
from shoal_shardmanager.control.controller import Decision, Memory, adopted, decide
from shoal_shardmanager.control.node_requests import (
    ADD_FOLLOWER,
    DEMOTE,
    PROMOTE,
    REMOVE,
    CancelMigration,
    ChangeMember,
    Drop,
    Forget,
    Install,
    Split,
    Transfer,
)
from shoal_shardmanager.control.observed import FRESH_MS, NodeReport, ObservedState, trusted
from shoal_shardmanager.control.operations.planned_moves import mode_of, planned_from
from shoal_shardmanager.control.placement_input import Loads, placement_settings, placement_state
from shoal_shardmanager.control.requests import Accepted, OperatorRequest, Situation, cancel, check
from shoal_shardmanager.control.rows import Heal, NodeState, OperationRow
from shoal_shardmanager.control.state import ClusterState, changed

from .model import Crashed, Group, RequestRefused, SimulatedNode
from .simulated_migrators import SimulatedMigrators

TICK_MS = 100
CATCH_UP_PER_TICK = 400
ENTRIES = 1_500
COMMIT_TICKS = 5
"""How long a change of membership stays uncommitted: long enough for whoever does not wait to be caught."""


class SimulatedCluster:
    """Nodes, groups, and one controller after another. Time goes by in ticks."""

    def __init__(self, *, nodes: int = 5, shards: int = 2, voters: int = 3, random: Random | None = None) -> None:
        self.random = random or Random(1)
        names = [f"n{number}" for number in range(1, nodes + 1)]
        addresses = tuple(NodeAddress(name, f"h:{index + 1}", "eu", f"z{index}") for index, name in enumerate(names))
        members = [[names[(shard + place) % 3] for place in range(voters)] for shard in range(shards)]
        first = ShardMap(
            1,
            "c",
            addresses,
            (Keyspace(1, "default", shards * 4, b"/"),),
            tuple(
                Shard(shard + 1, 1, (MicroshardRange(shard * 4, shard * 4 + 4),), tuple(members[shard]))
                for shard in range(shards)
            ),
        )
        self.asked_voters = {shard.id: voters for shard in first.shards}
        self.nodes = {
            address.id: SimulatedNode(
                address, first, {shard.id for shard in first.shards if address.id in shard.replicas}
            )
            for address in addresses
        }
        self.groups = {
            shard.id: Group(
                list(shard.voters),
                [],
                shard.voters[0],
                ranges=shard.ranges,
                match=dict.fromkeys(shard.voters, ENTRIES),
            )
            for shard in first.shards
        }
        self.tick = 0
        self._reports: dict[str, NodeReport] = {}
        self.state = self._adopt(first)
        self.loads = Loads()
        self.memory = Memory(since_ms=0, loads=self.loads)
        self.migrators = SimulatedMigrators(self)
        self.disk_free: dict[str, int] = {}
        self.not_writable: dict[str, str] = {}
        self.not_leading: dict[str, str] = {}
        self.unapplied: dict[int, int] = {}
        self.events = 0
        self.crash_at = -1
        self.lose_at = -1
        self.refuse_at = -1
        self.takeovers = 0
        self.history: list[OperationRow] = []
        self.last = Decision()

    def _adopt(self, first: ShardMap) -> ClusterState:
        return changed(ClusterState(ShardMap(0, "c", (), (), ())), adopted(first, {}, 0, {}))

    # -- what tests do

    def request(self, request: OperatorRequest, if_version: int = 0) -> int:
        """Give a request; return its operation."""
        accepted = check(request, self.situation(), if_version)
        self.state = changed(self.state, accepted.changes)
        return accepted.operation.id

    def plan(self, request: OperatorRequest) -> Accepted:
        """Return what a request would do."""
        return check(request, self.situation())

    def measure(self) -> None:
        """Take the loads that nodes report into account."""
        for name, report in self.observed().reports.items():
            self.loads.take(name, report)

    def cancel(self, operation: int) -> None:
        self.state = changed(self.state, cancel(operation, self.state, self.now_ms))

    def situation(self) -> Situation:
        return Situation(self.state, self.observed(), self.loads)

    def run(self, ticks: int, until: Callable[[], bool] | None = None) -> bool:
        """Let time go by; return whether `until` came true."""
        for _ in range(ticks):
            if until is not None and until():
                return True
            self.step()
        return until is None or until()

    def run_to_end(self, operation: int, ticks: int = 2_000) -> OperationRow:
        """Let time go by until an operation has ended."""
        ended = self.run(ticks, lambda: not self.state.operations[operation].running)
        note = self.last.notes.get(operation)
        assert ended, f"{self.state.operations[operation]} waits for {note}"
        return self.state.operations[operation]

    def step(self) -> None:
        """One tick: groups go on, then the controller decides, and may crash at any event."""
        self.tick += 1
        self._groups_go_on()
        try:
            self._control()
        except Crashed:
            self.takeovers += 1
            self.memory = Memory(since_ms=self.now_ms, loads=self.loads)
            self._reports.clear()
        self.check_safety()

    # -- the controller's shell

    @property
    def now_ms(self) -> int:
        return self.tick * TICK_MS

    def observed(self) -> ObservedState:
        for name, node in self.nodes.items():
            if node.runs or node.impostor:
                self._reports[name] = NodeReport(self.status(name), self.now_ms)
            elif name in self._reports:
                # That a node is silent shows at once here.
                known = self._reports[name]
                self._reports[name] = dataclasses.replace(known, at_ms=min(known.at_ms, self.now_ms - FRESH_MS - 1))
        incarnations = {row.id: row.incarnation for row in self.state.nodes.values()}
        reports = trusted(self._reports, incarnations, self.state.map.cluster_id)
        return ObservedState(self.now_ms, self.now_ms, reports)

    def _control(self) -> None:
        observed = self.observed()
        decision = self.last = decide(self.state, observed, self.memory)
        if decision.changes:
            self.event()
            self.state = changed(self.state, decision.changes)
            self.history += [change for change in decision.changes if isinstance(change, OperationRow)]
            self.event()
        self.migrators.go_on(decision.migrators_wanted)
        for request in decision.requests:
            self.event()
            try:
                if self.events == self.refuse_at:
                    raise RequestRefused("made to fail")
                self.perform(request)
            except RequestRefused:
                pass
        for operation in decision.plans_wanted:
            work = self.state.operations[operation].arguments
            known = placement_state(self.state, observed, self.loads, healing=isinstance(work, Heal))
            plan = placement.plan(known, placement_settings(self.state.settings), mode_of(work))  # type: ignore[arg-type]
            self.memory.plans[operation] = planned_from(plan, known, self.now_ms)

    def event(self) -> None:
        self.events += 1
        if self.events == self.crash_at:
            raise Crashed

    # -- nodes

    def _runs(self, node: str) -> bool:
        """Say whether a member of a group runs: anybody may have put in one that there is not."""
        return node in self.nodes and self.nodes[node].runs

    def stop(self, node: str) -> None:
        self.nodes[node].runs = False

    def start(self, node: str) -> None:
        self.nodes[node].runs = True
        self.nodes[node].began_ms = self.now_ms

    def replace_by_impostor(self, node: str) -> None:
        """The node's process is started with an empty folder."""
        self.stop(node)
        self.nodes[node].impostor, self.nodes[node].incarnation = True, "another"

    def restore(self, node: str) -> None:
        """It is started with its own folder again."""
        self.nodes[node].impostor, self.nodes[node].incarnation = False, "i"
        self.start(node)

    def status(self, name: str) -> StatusReply:
        node = self.nodes[name]
        return StatusReply(
            request=1,
            node=name,
            cluster="c",
            incarnation=node.incarnation,
            software="s",
            uptime_ms=self.now_ms - node.began_ms + 1,
            map_version=node.map.version,
            map_derived=node.map_derived,
            connected_peers=tuple(other for other, peer in self.nodes.items() if peer.runs and other != name),
            not_writable=self.not_writable.get(name, ""),
            not_leading=self.not_leading.get(name, "") or self.not_writable.get(name, ""),
            disk_free_bytes=self.disk_free.get(name, 1 << 40),
            replicas=tuple(self._replica(name, shard) for shard in sorted(node.replicas)),
        )

    def _replica(self, name: str, shard: int) -> ReplicaStatus:
        group = self.groups.get(shard)
        empty = ReplicaStatus(shard, "follower", "", 0, 0, 0, 0, 0, 0, 0, (), ())
        if group is None or name not in group.members:
            return empty
        leads = group.leader == name
        peers = tuple(
            PeerProgress(
                member,
                "voter" if member in group.voters else "follower",
                group.match.get(member, 0),
                "replicate",
                self._runs(member),
            )
            for member in group.members
            if member != name
        )
        return replace(
            empty,
            role="leader" if leads else "voter" if name in group.voters else "follower",
            leader=group.leader,
            term=group.term,
            last_index=ENTRIES,
            applied_index=ENTRIES - self.unapplied.get(shard, 0),
            voters=tuple(group.voters),
            followers=tuple(group.followers),
            peers=peers if leads else (),
            membership_version=group.version,
            membership_committed=self.tick > group.changed_at + COMMIT_TICKS,
            ranges=group.ranges,
            outgoing=group.outgoing,
            incoming=group.incoming,
            migrations_ended=tuple(EndedMigration(number, end) for number, end in group.ended.items()),
            hot=group.hot,
            bytes=group.bytes,
            children=group.children,
            counted=True,
        )

    def perform(self, request: object) -> None:
        """Do what a node would do."""
        node = self.nodes[request.node]  # type: ignore[attr-defined]
        if not node.runs:
            raise RequestRefused("it does not answer")
        match request:
            case Install():
                assert request.map_version <= self.state.map.version
                self._install(node, request)
            case ChangeMember():
                self._change(request)
            case Transfer(name, shard, target):
                self._transfer(name, shard, target)
            case Drop(name, shard):
                self._drop(name, shard, request.empty_at)
            case Split():
                self._split(request)
            case Forget(name, shard, migration):
                self.migrators.forget(self.led(name, shard), migration)
            case CancelMigration(name, shard, migration):
                self.migrators.cancel(self.led(name, shard), migration)

    def led(self, node: str, shard: int) -> Group:
        """Return the group that a running node leads."""
        group = self.groups.get(shard)
        if group is None or group.leader != node or not self.nodes[node].runs:
            raise RequestRefused("it does not lead")
        return group

    def _install(self, node: SimulatedNode, request: Install) -> None:
        known = self.state.map.version - node.map.version
        if known < 0 or (known == 0 and not node.map_derived):
            raise RequestRefused("the map is older")
        problem = refuse_map(self.state.map, node.map)
        if problem:
            raise RequestRefused(problem)
        node.map_derived = False
        before = {shard.id for shard in node.map.shards if node.address.id in shard.replicas}
        node.map = self.state.map
        for shard in node.map.shards:
            if node.address.id in shard.replicas and shard.id not in before:
                node.replicas.add(shard.id)
                opened = sum(shard.id in self.nodes[voter].replicas for voter in shard.voters)
                if shard.id in request.found and shard.id not in self.groups and 2 * opened > len(shard.voters):
                    group = Group(list(shard.voters), list(shard.followers), shard.voters[0])
                    group.match = dict.fromkeys(group.members, ENTRIES)
                    group.ranges = shard.ranges
                    self.groups[shard.id] = group
                    self.asked_voters[shard.id] = len(shard.voters)

    def _change(self, request: ChangeMember) -> None:
        group = self.groups[request.shard]
        member = request.member
        if group.leader != request.node:
            raise RequestRefused("it does not lead")
        if self.tick <= group.changed_at + COMMIT_TICKS:
            raise RequestRefused("one change at a time")
        before = (list(group.voters), list(group.followers))
        if request.kind == ADD_FOLLOWER:
            if member in group.members:
                raise RequestRefused("a member already")
            assert any(known.id == request.shard and member in known.replicas for known in self._map_of(member).shards)
            group.followers.append(member)
            group.match[member] = 0
        elif request.kind == PROMOTE:
            if member not in group.followers:
                raise RequestRefused("no follower")
            assert group.match[member] >= ENTRIES - 1_000, "a voter that lacks much is a voter that does not count"
            group.followers.remove(member)
            group.voters.append(member)
        elif request.kind == DEMOTE:
            if member not in group.voters or member == group.leader:
                raise RequestRefused("no voter, or the leader")
            group.voters.remove(member)
            group.followers.append(member)
            assert len(group.voters) >= self.asked_voters[request.shard], "never fewer voters than asked"
        elif request.kind == REMOVE:
            if member not in group.followers:
                raise RequestRefused("no follower")
            group.followers.remove(member)
        group.version += 1
        group.changed_at = self.tick
        group.before = before

    def _split(self, request: Split) -> None:
        group, child = self.led(request.node, request.shard), request.child
        if self.tick <= group.changed_at + COMMIT_TICKS or group.outgoing or group.incoming:
            raise RequestRefused("not now")
        if child.id in self.groups or without_ranges(child.ranges, group.ranges):
            raise RequestRefused("it is split already")
        assert sorted(child.voters) == sorted(group.voters)
        assert sorted(child.followers) == sorted(group.followers)
        group.ranges = without_ranges(group.ranges, child.ranges)
        assert group.ranges, "something stays"
        made = self.groups[child.id] = Group(list(child.voters), list(child.followers), child.voters[0])
        made.ranges, made.match, made.version = child.ranges, dict(group.match), group.version
        group.children = (*group.children, child.id)
        self.asked_voters[child.id] = self.asked_voters[request.shard]
        for member in made.members:
            self.nodes[member].replicas.add(child.id)
            self.derive(member, request.map_version)

    def derive(self, node: str, version: int) -> None:
        """A node makes itself a map that shows what its logs say; its content is of no account to the managers."""
        holder = self.nodes[node]
        if holder.map.version < version:
            holder.map, holder.map_derived = replace(holder.map, version=version), True

    def _map_of(self, node: str) -> ShardMap:
        return self.nodes[node].map

    def _transfer(self, node: str, shard: int, target: str) -> None:
        group = self.groups[shard]
        if group.leader != node or target not in group.voters or not self.nodes[target].runs:
            raise RequestRefused("it does not lead, or the target cannot")
        assert not self.not_leading.get(target), "leaderships go to nodes that take them"
        group.leader, group.term = target, group.term + 1

    def _drop(self, node: str, shard: int, empty_at: int) -> None:
        holder = self.nodes[node]
        if any(known.id == shard and node in known.replicas for known in holder.map.shards):
            raise RequestRefused("the map puts it here")
        group = self.groups.get(shard)
        if group is not None and node in group.members and 0 <= empty_at <= ENTRIES and group.ranges:
            raise RequestRefused("it has microshards")
        if group is not None and shard not in self.state.counters.dropped:
            assert node not in group.members, f"a copy that counts was deleted: shard {shard} on {node}"
        holder.replicas.discard(shard)

    def _groups_go_on(self) -> None:
        for group in self.groups.values():
            for member in group.members:
                if self._runs(member) and group.match.get(member, 0) < ENTRIES:
                    group.match[member] = min(ENTRIES, group.match.get(member, 0) + CATCH_UP_PER_TICK)
            up = [voter for voter in group.voters if self._runs(voter)]
            if group.leader not in up and 2 * len(up) > len(group.voters):
                if self.tick <= group.changed_at + COMMIT_TICKS:
                    # Nobody else had its entry: the new leader's log is without it.
                    group.voters, group.followers = group.before
                    group.version, group.changed_at = group.version - 1, -10
                    up = [voter for voter in group.voters if self._runs(voter)]
                full = [voter for voter in up if group.match.get(voter, 0) >= ENTRIES] or up
                group.leader, group.term = full[0], group.term + 1

    def check_safety(self) -> None:
        for shard, group in self.groups.items():
            if shard in self.state.counters.dropped:
                continue
            assert len(group.voters) >= self.asked_voters[shard]
            holders = [one for one in group.members if one in self.nodes and shard in self.nodes[one].replicas]
            assert len(holders) * 2 > len(group.voters), f"shard {shard} has lost its copies: {group}"

    def settled(self) -> None:
        """Check that nothing is left over: map, groups and nodes agree."""
        self.run(50)
        by_id = {shard.id: shard for shard in self.state.map.shards}
        for shard, group in self.groups.items():
            if shard in self.state.counters.dropped:
                continue
            assert sorted(by_id[shard].voters) == sorted(group.voters)
            assert sorted(by_id[shard].followers) == sorted(group.followers)
            assert by_id[shard].membership_version == group.version
            assert by_id[shard].ranges == group.ranges
            assert group.outgoing is None
            assert group.incoming is None
        for name, node in self.nodes.items():
            row = self.state.nodes[name]
            if not node.runs or row.state is NodeState.REMOVED:
                continue
            assert node.map.version == self.state.map.version
            assert node.replicas == {shard.id for shard in by_id.values() if name in shard.replicas}
