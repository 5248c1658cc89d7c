"""Check a request: the one way in."""

from __future__ import annotations

from shoal_shardmanager.control.requests.keyspaces import alter_keyspace, create_keyspace, drop_keyspace
from shoal_shardmanager.control.requests.migrations import merge, move_microshards
from shoal_shardmanager.control.requests.model import (
    Accepted,
    Alter,
    Create,
    DropRequest,
    MergeRequest,
    MoveMicroshardsRequest,
    OperatorRequest,
    Refused,
    RestartRequest,
    SettleRequest,
    Situation,
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


def check(request: OperatorRequest, situation: Situation, if_version: int = 0) -> Accepted:
    """Check a request.

    Raises:
        Refused: it cannot be done.
    """
    version = situation.state.map.version
    if if_version and if_version != version:
        raise Refused(Why.CONFLICT, f"the map is of version {version} by now, not {if_version}: look again, and repeat")
    accepted = _accepted(request, situation)
    problem = map_problem(accepted.changes, situation.state.map)
    if problem:
        raise Refused(Why.REFUSED, problem)
    return accepted


def _accepted(request: OperatorRequest, situation: Situation) -> Accepted:
    match request:
        case MoveReplica():
            return move(request, situation)
        case MoveLeader():
            return transfer(request, situation)
        case Failover():
            return failover(request, situation)
        case Drain():
            return drain(request, situation)
        case Undrain():
            return undrain(request, situation)
        case RemoveNode():
            return remove_node(request, situation)
        case Rebalance():
            return rebalance(request, situation)
        case Create(keyspace):
            return create_keyspace(keyspace, situation)
        case Alter(keyspace):
            return alter_keyspace(keyspace, situation)
        case DropRequest(name):
            return drop_keyspace(name, situation)
        case SplitRequest():
            return split(request, situation)
        case MoveMicroshardsRequest():
            return move_microshards(request, situation)
        case MergeRequest():
            return merge(request, situation)
        case RestartRequest():
            return rolling_restart(request, situation)
        case SettleRequest():
            return settle(request, situation)
