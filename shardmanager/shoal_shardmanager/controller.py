"""All decisions of one moment: from the rows and the reports to rows to write and requests to send. Pure.

`decide` is called again whenever something has changed, and about once a second. It remembers nothing but what is in
`Memory`, which a manager that takes over may begin empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace
from shoal.shardmap import NodeAddress, Shard, ShardMap
from shoal_server.invariants import InvariantViolated

from shoal_shardmanager.operations import campaign, leaders, replica, spread
from shoal_shardmanager.operations.campaign import Planned
from shoal_shardmanager.operations.outcome import Note, Outcome, end, go, wait
from shoal_shardmanager.requests import Drop, Install, NodeRequest
from shoal_shardmanager.rows import (
    AlterKeyspace,
    CountersRow,
    CreateKeyspace,
    Drain,
    DropKeyspace,
    Failover,
    Heal,
    MoveLeader,
    MoveReplica,
    NodeRow,
    NodeState,
    OperationRow,
    PolicyRow,
    Rebalance,
    RemoveNode,
    SettingsRow,
    State,
    Step,
    Undrain,
)
from shoal_shardmanager.state import (
    Change,
    ClusterState,
    ForgetOperation,
    changed,
    with_counters,
    with_membership,
    with_shards,
)
from shoal_shardmanager.view import View

STUCK_MS = 30_000
"""A move that waits for so long at one step no longer counts against the caps: it moves nothing."""

PLAN_MS = 5_000
"""A plan that is older was made for other nodes and loads."""


@dataclass(slots=True)
class Memory:
    """What the controller knows besides rows and reports.

    Args:
        since_ms: when it began: before, it cannot know who was silent (monotonic).
        plans: placement's newest answers, by operation.
    """

    since_ms: int
    plans: dict[int, Planned] = field(default_factory=dict)


@dataclass(slots=True)
class Decision:
    """What to do now: write `changes` in one write, then send `requests`. `notes` say how running operations stand."""

    changes: list[Change] = field(default_factory=list)
    requests: list[NodeRequest] = field(default_factory=list)
    notes: dict[int, Note] = field(default_factory=dict)
    plans_wanted: list[int] = field(default_factory=list)


def decide(state: ClusterState, view: View, memory: Memory) -> Decision:
    """Return what to do now."""
    decision = Decision()
    # What follows is decided on the state with the changes so far, so that two operations never take the same number.
    after = _write(state, decision, _liveness(state, view, memory))
    after = _write(after, decision, _heals(after, view.wall_ms))
    after = _write(after, decision, _followed(after, view))
    for row in state.running():
        if row.id in view.waiting:
            decision.notes[row.id] = Note("a request to a node is under way")
            continue
        outcome = _advance(after.operations[row.id], after, view, memory, decision)
        decision.notes[row.id] = _with_trouble(outcome.note, view, row.id)
        decision.requests.extend(outcome.requests)
        after = _write(after, decision, outcome.changes)
    after = _write(after, decision, _begun(after, view))
    _write(after, decision, _forgotten(after))
    decision.requests.extend(_pushes(state, view))
    decision.requests.extend(_remainders(state, view))
    return decision


def _write(state: ClusterState, decision: Decision, changes: Iterable[Change]) -> ClusterState:
    listed = list(changes)
    if not listed:
        return state
    decision.changes.extend(listed)
    return changed(state, listed)


def _advance(row: OperationRow, state: ClusterState, view: View, memory: Memory, decision: Decision) -> Outcome:
    work = row.arguments
    if row.step is Step.QUEUED:
        if row.undo:
            return end(row, State.CANCELLED, view.wall_ms, row.undo)
        return wait("waiting for its turn")
    match work:
        case MoveReplica():
            return replica.advance(row, work, state, view)
        case MoveLeader():
            return leaders.transfer(row, work, state, view)
        case Failover():
            return leaders.evacuate(row, work, state, view)
        case Drain() | Heal() | Rebalance():
            planned = memory.plans.get(row.id)
            if planned is not None and view.now_ms - planned.at_ms > PLAN_MS:
                planned = None
            outcome = campaign.advance(row, work, state, view, planned)
            if planned is not None and outcome.changes:
                del memory.plans[row.id]  # what comes after these moves is planned when they have ended
            if outcome.wants_plan:
                decision.plans_wanted.append(row.id)
            return outcome
        case CreateKeyspace():
            return spread.found(row, work, state, view)
        case DropKeyspace():
            return (spread.delete if row.step is Step.DROP else spread.spread)(row, work, state, view)
        case AlterKeyspace() | RemoveNode() | Undrain():
            return spread.spread(row, work, state, view)


def _with_trouble(note: Note, view: View, operation: int) -> Note:
    trouble = view.troubles.get(operation)
    if trouble is None:
        return note
    waiting = f"{note.waiting}; tried {trouble.attempts} times, the last time: {trouble.reason}"
    return Note(waiting, note.left, note.total, note.unit)


# -- nodes


def _liveness(state: ClusterState, view: View, memory: Memory) -> Iterable[Change]:
    """Note nodes that are gone for longer than the grace period, and those that are back."""
    watched = [row for row in state.nodes.values() if row.state is not NodeState.REMOVED]
    reached = sum(view.fresh(row.id) is not None for row in watched)
    seen_by_others = {peer for node in state.nodes if (s := view.fresh(node)) is not None for peer in s.connected_peers}
    for row in watched:
        if view.fresh(row.id) is not None:
            if row.state is NodeState.GONE:
                yield replace(row, state=row.before, since_ms=view.wall_ms)
            continue
        report = view.reports.get(row.id)
        silent_ms = view.now_ms - max(memory.since_ms, report.at_ms if report is not None else 0)
        silent_ms = min(silent_ms, view.wall_ms - row.since_ms)  # one that joins is not gone before it has begun
        if row.state is NodeState.GONE or silent_ms < state.settings.gone_after_ms:
            continue
        # A manager that reaches less than half of the nodes is rather itself cut off; and what other nodes
        # are connected with is not gone.
        if reached * 2 <= len(watched) or row.id in seen_by_others:
            continue
        yield replace(row, state=NodeState.GONE, since_ms=view.wall_ms, before=row.state)


def _heals(state: ClusterState, now_ms: int) -> Iterable[Change]:
    """Begin to replace the replicas of nodes that are gone."""
    for row in state.nodes.values():
        if row.state is not NodeState.GONE or not any(row.id in shard.replicas for shard in state.map.shards):
            continue
        if any(isinstance(other.arguments, Heal) and other.node == row.id for other in state.running()):
            continue
        if any(isinstance(other.arguments, Drain) and other.node == row.id for other in state.running()):
            continue
        number = state.counters.next_operation
        counters = replace(state.counters, next_operation=number + 1)
        yield counters
        yield OperationRow(
            number, Heal(row.id), State.RUNNING, Step.WORK, now_ms, now_ms, reason=f"node {row.id} is gone"
        )
        state = with_counters(state, counters)


# -- the map


def _followed(state: ClusterState, view: View) -> Iterable[Change]:
    """Have the map follow the membership that the shards' logs hold; a target that is not yet in one stays routed."""
    targets = {
        row.shard: row.arguments.target
        for row in state.running()
        if isinstance(row.arguments, MoveReplica) and row.step in (Step.ROUTE, Step.ADD, Step.CATCH_UP)
    }
    edited: list[Shard] = []
    for shard in state.map.shards:
        leading = view.leaders().get(shard.id)
        if leading is None or not leading.replica.membership_committed:
            continue
        status = leading.replica
        if status.membership_version <= shard.membership_version:
            continue
        target = targets.get(shard.id, "")
        extra = (target,) if target and target in shard.replicas and target not in leading.members else ()
        edited.append(with_membership(shard, status.voters, (*status.followers, *extra), status.membership_version))
    if edited:
        yield with_shards(state.map, edited)


