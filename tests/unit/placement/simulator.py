"""Carries plans out step by step and checks each intermediate state; shares no code with what it checks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shoal_shardmanager.placement import (
    AddReplica,
    Keyspace,
    Load,
    MoveReplica,
    Node,
    NodeState,
    Plan,
    PlannedStep,
    RemoveReplica,
    Role,
    Settings,
    Shard,
    State,
    TransferLeader,
)

Faults = dict[tuple[str, object], float]


def domain(node: Node) -> tuple[str, str]:
    return (node.region, node.zone) if node.zone else (node.region, f"node {node.id}")


def pairs(items: list[tuple[str, str]]) -> int:
    return sum(count * (count - 1) // 2 for count in Counter(items).values())


def fewest_pairs(state: State, copies: int, required: dict[str, int]) -> int:
    """Try every way to put `copies` on the active nodes, by domain; regions get what they require as far as it goes."""
    slots = Counter(domain(node) for node in state.nodes if node.state is NodeState.ACTIVE)
    copies = min(copies, sum(slots.values()))
    in_region = Counter(node.region for node in state.nodes if node.state is NodeState.ACTIVE)
    need = {region: min(wanted, in_region[region]) for region, wanted in required.items()}

    def ways(domains: list[tuple[str, str]], left: int) -> Iterator[dict[tuple[str, str], int]]:
        if not domains:
            if left == 0:
                yield {}
            return
        for here in range(min(slots[domains[0]], left) + 1):
            for rest in ways(domains[1:], left - here):
                yield {domains[0]: here, **rest}

    best = 10**9
    for way in ways(sorted(slots), copies):
        by_region: Counter[str] = Counter()
        for (region, _), count in way.items():
            by_region[region] += count
        if all(by_region[region] >= wanted for region, wanted in need.items()):
            best = min(best, sum(count * (count - 1) // 2 for count in way.values()))
    return best if best < 10**9 else 0


@dataclass
class Simulator:
    state: State
    settings: Settings

    def __post_init__(self) -> None:
        self.nodes = {node.id: node for node in self.state.nodes}
        self.keyspaces = {keyspace.id: keyspace for keyspace in self.state.keyspaces}
        self.shards = {shard.id: shard for shard in self.state.shards}
        self._fewest: dict[int, tuple[int, int]] = {}
        self.on: dict[str, set[int]] = {node.id: set() for node in self.state.nodes}
        for shard in self.state.shards:
            for name in shard.replicas + shard.incoming:
                self.on[name].add(shard.id)
        for keyspace in self.state.keyspaces:
            self._fewest[keyspace.id] = (
                fewest_pairs(self.state, keyspace.voters, {} if keyspace.followers else keyspace.required),
                fewest_pairs(self.state, keyspace.voters + keyspace.followers, keyspace.required),
            )

    # -- what is there -------------------------------------------------------------------------------------------

    def now(self) -> State:
        return replace(self.state, shards=tuple(self.shards.values()))

    def replicas(self, node: str) -> int:
        return len(self.on[node])

    def leaders(self, keyspace: int = 0) -> dict[str, int]:
        counts = dict.fromkeys((node.id for node in self.state.nodes if node.state is NodeState.ACTIVE), 0)
        for shard in self.shards.values():
            if shard.leader in counts and keyspace in (0, shard.keyspace):
                counts[shard.leader] += 1
        return counts

    def counts(self, keyspace: int = 0) -> dict[str, int]:
        counts = dict.fromkeys((node.id for node in self.state.nodes if node.state is NodeState.ACTIVE), 0)
        for shard in self.shards.values():
            for node in shard.replicas:
                if node in counts and keyspace in (0, shard.keyspace):
                    counts[node] += 1
        return counts

    def loads(self, metric: str) -> dict[str, float]:
        """Return the load of each node, by the shares of the settings."""
        return {node: self.load(node, metric) for node in self.nodes}

    def load(self, node: str, metric: str) -> float:
        leading: float = getattr(self.settings.leader_share, metric)
        other: float = getattr(self.settings.other_share, metric)
        total = 0.0
        for shard in (self.shards[number] for number in self.on[node]):
            leads = node == shard.leader and self.nodes[node].state is not NodeState.GONE
            total += getattr(shard.load, metric) * (leading if leads else other)
        return total

    def faults(self) -> Faults:
        """Return how much each hard constraint is broken, by subject."""
        return self.faults_of(list(self.shards.values()), list(self.state.nodes))

    def faults_of(self, shards: list[Shard], nodes: list[Node]) -> Faults:
        faults: Faults = {}
        for shard in shards:
            keyspace = self.keyspaces[shard.keyspace]
            live = [node for node in shard.replicas if self.nodes[node].state is not NodeState.GONE]
            voters = [domain(self.nodes[node]) for node in live if node in shard.voters]
            fewest_voters, fewest = self._fewest[keyspace.id]
            faults["voters", shard.id] = max(0, keyspace.voters - len(shard.voters))
            faults["followers", shard.id] = max(0, keyspace.followers - len(shard.followers))
            faults["too many", shard.id] = max(0, len(shard.voters) - keyspace.voters) + max(
                0, len(shard.followers) - keyspace.followers
            )
            faults["gone", shard.id] = len(shard.replicas) - len(live)
            faults["voters crowded", shard.id] = max(0, pairs(voters) - fewest_voters)
            faults["crowded", shard.id] = max(0, pairs([domain(self.nodes[node]) for node in live]) - fewest)
            regions = Counter(self.nodes[node].region for node in live)
            for region, wanted in keyspace.required.items():
                faults["region " + region, shard.id] = max(0, wanted - regions[region])
        for node in nodes:
            if node.state is NodeState.ACTIVE:
                faults["bytes", node.id] = max(0, self.disk(node.id) - self.room(node))
                faults["seats", node.id] = max(0, self.replicas(node.id) - (node.replicas_max or 10**9))
            else:
                faults["off duty", node.id] = self.replicas(node.id)
        for metric in ("reads", "writes", "cpu"):
            faults["excess", metric] = sum(
                max(0.0, self.load(node.id, metric) - self.capacity(node, metric)) for node in nodes
            )
        return faults

    def disk(self, node: str) -> int:
        return sum(self.shards[number].load.bytes for number in self.on[node])

    def room(self, node: Node) -> int:
        return int(node.capacity.bytes * self.settings.disk_fill_max) if node.capacity.bytes else 1 << 62

    def capacity(self, node: Node, metric: str) -> float:
        if node.state is not NodeState.ACTIVE:
            return 0.0
        return getattr(node.capacity, metric) or float("inf")

    # -- what is done --------------------------------------------------------------------------------------------

    def run(self, plan: Plan) -> State:
        """Carry the plan out, wave by wave; every check is an assertion."""
        waves: dict[int, list[PlannedStep]] = defaultdict(list)
        for before, after in zip(plan.steps, plan.steps[1:], strict=False):
            assert before.wave <= after.wave, "steps are in the order of their waves"
        for step in plan.steps:
            waves[step.wave].append(step)
        for number in sorted(waves):
            self._check_caps(number, waves[number])
            leaving: list[tuple[str, int]] = []
            for step in waves[number]:
                self._step(step, leaving)
        return self.now()

    def _check_caps(self, number: int, steps: list[PlannedStep]) -> None:
        caps = self.settings.caps
        at_node: Counter[str] = Counter()
        at_shard: Counter[int] = Counter()
        copies = 0
        if number == 0:
            for shard in self.shards.values():
                at_node.update(shard.incoming)
                copies += len(shard.incoming)
        for step in steps:
            at_shard[step.shard] += 1
            if isinstance(step, MoveReplica | AddReplica):
                copies += 1
                at_node[step.target] += 1
            if isinstance(step, MoveReplica):
                at_node[step.source] += 1
        under_way = sum(len(shard.incoming) for shard in self.shards.values()) if number == 0 else 0
        copying = [step for step in steps if isinstance(step, MoveReplica | AddReplica)]
        touched = {node for step in copying for node in (step.target, getattr(step, "source", ""))}
        assert all(at_node[node] <= caps.per_node for node in touched if node), "cap of a node"
        assert all(count <= caps.per_shard for count in at_shard.values()), "cap of a shard"
        assert copies <= max(caps.per_cluster, under_way), "cap of the cluster"

    def _step(self, step: PlannedStep, leaving: list[tuple[str, int]]) -> None:
        shard = self.shards[step.shard]
        assert not shard.busy, "a shard under an operation is left alone"
        # Only the step's own shard and nodes can change.
        ends = [self.nodes[end] for end in (getattr(step, "source", ""), getattr(step, "target", "")) if end]
        before = self.faults_of([shard], ends)
        changed = self._after(shard, step)
        self.shards[shard.id] = changed
        for node in ends:
            (self.on[node.id].add if node.id in changed.replicas else self.on[node.id].discard)(shard.id)
        after = self.faults_of([changed], ends)
        for fault, amount in after.items():
            allowed = before[fault]
            if fault[0] == "excess" and isinstance(step, AddReplica):
                continue  # a missing replica is worse than a busy node
            assert amount <= allowed + 1e-6 * max(1.0, allowed), f"{step} makes {fault} worse: {allowed} to {amount}"
        if isinstance(step, MoveReplica | AddReplica):
            # What leaves a node in this wave may still be there.
            target = self.nodes[step.target]
            still = [size for node, size in leaving if node == step.target]
            assert self.disk(step.target) + sum(still) <= self.room(target), "room while the wave lasts"
            assert self.replicas(step.target) + len(still) <= (target.replicas_max or 10**9), "seats in the wave"
        if isinstance(step, MoveReplica):
            leaving.append((step.source, step.bytes))

    def _after(self, shard: Shard, step: PlannedStep) -> Shard:
        if isinstance(step, MoveReplica | AddReplica):
            assert self.nodes[step.target].state is NodeState.ACTIVE, "draining and gone nodes receive nothing"
            assert step.target not in shard.replicas, "never two replicas of a shard on a node"
            assert step.bytes == shard.load.bytes
        if isinstance(step, MoveReplica):
            members = shard.voters if step.role is Role.VOTER else shard.followers
            assert step.source in members
            assert step.leads == (shard.leader == step.source and self.nodes[step.source].state is not NodeState.GONE)
            moved = tuple(step.target if node == step.source else node for node in members)
            leader = shard.leader
            if leader == step.source:
                leader = step.target if step.leads else ""
            if step.role is Role.VOTER:
                return replace(shard, voters=moved, leader=leader)
            return replace(shard, followers=moved)
        if isinstance(step, AddReplica):
            if step.role is Role.VOTER:
                return replace(shard, voters=(*shard.voters, step.target))
            return replace(shard, followers=(*shard.followers, step.target))
        if isinstance(step, RemoveReplica):
            gone = self.nodes[step.source].state is NodeState.GONE
            assert step.source != shard.leader or gone, "a leader is not removed"
            keep = tuple(node for node in shard.voters if node != step.source)
            leader = "" if shard.leader == step.source else shard.leader
            followers = tuple(node for node in shard.followers if node != step.source)
            return replace(shard, voters=keep, followers=followers, leader=leader)
        assert isinstance(step, TransferLeader)
        assert step.source == shard.leader
        assert step.target in shard.voters, "only a voter leads"
        assert self.nodes[step.target].state is NodeState.ACTIVE
        return replace(shard, leader=step.target)


def cluster(nodes: int, zones: int = 3, capacity: Load | None = None) -> tuple[Node, ...]:
    """Return active nodes n0, n1, ... in the zones in turn."""
    return tuple(Node(f"n{n}", "r", f"z{n % zones}", capacity=capacity or Load()) for n in range(nodes))


def keyspaces(count: int, voters: int = 3) -> tuple[Keyspace, ...]:
    return tuple(Keyspace(number, voters) for number in range(1, count + 1))
