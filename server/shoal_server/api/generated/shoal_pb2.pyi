# ruff: noqa
# fmt: off
# mypy: ignore-errors
from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_STRONG: _ClassVar[Consistency]
    CONSISTENCY_READ_YOUR_WRITES: _ClassVar[Consistency]
    CONSISTENCY_EVENTUAL: _ClassVar[Consistency]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_QUORUM: _ClassVar[Durability]
    DURABILITY_FAST: _ClassVar[Durability]
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_STRONG: Consistency
CONSISTENCY_READ_YOUR_WRITES: Consistency
CONSISTENCY_EVENTUAL: Consistency
DURABILITY_UNSPECIFIED: Durability
DURABILITY_QUORUM: Durability
DURABILITY_FAST: Durability

class GetRequest(_message.Message):
    __slots__ = ("keyspace", "session", "consistency", "max_staleness_ms", "key")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    consistency: Consistency
    max_staleness_ms: int
    key: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_staleness_ms: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class GetReply(_message.Message):
    __slots__ = ("entry", "session")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    session: str
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., session: _Optional[str] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("value", "seq", "expires_at_ms", "staleness_ms", "served_by")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    seq: int
    expires_at_ms: int
    staleness_ms: int
    served_by: str
    def __init__(self, value: _Optional[bytes] = ..., seq: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., staleness_ms: _Optional[int] = ..., served_by: _Optional[str] = ...) -> None: ...

class ExistsRequest(_message.Message):
    __slots__ = ("keyspace", "session", "consistency", "max_staleness_ms", "key")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    consistency: Consistency
    max_staleness_ms: int
    key: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_staleness_ms: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class ExistsReply(_message.Message):
    __slots__ = ("exists", "session")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    session: str
    def __init__(self, exists: _Optional[bool] = ..., session: _Optional[str] = ...) -> None: ...

class TtlRequest(_message.Message):
    __slots__ = ("keyspace", "session", "key")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    key: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class TtlReply(_message.Message):
    __slots__ = ("exists", "session", "ttl_ms")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    session: str
    ttl_ms: int
    def __init__(self, exists: _Optional[bool] = ..., session: _Optional[str] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("keyspace", "session", "durability", "key", "value", "ttl_ms")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    durability: Durability
    key: bytes
    value: bytes
    ttl_ms: int
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("keyspace", "session", "durability", "key")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    durability: Durability
    key: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., key: _Optional[bytes] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("seq", "session", "durability", "results")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    session: str
    durability: Durability
    results: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., session: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., results: _Optional[_Iterable[int]] = ...) -> None: ...

class TouchRequest(_message.Message):
    __slots__ = ("keyspace", "session", "key", "ttl_ms")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    key: bytes
    ttl_ms: int
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., key: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class TouchReply(_message.Message):
    __slots__ = ("exists", "session")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    session: str
    def __init__(self, exists: _Optional[bool] = ..., session: _Optional[str] = ...) -> None: ...

class IncrementRequest(_message.Message):
    __slots__ = ("keyspace", "session", "key", "by", "ttl_ms")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    key: bytes
    by: int
    ttl_ms: int
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., key: _Optional[bytes] = ..., by: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class IncrementReply(_message.Message):
    __slots__ = ("value", "session")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    value: int
    session: str
    def __init__(self, value: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class PutIfAbsentRequest(_message.Message):
    __slots__ = ("keyspace", "session", "key", "value", "ttl_ms")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    key: bytes
    value: bytes
    ttl_ms: int
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class CompareAndSetRequest(_message.Message):
    __slots__ = ("keyspace", "session", "key", "value", "ttl_ms", "expected")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    key: bytes
    value: bytes
    ttl_ms: int
    expected: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ..., expected: _Optional[bytes] = ...) -> None: ...

