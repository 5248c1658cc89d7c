"""What gives way when a node is too busy for all: the priority of a connection, and what there is too much of."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

PriorityName: TypeAlias = Literal["interactive", "batch", "background"]
"""A `Priority`, as applications name it."""


class Priority(StrEnum):
    """Of the requests of a connection, said once in its greeting; the first is served longest."""

    INTERACTIVE = "interactive"
    """Somebody waits for the answer."""
    BATCH = "batch"
    """Work that may take minutes more."""
    BACKGROUND = "background"
    """Work that nobody waits for."""


class OverloadReason(StrEnum):
    """What there is too much of where a request, or a connection, is refused as `overloaded`: nodes know no other reason."""

    QUOTA = "quota"
    """The keyspace has used up what it may use."""
    NODE_BUSY = "node_busy"
    """The node has more to do than it can in time."""
    DISK = "disk"
    """The disk does not keep up with writes."""
    CONNECTION = "connection"
    """This connection asks for more than one may; or the node has no place for another one."""
    MEMORY = "memory"
    """The node holds as much as it may."""
    UNCOMMITTED = "uncommitted"
    """So many writes of the shard wait to be stored by a majority of its replicas: these, or the ways to them, are slow."""


_REASONS = frozenset(reason.value for reason in OverloadReason)


def known_reason(given: str) -> str:
    """Return the reason of overload that a node gives; "" where it is none that is known."""
    return given if given in _REASONS else ""
