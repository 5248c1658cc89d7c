"""The rows that the managers' Raft group holds: what the control plane remembers, as typed values with a format version.

Rows are encoded as maps, so that a field can be added: an older manager passes over it, a newer one has its default.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta
from shoal.bounds import (
    MAX_KEYSPACE,
    MAX_NODES,
    MAX_REPLICAS,
    MAX_SHARD,
    MAX_SHARDS,
    Address,
    Bytes,
    Count,
    DurationMs,
    KeyspaceId,
    LogIndexOrNone,
    Name,
    Place,
    ShardId,
    UnixMs,
    Version,
    Word,
)
from shoal.shardmap import Ranges

FORMAT = b"\x01"

MAP_KEY = "map"
LEADER_KEY = "leader"
COUNTERS_KEY = "counters"
SETTINGS_KEY = "settings"
NODES = "nodes/"
POLICIES = "policies/"
OPERATIONS = "operations/"
JOINS = "joins/"

T = TypeVar("T")

Replicas: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_REPLICAS)]
Places: TypeAlias = Annotated[tuple[Place, ...], Meta(max_length=MAX_REPLICAS)]
Nodes: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=MAX_NODES)]
Shards: TypeAlias = Annotated[tuple[ShardId, ...], Meta(max_length=MAX_SHARDS)]
NextShard: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SHARD + 1)]
NextKeyspace: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_KEYSPACE + 1)]


class UnreadableRow(Exception):
    """A row is of a format that this version does not know, or damaged."""


class NodeState(StrEnum):
    """What a node is for. Its id stays known for ever, so that it is never given to another."""

    ACTIVE = "active"
    DRAINING = "draining"
    DRAINED = "drained"
    GONE = "gone"
    REMOVED = "removed"


class NodeRow(msgspec.Struct, frozen=True):
    """A storage node.

    Args:
        since_ms: when it came into this state, Unix time.
        before: its state before it was gone, to which it returns.
        incarnation: of the data folder that it was first met with; "": it has not been met yet. Whoever answers under its
            id with another one has forgotten what the node had promised, and is not the node.
    """

    id: Name
    address: Address
    region: Place
    zone: Place
    state: NodeState
    since_ms: UnixMs
    before: NodeState = NodeState.ACTIVE
    incarnation: Word = ""


class PolicyRow(msgspec.Struct, frozen=True):
    """What a keyspace asks of placement; the map has the rest of its settings. `required`: replicas a region must hold."""

    keyspace: KeyspaceId
    voters: Replicas
    followers: Replicas = 0
    required: Annotated[dict[Place, Replicas], Meta(max_length=MAX_REPLICAS)] = {}
    leader_regions: Places = ()
    follower_regions: Places = ()


class CountersRow(msgspec.Struct, frozen=True):
    """Numbers that are never given twice. `dropped`: shards that are no more, whose replicas may be deleted."""

    next_operation: Version = 1
    next_shard: NextShard = 1
    next_keyspace: NextKeyspace = 1
    dropped: tuple[ShardId, ...] = ()


class LeaderRow(msgspec.Struct, frozen=True):
    """Which manager runs the controller. Each of its writes is on condition that this row is still its own."""

    manager: Name
    epoch: Version


class SettingsRow(msgspec.Struct, frozen=True):
    """What operators may tune.

    Args:
        gone_after_ms: how long a node may be silent before its replicas are replaced.
        catch_up_entries: a new replica that lacks no more may be promoted.
        moves_per_node, moves_per_cluster: caps of replicas being filled at once.
        history: how many ended operations are kept.
        version: how often they have been changed.
        split_bytes, split_reads_per_second, split_writes_per_second: a shard beyond one of them is split by itself; 0:
            none is.
        split_pause_ms: how long a shard is left alone after a split before it may be split by itself again; twice as long
            after each further one.
        migration_bytes_per_second: how fast microshards are copied to another shard; 0: as fast as it goes.
        merge_linger_ms: how long an emptied shard stays, to answer writes that are repeated.
    """

    gone_after_ms: DurationMs = 30_000
    catch_up_entries: Count = 1_000
    moves_per_node: Count = 2
    moves_per_cluster: Count = 16
    history: Count = 200
    version: Version = 1
    split_bytes: Bytes = 16 << 30
    split_reads_per_second: Count = 200_000
    split_writes_per_second: Count = 50_000
    split_pause_ms: DurationMs = 300_000
    migration_bytes_per_second: Bytes = 0
    merge_linger_ms: DurationMs = 30_000


# -- operations


class State(StrEnum):
    """How an operation stands. The last three are ends."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Step(StrEnum):
    """Where a running operation is. Which steps follow each other: `operations.TRANSITIONS`."""

    QUEUED = "queued"
    ROUTE = "route"
    ADD = "add"
    CATCH_UP = "catch-up"
    PROMOTE = "promote"
    HAND_OVER = "hand-over"
    DEMOTE = "demote"
    REMOVE = "remove"
    DROP = "drop"
    TRANSFER = "transfer"
    EVACUATE = "evacuate"
    WORK = "work"
    FOUND = "found"
    SPREAD = "spread"
    SPLIT = "split"
    COPY = "copy"
    SEAL = "seal"
    FORGET = "forget"
    LINGER = "linger"
    UNDO = "undo"
    RESTART = "restart"
    SETTLE = "settle"


