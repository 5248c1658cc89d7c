"""A manager's state as families of samples: what it controls, how the nodes are, and how operations go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args

from shoal.metrics import Family, gauge, labelled

from shoal_shardmanager.control.rows import Arguments, NodeState, State

if TYPE_CHECKING:
    from shoal_shardmanager.process.leadership import Leadership

NODES_MAX = 256
KEYSPACES_MAX = 64
KINDS = tuple(str(each.__struct_config__.tag) for each in get_args(Arguments))
"""Of operations."""


def manager_families(
    manager: str, leadership: Callable[[], Leadership | None], now_ms: Callable[[], int]
) -> Iterator[Family]:
    """Yield the families of a manager.

    Args:
        leadership: says what this manager controls; None: it stands by, and says no more than that.
        now_ms: Unix time.
    """
    controlled = leadership()
    controls = Family("shoal_manager_controls", "gauge", "1 where this manager runs the controller; others stand by")
    yield controls.add(controlled is not None, manager=manager)
    if controlled is not None:
        yield from _of_leadership(controlled, now_ms())


def _of_leadership(leadership: Leadership, now_ms: int) -> Iterator[Family]:
    state = leadership.state
    yield gauge("shoal_manager_epoch", "How often a controller has begun", leadership.epoch)
    yield gauge("shoal_manager_map_version", "Of the newest shard map", state.map.version)
    yield gauge("shoal_manager_shards", "Shards in the map", len(state.map.shards))
    nodes = [row for row in state.nodes.values() if row.state is not NodeState.REMOVED]
    states = Counter(str(row.state) for row in nodes)
    known = [str(each) for each in NodeState if each is not NodeState.REMOVED]
    yield labelled("gauge", "shoal_manager_nodes", "Nodes by state", "state", [(each, states[each]) for each in known])
    silent = Family(
        "shoal_manager_node_silent", "gauge", "1 for a node that does not answer, or is not taken for itself"
    )
    for row in sorted(nodes, key=lambda row: row.id)[:NODES_MAX]:
        silent.add(bool(leadership.silent_because(row.id)), node=row.id)
    yield silent
    yield from _of_quotas(leadership)
    running = [row for row in state.operations.values() if row.running]
    kinds = Counter(row.kind for row in running)
    yield labelled(
        "gauge",
        "shoal_manager_operations_running",
        "Operations under way",
        "kind",
        [(each, kinds[each]) for each in KINDS],
    )
    kept = Counter(str(row.state) for row in state.operations.values())
    yield labelled(
        "gauge",
        "shoal_manager_operations_kept",
        "Operations in the history",
        "state",
        [(str(each), kept[str(each)]) for each in State],
    )
    oldest = min((row.step_ms for row in running), default=now_ms)
    yield gauge(
        "shoal_manager_operation_step_age_seconds",
        "For how long the operation has been in its step that has been so longest",
        max(0, now_ms - oldest) / 1000,
    )


def _of_quotas(leadership: Leadership) -> Iterator[Family]:
    used = Family(
        "shoal_manager_quota_used_bytes", "gauge", "What keyspaces with a quota of bytes have, as counted last"
    )
    most = Family("shoal_manager_quota_bytes", "gauge", "How many bytes they may have")
    used_bytes = leadership.quotas.used_bytes
    for keyspace in leadership.state.map.keyspaces:
        if keyspace.max_bytes and keyspace.id in used_bytes and len(used.samples) < KEYSPACES_MAX:
            used.add(used_bytes[keyspace.id], keyspace=keyspace.name)
            most.add(keyspace.max_bytes, keyspace=keyspace.name)
    yield used
    yield most