class ExchangeReply(_message.Message):
    __slots__ = ("done", "session")
    DONE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    done: bool
    session: str
    def __init__(self, done: _Optional[bool] = ..., session: _Optional[str] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("keyspace", "session", "operations", "conditions")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("put", "delete", "touch", "increment")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    TOUCH_FIELD_NUMBER: _ClassVar[int]
    INCREMENT_FIELD_NUMBER: _ClassVar[int]
    put: Put
    delete: Delete
    touch: Touch
    increment: Increment
    def __init__(self, put: _Optional[_Union[Put, _Mapping]] = ..., delete: _Optional[_Union[Delete, _Mapping]] = ..., touch: _Optional[_Union[Touch, _Mapping]] = ..., increment: _Optional[_Union[Increment, _Mapping]] = ...) -> None: ...

class Put(_message.Message):
    __slots__ = ("key", "value", "ttl_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    ttl_ms: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class Delete(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...

class Touch(_message.Message):
    __slots__ = ("key", "ttl_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    ttl_ms: int
    def __init__(self, key: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class Increment(_message.Message):
    __slots__ = ("key", "by", "ttl_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    by: int
    ttl_ms: int
    def __init__(self, key: _Optional[bytes] = ..., by: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("key_present", "key_absent", "value_equals", "value_equals_or_absent", "seq_equals")
    KEY_PRESENT_FIELD_NUMBER: _ClassVar[int]
    KEY_ABSENT_FIELD_NUMBER: _ClassVar[int]
    VALUE_EQUALS_FIELD_NUMBER: _ClassVar[int]
    VALUE_EQUALS_OR_ABSENT_FIELD_NUMBER: _ClassVar[int]
    SEQ_EQUALS_FIELD_NUMBER: _ClassVar[int]
    key_present: KeyPresent
    key_absent: KeyAbsent
    value_equals: ValueEquals
    value_equals_or_absent: ValueEquals
    seq_equals: SeqEquals
    def __init__(self, key_present: _Optional[_Union[KeyPresent, _Mapping]] = ..., key_absent: _Optional[_Union[KeyAbsent, _Mapping]] = ..., value_equals: _Optional[_Union[ValueEquals, _Mapping]] = ..., value_equals_or_absent: _Optional[_Union[ValueEquals, _Mapping]] = ..., seq_equals: _Optional[_Union[SeqEquals, _Mapping]] = ...) -> None: ...

class KeyPresent(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...

class KeyAbsent(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...

class ValueEquals(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class SeqEquals(_message.Message):
    __slots__ = ("key", "seq")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    seq: int
    def __init__(self, key: _Optional[bytes] = ..., seq: _Optional[int] = ...) -> None: ...

class GetManyRequest(_message.Message):
    __slots__ = ("keyspace", "session", "consistency", "max_staleness_ms", "keys")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    consistency: Consistency
    max_staleness_ms: int
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_staleness_ms: _Optional[int] = ..., keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GetManyReply(_message.Message):
    __slots__ = ("values", "session")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Value]
    session: str
    def __init__(self, values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., session: _Optional[str] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    def __init__(self, value: _Optional[bytes] = ...) -> None: ...

class PutManyRequest(_message.Message):
    __slots__ = ("keyspace", "session", "durability", "rows", "ttl_ms")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    durability: Durability
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    ttl_ms: int
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class DeleteManyRequest(_message.Message):
    __slots__ = ("keyspace", "session", "durability", "keys")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    durability: Durability
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., keys: _Optional[_Iterable[bytes]] = ...) -> None: ...

class WriteManyReply(_message.Message):
    __slots__ = ("seqs", "session")
    SEQS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    seqs: _containers.RepeatedScalarFieldContainer[int]
    session: str
    def __init__(self, seqs: _Optional[_Iterable[int]] = ..., session: _Optional[str] = ...) -> None: ...

class DeletePrefixRequest(_message.Message):
    __slots__ = ("keyspace", "session", "prefix")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    prefix: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., prefix: _Optional[bytes] = ...) -> None: ...

class DeleteRangeRequest(_message.Message):
    __slots__ = ("keyspace", "session", "start", "end")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    start: bytes
    end: bytes
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., start: _Optional[bytes] = ..., end: _Optional[bytes] = ...) -> None: ...

class DeleteRangeReply(_message.Message):
    __slots__ = ("microshards", "session")
    MICROSHARDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    microshards: int
    session: str
    def __init__(self, microshards: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("keyspace", "session", "consistency", "max_staleness_ms", "prefix", "start", "end", "limit", "reverse", "keys_only", "page_rows", "cursor")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    PAGE_ROWS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    consistency: Consistency
    max_staleness_ms: int
    prefix: bytes
    start: bytes
    end: bytes
    limit: int
    reverse: bool
    keys_only: bool
    page_rows: int
    cursor: str
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_staleness_ms: _Optional[int] = ..., prefix: _Optional[bytes] = ..., start: _Optional[bytes] = ..., end: _Optional[bytes] = ..., limit: _Optional[int] = ..., reverse: _Optional[bool] = ..., keys_only: _Optional[bool] = ..., page_rows: _Optional[int] = ..., cursor: _Optional[str] = ...) -> None: ...

class ScanPage(_message.Message):
    __slots__ = ("rows", "session", "cursor")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    session: str
    cursor: str
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., session: _Optional[str] = ..., cursor: _Optional[str] = ...) -> None: ...

class BatchRequest(_message.Message):
    __slots__ = ("keyspace", "session", "consistency", "max_staleness_ms", "durability", "timeout_ms", "operations")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    consistency: Consistency
    max_staleness_ms: int
    durability: Durability
    timeout_ms: int
    operations: _containers.RepeatedCompositeFieldContainer[BatchOperation]
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., max_staleness_ms: _Optional[int] = ..., durability: _Optional[_Union[Durability, str]] = ..., timeout_ms: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[BatchOperation, _Mapping]]] = ...) -> None: ...

class BatchOperation(_message.Message):
    __slots__ = ("id", "get", "get_entry", "exists", "put", "delete", "touch", "increment", "put_if_absent", "compare_and_set", "write")
    ID_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    GET_ENTRY_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    TOUCH_FIELD_NUMBER: _ClassVar[int]
    INCREMENT_FIELD_NUMBER: _ClassVar[int]
    PUT_IF_ABSENT_FIELD_NUMBER: _ClassVar[int]
    COMPARE_AND_SET_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    id: int
    get: bytes
    get_entry: bytes
    exists: bytes
    put: Put
    delete: bytes
    touch: Touch
    increment: Increment
    put_if_absent: Put
    compare_and_set: CompareAndSet
    write: Write
    def __init__(self, id: _Optional[int] = ..., get: _Optional[bytes] = ..., get_entry: _Optional[bytes] = ..., exists: _Optional[bytes] = ..., put: _Optional[_Union[Put, _Mapping]] = ..., delete: _Optional[bytes] = ..., touch: _Optional[_Union[Touch, _Mapping]] = ..., increment: _Optional[_Union[Increment, _Mapping]] = ..., put_if_absent: _Optional[_Union[Put, _Mapping]] = ..., compare_and_set: _Optional[_Union[CompareAndSet, _Mapping]] = ..., write: _Optional[_Union[Write, _Mapping]] = ...) -> None: ...

class CompareAndSet(_message.Message):
    __slots__ = ("key", "value", "ttl_ms", "expected")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    ttl_ms: int
    expected: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., ttl_ms: _Optional[int] = ..., expected: _Optional[bytes] = ...) -> None: ...

class Write(_message.Message):
    __slots__ = ("operations", "conditions")
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ...) -> None: ...

