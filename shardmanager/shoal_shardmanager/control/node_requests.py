"""What the controller may ask of nodes, as values: the request sender sends them, and repeats none that is under way."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.shardmap import Shard


@dataclass(frozen=True, slots=True)
class Install:
    """Have `node` take over the map of this version. `found`: shards that it may open as a founder."""

    node: str
    map_version: int
    found: tuple[int, ...] = ()
    operation: int = 0


@dataclass(frozen=True, slots=True)
class ChangeMember:
    """Have `node`, a shard's leader, propose a change of its membership; `kind` as in `messages.ChangeMembership`.

    `if_version`: of the membership that it was decided on; a manager that was deposed may be heard late.
    """

    node: str
    shard: int
    kind: int
    member: str
    operation: int
    if_version: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """Have `node`, a shard's leader, hand over to `target`."""

    node: str
    shard: int
    target: str
    operation: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Have `node` delete its replica of a shard. `operation` 0: it is a remainder that no operation cares for.

    `empty_at`: it is to refuse where the replica has microshards at this entry of its log or later; -1: it is not to look.
    """

    node: str
    shard: int
    operation: int = 0
    empty_at: int = -1


@dataclass(frozen=True, slots=True)
class Split:
    """Have `node`, a shard's leader, split `child` off it; `map_version` is newer than that of any map."""

    node: str
    shard: int
    child: Shard
    map_version: int
    operation: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Have `node`, a shard's leader, delete what the shard has given away."""

    node: str
    shard: int
    migration: int
    operation: int


@dataclass(frozen=True, slots=True)
class CancelMigration:
    """Have `node`, a shard's leader, give up a migration to or from the shard."""

    node: str
    shard: int
    migration: int
    operation: int


NodeRequest = Install | ChangeMember | Transfer | Drop | Split | Forget | CancelMigration

ADD_FOLLOWER, PROMOTE, DEMOTE, REMOVE = 1, 2, 3, 4
