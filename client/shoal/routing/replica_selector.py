"""Which replica of a shard to ask: the one believed to lead, or any other. No sockets, no clock; chance is passed in."""

from __future__ import annotations

from collections.abc import Container
from random import Random
from typing import Generic

from shoal.routing.calls import NEVER, W
from shoal.routing.links import Link, LinkState
from shoal.routing.network import Network
from shoal.routing.shard_queue import ShardQueue
from shoal.shardmap import Routes


class ReplicaSelector(Generic[W]):
    """Chooses whom to ask. Who is not connected is connected to, and wakes the shard queue when that is done."""

    def __init__(self, network: Network[W], random: Random, region: str) -> None:
        """
        Args:
            region: the client's; "": all replicas are equally near.
        """
        self._network = network
        self._random = random
        self._region = region

    def leader(self, shard_queue: ShardQueue[W], routes: Routes, now: float) -> Link[W] | None:
        """Return the link to the node believed to lead, the target; None where the shard queue has to wait for one.

        The target is kept while it is connected, or worth waiting for. Else the other voters are tried in turn,
        connected ones first; a failing one is only reconnected in the background, when its time has come.
        """
        network = self._network
        voters = shard_queue.shard.voters
        if shard_queue.target in voters:
            at = voters.index(shard_queue.target)
            order = (*voters[at:], *voters[:at])
        else:
            order = (shard_queue.target, *voters)
        links = [(node, link) for node in order if (link := network.link_of(node, routes)) is not None]
        if links and links[0][1].fresh:
            links = links[:1]
        for node, link in links:
            if link.state is LinkState.UP:
                shard_queue.target = node
                if not link.paused:
                    return link
                link.waiting[shard_queue] = True
                return None
            if not link.fresh:
                network.connect_if_due(link, now)
        fresh = next(((node, link) for node, link in links if link.fresh), None)
        if fresh is not None:
            shard_queue.target, link = fresh
            network.connect(link)
            link.waiting[shard_queue] = True
            return None
        due = network.discover(now)
        for _, link in links:
            link.waiting[shard_queue] = True
            if link.state is LinkState.DOWN:
                due = min(due, link.retry_at)
        shard_queue.blocked_until = max(shard_queue.blocked_until, due if due != NEVER else 0.0)
        return None

    def replica(
        self, shard_queue: ShardQueue[W], declined: Container[str], routes: Routes, now: float
    ) -> Link[W] | float | None:
        """Return the link of a replica, whichever; or, where none is connected, when to look again; None: nobody is left.

        Connected ones in the client's region come first, then other connected ones; of those, the less loaded of two random
        ones. The others are connected to meanwhile; one that could not be reached before is only waited for while no other
        has declined.

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
