"""What must hold of a simulated cluster long after its last fault."""

from __future__ import annotations

from shoal.shardmap import Shard
from shoal_server.node.comparison import standing_divergence

from shoal_chaos.simulation.checks.rows import stray_rows
from shoal_chaos.simulation.clients.histories import COUNTER
from shoal_chaos.simulation.cluster.cluster import Cluster
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.scene import NodesScene


def check_recovered(scene: NodesScene) -> None:
    """Look at a cluster long after the last fault.

    Raises:
        Violation: not all is as it should be.
    """
    cluster = scene.cluster
    for shard in scene.manager.map.shards:
        _check_shard(cluster, shard)
    if scene.manager.migrating:
        raise Violation("a migration is not over long after the last fault")
    for node in cluster.nodes.values():
        stray = stray_rows(node)
        if stray:
            raise Violation(f"{node.name} has rows that are no replica's, under {stray}")
    for client in scene.clients.everybody:
        if not client.idle:
            raise Violation(f"client {client.name} still waits for an answer long after the last fault")


def _check_shard(cluster: Cluster, shard: Shard) -> None:
    replicas = {
        name: node.node.replicas[shard.id]
        for name, node in cluster.nodes.items()
        if node.node is not None and shard.id in node.node.replicas
    }
    leaders = [name for name, replica in replicas.items() if replica.group.is_leader]
    if len(leaders) != 1:
        raise Violation(f"shard {shard.id} has leaders {leaders} long after the last fault")
    leader = replicas[leaders[0]]
    node = cluster.nodes[leaders[0]]
    assert node.node is not None, "it leads"
    ahead_ms = leader.machine.state.clock_ms - node.node.clock.now_ms(node.local_now())
    if ahead_ms > node.node.clock.beyond_ms:
        raise Violation(f"the clock of shard {shard.id} is {ahead_ms} ms ahead long after the last fault")
    if leader.machine.state.ranges != shard.ranges:
        raise Violation(
            f"shard {shard.id} has {leader.machine.state.ranges} long after the last fault, by the map {shard.ranges}"
        )
    for name, replica in replicas.items():
        # One that is no member (yet, or any more) nobody rebuilds.
        if replica.failure is not None and name in leader.group.members:
            raise Violation(
                f"the replica of shard {shard.id} on {name} has not been rebuilt long after the last fault: "
                f"{replica.failure}"
            )
    for name in leader.group.members:
        if name not in replicas:
            raise Violation(f"{name} has no replica of shard {shard.id}, whose leader counts it as one")
        if replicas[name].machine.state.index != leader.machine.state.index:
            raise Violation(
                f"replica of shard {shard.id} on {name} is at {replicas[name].machine.state.index} long after the "
                f"last fault, its leader {leaders[0]} at {leader.machine.state.index}"
            )
    divergence = standing_divergence(leader.comparison, leader.machine.state)
    if divergence is not None:
        raise Violation(f"shard {shard.id} is said to have {divergence} long after the last fault")
    left = leader.machine.pages.begin_scan(
        shard.ranges, b"expiring/", b"expiring0", reverse=False, keys_only=True, max_rows=1, max_bytes=1, now=0
    ).whole()
    if left.keys:
        raise Violation(f"{left.keys} of shard {shard.id} expired long ago and are still there")


def count_stored(cluster: Cluster) -> int:
    """Return what clients have counted, as the leader of its shard has it stored, once all have ended.

    Raises:
        Violation: nobody leads that shard.
    """
    keyspace = cluster.shard_map.keyspaces[0]
    microshard = keyspace.microshard_of(COUNTER)
    for node in cluster.nodes.values():
        for replica in node.replicas.values():
            machine = replica.machine
            leads = replica.group.is_leader and replica.keyspace.id == keyspace.id
            if leads and microshard in machine.prefixes:
                return int(machine.read([COUNTER], [microshard], 0)[0][0] or 0)
    raise Violation("nobody leads the counter's shard long after the last fault")
