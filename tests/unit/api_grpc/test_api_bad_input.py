"""What is wrong with a call is said with the right code, and spoils nothing."""

from __future__ import annotations

import threading

import grpc
import pytest

MIB = 1 << 20
UNKNOWN_FIELD = b"\xba\x3e\x01x"
"""Field 999, of one byte."""


def raw(api, method, data, kind="unary_unary"):
    """Call a method with these bytes as the request."""
    call = getattr(api.channel, kind)(f"/shoal.v1.Shoal/{method}", lambda x: x, lambda x: x)
    return call(iter([data]) if kind == "stream_stream" else data, timeout=20)


def refused(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as error:
        list(call(*arguments, **options))
    return error.value


def test_a_method_that_does_not_exist_is_unimplemented(api):
    assert refused(raw, api, "Incinerate", b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message_are_an_invalid_argument(api):
    error = refused(raw, api, "Get", b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert api.error_of(error).code == "invalid_argument"


def test_text_that_is_no_utf_8_is_an_invalid_argument(api):
    assert refused(raw, api, "Get", b"\x0a\x02\xff\xfe").code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("nested", [False, True])
def test_a_field_that_is_not_known_is_refused_and_nothing_is_done(api, nested):
    if nested:
        operation = api.message("Operation", put={"key": b"unknown/a", "value": b"1"})
        operation.MergeFromString(operation.SerializeToString() + UNKNOWN_FIELD)
        data = api.message("WriteRequest", operations=[operation]).SerializeToString()
        error = refused(raw, api, "Write", data)
    else:
        data = api.message("PutRequest", key=b"unknown/a", value=b"1").SerializeToString()
        error = refused(raw, api, "Put", data + UNKNOWN_FIELD)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "does not know" in error.details()
    assert not api.call("Exists", key=b"unknown/a").exists


def test_what_was_begun_before_a_broken_message_of_a_batch_is_answered(api):
    good = api.message("BatchRequest", operations=[{"id": 7, "put": {"key": b"broken/a", "value": b"1"}}])
    call = api.channel.stream_stream("/shoal.v1.Shoal/Batch", lambda x: x, api.message("BatchReply").FromString)
    answers = call(iter([good.SerializeToString(), b"\xff\xff\xff"]), timeout=20)
    assert [result.id for result in next(answers).results] == [7]
    assert refused(lambda: answers).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("Get", {"key": b""}, "invalid_argument"),
        ("Get", {"key": b"k" * 5000}, "too_large"),
        ("Get", {"key": b"a", "consistency": 9}, "invalid_argument"),
        ("Get", {"key": b"a", "consistency": "CONSISTENCY_EVENTUAL", "max_staleness_ms": -1}, "invalid_argument"),
        ("Get", {"key": b"a", "consistency": "CONSISTENCY_STRONG", "max_staleness_ms": 1}, "invalid_argument"),
        ("Put", {"key": b"a", "value": b"x" * MIB + b"x"}, "too_large"),
        ("Put", {"key": b"a", "ttl_ms": -1}, "invalid_argument"),
        ("Put", {"key": b"a", "durability": 9}, "invalid_argument"),
        ("Increment", {"key": b"text"}, "invalid_argument"),
        ("Write", {}, "invalid_argument"),
        ("Write", {"operations": [{}]}, "invalid_argument"),
        ("Write", {"operations": [{"delete": {"key": b"a"}}], "conditions": [{}]}, "invalid_argument"),
        ("PutMany", {"rows": [{"key": b"a"}, {"key": b"a"}]}, "invalid_argument"),
        ("GetMany", {"keys": [b"a"] * 10_001}, "too_large"),
        ("GetMany", {"keys": [b"a", b""]}, "invalid_argument"),
        ("DeletePrefix", {}, "invalid_argument"),
        ("DeleteRange", {"start": b"b", "end": b"a"}, "invalid_argument"),
        ("Scan", {"limit": -1}, "invalid_argument"),
        ("Scan", {"page_rows": -1}, "invalid_argument"),
        ("Scan", {"cursor": "none"}, "invalid_argument"),
    ],
)
def test_wrong_arguments(api, method, fields, code):
    if fields.get("key") == b"text":
        api.call("Put", key=b"text", value=b"no number")
    status, error = api.refusal(method, **fields)
    assert (status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, code)
    assert not error.maybe_applied


def test_a_keyspace_that_does_not_exist_is_not_found(api):
    assert api.refusal("Get", key=b"a", keyspace="none")[0] is grpc.StatusCode.NOT_FOUND
    status, error = api.refusal("Get", key=b"a", keyspace="a/b")
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "keyspace's name" in error.message


def test_a_write_over_several_shards_is_a_failed_precondition(api):
    code, error = api.refusal("Write", operations=[{"put": {"key": b"k%d" % n, "value": b""}} for n in range(40)])
    assert (code, error.code) == (grpc.StatusCode.FAILED_PRECONDITION, "cross_shard")


def test_a_message_full_of_operations_that_are_refused_costs_bounded_memory(api, one_node):
    """An operation that says nothing has two bytes, and its refusal hundreds."""
    count = 200_000
    data = api.message("BatchRequest", timeout_ms=-1).SerializeToString() + b"\x52\x00" * (count // 2)
    call = api.channel.stream_stream("/shoal.v1.Shoal/Batch", lambda x: x, api.message("BatchReply").FromString)
    answered, before, most = 0, one_node.memory_bytes, 0
    for answer in call(iter([data, data]), timeout=100):
        answered += len(answer.results)
        most = max(most, one_node.memory_bytes)
    assert answered == count
    assert most - before < 64 * MIB


@pytest.mark.parametrize(
    ("method", "kind"),
    [("Batch", "stream_stream"), ("PutMany", "unary_unary"), ("GetMany", "unary_unary"), ("Write", "unary_unary")],
)
def test_a_message_of_too_many_elements_is_refused_before_it_is_decoded(api, one_node, method, kind):
    """Each has two bytes here, and would take more than 60 in memory."""
    before = one_node.memory_bytes
    error = refused(raw, api, method, b"\x52\x00" * (9 * MIB // 2), kind)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 100000 operations, rows, keys" in error.details()
    assert api.error_of(error).code == "too_large"
    assert one_node.memory_bytes - before < 128 * MIB, "decoded it has 300"


def test_a_message_over_the_bound_is_refused_and_the_connection_goes_on(api):
    rows = [{"key": b"big/%d" % number, "value": b"x" * MIB} for number in range(10)]
    error = refused(api.call, "PutMany", rows=rows)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not api.call("Exists", key=b"big/0").exists


def test_values_that_are_too_much_for_one_answer_are_refused(api):
    for number in range(10):
        api.call("Put", key=b"heavy/%d" % number, value=b"x" * MIB)
    code, error = api.refusal("GetMany", keys=[b"heavy/%d" % number for number in range(10)])
    assert (code, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "too_large")
    api.call("DeletePrefix", prefix=b"heavy/")


def test_a_transaction_that_is_not_committed_in_time_is_told_and_has_done_nothing(api):
    waiting = threading.Event()

    def steps():
        yield api.message("TransactRequest", begin={})
        yield api.message("TransactRequest", put={"key": b"late/a", "value": b"1"})
        waiting.wait(20)

    with pytest.raises(grpc.RpcError) as late:
        list(api.method("Transact")(steps(), timeout=0.5))
    waiting.set()
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not api.call("Exists", key=b"late/a").exists


def test_cancelled_streams_leave_their_places_to_others(api):
    """There are 1024 places, and many more streams."""
    forever = threading.Event()

    def silence():
        forever.wait(60)
        yield from ()

    for _ in range(300):
        streams = [api.method("Transact")(silence()), api.method("Batch")(silence()), api.call("Scan")]
        calls = [*streams, api.method("Get").future(api.message("GetRequest", key=b"a"))]
        for call in calls:
            call.cancel()
    forever.set()
    assert not api.call("Exists", key=b"cancelled/a").exists


def test_a_slow_reader_of_a_scan_costs_bounded_memory_and_gets_every_row(api, one_node):
    count = 96
    for number in range(count):
        api.call("Put", key=b"slow-%03d" % number, value=b"x" * MIB)
    fast = sum(len(page.rows) for page in api.call("Scan", prefix=b"slow-"))
    before = one_node.memory_bytes
    pages = api.method("Scan")(api.message("ScanRequest", prefix=b"slow-"), timeout=100)
    keys = [row.key for row in next(pages).rows]
    for _ in range(500):  # ample time for the node to read on, were it to
        api.call("Get", key=b"slow")
    grown = one_node.memory_bytes - before
    keys += [row.key for page in pages for row in page.rows]
    assert fast == count
    assert keys == [b"slow-%03d" % number for number in range(count)]
    assert grown < 48 * MIB


def test_a_slow_reader_of_a_batch_stops_its_writer(api, one_node):
    """What it asks for has nearly 10 GiB, and what it sends more than gRPC keeps on the way."""
    for number in range(4):
        api.call("Put", key=b"slow/%d" % number, value=b"x" * MIB)
    asked = 0

    def requests():
        nonlocal asked
        for asked in range(10_000):
            write = {"key": b"slow/written", "value": b"y" * 16384}
            operations = [{"id": 2 * asked, "get": b"slow/%d" % (asked % 4)}, {"id": 2 * asked + 1, "put": write}]
            yield api.message("BatchRequest", operations=operations)

    before = one_node.memory_bytes
    answers = api.method("Batch")(requests(), timeout=100)
    next(answers)
    for _ in range(500):
        api.call("Get", key=b"slow")
    grown = one_node.memory_bytes - before
    answers.cancel()
    assert asked < 9_999
    assert grown < 64 * MIB
