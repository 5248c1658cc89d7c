"""All decisions of one moment: from the rows and the reports to rows to write and requests to send. Pure.

`decide` is called again whenever something has changed, and about once a second. It remembers nothing but what is in
`Memory`, which a manager that takes over may begin empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from msgspec.structs import replace
from shoal.bounds import MAX_NODES
from shoal.protocol.messages import StatusReply
from shoal.shardmap import NodeAddress, ShardMap
from shoal_server.config import units

from shoal_shardmanager.control import memberships
from shoal_shardmanager.control.node_requests import Drop, Install, NodeRequest
from shoal_shardmanager.control.observed import ObservedState, elapsed_ms
from shoal_shardmanager.control.operation_queue import begun
from shoal_shardmanager.control.operations import (
    automatic,
    leaders,
    migrate,
    planned_moves,
    replica,
    restart,
    split,
    spread,
)
from shoal_shardmanager.control.operations.migrate import MigrationProgress
from shoal_shardmanager.control.operations.outcome import Note, Outcome, end, wait
from shoal_shardmanager.control.operations.planned_moves import Planned
from shoal_shardmanager.control.placement_input import Loads
from shoal_shardmanager.control.quota_dealing import NodeShares, QuotaDealing
from shoal_shardmanager.control.requests.keyspaces import NAME
from shoal_shardmanager.control.rows import (
    AlterKeyspace,
    CreateKeyspace,
    Drain,
    DropKeyspace,
    Failover,
    FollowLogs,
    Heal,
    MergeShards,
    Migration,
    MoveLeader,
    MoveMicroshards,
    MoveReplica,
    NodeRow,
    NodeState,
    OperationRow,
    PolicyRow,
    Rebalance,
    RemoveNode,
    RollingRestart,
    SettingsRow,
    SplitShard,
    State,
    Step,
    Undrain,
)
from shoal_shardmanager.control.state import (
    ClusterState,
    ForgetOperation,
    RowChange,
    changed,
    map_problem,
    with_counters,
)
from shoal_shardmanager.control.used_numbers import first_counters, passed_over

PLAN_MS = 5_000
"""A plan that is older was made for other nodes and loads."""

HOLD_MS = 2_000
"""For so long at the most no map is sent while nodes may have one that they have derived from a split or a migration, and
that the managers' does not show yet: there is nothing wrong with an older one, but clients would look for keys in vain."""

HAS_ANOTHER_FOLDER = "has another data folder than"
OTHER_IDENTITY = (
    "what answers as node {node} " + HAS_ANOTHER_FOLDER + " the node of that name had: it holds nothing of what that "
    "had promised, and is not taken for it; give it a new id, and `shoal remove-node {node}` once its replicas are replaced"
)

IS_OF_ANOTHER_CLUSTER = "is of another cluster"
OTHER_CLUSTER = (
    "what answers as node {node} "
    + IS_OF_ANOTHER_CLUSTER
    + ": of id {theirs}, this one's is {ours}; the nodes were made anew, or "
    "restored from a copy: managers of theirs begin with empty folders"
)


@dataclass(slots=True)
class Memory:
    """What the controller knows besides rows and reports.

    Args:
        since_ms: when it began: before, it cannot know who was silent (monotonic).
        plans: placement's newest answers, by operation.
        loads: what shards have to do.
        progress: how far the migrators are, by operation.
        overloaded: since when shards have been beyond what asks for a split (monotonic).
        quotas: of keyspaces, and how they are dealt out.
    """

    since_ms: int
    plans: dict[int, Planned] = field(default_factory=dict)
    loads: Loads = field(default_factory=Loads)
    progress: dict[int, MigrationProgress] = field(default_factory=dict)
    overloaded: dict[int, int] = field(default_factory=dict)
    quotas: QuotaDealing = field(default_factory=QuotaDealing)


