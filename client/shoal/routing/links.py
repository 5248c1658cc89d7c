"""What the router knows of one address it may be connected to: state, health, and what is unanswered there."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum
from typing import Generic

from shoal.errors import ErrorCode
from shoal.protocol.messages import MAX_FRAME_BYTES, TracedRequest
from shoal.routing.calls import W
from shoal.routing.overload import NO_OVERLOAD
from shoal.routing.page_queue import PageQueue
from shoal.routing.shard_queue import AnyRequest, ShardQueue
from shoal.routing.throttle import Throttle

PING_SECONDS = 0.5
"""A node that owes answers and has been silent for so long is asked whether it is there."""

HANG_SECONDS = 1.0
"""A node that owes answers and has been silent for so long, in spite of a ping, hangs: its connection is given up."""


class LinkState(Enum):
    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class MapFetch:
    """A `GetShardMap` that a link owes the answer to."""

    __slots__ = ()


class Probe:
    """A `Ping` that a link owes the answer to."""

    __slots__ = ()


class Link(Generic[W]):
    """One address. `node` is who answered there last, "" before the first greeting.

    `failures` counts attempts in a row that came to nothing, and a connection that was lost counts as one; a link
    with none is *fresh*: worth waiting for. `waiting` are the shard queues to look at again when the state changes; True where
    the shard queue waits for its leader.
    `quiet_since`: when the node was last heard, or first owed an answer since. `takes_traces`: it makes spans.
    `throttles`: what became of requests lately, by keyspace and kind of request; `refuses`: some were refused as too many, so
    they are to be looked at. `pages` are those that wait for their turn, and what they take.
    `stranger`: the other cluster that answered there last, "" where it was the client's own, or nobody yet.
    """

    __slots__ = (
        "address",
        "failures",
        "max_frame_bytes",
        "node",
        "outgoing",
        "overload",
        "pages",
        "paused",
        "pending",
        "pinged",
        "quiet_since",
        "reason",
        "refusal",
        "refuses",
        "retry_at",
        "state",
        "stranger",
        "takes_traces",
        "throttles",
        "waiting",
    )

    def __init__(self, address: str) -> None:
        self.address = address
        self.node = ""
        self.state = LinkState.DOWN
        self.paused = False
        self.failures = 0
        self.retry_at = 0.0
        self.reason = ""
        self.refusal: ErrorCode | None = None
        self.overload = NO_OVERLOAD
        self.max_frame_bytes = MAX_FRAME_BYTES
        self.pending: dict[int, AnyRequest[W] | MapFetch | Probe] = {}
        self.outgoing: list[TracedRequest] = []
        self.pages: PageQueue[W] = PageQueue()
        self.waiting: dict[ShardQueue[W], bool] = {}
        self.quiet_since = 0.0
        self.pinged = False
        self.takes_traces = False
        self.stranger = ""
        self.refuses = False
        self.throttles: defaultdict[tuple[int, type], Throttle] = defaultdict(Throttle)

    @property
    def fresh(self) -> bool:
        return self.failures == 0

    @property
    def due(self) -> float:
        """When to look whether a silent node that owes answers is still there."""
        return self.quiet_since + (HANG_SECONDS if self.pinged else PING_SECONDS)

    def __str__(self) -> str:
        return f"{self.node} ({self.address})" if self.node else self.address
