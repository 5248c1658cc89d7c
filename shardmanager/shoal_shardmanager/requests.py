"""What the controller may ask of nodes, as values: the driver sends them, and repeats none that is under way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Install:
    """Have `node` take over the map of this version. `found`: shards that it may open as a founder."""

    node: str
    map_version: int
    found: tuple[int, ...] = ()
    operation: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """Have `node`, a shard's leader, propose a change of its membership; `kind` as in `messages.ChangeMembership`."""

    node: str
    shard: int
    kind: int
    member: str
    operation: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """Have `node`, a shard's leader, hand over to `target`."""

    node: str
    shard: int
    target: str
    operation: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Have `node` delete its replica of a shard. `operation` 0: it is a remainder that no operation cares for."""

    node: str
    shard: int
    operation: int = 0


NodeRequest = Install | Change | Transfer | Drop

ADD_FOLLOWER, PROMOTE, DEMOTE, REMOVE = 1, 2, 3, 4
