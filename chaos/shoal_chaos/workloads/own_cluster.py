"""A cluster of processes that the workloads start for themselves, and do harm to."""

from __future__ import annotations

import asyncio
import signal

from shoal import AsyncClient
from shoal.admin.survey import survey
from shoal_server.local.cluster import LocalCluster

READY_SECONDS = 30.0
READY_KEYS = 200


class OwnCluster:
    """`faults.Nodes`, of a `LocalCluster`."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    @property
    def names(self) -> list[str]:
        return [node.id for node in self._cluster.config.nodes]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the nodes listen."""
        return self._cluster.addresses

    async def leader(self, place: float) -> str:
        found = await survey(self._cluster.addresses)
        leaders = [found.leader(shard.id) for shard in found.shard_map.shards]
        nodes = [leader.node for leader in leaders if leader is not None]
        return nodes[int(place * len(nodes))]

    async def kill(self, name: str) -> None:
        child = self._cluster.running[name]
        child.signal(signal.SIGKILL)
        while not child.ended():  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.01)
        others = [ended for ended in self._cluster.take_exits() if ended.node != name]
        if others:
            raise RuntimeError(f"nodes have ended by themselves: {others}")

    async def start(self, name: str) -> None:
        self._cluster.start(name)

    def pause(self, name: str) -> None:
        self._cluster.running[name].signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._cluster.running[name].signal(signal.SIGCONT)

    async def ready(self) -> None:
        async with AsyncClient(self._cluster.url(), timeout=READY_SECONDS) as db:
            await db.put_many({f"ready-{number}": "yes" for number in range(READY_KEYS)})
