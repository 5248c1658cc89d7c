"""Every field of the data API's requests has a rule, and whatever comes in them is answered, and the next call, too."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal.arguments import MAX_SECONDS
from shoal_server.api.elements import shape_of
from shoal_server.api.generated import shoal_pb2 as pb

MOST_MS = MAX_SECONDS * 1000
MILLISECONDS = (-1, MOST_MS + 1)
ANY: tuple[int, ...] = ()
"""Whatever there is room for: it is added, or comes back as it is."""
SIZES = "the node's limits of sizes, checked with each key, value and end of a range"
NAME = "the gateway: 63 characters"
TOKEN = "its decoder: 512 KiB, and the range of each number in it"
COUNTED = "ELEMENTS_MAX: counted before the message is decoded"

WRONG: dict[str, tuple[int, ...]] = {
    "max_staleness_ms": MILLISECONDS,
    "ttl_ms": MILLISECONDS,
    "timeout_ms": MILLISECONDS,
    "seq": (-1,),
    "limit": (-1,),
    "page_rows": (-1,),
    "by": ANY,
    "id": ANY,
    "consistency": (-1, 9),
    "durability": (-1, 9),
}
"""Numbers, by name: the same name is the same thing in each message. What is nearest to being right, and is not."""
BOUNDED: dict[str, str] = {
    "keyspace": NAME,
    "session": TOKEN,
    "cursor": TOKEN,
    **dict.fromkeys(
        ("key", "value", "expected", "prefix", "start", "end", "get", "get_entry", "exists", "delete"), SIZES
    ),
    **dict.fromkeys(("keys", "rows", "operations", "conditions"), COUNTED),
}
NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_ENUM,
}
METHODS = list(pb.DESCRIPTOR.services_by_name["Shoal"].methods)


def messages() -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}

    def add(descriptor: Descriptor) -> None:
        if descriptor.name not in found:
            found[descriptor.name] = descriptor
            for field in descriptor.fields:
                if field.message_type is not None:
                    add(field.message_type)

    for method in METHODS:
        add(method.input_type)
    return found


FIELDS = [(message.name, field) for message in messages().values() for field in message.fields]


def test_every_field_of_a_request_has_a_rule_and_no_rule_is_left_over() -> None:
    named: set[str] = set()
    for message, field in FIELDS:
        if field.is_repeated:
            assert BOUNDED.get(field.name) == COUNTED, f"{message}.{field.name}"
        elif field.cpp_type in NUMBERS:
            assert field.name in WRONG, f"{message}.{field.name}"
        elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            assert field.name in BOUNDED, f"{message}.{field.name}"
        else:
            assert field.cpp_type in (FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_MESSAGE)
            continue
        named.add(field.name)
    assert named == set(WRONG) | set(BOUNDED)
    for method in METHODS:
        assert shape_of(method.input_type) is not None  # all that is repeated in it is counted


def good(message: str) -> dict[str, Any]:
    """Return fields with which a message of this type is right."""
    known = {field.name for field in messages()[message].fields}
    return {
        name: value
        for name, value in {"key": b"rules/k", "prefix": b"rules/", "keys": [b"rules/k"], "rows": [{"key": b"rules/k"}]}.items()
        if name in known
    }  # fmt: skip


def around(message: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the method, and its request, that a message can be in."""
    if message in ("Put", "Delete", "Touch", "Increment"):
        return "Write", {"operations": [{message.lower(): fields}]}
    if message == "SeqEquals":
        return "Write", {"operations": [{"delete": {"key": b"rules/k"}}], "conditions": [{"seq_equals": fields}]}
    if message == "CompareAndSet":
        return "Batch", {"operations": [{"id": 1, "compare_and_set": fields}]}
    if message == "TransactScan":
        return "Transact", {"scan": fields}
    if message == "BatchRequest":
        return "Batch", fields | {"operations": [{"id": 1, "get": b"rules/k"}]}
    return message.removesuffix("Request"), fields


