"""What operators do to a cluster while it serves, each as often as it takes to see something of it, one after another."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shoal.admin.survey import Survey
from shoal.shardmap import Shard

from shoal_chaos.clusters.process_cluster import ProcessCluster, until

MANAGER = "m1"


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that operators do, by its name, and how. `once`: a second time, it would have nothing to do."""

    name: str
    run: Callable[[ProcessCluster], Awaitable[object]]
    once: bool = False


async def transfer_leaders(cluster: ProcessCluster) -> None:
    """Hand every shard to another of its voters."""
    found = await cluster.survey()
    for shard in found.shard_map.shards:
        await cluster.run("transfer-leader", str(shard.id), _another_voter(found, shard))


async def fail_over(cluster: ProcessCluster) -> None:
    """Take all leaderships from each node in turn."""
    for node in (await cluster.survey()).shard_map.nodes:
        await cluster.request("failover", node.id)


async def split(cluster: ProcessCluster) -> None:
    """Split the shard that has most microshards."""
    shards = await _shards_by_size(cluster)
    await cluster.request("split", str(shards[-1].id))


async def move_microshards(cluster: ProcessCluster) -> None:
    """Give half of the microshards of the shard that has most to the one that has fewest."""
    smallest, *_, largest = await _shards_by_size(cluster)
    part = largest.ranges[0]
    last = (part.first + part.end) // 2
    await cluster.request(
        "move-microshards", "--from", str(largest.id), "--to", str(smallest.id),
        "--microshards", f"{part.first}-{last}",
    )  # fmt: skip


async def merge(cluster: ProcessCluster) -> None:
    """Merge the shard that has fewest microshards into the one that has the next fewest."""
    source, target, *_ = await _shards_by_size(cluster)
    await cluster.request("merge", str(target.id), str(source.id))


async def rolling_restart(cluster: ProcessCluster) -> None:
    """Restart every node, one after another."""
    await cluster.rolling_restart()


async def move(cluster: ProcessCluster) -> None:
    """Move a replica, the leader, to a node that has none of the shard."""
    found = await cluster.survey()
    nodes = [node.id for node in found.shard_map.nodes]
    for shard in found.shard_map.shards:
        leader = found.leader(shard.id)
        free = [node for node in nodes if node not in shard.replicas]
        if leader is not None and free:
            await cluster.request("move", str(shard.id), "--from", leader.node, "--to", free[0])
            return
    raise RuntimeError("every shard has replicas on all nodes: none can move")


async def drain(cluster: ProcessCluster) -> None:
    """Empty a node that leads shards."""
    await cluster.request("drain", "n2")


async def undrain(cluster: ProcessCluster) -> None:
    """Let the node take replicas again, and give it some."""
    await cluster.request("undrain", "n2")
    await cluster.request("rebalance")


async def add_nodes(cluster: ProcessCluster) -> None:
    """Start nodes that are new, and spread replicas and leaders over them."""
    for node in cluster.joiners:
        await cluster.join(node)
    await cluster.request("rebalance")


def without_manager(operation: Operation) -> Operation:
    """Return the same, but in its middle the manager is killed and started again."""

    async def run(cluster: ProcessCluster) -> None:
        ordered = cluster.operation_steps()
        working = asyncio.create_task(_run(operation, cluster))

        async def begun() -> bool:
            return working.done() or cluster.operation_steps() > ordered

        await until(f"{operation.name} has begun", begun)
        await cluster.end(MANAGER, signal.SIGKILL)
        cluster.start(MANAGER)
        await working

    return Operation(f"{operation.name}, manager killed", run)


TRANSFER = Operation("transfer-leader of every shard", transfer_leaders)
FAIL_OVER = Operation("failover of every node", fail_over)
SPLIT = Operation("split", split)
ADD_NODES = Operation("two nodes join, rebalance", add_nodes, once=True)
MOVE = Operation("move", move)
DRAIN = Operation("drain", drain)
UNDRAIN = Operation("undrain, rebalance", undrain)
MOVE_MICROSHARDS = Operation("move-microshards", move_microshards)
MERGE = Operation("merge", merge)
ROLLING_RESTART = Operation("rolling-restart", rolling_restart)

ALL: Sequence[Operation] = (
    TRANSFER,
    FAIL_OVER,
    SPLIT,
    ADD_NODES,
    MOVE,
    DRAIN,
    UNDRAIN,
    MOVE_MICROSHARDS,
    MERGE,
    ROLLING_RESTART,
    *(
        without_manager(operation)
        for operation in (SPLIT, MOVE, DRAIN, UNDRAIN, MOVE_MICROSHARDS, MERGE, ROLLING_RESTART)
    ),
)
"""In an order in which each has something to do, on a cluster that has just been founded, and then again."""


async def _run(operation: Operation, cluster: ProcessCluster) -> None:
    await operation.run(cluster)


def _another_voter(found: Survey, shard: Shard) -> str:
    leader = found.leader(shard.id)
    return next(node for node in shard.voters if leader is None or node != leader.node)


async def _shards_by_size(cluster: ProcessCluster) -> list[Shard]:
    """Return the shards that have microshards, those with the fewest first."""
    shards = (await cluster.survey()).shard_map.shards
    return sorted((shard for shard in shards if shard.ranges), key=_microshards)


def _microshards(shard: Shard) -> int:
    return sum(part.end - part.first for part in shard.ranges)
