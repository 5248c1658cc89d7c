"""Check an order: the one way in."""

from __future__ import annotations

from shoal_shardmanager.control.orders.keyspaces import alter_keyspace, create_keyspace, drop_keyspace
from shoal_shardmanager.control.orders.model import (
    Accepted,
    Alter,
    Create,
    DropOrder,
    Facts,
    MergeOrder,
    MoveMicroshardsOrder,
    Order,
    Refused,
    RestartOrder,
    SettleOrder,
    SplitOrder,
    Why,
)
from shoal_shardmanager.control.orders.nodes import drain, failover, rebalance, remove_node, undrain
from shoal_shardmanager.control.orders.relocations import merge, move_microshards
from shoal_shardmanager.control.orders.restarts import rolling_restart
from shoal_shardmanager.control.orders.settling import settle
from shoal_shardmanager.control.orders.shards import move, transfer
from shoal_shardmanager.control.orders.splits import split
from shoal_shardmanager.control.rows import Drain, Failover, MoveLeader, MoveReplica, Rebalance, RemoveNode, Undrain
from shoal_shardmanager.control.state import map_problem


def check(order: Order, facts: Facts, if_version: int = 0) -> Accepted:
    """Check an order.

    Raises:
        Refused: it cannot be done.
    """
    version = facts.state.map.version
    if if_version and if_version != version:
        raise Refused(Why.CONFLICT, f"the map is of version {version} by now, not {if_version}: look again, and repeat")
    accepted = _accepted(order, facts)
    problem = map_problem(accepted.changes, facts.state.map)
    if problem:
        raise Refused(Why.REFUSED, problem)
    return accepted


def _accepted(order: Order, facts: Facts) -> Accepted:
    match order:
        case MoveReplica():
            return move(order, facts)
        case MoveLeader():
            return transfer(order, facts)
        case Failover():
            return failover(order, facts)
        case Drain():
            return drain(order, facts)
        case Undrain():
            return undrain(order, facts)
        case RemoveNode():
            return remove_node(order, facts)
        case Rebalance():
            return rebalance(order, facts)
        case Create(keyspace):
            return create_keyspace(keyspace, facts)
        case Alter(keyspace):
            return alter_keyspace(keyspace, facts)
        case DropOrder(name):
            return drop_keyspace(name, facts)
        case SplitOrder():
            return split(order, facts)
        case MoveMicroshardsOrder():
            return move_microshards(order, facts)
        case MergeOrder():
            return merge(order, facts)
        case RestartOrder():
            return rolling_restart(order, facts)
        case SettleOrder():
            return settle(order, facts)
