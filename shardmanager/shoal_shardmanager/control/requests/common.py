"""What the checks of requests share: look-ups that refuse, and the rows of an accepted request."""

from __future__ import annotations

from msgspec.structs import replace
from shoal.shardmap import Keyspace, Shard
from shoal.suggestions import did_you_mean

from shoal_shardmanager import placement
from shoal_shardmanager.control.holdings import disagreement
from shoal_shardmanager.control.observed import Leading
from shoal_shardmanager.control.operations.planned_moves import part_of
from shoal_shardmanager.control.placement_input import placement_settings, placement_state
from shoal_shardmanager.control.requests.model import Accepted, Refused, Situation, Unsettled, Why
from shoal_shardmanager.control.rows import (
    Arguments,
    CountersRow,
    MoveLeader,
    NodeRow,
    NodeState,
    OperationRow,
    State,
    Step,
)
from shoal_shardmanager.control.state import ClusterState, RowChange


def accept(
    situation: Situation,
    work: Arguments,
    step: Step,
    *changes: RowChange,
    steps: tuple[str, ...] = (),
    version: int = 0,
    counters: object = None,
) -> Accepted:
    base = counters if isinstance(counters, CountersRow) else situation.state.counters
    number = base.next_operation
    now = situation.observed.wall_ms
    map_version = version or situation.state.map.version
    row = OperationRow(number, work, State.RUNNING, step, now, now, map_version=map_version)
    return Accepted(row, (replace(base, next_operation=number + 1), row, *changes), steps)


def plan_for(state: ClusterState, situation: Situation, mode: placement.Mode) -> placement.Plan:
    return placement.plan(
        placement_state(state, situation.observed, situation.loads), placement_settings(state.settings), mode
    )


def described_step(step: placement.PlannedStep) -> str:
    work = part_of(step)
    if isinstance(work, MoveLeader):
        return f"shard {work.shard}: leadership to {work.target} ({step.reason})"
    kind = "voter" if work.voter else "follower"
    if not work.source:
        return f"shard {work.shard}: a {kind} more on {work.target} ({step.reason})"
    if not work.target:
        return f"shard {work.shard}: the {kind} on {work.source} goes ({step.reason})"
    return f"shard {work.shard}: {kind} from {work.source} to {work.target} ({step.reason})"


def known_shard(state: ClusterState, shard: int) -> Shard:
    found = state.shard(shard)
    if found is None:
        ids = sorted(known.id for known in state.map.shards)
        known = f"the shards are {listed(ids)}; `shoal shards` shows them" if ids else "there are none"
        raise Refused(Why.NOT_FOUND, f"no shard {shard}; {known}")
    return found


def known_node(state: ClusterState, node: str) -> NodeRow:
    found = state.nodes.get(node)
    if found is None:
        hint = did_you_mean(node, state.nodes)
        known = f"no node {node!r}; the nodes are {listed(sorted(state.nodes))}"
        raise Refused(Why.NOT_FOUND, f"{known}; {hint}" if hint else known)
    if found.state is NodeState.REMOVED:
        raise Refused(Why.NOT_FOUND, f"node {node!r} was removed; ids are never used again")
    return found


def known_keyspace(state: ClusterState, name: str) -> Keyspace:
    found = next((keyspace for keyspace in state.map.keyspaces if keyspace.name == name), None)
    if found is None:
        names = sorted(keyspace.name for keyspace in state.map.keyspaces)
        raise Refused(Why.NOT_FOUND, f"no keyspace {name!r}; there are {listed(names)}")
    return found


def check_idle(state: ClusterState, shard: int) -> None:
    row = state.operation_on(shard)
    if row is not None:
        raise Refused(
            Why.CONFLICT,
            f"operation {row.id} ({row.kind}, at step {row.step}) is on shard {shard}: wait for it, or `shoal cancel "
            f"{row.id}`",
        )


def known_leader(situation: Situation, shard: int) -> Leading:
    leader = situation.observed.leader(shard)
    if leader is None:
        raise Unsettled(
            Why.REFUSED,
            f"the managers hear no leader of shard {shard}, which would have to take part: `shoal doctor` says whom they "
            "do not hear, and why",
        )
    return leader


def check_agreed(situation: Situation, shard: Shard) -> None:
    """Refuse what is about the microshards of a shard that has others by its log than the map says."""
    problem = disagreement(shard, known_leader(situation, shard.id).replica)
    if problem:
        # Just after an operation has ended the newest report may still be from before.
        raise Unsettled(Why.REFUSED, f"{problem}: `shoal settle {shard.id}` comes first")


def check_alone(state: ClusterState, node: str, kind: type) -> None:
    row = next((row for row in state.running() if isinstance(row.arguments, kind) and row.node == node), None)
    if row is not None:
        raise Refused(Why.CONFLICT, f"operation {row.id} does that already; see `shoal operations {row.id}`")


def listed(items: list[int] | list[str]) -> str:
    shown = ", ".join(map(str, items[:10]))
    return shown + (f" and {len(items) - 10} more" if len(items) > 10 else "")
