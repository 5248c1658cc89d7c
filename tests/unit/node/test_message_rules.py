"""Every field of every message and of every row that is decoded has a bound: a new one without any fails here.

Numbers are added, packed into keys and looped over; texts are logged and kept. Whatever has no bound in its type must be
named below, with what bounds it instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect
from shoal.protocol.messages import Answer, Greeting, Operation, Request, TracedRequest
from shoal.scan_plans import Cursor
from shoal.sessions import SessionToken
from shoal.shardmap import ShardMap
from shoal_server.node.outbox import PeerMessage
from shoal_server.node.request_frames import decode_requests, frame_in_words
from shoal_server.process.joining import JoinRequest
from shoal_server.raft.membership import MembershipChange
from shoal_server.raft.messages import HardState, Membership
from shoal_server.shard.commands import Commands
from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.layout import LogStart, SplitOff
from shoal_server.storage.replica_failure import ReplicaFailure
from shoal_server.storage.replica_rows import ReplicaOrigin, StagedRows
from shoal_shardmanager.control.rows import CountersRow, LeaderRow, NodeRow, OperationRow, PolicyRow, SettingsRow

ROOTS: dict[str, Any] = {
    "greetings": Greeting,
    "requests": TracedRequest,
    "operations": list[Operation],
    "answers": Answer,
    "between nodes": PeerMessage,
    "log entries": Commands,
    "memberships": Membership | MembershipChange,
    "managers' rows": NodeRow | PolicyRow | CountersRow | LeaderRow | SettingsRow | OperationRow | JoinRequest,
    "tokens": SessionToken | Cursor,
    "rows": ReplicaFailure | AppliedState | LogStart | SplitOff | ReplicaOrigin | StagedRows | HardState | ShardMap,
}

FRAME = "the frame's length, which is checked before anything is decoded"
LIMITS = "the node's own limits, checked where it is admitted, or those of the node that answers"
ENTRY = "the log entry's length: a leader admits no larger batch"
SNAPSHOT = "the frame's length; a sender makes chunks of a few hundred kilobytes"
OWN = "the manager that wrote it: nothing is done with it but to show it"
STATE = "what the state machine keeps of it (ENDED_KEPT, the shards there are)"

EXEMPT: dict[tuple[str, str], str] = {
    ("Put", "key"): LIMITS,
    ("Put", "value"): LIMITS,
    ("Delete", "key"): LIMITS,
    ("Touch", "key"): LIMITS,
    ("Increment", "key"): LIMITS,
    ("KeyPresent", "key"): LIMITS,
    ("KeyAbsent", "key"): LIMITS,
    ("ValueEquals", "key"): LIMITS,
    ("ValueEquals", "value"): LIMITS,
    ("ValueEqualsOrAbsent", "key"): LIMITS,
    ("ValueEqualsOrAbsent", "value"): LIMITS,
    ("SeqEquals", "key"): LIMITS,
    ("Atomic", "conditions"): LIMITS,
    ("Atomic", "operations"): LIMITS,
    ("Read", "keys"): LIMITS,
    ("StoreMoved", "rows"): LIMITS,
    ("Applied", "values"): FRAME,
    ("ConditionNotMet", "found"): FRAME,
    ("Written", "results"): FRAME,
    ("Rows", "values"): FRAME,
    ("Rows", "seqs"): FRAME,
    ("Rows", "expiries"): FRAME,
    ("Page", "microshards"): FRAME,
    ("Page", "expiries"): FRAME,
    ("Page", "keys"): FRAME,
    ("Page", "values"): FRAME,
    ("ScanPage", "keys"): FRAME,
    ("ScanPage", "values"): FRAME,
    ("ScanPage", "seqs"): FRAME,
    ("MovingRows", "rows"): FRAME,
    ("ReplicaStatus", "peers"): FRAME,
    ("ReplicaStatus", "hot"): FRAME,
    ("ReplicaStatus", "migrations_ended"): FRAME,
    ("StatusReply", "connected_peers"): FRAME,
    ("StatusReply", "replicas"): FRAME,
    ("Divergence", "copies"): FRAME,
    ("AppendEntries", "entries"): FRAME,
    ("Entry", "payload"): FRAME,
    ("SnapshotChunk", "rows"): SNAPSHOT,
    ("SnapshotChunk", "ended"): STATE,
    ("SnapshotChunk", "children"): STATE,
    ("AppliedState", "ended"): STATE,
    ("AppliedState", "children"): STATE,
    ("AppliedState", "placements"): STATE,
    ("StagedRows", "microshards"): STATE,
    ("WriteCommand", "microshards"): ENTRY,
    ("PurgeCommand", "rows"): ENTRY,
    ("StoreMovedCommand", "cleared"): ENTRY,
    ("StoreMovedCommand", "rows"): ENTRY,
    ("Commands", "commands"): ENTRY,
    ("CountersRow", "dropped"): STATE,
    ("OperationRow", "undo"): OWN,
    ("OperationRow", "reason"): OWN,
}


def unbounded(kind: inspect.Type) -> bool:
    """Whether a value of this type may be as large as it likes, leaving aside what structs in it say for themselves."""
    if isinstance(kind, inspect.Metadata):
        return unbounded(kind.type)
    if isinstance(kind, inspect.UnionType):
        return any(map(unbounded, kind.types))
    if isinstance(kind, inspect.IntType):
        return (kind.ge is None and kind.gt is None) or (kind.le is None and kind.lt is None)
    if isinstance(kind, inspect.FloatType):
        return kind.ge is None and kind.gt is None
    if isinstance(kind, inspect.StrType | inspect.BytesType):
        return kind.max_length is None
    if isinstance(kind, inspect.ListType | inspect.VarTupleType | inspect.SetType):
        return kind.max_length is None or unbounded(kind.item_type)
    if isinstance(kind, inspect.TupleType):
        return any(map(unbounded, kind.item_types))
    if isinstance(kind, inspect.NamedTupleType):
        return any(unbounded(field.type) for field in kind.fields)
    if isinstance(kind, inspect.DictType):
        return kind.max_length is None or unbounded(kind.key_type) or unbounded(kind.value_type)
    return not isinstance(
        kind,
        inspect.LiteralType
        | inspect.BoolType
        | inspect.NoneType
        | inspect.EnumType
        | inspect.StructType
        | inspect.RawType,
    )


def numbers(kind: inspect.Type) -> Iterator[inspect.IntType]:
    """Yield every type of number in a field, leaving aside structs."""
    if isinstance(kind, inspect.Metadata):
        yield from numbers(kind.type)
    elif isinstance(kind, inspect.IntType):
        yield kind
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from numbers(each)
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        yield from numbers(kind.item_type)
    elif isinstance(kind, inspect.TupleType):
        for each in kind.item_types:
            yield from numbers(each)


def structs(kind: inspect.Type, found: dict[str, inspect.StructType]) -> dict[str, inspect.StructType]:
    """Return every struct that a message can hold, by name."""
    if isinstance(kind, inspect.Metadata):
        structs(kind.type, found)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            structs(each, found)
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        structs(kind.item_type, found)
    elif isinstance(kind, inspect.TupleType):
        for each in kind.item_types:
            structs(each, found)
    elif isinstance(kind, inspect.StructType) and kind.cls.__name__ not in found:
        found[kind.cls.__name__] = kind
        for field in kind.fields:
            structs(field.type, found)
    return found


def all_structs() -> dict[str, inspect.StructType]:
    found: dict[str, inspect.StructType] = {}
    for root in ROOTS.values():
        members = get_args(root) if not isinstance(root, type) and get_args(root) else (root,)
        for member in members:
            structs(inspect.type_info(member), found)
    return found


def test_every_field_has_a_rule() -> None:
    missing = {
        (name, field.name)
        for name, kind in all_structs().items()
        for field in kind.fields
        if unbounded(field.type) and (name, field.name) not in EXEMPT
    }
    assert not missing, "give these a type of shoal.bounds, or say in EXEMPT what bounds them"


def test_no_number_is_exempt_and_no_exemption_is_left_over() -> None:
    found = all_structs()
    for name, field_name in EXEMPT:
        [field] = [field for field in found[name].fields if field.name == field_name]
        assert unbounded(field.type), f"{name}.{field_name} has a bound of its own"
        assert not any(map(unbounded, numbers(field.type))), f"a number in {name}.{field_name} has no bound"


class Loose(msgspec.Struct, array_like=True, tag=1):
    number: int
    low: msgspec.Raw
    words: tuple[str, ...]


def test_a_field_without_a_rule_is_found() -> None:
    found = {field.name for field in inspect.type_info(Loose).fields if unbounded(field.type)}  # type: ignore[attr-defined]
    assert found == {"number", "words"}


def requests_with_numbers() -> list[tuple[type[msgspec.Struct], str]]:
    return [
        (kind, field.name)
        for kind in get_args(Request)
        for field in inspect.type_info(kind).fields  # type: ignore[attr-defined]
        if field.name != "request"
        and list(numbers(field.type))
        and isinstance(field.type, inspect.Metadata | inspect.IntType)
    ]


def some_value(kind: inspect.Type) -> Any:
    """Return a value of this type, as msgspec encodes it."""
    if isinstance(kind, inspect.Metadata):
        return some_value(kind.type)
    if isinstance(kind, inspect.UnionType):
        return None if any(isinstance(each, inspect.NoneType) for each in kind.types) else some_value(kind.types[0])
    if isinstance(kind, inspect.StructType):
        fields = [some_value(field.type) for field in kind.fields]
        return fields if kind.tag is None else [kind.tag, *fields]
    if isinstance(kind, inspect.StrType):
        return ""
    if isinstance(kind, inspect.BytesType):
        return b"x" * (kind.min_length or 0)
    if isinstance(kind, inspect.BoolType):
        return False
    return 1 if isinstance(kind, inspect.IntType) else []


@pytest.mark.parametrize(("kind", "name"), requests_with_numbers(), ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.parametrize("number", [-(1 << 63), (1 << 64) - 1])
def test_a_request_with_a_number_out_of_range_is_refused_alone_and_by_name(
    kind: type[msgspec.Struct], name: str, number: int
) -> None:
    fields = inspect.type_info(kind).fields  # type: ignore[attr-defined]
    place = [field.name for field in fields].index(name)
    if next(numbers(fields[place].type)).ge == number:
        pytest.skip("the number is in range")
    values = [kind.__struct_config__.tag, 7, *(some_value(field.type) for field in fields[1:])]
    assert decode_requests(msgspec.msgpack.encode([values]), traced=False)[1] == []
    values[1 + place] = number
    body = msgspec.msgpack.encode([[17, 1], values, [17, 2]])
    requests, [failure] = decode_requests(body, traced=False)
    assert [request.request for request in requests] == [1, 2]
    assert failure.request == 7
    assert failure.code == "invalid_argument"
    assert failure.message.startswith(f"{kind.__name__}.{name}: Expected")


def test_what_is_wrong_in_a_peers_frame_is_named() -> None:
    body = msgspec.msgpack.encode([[25, 1, 5], [20, 1, (1 << 64) - 1, 0, 0, 0, [], 0]])
    with pytest.raises(msgspec.ValidationError) as wrong:
        msgspec.msgpack.decode(body, type=list[PeerMessage])
    assert frame_in_words(wrong.value, body, PeerMessage) == "AppendEntries.term: Expected `int` <= 1099511627776"
    nested = msgspec.msgpack.encode([[20, 1, 5, 0, 0, 0, [[5, 1 << 49, 1, b"", 0]], 0]])
    with pytest.raises(msgspec.ValidationError) as wrong:
        msgspec.msgpack.decode(nested, type=list[PeerMessage])
    assert frame_in_words(wrong.value, nested, PeerMessage).startswith("AppendEntries.entries.index: Expected")


@pytest.mark.parametrize(
    "body", [b"\x91\x92\x63\x01", b"\x91\x91\x0e", b"\x91\x0e", b"\x91\x92\x0e\xa1x", b"\xc1", b""]
)
def test_what_cannot_be_told_apart_is_refused_with_its_frame(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_requests(body, traced=False)
