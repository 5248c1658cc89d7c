"""Check a request: the one way in."""

from __future__ import annotations

from shoal_shardmanager.control.requests.keyspaces import alter_keyspace, create_keyspace, drop_keyspace
from shoal_shardmanager.control.requests.migrations import merge, move_microshards
from shoal_shardmanager.control.requests.model import (
    Accepted,
    Alter,
    Create,
    DropRequest,
    Facts,
    MergeRequest,
    MoveMicroshardsRequest,
    OperatorRequest,
    Refused,
    RestartRequest,
    SettleRequest,
    SplitRequest,
    Why,
)
from shoal_shardmanager.control.requests.nodes import drain, failover, rebalance, remove_node, undrain
from shoal_shardmanager.control.requests.restarts import rolling_restart
from shoal_shardmanager.control.requests.settling import settle
from shoal_shardmanager.control.requests.shards import move, transfer
from shoal_shardmanager.control.requests.splits import split
from shoal_shardmanager.control.rows import Drain, Failover, MoveLeader, MoveReplica, Rebalance, RemoveNode, Undrain
from shoal_shardmanager.control.state import map_problem


def check(request: OperatorRequest, facts: Facts, if_version: int = 0) -> Accepted:
    """Check a request.

    Raises:
        Refused: it cannot be done.
    """
    version = facts.state.map.version
    if if_version and if_version != version:
        raise Refused(Why.CONFLICT, f"the map is of version {version} by now, not {if_version}: look again, and repeat")
    accepted = _accepted(request, facts)
    problem = map_problem(accepted.changes, facts.state.map)
    if problem:
        raise Refused(Why.REFUSED, problem)
    return accepted


def _accepted(request: OperatorRequest, facts: Facts) -> Accepted:
    match request:
        case MoveReplica():
            return move(request, facts)
        case MoveLeader():
            return transfer(request, facts)
        case Failover():
            return failover(request, facts)
        case Drain():
            return drain(request, facts)
        case Undrain():
            return undrain(request, facts)
        case RemoveNode():
            return remove_node(request, facts)
        case Rebalance():
            return rebalance(request, facts)
        case Create(keyspace):
            return create_keyspace(keyspace, facts)
        case Alter(keyspace):
            return alter_keyspace(keyspace, facts)
        case DropRequest(name):
            return drop_keyspace(name, facts)
        case SplitRequest():
            return split(request, facts)
        case MoveMicroshardsRequest():
            return move_microshards(request, facts)
        case MergeRequest():
            return merge(request, facts)
        case RestartRequest():
            return rolling_restart(request, facts)
        case SettleRequest():
            return settle(request, facts)
