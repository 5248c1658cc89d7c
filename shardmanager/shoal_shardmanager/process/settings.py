"""The managers as a cluster of their own: the configuration that a manager's storage node is run with."""

from __future__ import annotations

from shoal_server.config import ClusterConfig, KeyspaceConfig, NodeConfig
from shoal_server.config.schema import MIB, LimitsConfig
from shoal_server.process.joining import MANAGERS_KEYSPACE, managers_cluster

MAP_BYTES_MAX = 8 * MIB
"""The most that one row may have; the largest row is the map, of about 60 bytes a shard."""


class NoManagers(Exception):
    """The configuration cannot be run with managers; the message says why."""


def managers_config(config: ClusterConfig) -> ClusterConfig:
    """Return the configuration of the managers' own cluster: one shard, with a voter on each of them.

    Raises:
        NoManagers: there are none, an even number of them, or more than a shard can have voters.
    """
    count = len(config.managers)
    if count not in (1, 3, 5, 7):
        raise NoManagers(
            f"{count} managers: 1, or 3, 5 or 7 of them, so that a majority is left when one fails"
            if count
            else "it has no `managers:`; add one, such as "
            "`- {id: m1, address: 127.0.0.1:7450, admin: 127.0.0.1:7550, data: ./data/m1}`"
        )
    return ClusterConfig(
        cluster=managers_cluster(config.cluster),
        nodes=tuple(
            NodeConfig(id=manager.id, address=manager.address, data=manager.data, zone=manager.id)
            for manager in config.managers
        ),
        keyspaces={MANAGERS_KEYSPACE: KeyspaceConfig(microshards=1, shards=1, voters=count, delimiter="")},
        timing=config.timing,
        limits=LimitsConfig(
            max_value=MAP_BYTES_MAX,
            max_batch=2 * MAP_BYTES_MAX,
            max_frame=4 * MAP_BYTES_MAX,
            memory=config.limits.memory_bytes,
        ),
        storage=config.storage,
        # Whoever writes here controls the cluster: managers, and nodes that ask to join. All of them have certificates.
        tls=config.tls.model_copy(update={"clients": "required"}),
    )