@dataclass(slots=True)
class Decision:
    """What to do now: write `changes` in one write, then send `requests`, and have the migrators at work that are wanted.

    `notes` say how running operations stand. `shares`: what nodes are to be told of quotas, where they do not have it yet.
    """

    changes: list[RowChange] = field(default_factory=list)
    requests: list[NodeRequest] = field(default_factory=list)
    notes: dict[int, Note] = field(default_factory=dict)
    plans_wanted: list[int] = field(default_factory=list)
    migrators_wanted: list[int] = field(default_factory=list)
    shares: dict[str, NodeShares] = field(default_factory=dict)


def decide(state: ClusterState, observed: ObservedState, memory: Memory) -> Decision:
    """Return what to do now."""
    decision = Decision()
    # What follows is decided on the state with the changes so far, so that two operations never take the same number.
    after = _write(state, decision, _liveness(state, observed, memory))
    after = _write(after, decision, passed_over(after, observed))
    after = _write(after, decision, _heals(after, observed.wall_ms))
    after = _write(after, decision, memberships.followed(after, observed))
    after = _write(after, decision, _outrun(after, observed))
    for row in state.running():
        if row.id in observed.waiting:
            decision.notes[row.id] = Note("a request to a node is under way")
            continue
        outcome = _admitted(_advance(after.operations[row.id], after, observed, memory, decision), after)
        decision.notes[row.id] = _with_trouble(outcome.note, observed, row.id)
        decision.requests.extend(outcome.requests)
        after = _write(after, decision, outcome.changes)
    stuck = frozenset(number for number, progress in memory.progress.items() if progress.trouble)
    after = _write(after, decision, begun(after, stuck, observed.wall_ms))
    after = _write(after, decision, automatic.splits(after, observed, memory.loads, memory.overloaded))
    after = _write(after, decision, automatic.rebalancing(after, observed))
    _write(after, decision, _forgotten(after))
    decision.requests.extend(_pushes(state, observed))
    decision.requests.extend(_remainders(state, observed))
    decision.requests.extend(memberships.repairs(state, observed))
    decision.shares = memory.quotas.wanted(state, observed, memory.loads)
    return decision


def _write(state: ClusterState, decision: Decision, changes: Iterable[RowChange]) -> ClusterState:
    listed = list(changes)
    if not listed:
        return state
    decision.changes.extend(listed)
    return changed(state, listed)


def _admitted(outcome: Outcome, state: ClusterState) -> Outcome:
    """Have an operation wait that would make a map that nodes refuse: what they reported, and it is made of, is wrong."""
    problem = map_problem(outcome.changes, state.map)
    return wait(problem) if problem else outcome


def _advance(
    row: OperationRow, state: ClusterState, observed: ObservedState, memory: Memory, decision: Decision
) -> Outcome:
    work = row.arguments
    if row.step is Step.QUEUED:
        if row.undo:
            return end(row, State.CANCELLED, observed.wall_ms, row.undo)
        return wait("waiting for its turn")
    match work:
        case MoveReplica():
            return replica.advance(row, work, state, observed)
        case MoveLeader():
            return leaders.transfer(row, work, state, observed)
        case Failover():
            return leaders.evacuate(row, work, state, observed)
        case Drain() | Heal() | Rebalance():
            planned = memory.plans.get(row.id)
            if planned is not None and observed.now_ms - planned.at_ms > PLAN_MS:
                planned = None
            outcome = planned_moves.advance(row, work, state, observed, planned)
            if planned is not None and outcome.changes:
                del memory.plans[row.id]  # what comes after these moves is planned when they have ended
            if outcome.wants_plan:
                decision.plans_wanted.append(row.id)
            return outcome
        case CreateKeyspace():
            return spread.found(row, work, state, observed)
        case RollingRestart():
            return restart.advance(row, work, state, observed)
        case SplitShard() if row.step is Step.SPLIT:
            return split.advance(row, work, state, observed)
        case MoveMicroshards():
            return _migrate(row, work, state, observed, memory, decision)
        case MergeShards() if row.step not in (Step.SPREAD, Step.DROP):
            return _migrate(row, work, state, observed, memory, decision)
        case DropKeyspace() | MergeShards() if row.step is Step.DROP:
            return spread.delete(row, work, state, observed)
        case AlterKeyspace() | RemoveNode() | Undrain() | DropKeyspace() | SplitShard() | MergeShards() | FollowLogs():
            return spread.spread(row, work, state, observed)


