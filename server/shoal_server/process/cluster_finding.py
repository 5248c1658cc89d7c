"""How a node finds out which cluster it is of, where its own log does not say: it asks its peers again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from shoal_server.node.core import Node
from shoal_server.node.founding import FIRST_SHARD

GREET_SECONDS = 1.0
"""Another peer is greeted after so long."""


async def find_cluster(node: Node, greet_again: Callable[[str], None]) -> None:
    """Greet one peer after the other once more, until one has told which cluster this is. It never ends by itself.

    Greetings of the beginning are from before anybody knows. Who has the first shard learns it from its log; nobody
    else is told later, and a node that does not know it serves no client.
    """
    for number in count():
        await asyncio.sleep(GREET_SECONDS)
        if node.cluster_id:
            break
        peers = sorted(node.peers)
        if peers and FIRST_SHARD not in node.replicas:
            greet_again(peers[number % len(peers)])
    # A task that ends is one that failed, for who looks after them: this one is cancelled when the node stops.
    await asyncio.Event().wait()