def _pushes(state: ClusterState, view: View) -> Iterable[Install]:
    """Send the newest map to the nodes that lack it."""
    founding = {
        shard for row in state.running() if isinstance(row.arguments, CreateKeyspace) for shard in row.arguments.shards
    }
    for node in sorted(state.nodes):
        status = view.fresh(node)
        if status is None or status.map_version >= state.map.version:
            continue
        found = tuple(
            shard.id
            for shard in state.map.shards
            if shard.id in founding and node in (shard.founders or shard.voters) + shard.founding_followers
        )
        yield Install(node, state.map.version, found)


def _remainders(state: ClusterState, view: View) -> Iterable[Drop]:
    """Delete replicas that nobody counts on: of shards that left a node while it was away, and of dropped keyspaces."""
    shards = {shard.id: shard for shard in state.map.shards}
    busy = state.busy()
    dropped = set(state.counters.dropped) - busy
    view_leaders = view.leaders()
    for node in sorted(state.nodes):
        status = view.fresh(node)
        if status is None or status.map_version < state.map.version:
            continue
        for held in status.replicas:
            shard = shards.get(held.shard)
            if shard is None:
                if held.shard in dropped:
                    yield Drop(node, held.shard)
                continue
            if node in shard.replicas or held.shard in busy:
                continue
            leading = view_leaders.get(held.shard)
            # Only a leader's committed word says that a copy is not needed; the map is a hint.
            known = leading is not None and leading.replica.membership_committed
            if known and leading is not None and leading.node != node and node not in leading.members:
                yield Drop(node, held.shard)


