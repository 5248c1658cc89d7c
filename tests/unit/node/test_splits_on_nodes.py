"""The replicas that a split makes: each node opens its own when what made it is on disk, and they elect at once."""

from __future__ import annotations

from typing import Any

from shoal.protocol.messages import SplitShard
from shoal.shardmap import MicroshardRange, Shard

PARENT, CHILD = 1, 2


def split(nodes: Any) -> str:
    """Have the shard split; return the node that leads it, where the new one is to be led, too."""
    leader: str = nodes.leader
    nodes.pass_time(2000)  # a process that has just begun votes for nobody: it may have promised something before
    child = Shard(CHILD, 1, (MicroshardRange(2, 4),), (leader, *nodes.others))
    nodes.ask(leader, lambda request: SplitShard(request, PARENT, child, 2))
    return leader


def leads(nodes: Any, node: str) -> bool:
    replica = nodes.nodes[node].replicas.get(CHILD)
    return replica is not None and replica.group.is_leader


def test_a_new_shard_is_led_within_milliseconds(nodes: Any) -> None:
    leader = split(nodes)
    nodes.until(lambda: leads(nodes, leader), milliseconds=50)


def test_a_node_that_opens_its_replica_late_votes_as_soon_as_it_has(nodes: Any) -> None:
    """What the first one asked it meanwhile is not forgotten: the next attempt would come a quarter of a second later."""
    nodes.leader  # noqa: B018 - there is one
    late = nodes.others
    nodes.slow_flushes.update(late)
    leader = split(nodes)
    nodes.until(lambda: CHILD in nodes.nodes[leader].replicas)
    nodes.pass_time(20)
    assert not leads(nodes, leader)
    assert not any(CHILD in nodes.nodes[node].replicas for node in late)
    nodes.slow_flushes.clear()
    nodes.until(lambda: leads(nodes, leader), milliseconds=50)