@pytest.mark.parametrize(
    ("message", "name", "number"),
    [
        (message, field.name, number)
        for message, field in FIELDS
        if field.cpp_type in NUMBERS and not field.is_repeated
        for number in WRONG[field.name]
    ],
)
def test_a_number_that_is_nearly_right_is_an_invalid_argument_by_name(
    api: Any, message: str, name: str, number: int
) -> None:
    fields = good(message) | {name: number}
    if name == "max_staleness_ms":
        fields["consistency"] = "CONSISTENCY_EVENTUAL"
    method, request = around(message, fields)
    if method == "Batch":
        [reply] = api.method("Batch")(iter([api.message("BatchRequest", **request)]), timeout=20)
        error = reply.results[0].error
    elif method == "Transact":
        steps = [api.message("TransactRequest", begin={}), api.message("TransactRequest", **request)]
        with pytest.raises(grpc.RpcError) as refused:
            list(api.method("Transact")(iter(steps), timeout=20))
        error = api.error_of(refused.value)
    else:
        status, error = api.refusal(method, **request)
        assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert error.code == "invalid_argument"
    assert name.removesuffix("_ms") in error.message
    assert str(number) in error.message


@pytest.mark.parametrize(("name", "most"), [("keyspace", 63), ("session", 512 * 1024), ("cursor", 512 * 1024)])
def test_a_text_that_is_too_long_is_an_invalid_argument(api: Any, name: str, most: int) -> None:
    status, error = api.refusal("Scan", **{name: "a" * (most + 1)})
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert str(most) in error.message
    assert len(error.message) < 300


EDGES = sorted(
    {sign * (1 << bits) + off for bits in (0, 1, 16, 20, 31, 52, 62, 63) for sign in (-1, 1) for off in (-1, 0)}
)
WORDS = [b"", b"k", b"rules/k", b"x" * 63, b"x" * 5000, b"x" * 70_000, b"\xff\x00", "é".encode()]
ANSWERS_READ = 4
"""Of a call: to scan all that other tests have left, 20,000 rows, takes a slow machine longer than any deadline here."""


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type in NUMBERS:
        bits = 31 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM) else 63
        low = 0 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else -(1 << bits)
        return st.sampled_from([edge for edge in (*EDGES, MOST_MS, MOST_MS + 1) if low <= edge < 1 << bits])
    if field.message_type is not None:
        return requests(field.message_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.name == "keyspace":  # another one is looked for in vain, and at length
        return st.sampled_from(["", "default", "a/b", "x" * 64, "x" * 70_000])
    words = st.sampled_from(WORDS)
    return words if field.type == FieldDescriptor.TYPE_BYTES else words.map(lambda each: each.decode("latin-1"))


def requests(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Return requests of this type with anything in their fields."""

    @st.composite
    def build(draw: Any) -> Any:
        message = getattr(pb, descriptor.name)()
        chosen = draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=5)) if descriptor.fields else ()
        for field in chosen:
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(values(field), max_size=3)))
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(draw(values(field)))
            else:
                setattr(message, field.name, draw(values(field)))
        return message

    return build()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_asked_is_answered_and_the_node_goes_on(api: Any, one_node: Any, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS), "method")
    path = f"/shoal.v1.Shoal/{method.name}"
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(api.channel, kind)(path, lambda message: message.SerializeToString(), lambda data: data)
    count = 3 if method.client_streaming else 1
    asked = [data.draw(requests(method.input_type), "request") for _ in range(count)]
    if method.name == "Transact":
        asked.insert(0, pb.TransactRequest(begin=pb.Begin()))
    try:
        answer = call(iter(asked) if method.client_streaming else asked[0], timeout=20)
        if method.server_streaming:
            for _ in zip(range(ANSWERS_READ), answer, strict=False):
                pass
            answer.cancel()
    except grpc.RpcError as error:
        found = api.error_of(error)
        assert found.code not in ("internal", "outcome_unknown", "deadline_exceeded", "unavailable"), found
    assert not api.call("Exists", key=b"rules/none").exists
    assert one_node.process.poll() is None