def _migrate(
    row: OperationRow, work: Migration, state: ClusterState, observed: ObservedState, memory: Memory, decision: Decision
) -> Outcome:
    outcome = migrate.advance(row, work, state, observed, memory.progress.get(row.id))
    if outcome.migrator:
        decision.migrators_wanted.append(row.id)
    return outcome


def _with_trouble(note: Note, observed: ObservedState, operation: int) -> Note:
    trouble = observed.troubles.get(operation)
    if trouble is None or not note.waiting:
        return note
    tried = "tried once" if trouble.attempts == 1 else f"tried {trouble.attempts} times, the last time"
    waiting = f"{note.waiting}; {tried}: {trouble.reason}"
    return Note(waiting, note.left, note.total, note.unit)


# -- nodes


def _liveness(state: ClusterState, observed: ObservedState, memory: Memory) -> Iterable[RowChange]:
    """Note nodes that are gone for longer than the grace period, and those that are back."""
    watched = [row for row in state.nodes.values() if row.state is not NodeState.REMOVED]
    reached = sum(observed.fresh(row.id) is not None for row in watched)
    seen_by_others = {
        peer for node in state.nodes if (s := observed.fresh(node)) is not None for peer in s.connected_peers
    }
    for row in watched:
        status = observed.fresh(row.id)
        if status is not None:
            back = row.state is NodeState.GONE
            if back or not row.incarnation:
                state_now, since = (row.before, observed.wall_ms) if back else (row.state, row.since_ms)
                yield replace(row, state=state_now, since_ms=since, incarnation=status.incarnation)
            continue
        report = observed.reports.get(row.id)
        silent_ms = observed.now_ms - max(memory.since_ms, report.at_ms if report is not None else 0)
        silent_ms = min(
            silent_ms, elapsed_ms(row.since_ms, observed.wall_ms)
        )  # one that joins is not gone before it has begun
        if row.state is NodeState.GONE or silent_ms < state.settings.gone_after_ms:
            continue
        # A manager that reaches less than half of the nodes is rather itself cut off; and what other nodes
        # are connected with is not gone.
        if reached * 2 <= len(watched) or row.id in seen_by_others:
            continue
        yield replace(row, state=NodeState.GONE, since_ms=observed.wall_ms, before=row.state)


def _heals(state: ClusterState, now_ms: int) -> Iterable[RowChange]:
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


def _held(state: ClusterState, observed: ObservedState) -> bool:
    """Say whether nodes may have derived a map that the managers' does not show yet."""
    return any(
        row.step in (Step.SPLIT, Step.SEAL) and elapsed_ms(row.step_ms, observed.wall_ms) < HOLD_MS
        for row in state.running()
    )


def _outrun(state: ClusterState, observed: ObservedState) -> Iterable[RowChange]:
    """Give the map a higher version than those that nodes have derived from what the map shows by now."""
    newest = observed.newest_map()
    if newest > state.map.version and not _held(state, observed):
        yield replace(state.map, version=newest + 1)


def _pushes(state: ClusterState, observed: ObservedState) -> Iterable[Install]:
    """Send the newest map to the nodes that lack it."""
    if _held(state, observed):
        return
    founding = {
        shard for row in state.running() if isinstance(row.arguments, CreateKeyspace) for shard in row.arguments.shards
    }
    for node in sorted(state.nodes):
        status = observed.fresh(node)
        if status is None or observed.has_map(node, state.map.version):
            continue
        found = tuple(
            shard.id for shard in state.map.shards if shard.id in founding and node in chain(*shard.founded_by)
        )
        yield Install(node, state.map.version, found)


