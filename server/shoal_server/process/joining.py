"""How a node that no shard map knows yet makes itself known: it leaves a row with the managers, and waits for a map.

The managers' state is a cluster of its own, so the row is written with the ordinary client; the controller checks it.
"""

from __future__ import annotations

from ssl import SSLContext

import msgspec
import shoal
from shoal.bounds import Address, Name, Place, Word

from shoal_server.config import ClusterConfig, NodeConfig

MANAGERS_KEYSPACE = "system"
JOINS = "joins/"


class JoinRequest(msgspec.Struct, frozen=True):
    """What a node says of itself. `incarnation` is that of its data folder."""

    cluster: Name
    id: Name
    address: Address
    region: Place
    zone: Place
    incarnation: Word


def managers_cluster(cluster: str) -> str:
    """Return the name of the cluster that the managers of `cluster` are."""
    return f"{cluster}.managers"


def managers_url(config: ClusterConfig) -> str:
    """Return the URL of the managers' own cluster."""
    scheme = "shoals" if config.tls.on else "shoal"
    return f"{scheme}://{','.join(manager.address for manager in config.managers)}/{MANAGERS_KEYSPACE}"


async def ask_to_join(
    config: ClusterConfig,
    node: NodeConfig,
    incarnation: str,
    timeout_seconds: float = 5.0,
    tls: SSLContext | None = None,
) -> None:
    """Ask the managers to take a node in; the answer is a shard map that has it, installed by them.

    Asking again does no harm.

    Raises:
        shoal.ShoalError: no manager could be asked.
    """
    request = JoinRequest(config.cluster, node.id, node.address, node.region, node.zone, incarnation)
    async with shoal.AsyncClient(managers_url(config), timeout=timeout_seconds, ssl=tls) as db:
        await db.put(JOINS + node.id, msgspec.msgpack.encode(request))