class MoveReplica(msgspec.Struct, frozen=True, tag="move"):
    """Fill `target`, then give up `source`. Without a source a replica is added, without a target one is removed."""

    shard: ShardId
    source: Name
    target: Name
    voter: bool = True


class MoveLeader(msgspec.Struct, frozen=True, tag="transfer-leader"):
    """Let `target` lead the shard."""

    shard: ShardId
    target: Name


class Failover(msgspec.Struct, frozen=True, tag="failover"):
    """Take all leaderships from a node, now."""

    node: Name


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Empty a node; new replicas avoid it from the first moment."""

    node: Name


class Undrain(msgspec.Struct, frozen=True, tag="undrain"):
    """Let a node take replicas again."""

    node: Name


class RemoveNode(msgspec.Struct, frozen=True, tag="remove-node"):
    """Forget an empty node."""

    node: Name


class Rebalance(msgspec.Struct, frozen=True, tag="rebalance"):
    """Do what placement finds worth doing, until it finds nothing.

    Args:
        automatic: nobody asked for it.
        leaders_only: no replica is moved.
    """

    automatic: bool = False
    leaders_only: bool = False


class Heal(msgspec.Struct, frozen=True, tag="heal"):
    """Replace the replicas of a node that is gone."""

    node: Name


class CreateKeyspace(msgspec.Struct, frozen=True, tag="create-keyspace"):
    """Found the shards of a new keyspace. The shards are in the map from the operation's first write."""

    keyspace: KeyspaceId
    name: Name
    shards: Shards


class AlterKeyspace(msgspec.Struct, frozen=True, tag="alter-keyspace"):
    """Spread changed settings; replica counts are made true by the moves that follow."""

    keyspace: KeyspaceId
    name: Name


class DropKeyspace(msgspec.Struct, frozen=True, tag="drop-keyspace"):
    """Forget a keyspace, then delete its replicas."""

    keyspace: KeyspaceId
    name: Name
    shards: Shards


class SplitShard(msgspec.Struct, frozen=True, tag="split"):
    """Split shard `child`, with the microshards of `ranges`, off `shard`. `automatic`: its load asked for it."""

    shard: ShardId
    child: ShardId
    ranges: Ranges
    automatic: bool = False


class MoveMicroshards(msgspec.Struct, frozen=True, tag="move-microshards"):
    """Give some of the microshards of shard `source` to shard `target`.

    `migration`: the number under which somebody else has begun it; 0: it is this operation's own.
    """

    source: ShardId
    target: ShardId
    ranges: Ranges
    migration: Version = 0


class MergeShards(msgspec.Struct, frozen=True, tag="merge"):
    """Give all microshards of shard `source` to shard `target`, then drop it.

    `empty_at`: up to this entry of its log the source was known to have nothing left when it was taken out of the map; -1: it
    is in the map.
    """

    source: ShardId
    target: ShardId
    ranges: Ranges
    empty_at: LogIndexOrNone = -1