# -- the queue


def _begun(state: ClusterState, view: View) -> Iterable[Change]:
    """Let queued operations begin, the oldest first, as far as the caps allow."""
    moving = _Moving.of(state, view.wall_ms)
    for row in state.running():
        if row.step is not Step.QUEUED or row.undo:
            continue
        work = row.arguments
        if isinstance(work, MoveLeader):
            outcome = go(row, Step.TRANSFER, view.wall_ms)
        elif isinstance(work, MoveReplica):
            shard = state.shard(work.shard)
            if shard is None or not moving.admits(work, state):
                continue
            moving.add(work)
            outcome = replica.begin(row, work, shard, state, view.wall_ms)
        else:
            raise InvariantViolated(f"a {row.kind} does not wait in the queue")
        state = changed(state, outcome.changes)
        yield from outcome.changes


@dataclass(slots=True)
class _Moving:
    """How many moves are under way, in all and by node."""

    total: int
    by_node: dict[str, int]

    @classmethod
    def of(cls, state: ClusterState, now_ms: int) -> _Moving:
        moving = cls(0, {})
        for row in state.running():
            work = row.arguments
            if isinstance(work, MoveReplica) and row.step is not Step.QUEUED and now_ms - row.step_ms < STUCK_MS:
                moving.add(work)
        return moving

    def admits(self, work: MoveReplica, state: ClusterState) -> bool:
        settings = state.settings
        return self.total < settings.moves_per_cluster and all(
            self.by_node.get(node, 0) < settings.moves_per_node for node in (work.source, work.target) if node
        )

    def add(self, work: MoveReplica) -> None:
        self.total += 1
        for node in (work.source, work.target):
            if node:
                self.by_node[node] = self.by_node.get(node, 0) + 1


def _forgotten(state: ClusterState) -> Iterable[Change]:
    """Forget the oldest of the operations that have ended, beyond the history that is kept."""
    ended = [number for number, row in sorted(state.operations.items()) if not row.running]
    for number in ended[: max(0, len(ended) - state.settings.history)]:
        yield ForgetOperation(number)


# -- nodes that join


def joined(state: ClusterState, address: NodeAddress, now_ms: int) -> tuple[list[Change], str]:
    """Return the changes that take a node in, or none and why it is refused ("": it is in already)."""
    known = state.nodes.get(address.id)
    if known is not None:
        if known.state is NodeState.REMOVED:
            return [], f"node id {address.id!r} was that of a node that is removed; ids are never used again"
        if known.address != address.address:
            return [], f"node {address.id!r} is at {known.address}: a node cannot change its address yet"
        return [], ""
    holder = next((row.id for row in state.nodes.values() if row.address == address.address), None)
    if holder is not None:
        return [], f"address {address.address} is that of node {holder!r}"
    row = NodeRow(address.id, address.address, address.region, address.zone, NodeState.ACTIVE, now_ms)
    shard_map = state.map
    nodes = (*shard_map.nodes, address)
    return [row, replace(shard_map, version=shard_map.version + 1, nodes=nodes)], ""


def adopted(shard_map: ShardMap, policies: Mapping[str, tuple[int, int]], now_ms: int) -> list[Change]:
    """Return the first rows, from the map that the nodes have. `policies`: (voters, followers) by keyspace name."""
    changes: list[Change] = [shard_map, SettingsRow()]
    changes += [
        NodeRow(node.id, node.address, node.region, node.zone, NodeState.ACTIVE, now_ms) for node in shard_map.nodes
    ]
    for keyspace in shard_map.keyspaces:
        counts = [
            (len(shard.voters), len(shard.followers)) for shard in shard_map.shards if shard.keyspace == keyspace.id
        ]
        voters, followers = policies.get(keyspace.name, max(counts))
        changes.append(PolicyRow(keyspace.id, voters, followers))
    changes.append(
        CountersRow(
            next_operation=1,
            next_shard=max((shard.id for shard in shard_map.shards), default=0) + 1,
            next_keyspace=max((keyspace.id for keyspace in shard_map.keyspaces), default=0) + 1,
        )
    )
    return changes
