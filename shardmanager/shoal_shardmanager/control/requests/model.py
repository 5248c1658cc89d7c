"""Requests as they are given, and as they are answered: accepted with the rows that begin them, or refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from shoal.shardmap import MicroshardRange

from shoal_shardmanager.control.observed import ObservedState
from shoal_shardmanager.control.placement_input import Loads
from shoal_shardmanager.control.rows import (
    Drain,
    Failover,
    MoveLeader,
    MoveReplica,
    OperationRow,
    Rebalance,
    RemoveNode,
    Undrain,
)
from shoal_shardmanager.control.state import ClusterState, RowChange


class Why(StrEnum):
    """What kind of refusal it is."""

    NOT_FOUND = "not_found"
    WRONG = "wrong"
    REFUSED = "refused"
    CONFLICT = "conflict"


class Refused(Exception):
    """A request is refused; nothing has happened. The message says why, and what would work."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why


class Unsettled(Refused):
    """A request is refused for something that passes by itself, such as an election: asked again, it may be accepted."""


@dataclass(frozen=True, slots=True)
class KeyspaceRequest:
    """A keyspace to create, or what to change of one: None leaves it as it is, or at its default.

    `reads_per_second`, `writes_per_second`, `max_bytes`: its quotas; 0: there is none.
    """

    name: str
    microshards: int | None = None
    shards: int | None = None
    delimiter: bytes | None = None
    voters: int | None = None
    followers: int | None = None
    max_staleness_ms: int | None = None
    default_ttl_ms: int | None = None
    required: dict[str, int] | None = None
    leader_regions: tuple[str, ...] | None = None
    follower_regions: tuple[str, ...] | None = None
    reads_per_second: int | None = None
    writes_per_second: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """Create a keyspace."""

    keyspace: KeyspaceRequest


@dataclass(frozen=True, slots=True)
class Alter:
    """Change a keyspace."""

    keyspace: KeyspaceRequest


@dataclass(frozen=True, slots=True)
class DropRequest:
    """Drop a keyspace with all its data."""

    name: str


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """Split a shard: the microshards from `at` on make a new one. None: where it parts the load best."""

    shard: int
    at: int | None = None


@dataclass(frozen=True, slots=True)
class MoveMicroshardsRequest:
    """Give microshards of shard `source` to shard `target`."""

    source: int
    target: int
    ranges: tuple[MicroshardRange, ...]


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """Give all microshards of shard `source` to shard `target`, and drop it."""

    target: int
    source: int


@dataclass(frozen=True, slots=True)
class RestartRequest:
    """See nodes through a restart, one after the other, in this order; none named: all of them."""

    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """Undo, finish or take over what was begun on a shard, and no operation is about."""

    shard: int


OperatorRequest = (
    MoveReplica
    | MoveLeader
    | Failover
    | Drain
    | Undrain
    | RemoveNode
    | Rebalance
    | Create
    | Alter
    | DropRequest
    | SplitRequest
    | MoveMicroshardsRequest
    | MergeRequest
    | RestartRequest
    | SettleRequest
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that was checked: the rows that begin it, and what it is going to do. `bytes`: to copy, as far as known."""

    operation: OperationRow
    changes: tuple[RowChange, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...] = ()
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """What requests are checked against."""

    state: ClusterState
    observed: ObservedState
    loads: Loads = field(default_factory=Loads)
