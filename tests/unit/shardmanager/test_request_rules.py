"""What arrives at a manager: every field has a rule, and whatever comes is answered, and the next request, too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from shoal.bounds import MAX_BYTES, MAX_MICROSHARDS, MAX_MS, MAX_QUOTA_RATE, MAX_SHARD, MAX_TTL_MS, MAX_VERSION
from shoal.cli.main import app
from shoal.shardmap import MicroshardRange, NodeAddress, ShardMap
from shoal_server.local.layout import free_ports
from shoal_shardmanager.control.controller import joined
from shoal_shardmanager.control.progress_rate import Paces
from shoal_shardmanager.control.requests import (
    Accepted,
    Alter,
    Create,
    KeyspaceRequest,
    MoveMicroshardsRequest,
    OperatorRequest,
    Refused,
    Why,
    with_settings,
)
from shoal_shardmanager.control.requests.repeating import begun_by
from shoal_shardmanager.control.rows import SettingsRow, decode_row, encode_row
from shoal_shardmanager.control.state import changed
from shoal_shardmanager.process.service import serve
from shoal_shardmanager.rpc.field_rules import RULES, Many, Number, Text, check_fields
from shoal_shardmanager.rpc.generated import admin_pb2 as pb
from shoal_shardmanager.rpc.generated import admin_pb2_grpc as pb_grpc
from typer.testing import CliRunner

from .simulated import SimulatedCluster

REQUESTS = {method.input_type.name: method.input_type for method in pb.DESCRIPTOR.services_by_name["Admin"].methods}
NUMBERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
NEED_NO_RULE = {FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_MESSAGE}


def messages() -> dict[str, Descriptor]:
    """Return every message that a request is, or can hold; a map's entries are the map's."""
    found: dict[str, Descriptor] = {}

    def add(descriptor: Descriptor) -> None:
        if descriptor.name not in found and not descriptor.GetOptions().map_entry:
            found[descriptor.name] = descriptor
            for field in descriptor.fields:
                if field.message_type is not None:
                    add(field.message_type)

    for descriptor in REQUESTS.values():
        add(descriptor)
    return found


FIELDS = {
    (message.name, field.name): field
    for message in messages().values()
    for field in message.fields
    if field.is_repeated or field.cpp_type not in NEED_NO_RULE
}


def test_every_field_of_a_request_has_a_rule_of_its_kind_and_no_rule_is_left_over() -> None:
    assert set(FIELDS) == set(RULES)
    for name, field in FIELDS.items():
        rule = RULES[name]
        if field.is_repeated:
            assert isinstance(rule, Many), name
            of_messages = field.message_type is not None and not field.message_type.GetOptions().map_entry
            assert (rule.each is None) == of_messages, name
        else:
            assert isinstance(rule, Number if field.cpp_type in NUMBERS else Text), name


@pytest.mark.parametrize(
    "name",
    [name for name, field in FIELDS.items() if not field.is_repeated and field.cpp_type in NUMBERS],
    ids=".".join,
)
@pytest.mark.parametrize("end", [-1, 1])
def test_a_number_beyond_its_rule_is_refused_by_name(name: tuple[str, str], end: int) -> None:
    rule, message = RULES[name], getattr(pb, name[0])()
    assert isinstance(rule, Number)
    if rule.least or rule.most:
        setattr(message, name[1], rule.most)
        check_fields(message)
    number = rule.least - 1 if end < 0 else rule.most + 1
    setattr(message, name[1], number)
    if not message.ListFields():
        pytest.skip("a 0 that is not set is no number")
    with pytest.raises(Refused, match=rf"{name[0]}.{name[1]}: from {rule.least} to {rule.most}, not {number}"):
        check_fields(message)


def test_what_is_too_long_or_too_many_is_refused_by_name() -> None:
    for request, words in [
        (pb.StartRequest(drain=pb.Drain(node="n" * 64)), "Drain.node: at most 63 characters, not 64"),
        (pb.StartRequest(request_id="x" * 65), "StartRequest.request_id: at most 64 characters, not 65"),
        (pb.ChangeSettingsRequest(values={"x" * 65: ""}), "ChangeSettingsRequest.values: each has at most 64"),
        (pb.ChangeSettingsRequest(values={"x": "1" * 65}), "ChangeSettingsRequest.values: each has at most 64"),
        (
            pb.StartRequest(alter_keyspace=pb.KeyspaceSettings(required_regions={"eu": -1})),
            "KeyspaceSettings.required_regions: each is from 0 to 23, not -1",
        ),
        (
            pb.StartRequest(alter_keyspace=pb.KeyspaceSettings(leader_regions=["eu"] * 65)),
            "KeyspaceSettings.leader_regions: at most 64 elements, not 65",
        ),
    ]:
        with pytest.raises(Refused, match=words) as refused:
            check_fields(request)
        assert refused.value.why is Why.WRONG


# -- what no rule of one field says


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Create(KeyspaceRequest("x", max_staleness_ms=MAX_MS + 1)), "max_staleness_ms: at most"),
        (Alter(KeyspaceRequest("default", max_staleness_ms=(1 << 63) - 1)), "max_staleness_ms: at most"),
        (Create(KeyspaceRequest("x", default_ttl_ms=MAX_TTL_MS + 1)), "default_ttl_ms: at most"),
        (Create(KeyspaceRequest("x", reads_per_second=MAX_QUOTA_RATE + 1)), "reads_per_second: from 0 to"),
        (Alter(KeyspaceRequest("default", writes_per_second=-1)), "writes_per_second: from 0 to"),
        (Alter(KeyspaceRequest("default", max_bytes=MAX_BYTES + 1)), "max_bytes: from 0 to"),
        (Alter(KeyspaceRequest("default", required={"eu": -3})), "region 'eu': from 0 to 3, not -3"),
        (MoveMicroshardsRequest(1, 2, (MicroshardRange(0, 8),) * 100_000), "name each of them once"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_reaches_a_row(
    simulated: type[SimulatedCluster], asked: OperatorRequest, words: str
) -> None:
    cluster = simulated()
    cluster.run(5)
    with pytest.raises(Refused, match=words):
        cluster.request(asked)


def test_what_the_largest_numbers_make_can_be_read_by_nodes_and_managers(simulated: type[SimulatedCluster]) -> None:
    cluster = simulated()
    cluster.run(5)
    largest = {"reads_per_second": MAX_QUOTA_RATE, "writes_per_second": MAX_QUOTA_RATE, "max_bytes": MAX_BYTES}
    cluster.request(Create(KeyspaceRequest("x", max_staleness_ms=MAX_MS, default_ttl_ms=MAX_TTL_MS, **largest)))
    assert decode_row("map", encode_row(cluster.state.map), ShardMap) == cluster.state.map


def test_numbers_that_are_used_up_are_not_given_out(simulated: type[SimulatedCluster]) -> None:
    cluster = simulated()
    cluster.run(5)
    counters = replace(cluster.state.counters, next_shard=MAX_SHARD - 3)
    cluster.state = changed(cluster.state, [counters])
    with pytest.raises(Refused, match="the next number is 2147483644"):
        cluster.request(Create(KeyspaceRequest("x", shards=8)))


@pytest.mark.parametrize(
    ("node", "address", "words"),
    [
        ("", "h:99", "is no name"),
        ("a b", "h:99", "is no name"),
        ("n9", "h", "has no address"),
        ("n9", "h:99999", "has no address"),
    ],
)
def test_a_node_that_no_map_could_name_does_not_join(
    simulated: type[SimulatedCluster], node: str, address: str, words: str
) -> None:
    changes, refusal = joined(simulated().state, NodeAddress(node, address, "", ""), "i", 1)
    assert not changes
    assert words in refusal


# -- over gRPC


class Controller:
    """In place of `leadership.Leadership`: the same checks, on a simulated cluster, whose time stands still."""

    epoch = 1
    paces = Paces()

    def __init__(self) -> None:
        self.cluster = SimulatedCluster()
        self.cluster.run(5)
        self.notes: dict[int, Any] = {}

    @property
    def state(self) -> Any:
        return self.cluster.state

    @property
    def loads(self) -> Any:
        return self.cluster.loads

    def observed(self) -> Any:
        return self.cluster.observed()

    def plan_of(self, operation: int) -> None:
        return None

    def silent_because(self, node: str) -> str:
        return ""

    async def request(
        self, request: OperatorRequest, *, plan_only: bool, if_version: int, request_id: str = ""
    ) -> Accepted:
        begun = begun_by(request_id, self.state)
        if begun is not None:
            return begun
        if plan_only:
            return self.cluster.plan(request)
        number = self.cluster.request(request, if_version)
        return Accepted(self.state.operations[number], (), ())

    async def cancel(self, operation: int) -> None:
        self.cluster.cancel(operation)

    async def change_settings(self, values: dict[str, str], *, plan_only: bool, if_version: int) -> SettingsRow:
        return with_settings(self.state.settings, values, if_version)

    async def next_progress(self, seconds: float) -> None:
        await asyncio.sleep(0.01)


@pytest.fixture
def manager() -> Iterator[grpc.Channel]:
    """A manager's server, and a channel to it."""
    [port] = free_ports(1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    host: Any = SimpleNamespace(manager="m1", leadership=Controller())
    address = f"127.0.0.1:{port}"
    server, _ = asyncio.run_coroutine_threadsafe(serve(host, address), loop).result(20)
    with grpc.insecure_channel(address) as channel:
        yield channel
    asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


EDGES = sorted(
    {
        edge + off
        for edge in (0, 1, 5, MAX_MICROSHARDS, MAX_SHARD, MAX_VERSION, MAX_MS, MAX_TTL_MS)
        for off in (-1, 0, 1)
    }
    | {sign * ((1 << bits) - off) for bits in (31, 32, 62, 63) for sign in (-1, 1) for off in (0, 1)}
)
WORDS = ["", "n1", "n4", "n5", "default", "eu", "x", "history", "10s", "off", "a/b", "x" * 64, "x" * 70_000, "\0", "é"]


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return requests(field.message_type)
    if field.cpp_type in NUMBERS:
        bits = 31 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63
        return st.sampled_from([edge for edge in EDGES if -(1 << bits) <= edge < 1 << bits])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    words = st.sampled_from(WORDS)
    return words.map(str.encode) if field.type == FieldDescriptor.TYPE_BYTES else words


def requests(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Return requests of this type with anything in their fields."""
    kind = getattr(pb, descriptor.name)

    @st.composite
    def build(draw: Any) -> Any:
        message = kind()
        for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=4)) if descriptor.fields else ():
            if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
                key, value = field.message_type.fields
                getattr(message, field.name)[draw(values(key))] = draw(values(value))
            elif (field.is_repeated and field.message_type is not None) or field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(values(field), max_size=3)))
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(draw(values(field)))
            else:
                setattr(message, field.name, draw(values(field)))
        return message

    return build()


ANSWERS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}
CALLS = [method for method in pb.DESCRIPTOR.services_by_name["Admin"].methods if method.name != "WatchOperation"]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_asked_of_a_manager_is_answered_and_it_goes_on(manager: grpc.Channel, data: st.DataObject) -> None:
    stub = pb_grpc.AdminStub(manager)
    method = data.draw(st.one_of(st.just(CALLS[0]), st.sampled_from(CALLS)), "method")
    request = data.draw(requests(method.input_type), "request")
    try:
        getattr(stub, method.name)(request, timeout=20)
    except grpc.RpcError as error:
        assert error.code() in ANSWERS, error.details()
        assert error.details()
    assert stub.GetCluster(pb.GetClusterRequest(), timeout=20).name == "c"


def test_a_cluster_without_shards_explains_none(manager: grpc.Channel) -> None:
    stub = pb_grpc.AdminStub(manager)
    stub.Start(pb.StartRequest(drop_keyspace=pb.DropKeyspace(name="default")), timeout=20)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ExplainShard(pb.ExplainShardRequest(shard=1), timeout=20)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "no shard 1; there are none"


# -- on the command line


HUGE = str(10**30)


@pytest.mark.parametrize(
    "arguments",
    [
        ("move", HUGE, "--from", "n1", "--to", "n2"),
        ("split", HUGE),
        ("split", "1", "--at", HUGE),
        ("merge", "1", HUGE),
        ("move-microshards", "--from", HUGE, "--to", "1", "--microshards", "1"),
        ("move-microshards", "--from", "1", "--to", "2", "--microshards", "9" * 5000),
        ("drain", "n1", "--if-version", HUGE),
        ("operations", HUGE),
        ("cancel", HUGE),
        ("why", HUGE),
        ("keyspace", "create", "x", "--microshards", HUGE),
        ("keyspace", "create", "x", "--voters", HUGE),
        ("keyspace", "create", "x", "--followers", HUGE),
        ("keyspace", "create", "x", "--max-staleness", "9" * 400 + "h"),
        ("keyspace", "alter", "x", "--default-ttl", "9999999h"),
        ("keyspace", "alter", "x", "--require", f"eu={HUGE}"),
        ("keyspace", "alter", "x", "--require", "eu=²"),
        ("drain", "n1", "--timeout", "9" * 400 + "h"),
        ("skip-entry", HUGE, "1", "--plan"),
        ("skip-entry", "1", HUGE, "--plan"),
        ("skip-entry", "1", "1", "--leadership", HUGE, "--checksum", "00000000"),
        ("transfer-leader", HUGE, "n1"),
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_numbers_that_no_request_has_room_for_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
