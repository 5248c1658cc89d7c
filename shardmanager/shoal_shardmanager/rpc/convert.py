"""Between the messages of the control RPC and the types of the core."""

from __future__ import annotations

from shoal.shardmap import MicroshardRange

from shoal_shardmanager.control.operations.outcome import Note
from shoal_shardmanager.control.operations.restart import current_node
from shoal_shardmanager.control.requests import (
    SETTINGS,
    Alter,
    Create,
    DropRequest,
    KeyspaceRequest,
    MergeRequest,
    MoveMicroshardsRequest,
    OperatorRequest,
    Refused,
    RestartRequest,
    SettleRequest,
    SplitRequest,
    Why,
)
from shoal_shardmanager.control.rows import (
    AlterKeyspace,
    CreateKeyspace,
    Drain,
    DropKeyspace,
    Failover,
    FollowLogs,
    MergeShards,
    MoveLeader,
    MoveMicroshards,
    MoveReplica,
    OperationRow,
    Rebalance,
    RemoveNode,
    RollingRestart,
    SettingsRow,
    SplitShard,
    Undrain,
)
from shoal_shardmanager.control.state import ClusterState
from shoal_shardmanager.rpc.generated import admin_pb2 as pb


def operator_request_of(request: pb.StartRequest) -> OperatorRequest:
    """Return what is asked for.

    Raises:
        Refused: nothing is.
    """
    match request.WhichOneof("request"):
        case "move":
            return MoveReplica(request.move.shard, request.move.source, request.move.target)
        case "transfer_leader":
            return MoveLeader(request.transfer_leader.shard, request.transfer_leader.target)
        case "failover":
            return Failover(request.failover.node)
        case "drain":
            return Drain(request.drain.node)
        case "undrain":
            return Undrain(request.undrain.node)
        case "remove_node":
            return RemoveNode(request.remove_node.node)
        case "rebalance":
            return Rebalance()
        case "create_keyspace":
            return Create(_keyspace(request.create_keyspace))
        case "alter_keyspace":
            return Alter(_keyspace(request.alter_keyspace))
        case "drop_keyspace":
            return DropRequest(request.drop_keyspace.name)
        case "split":
            return SplitRequest(request.split.shard, request.split.at if request.split.HasField("at") else None)
        case "move_microshards":
            ranges = tuple(MicroshardRange(span.first, span.end) for span in request.move_microshards.ranges)
            return MoveMicroshardsRequest(request.move_microshards.source, request.move_microshards.target, ranges)
        case "merge":
            return MergeRequest(request.merge.target, request.merge.source)
        case "rolling_restart":
            return RestartRequest(tuple(request.rolling_restart.nodes))
        case "settle":
            return SettleRequest(request.settle.shard)
        case _:
            raise Refused(Why.WRONG, "the request holds no request that this version knows")


def _keyspace(settings: pb.KeyspaceSettings) -> KeyspaceRequest:
    return KeyspaceRequest(
        name=settings.name,
        microshards=settings.microshards if settings.HasField("microshards") else None,
        shards=settings.shards if settings.HasField("shards") else None,
        delimiter=settings.delimiter if settings.HasField("delimiter") else None,
        voters=settings.voters if settings.HasField("voters") else None,
        followers=settings.followers if settings.HasField("followers") else None,
        max_staleness_ms=settings.max_staleness_ms if settings.HasField("max_staleness_ms") else None,
        default_ttl_ms=settings.default_ttl_ms if settings.HasField("default_ttl_ms") else None,
        required=dict(settings.required_regions) or None,
        leader_regions=tuple(settings.leader_regions) or None,
        follower_regions=tuple(settings.follower_regions) or None,
        reads_per_second=settings.reads_per_second if settings.HasField("reads_per_second") else None,
        writes_per_second=settings.writes_per_second if settings.HasField("writes_per_second") else None,
        max_bytes=settings.max_bytes if settings.HasField("max_bytes") else None,
    )


def operation_message(row: OperationRow, state: ClusterState, note: Note | None, rate: float = 0.0) -> pb.Operation:
    """Return an operation as operators see it."""
    known = note if note is not None and row.running else Note()
    return pb.Operation(
        id=row.id,
        kind=row.kind,
        subject=subject_of(row),
        state=str(row.state),
        step=str(row.step),
        waiting=known.waiting,
        reason=row.undo if row.running and row.undo else row.reason,
        left=known.left,
        total=known.total,
        unit=known.unit,
        parent=row.parent,
        parts_running=[part.id for part in state.children(row.id)],
        created_ms=row.created_ms,
        step_since_ms=row.step_ms,
        ended_ms=row.ended_ms,
        undoing=bool(row.undo) and row.running,
        rate=rate,
        node=_whose_turn(row),
        automatic=isinstance(row.arguments, SplitShard | Rebalance) and row.arguments.automatic,
    )


def _whose_turn(row: OperationRow) -> str:
    return current_node(row.arguments) if isinstance(row.arguments, RollingRestart) else row.node


def settings_message(row: SettingsRow) -> pb.Settings:
    """Return the settings as operators see them."""
    usual = SettingsRow()
    return pb.Settings(
        version=row.version,
        settings=[
            pb.Setting(
                name=setting.name,
                value=setting.shown(row),
                default_value=setting.shown(usual),
                about=setting.about,
            )
            for setting in SETTINGS
        ],
    )


def subject_of(row: OperationRow) -> str:
    """Say what an operation is on."""
    match row.arguments:
        case MoveReplica(shard, "", target):
            return f"shard {shard}, one replica more on {target}"
        case MoveReplica(shard, source, ""):
            return f"shard {shard}, without the replica on {source}"
        case MoveReplica(shard, source, target):
            return f"shard {shard} from {source} to {target}"
        case MoveLeader(shard, target):
            return f"shard {shard} to {target}"
        case CreateKeyspace() | AlterKeyspace() | DropKeyspace():
            return f"keyspace {row.arguments.name}"
        case Rebalance():
            return "all nodes"
        case SplitShard(shard, child):
            return f"shard {child} off shard {shard}"
        case MoveMicroshards(source, target):
            return f"from shard {source} to shard {target}"
        case MergeShards(source, target):
            return f"shard {source} into shard {target}"
        case FollowLogs(shards):
            return f"shards {', '.join(map(str, shards))}"
        case RollingRestart(nodes):
            return f"{len(nodes)} nodes"
        case _:
            return f"node {row.node}"