def _remainders(state: ClusterState, observed: ObservedState) -> Iterable[Drop]:
    """Delete replicas that nobody counts on: of shards that left a node while it was away, and of dropped keyspaces."""
    shards = {shard.id: shard for shard in state.map.shards}
    busy = state.busy()
    dropped = set(state.counters.dropped) - busy
    emptied = {
        row.arguments.source: row.arguments.empty_at
        for row in state.operations.values()
        if isinstance(row.arguments, MergeShards)
    }
    view_leaders = observed.leaders()
    for node in sorted(state.nodes):
        status = observed.fresh(node)
        if status is None or not observed.has_map(node, state.map.version):
            continue
        for held in status.replicas:
            shard = shards.get(held.shard)
            if shard is None:
                if held.shard in dropped:
                    yield Drop(node, held.shard, empty_at=emptied.get(held.shard, -1))
                continue
            if node in shard.replicas or held.shard in busy:
                continue
            leading = view_leaders.get(held.shard)
            # Only a leader's committed word says that a copy is not needed; the map is a hint.
            known = leading is not None and leading.replica.membership_committed
            if known and leading is not None and leading.node != node and node not in leading.members:
                yield Drop(node, held.shard)


# -- history


def _forgotten(state: ClusterState) -> Iterable[RowChange]:
    """Forget the operations that ended first, beyond the history that is kept."""
    ended = sorted((row.ended_ms, number) for number, row in state.operations.items() if not row.running)
    for _, number in ended[: max(0, len(ended) - state.settings.history)]:
        yield ForgetOperation(number)


# -- nodes that join


def joined(state: ClusterState, address: NodeAddress, incarnation: str, now_ms: int) -> tuple[list[RowChange], str]:
    """Return the changes that take a node in, or none and why it is refused ("": it is in already)."""
    known = state.nodes.get(address.id)
    if known is not None:
        if known.state is NodeState.REMOVED:
            return [], f"node id {address.id!r} was that of a node that is removed; ids are never used again"
        if known.address != address.address:
            return [], f"node {address.id!r} is at {known.address}: a node cannot change its address yet"
        if known.incarnation not in ("", incarnation):
            return [], OTHER_IDENTITY.format(node=address.id)
        return [], ""
    holder = next((row.id for row in state.nodes.values() if row.address == address.address), None)
    if holder is not None:
        return [], f"address {address.address} is that of node {holder!r}"
    refusal = _refuse_node(address, state)
    if refusal:
        return [], refusal
    row = NodeRow(
        address.id, address.address, address.region, address.zone, NodeState.ACTIVE, now_ms, incarnation=incarnation
    )
    shard_map = state.map
    nodes = (*shard_map.nodes, address)
    return [row, replace(shard_map, version=shard_map.version + 1, nodes=nodes)], ""


def _refuse_node(address: NodeAddress, state: ClusterState) -> str:
    """What is in the map every node has to take, or none takes any map that comes after."""
    if NAME.fullmatch(address.id) is None:
        return f"{address.id!r} is no name of a node: 1 to 63 letters, digits and '_.-', the first no sign"
    try:
        units.address(address.address)
    except ValueError as error:
        return f"node {address.id!r} has no address that others could dial: {error}"
    if len(state.map.nodes) >= MAX_NODES:
        return f"the map has {len(state.map.nodes)} nodes, and a cluster has at most {MAX_NODES}"
    return ""


def adopted(
    shard_map: ShardMap,
    policies: Mapping[str, tuple[int, int]],
    now_ms: int,
    statuses: Mapping[str, StatusReply],
) -> list[RowChange]:
    """Return the first rows, from the map that the nodes have.

    Args:
        policies: (voters, followers) by keyspace name.
        statuses: of the nodes that answer.
    """
    changes: list[RowChange] = [shard_map, SettingsRow()]
    changes += [
        NodeRow(node.id, node.address, node.region, node.zone, NodeState.ACTIVE, now_ms) for node in shard_map.nodes
    ]
    for keyspace in shard_map.keyspaces:
        counts = [
            (len(shard.voters), len(shard.followers)) for shard in shard_map.shards if shard.keyspace == keyspace.id
        ]
        voters, followers = policies.get(keyspace.name, max(counts))
        changes.append(PolicyRow(keyspace.id, voters, followers))
    changes.append(first_counters(shard_map, statuses))
    return changes