class Written(_message.Message):
    __slots__ = ("seq", "results")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    results: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., results: _Optional[_Iterable[int]] = ...) -> None: ...

class BatchReply(_message.Message):
    __slots__ = ("results", "session")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    session: str
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ..., session: _Optional[str] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("id", "value", "absent", "entry", "seq", "done", "number", "written", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    value: bytes
    absent: bool
    entry: Entry
    seq: int
    done: bool
    number: int
    written: Written
    error: Error
    def __init__(self, id: _Optional[int] = ..., value: _Optional[bytes] = ..., absent: _Optional[bool] = ..., entry: _Optional[_Union[Entry, _Mapping]] = ..., seq: _Optional[int] = ..., done: _Optional[bool] = ..., number: _Optional[int] = ..., written: _Optional[_Union[Written, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class TransactRequest(_message.Message):
    __slots__ = ("begin", "get", "scan", "put", "delete", "commit")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    begin: Begin
    get: bytes
    scan: TransactScan
    put: Put
    delete: bytes
    commit: Commit
    def __init__(self, begin: _Optional[_Union[Begin, _Mapping]] = ..., get: _Optional[bytes] = ..., scan: _Optional[_Union[TransactScan, _Mapping]] = ..., put: _Optional[_Union[Put, _Mapping]] = ..., delete: _Optional[bytes] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("keyspace", "session")
    KEYSPACE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    keyspace: str
    session: str
    def __init__(self, keyspace: _Optional[str] = ..., session: _Optional[str] = ...) -> None: ...

class TransactScan(_message.Message):
    __slots__ = ("prefix", "start", "end", "limit", "reverse", "page_rows")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    PAGE_ROWS_FIELD_NUMBER: _ClassVar[int]
    prefix: bytes
    start: bytes
    end: bytes
    limit: int
    reverse: bool
    page_rows: int
    def __init__(self, prefix: _Optional[bytes] = ..., start: _Optional[bytes] = ..., end: _Optional[bytes] = ..., limit: _Optional[int] = ..., reverse: _Optional[bool] = ..., page_rows: _Optional[int] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TransactReply(_message.Message):
    __slots__ = ("get", "scan", "committed")
    GET_FIELD_NUMBER: _ClassVar[int]
    SCAN_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    get: TransactGet
    scan: TransactRows
    committed: Committed
    def __init__(self, get: _Optional[_Union[TransactGet, _Mapping]] = ..., scan: _Optional[_Union[TransactRows, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ...) -> None: ...

class TransactGet(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    def __init__(self, value: _Optional[bytes] = ...) -> None: ...

class TransactRows(_message.Message):
    __slots__ = ("rows", "ended")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    ended: bool
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., ended: _Optional[bool] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("seq", "session")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    seq: int
    session: str
    def __init__(self, seq: _Optional[int] = ..., session: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "retryable", "maybe_applied", "retry_after_ms", "shard", "request_id", "failed", "failed_keys", "mismatch", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    MAYBE_APPLIED_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FAILED_KEYS_FIELD_NUMBER: _ClassVar[int]
    MISMATCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    retryable: bool
    maybe_applied: bool
    retry_after_ms: int
    shard: int
    request_id: int
    failed: int
    failed_keys: _containers.RepeatedScalarFieldContainer[bytes]
    mismatch: Mismatch
    reason: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ..., maybe_applied: _Optional[bool] = ..., retry_after_ms: _Optional[int] = ..., shard: _Optional[int] = ..., request_id: _Optional[int] = ..., failed: _Optional[int] = ..., failed_keys: _Optional[_Iterable[bytes]] = ..., mismatch: _Optional[_Union[Mismatch, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Mismatch(_message.Message):
    __slots__ = ("condition", "found_seq", "found")
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    FOUND_SEQ_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    condition: int
    found_seq: int
    found: bytes
    def __init__(self, condition: _Optional[int] = ..., found_seq: _Optional[int] = ..., found: _Optional[bytes] = ...) -> None: ...

class ErrorStatus(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...
