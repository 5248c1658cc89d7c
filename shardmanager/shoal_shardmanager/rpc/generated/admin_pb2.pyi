# ruff: noqa
# fmt: off
# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartRequest(_message.Message):
    __slots__ = ("plan_only", "if_version", "request_id", "move", "transfer_leader", "failover", "drain", "undrain", "remove_node", "rebalance", "create_keyspace", "alter_keyspace", "drop_keyspace", "split", "move_microshards", "merge", "rolling_restart", "settle")
    PLAN_ONLY_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_LEADER_FIELD_NUMBER: _ClassVar[int]
    FAILOVER_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    UNDRAIN_FIELD_NUMBER: _ClassVar[int]
    REMOVE_NODE_FIELD_NUMBER: _ClassVar[int]
    REBALANCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    ALTER_KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    DROP_KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    MOVE_MICROSHARDS_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    ROLLING_RESTART_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    plan_only: bool
    if_version: int
    request_id: str
    move: Move
    transfer_leader: TransferLeader
    failover: Failover
    drain: Drain
    undrain: Undrain
    remove_node: RemoveNode
    rebalance: Rebalance
    create_keyspace: KeyspaceSettings
    alter_keyspace: KeyspaceSettings
    drop_keyspace: DropKeyspace
    split: Split
    move_microshards: MoveMicroshards
    merge: Merge
    rolling_restart: RollingRestart
    settle: Settle
    def __init__(self, plan_only: _Optional[bool] = ..., if_version: _Optional[int] = ..., request_id: _Optional[str] = ..., move: _Optional[_Union[Move, _Mapping]] = ..., transfer_leader: _Optional[_Union[TransferLeader, _Mapping]] = ..., failover: _Optional[_Union[Failover, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., undrain: _Optional[_Union[Undrain, _Mapping]] = ..., remove_node: _Optional[_Union[RemoveNode, _Mapping]] = ..., rebalance: _Optional[_Union[Rebalance, _Mapping]] = ..., create_keyspace: _Optional[_Union[KeyspaceSettings, _Mapping]] = ..., alter_keyspace: _Optional[_Union[KeyspaceSettings, _Mapping]] = ..., drop_keyspace: _Optional[_Union[DropKeyspace, _Mapping]] = ..., split: _Optional[_Union[Split, _Mapping]] = ..., move_microshards: _Optional[_Union[MoveMicroshards, _Mapping]] = ..., merge: _Optional[_Union[Merge, _Mapping]] = ..., rolling_restart: _Optional[_Union[RollingRestart, _Mapping]] = ..., settle: _Optional[_Union[Settle, _Mapping]] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("shard", "source", "target")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    shard: int
    source: str
    target: str
    def __init__(self, shard: _Optional[int] = ..., source: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class TransferLeader(_message.Message):
    __slots__ = ("shard", "target")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    shard: int
    target: str
    def __init__(self, shard: _Optional[int] = ..., target: _Optional[str] = ...) -> None: ...

class Failover(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Undrain(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class RemoveNode(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Rebalance(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DropKeyspace(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Split(_message.Message):
    __slots__ = ("shard", "at")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    at: int
    def __init__(self, shard: _Optional[int] = ..., at: _Optional[int] = ...) -> None: ...

class MicroshardRange(_message.Message):
    __slots__ = ("first", "end")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class MoveMicroshards(_message.Message):
    __slots__ = ("source", "target", "ranges")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    source: int
    target: int
    ranges: _containers.RepeatedCompositeFieldContainer[MicroshardRange]
    def __init__(self, source: _Optional[int] = ..., target: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[MicroshardRange, _Mapping]]] = ...) -> None: ...

class Merge(_message.Message):
    __slots__ = ("target", "source")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    target: int
    source: int
    def __init__(self, target: _Optional[int] = ..., source: _Optional[int] = ...) -> None: ...

class RollingRestart(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class Settle(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    def __init__(self, shard: _Optional[int] = ...) -> None: ...

class KeyspaceSettings(_message.Message):
    __slots__ = ("name", "microshards", "shards", "delimiter", "voters", "followers", "max_staleness_ms", "default_ttl_ms", "required_regions", "leader_regions", "follower_regions", "reads_per_second", "writes_per_second", "max_bytes")
    class RequiredRegionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MICROSHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWERS_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_REGIONS_FIELD_NUMBER: _ClassVar[int]
    LEADER_REGIONS_FIELD_NUMBER: _ClassVar[int]
    FOLLOWER_REGIONS_FIELD_NUMBER: _ClassVar[int]
    READS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    WRITES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    microshards: int
    shards: int
    delimiter: bytes
    voters: int
    followers: int
    max_staleness_ms: int
    default_ttl_ms: int
    required_regions: _containers.ScalarMap[str, int]
    leader_regions: _containers.RepeatedScalarFieldContainer[str]
    follower_regions: _containers.RepeatedScalarFieldContainer[str]
    reads_per_second: int
    writes_per_second: int
    max_bytes: int
    def __init__(self, name: _Optional[str] = ..., microshards: _Optional[int] = ..., shards: _Optional[int] = ..., delimiter: _Optional[bytes] = ..., voters: _Optional[int] = ..., followers: _Optional[int] = ..., max_staleness_ms: _Optional[int] = ..., default_ttl_ms: _Optional[int] = ..., required_regions: _Optional[_Mapping[str, int]] = ..., leader_regions: _Optional[_Iterable[str]] = ..., follower_regions: _Optional[_Iterable[str]] = ..., reads_per_second: _Optional[int] = ..., writes_per_second: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class StartReply(_message.Message):
    __slots__ = ("steps", "notes", "bytes", "map_version", "operation")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedScalarFieldContainer[str]
    notes: _containers.RepeatedScalarFieldContainer[str]
    bytes: int
    map_version: int
    operation: Operation
    def __init__(self, steps: _Optional[_Iterable[str]] = ..., notes: _Optional[_Iterable[str]] = ..., bytes: _Optional[int] = ..., map_version: _Optional[int] = ..., operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("id", "kind", "subject", "state", "step", "waiting", "reason", "left", "total", "unit", "parent", "parts_running", "created_ms", "step_since_ms", "ended_ms", "undoing", "rate", "node", "automatic")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PARTS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    STEP_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    UNDOING_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    AUTOMATIC_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: str
    subject: str
    state: str
    step: str
    waiting: str
    reason: str
    left: int
    total: int
    unit: str
    parent: int
    parts_running: _containers.RepeatedScalarFieldContainer[int]
    created_ms: int
    step_since_ms: int
    ended_ms: int
    undoing: bool
    rate: float
    node: str
    automatic: bool
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., state: _Optional[str] = ..., step: _Optional[str] = ..., waiting: _Optional[str] = ..., reason: _Optional[str] = ..., left: _Optional[int] = ..., total: _Optional[int] = ..., unit: _Optional[str] = ..., parent: _Optional[int] = ..., parts_running: _Optional[_Iterable[int]] = ..., created_ms: _Optional[int] = ..., step_since_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., undoing: _Optional[bool] = ..., rate: _Optional[float] = ..., node: _Optional[str] = ..., automatic: _Optional[bool] = ...) -> None: ...

class GetOperationRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ListOperationsRequest(_message.Message):
    __slots__ = ("running_only",)
    RUNNING_ONLY_FIELD_NUMBER: _ClassVar[int]
    running_only: bool
    def __init__(self, running_only: _Optional[bool] = ...) -> None: ...

class ListOperationsReply(_message.Message):
    __slots__ = ("operations",)
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class ExplainShardRequest(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    def __init__(self, shard: _Optional[int] = ...) -> None: ...

class ExplainShardReply(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lines: _Optional[_Iterable[str]] = ...) -> None: ...

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Cluster(_message.Message):
    __slots__ = ("name", "map_version", "manager", "epoch", "nodes", "shards", "operations_running")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    MANAGER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    name: str
    map_version: int
    manager: str
    epoch: int
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    shards: int
    operations_running: int
    def __init__(self, name: _Optional[str] = ..., map_version: _Optional[int] = ..., manager: _Optional[str] = ..., epoch: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., shards: _Optional[int] = ..., operations_running: _Optional[int] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "address", "region", "zone", "state", "since_ms", "silent_because", "replicas", "leaders")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    SILENT_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    LEADERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    region: str
    zone: str
    state: str
    since_ms: int
    silent_because: str
    replicas: int
    leaders: int
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., region: _Optional[str] = ..., zone: _Optional[str] = ..., state: _Optional[str] = ..., since_ms: _Optional[int] = ..., silent_because: _Optional[str] = ..., replicas: _Optional[int] = ..., leaders: _Optional[int] = ...) -> None: ...

class GetSettingsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChangeSettingsRequest(_message.Message):
    __slots__ = ("values", "plan_only", "if_version")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PLAN_ONLY_FIELD_NUMBER: _ClassVar[int]
    IF_VERSION_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, str]
    plan_only: bool
    if_version: int
    def __init__(self, values: _Optional[_Mapping[str, str]] = ..., plan_only: _Optional[bool] = ..., if_version: _Optional[int] = ...) -> None: ...

class Settings(_message.Message):
    __slots__ = ("version", "settings")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    version: int
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    def __init__(self, version: _Optional[int] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("name", "value", "default_value", "about")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    default_value: str
    about: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., default_value: _Optional[str] = ..., about: _Optional[str] = ...) -> None: ...
