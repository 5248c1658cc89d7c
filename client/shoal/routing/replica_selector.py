"""Which replica to ask for a read that need not be the leader's. No sockets, no clock; chance is passed in."""

from __future__ import annotations

from collections.abc import Container
from random import Random
from typing import Generic

from shoal.routing.calls import NEVER, W
from shoal.routing.links import Link, LinkState
from shoal.routing.network import Network
from shoal.routing.shard_queue import ShardQueue
from shoal.shardmap import Routes


class Replicas(Generic[W]):
    """Chooses among a shard's replicas: those in the client's region first, then the less loaded of two random ones."""

    def __init__(self, network: Network[W], random: Random, region: str) -> None:
        """
        Args:
            region: the client's; "": all replicas are equally near.
        """
        self._network = network
        self._random = random
        self._region = region

    def choose(
        self, shard_queue: ShardQueue[W], declined: Container[str], routes: Routes, now: float
    ) -> Link[W] | float | None:
        """Return the link to ask; or, where none is connected, when to look again at the latest; None: nobody is left.

        Connected replicas are preferred, the others are connected to meanwhile. One that could not be reached before
        is only waited for while no other has declined.

        Args:
            declined: nodes that have been asked.
        """
        network = self._network
        near: list[Link[W]] = []
        far: list[Link[W]] = []
        absent: list[Link[W]] = []
        asked = False
        for node in shard_queue.shard.replicas:
            if node in declined:
                asked = True
                continue
            link = network.link_of(node, routes)
            if link is None:
                continue
            if link.state is LinkState.UP and not link.paused:
                known = routes.nodes.get(node)
                is_near = known is not None and known.region == self._region
                (near if is_near else far).append(link)
            else:
                network.connect_if_due(link, now)
                absent.append(link)
        links = near or far
        if links:
            return self._less_loaded(links)
        if asked:
            absent = [link for link in absent if link.fresh]
        if not absent:
            return None
        due = NEVER
        for link in absent:
            link.waiting.setdefault(shard_queue, False)
            if link.state is LinkState.DOWN:
                due = min(due, link.retry_at)
        return due

    def _less_loaded(self, links: list[Link[W]]) -> Link[W]:
        if len(links) == 1:
            return links[0]
        one, other = self._random.sample(links, 2)
        return one if len(one.pending) <= len(other.pending) else other