class RollingRestart(msgspec.Struct, frozen=True, tag="rolling-restart"):
    """See nodes through a restart, one after the other.

    Args:
        done: how many of them have had their turn.
        uptime_ms: of the next one's process, when its restart was asked for.
        skipped: those that were gone or removed when their turn came.
    """

    nodes: Nodes
    done: Count = 0
    uptime_ms: Count = 0
    skipped: Nodes = ()


class FollowLogs(msgspec.Struct, frozen=True, tag="settle"):
    """Spread a map that gives microshards to the shards that have them by their logs.

    Args:
        shards: those that have, or are without, some that the map had otherwise.
        microshards: how many these are.
    """

    shards: Shards
    microshards: Count


Migration: TypeAlias = MoveMicroshards | MergeShards

Arguments: TypeAlias = (
    MoveReplica
    | MoveLeader
    | Failover
    | Drain
    | Undrain
    | RemoveNode
    | Rebalance
    | Heal
    | CreateKeyspace
    | AlterKeyspace
    | DropKeyspace
    | SplitShard
    | MoveMicroshards
    | MergeShards
    | RollingRestart
    | FollowLogs
)


class OperationRow(msgspec.Struct, frozen=True):
    """An operation: what was asked, where it is, how it ended.

    Args:
        parent: the operation that this one is a part of; 0: none.
        step_ms: when the step began.
        map_version: of the map that the step waits for nodes to have.
        undo: why it goes back to where things were; "": it does not.
        cancelled: the reason is that somebody cancelled it.
        reason: why it was begun, or, at the end, how it ended.
        request_id: what whoever requested it has called the request; "": nothing.
    """

    id: Version
    arguments: Arguments
    state: State
    step: Step
    created_ms: UnixMs
    step_ms: UnixMs
    parent: Version = 0
    ended_ms: UnixMs = 0
    map_version: Version = 0
    undo: str = ""
    cancelled: bool = False
    reason: str = ""
    request_id: Word = ""

    @property
    def kind(self) -> str:
        """The name of what it does: "move", "drain"."""
        return str(self.arguments.__struct_config__.tag)

    @property
    def running(self) -> bool:
        return self.state is State.RUNNING

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards that it has for itself."""
        match self.arguments:
            case MoveReplica() | MoveLeader():
                return (self.arguments.shard,)
            case SplitShard():
                return (self.arguments.shard, self.arguments.child)
            case MoveMicroshards() | MergeShards():
                return (self.arguments.source, self.arguments.target)
            case CreateKeyspace() | DropKeyspace() | FollowLogs():
                return self.arguments.shards
            case _:
                return ()

    @property
    def migrates(self) -> bool:
        """Whether it moves microshards from one shard to another."""
        return isinstance(self.arguments, MoveMicroshards | MergeShards)

    @property
    def migration(self) -> int:
        """The number under which shards know what it moves between them."""
        adopted = isinstance(self.arguments, MoveMicroshards) and self.arguments.migration
        return adopted or self.id

    @property
    def node(self) -> str:
        """The one node that it is about; "": none."""
        about_node = isinstance(self.arguments, Failover | Drain | Undrain | RemoveNode | Heal)
        return self.arguments.node if about_node else ""  # type: ignore[union-attr]


def encode_row(row: object) -> bytes:
    """Encode any row, its format first."""
    return FORMAT + msgspec.msgpack.encode(row)


def decode_row(key: str, data: bytes, kind: type[T]) -> T:
    """Decode a row.

    Raises:
        UnreadableRow: it is of another format, or damaged.
    """
    if data[:1] != FORMAT:
        raise UnreadableRow(f"row {key!r} is of format {data[:1].hex()}, this manager knows {FORMAT.hex()}: upgrade it")
    try:
        return msgspec.msgpack.decode(data[1:], type=kind)
    except msgspec.MsgspecError as error:
        raise UnreadableRow(f"row {key!r} cannot be read: {error}") from error


def node_key(node: str) -> str:
    return NODES + node


def policy_key(keyspace: int) -> str:
    return f"{POLICIES}{keyspace:08d}"


def operation_key(operation: int) -> str:
    return f"{OPERATIONS}{operation:010d}"
