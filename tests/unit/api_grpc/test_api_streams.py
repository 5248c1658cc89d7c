"""Scans, batches and transactions over gRPC."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

WAIT_SECONDS = 20.0


class Talk:
    """A stream in both directions, a message at a time."""

    def __init__(self, api: Any, method: str) -> None:
        self._api = api
        self._request = api.methods[method].input_type.name
        self._queue: queue.Queue[Any] = queue.Queue()
        self.answers = api.method(method)(iter(self._queue.get, None), timeout=WAIT_SECONDS)

    def say(self, **fields: Any) -> None:
        self._queue.put(self._api.message(self._request, **fields))

    def ask(self, **fields: Any) -> Any:
        self.say(**fields)
        return next(self.answers)

    def finish(self) -> list[Any]:
        """Say no more; return what is still answered."""
        self._queue.put(None)
        return list(self.answers)


@pytest.fixture
def talk(api: Any) -> Any:
    talks: list[Talk] = []

    def begin(method: str) -> Talk:
        talks.append(Talk(api, method))
        return talks[-1]

    yield begin
    for each in talks:
        each.answers.cancel()


def rows_of(pages: Iterator[Any]) -> list[tuple[bytes, bytes]]:
    return [(row.key, row.value) for page in pages for row in page.rows]


# -- scans


def test_a_scan_is_in_key_order_over_all_shards_and_in_pages(api):
    expected = sorted((b"scan-%d" % number, b"%d" % number) for number in range(300))
    api.call("PutMany", rows=[{"key": key, "value": value} for key, value in expected])
    pages = list(api.call("Scan", prefix=b"scan-", page_rows=70))
    assert [len(page.rows) for page in pages] == [70, 70, 70, 70, 20]
    assert rows_of(pages) == expected
    assert rows_of(api.call("Scan", prefix=b"scan-", reverse=True, limit=3)) == expected[:-4:-1]
    assert rows_of(api.call("Scan", start=b"scan-1", end=b"scan-10", keys_only=True)) == [(b"scan-1", b"")]


def test_a_scan_goes_on_behind_the_page_that_had_the_cursor(api):
    api.call("PutMany", rows=[{"key": b"cursor/%02d" % number, "value": b""} for number in range(30)])
    whole = rows_of(api.call("Scan", prefix=b"cursor/"))
    first = next(api.call("Scan", prefix=b"cursor/", page_rows=10))
    assert rows_of(iter([first])) + rows_of(api.call("Scan", cursor=first.cursor)) == whole


def test_a_scan_that_finds_nothing_has_one_page_without_rows(api):
    (page,) = api.call("Scan", prefix=b"nothing/", session="")
    assert (len(page.rows), bool(page.cursor), bool(page.session)) == (0, True, True)


# -- batches


def test_every_operation_of_a_batch_is_answered_under_its_id(api, talk):
    api.call("PutMany", rows=[{"key": b"batch/old", "value": b"old"}, {"key": b"batch/gone", "value": b""}])
    stream = talk("Batch")
    stream.say(
        operations=[
            {"id": 1, "get": b"batch/old"},
            {"id": 2, "get": b"batch/none"},
            {"id": 3, "get_entry": b"batch/old"},
            {"id": 4, "exists": b"batch/old"},
            {"id": 5, "put": {"key": b"batch/new", "value": b"1"}},
            {"id": 6, "delete": b"batch/gone"},
            {"id": 7, "touch": {"key": b"batch/none"}},
            {"id": 8, "increment": {"key": b"batch/n", "by": 4}},
            {"id": 9, "put_if_absent": {"key": b"batch/old", "value": b""}},
            {"id": 10, "compare_and_set": {"key": b"batch/swap", "value": b"1"}},
            {"id": 2**64 - 1, "write": {"operations": [{"increment": {"key": b"batch/m"}}]}},
        ]
    )
    results = {result.id: result for answer in stream.finish() for result in answer.results}
    found = {number: getattr(result, result.WhichOneof("result")) for number, result in results.items()}
    assert (found[1], found[2], found[3].value, found[4]) == (b"old", True, b"old", True)
    assert results[2].WhichOneof("result") == "absent"
    assert [results[number].WhichOneof("result") for number in (5, 6)] == ["seq", "seq"]
    assert (found[7], found[8], found[9], found[10]) == (False, 4, False, True)
    assert list(found[2**64 - 1].results) == [1]
    assert len(results) == 11


def test_operations_of_one_message_on_one_key_are_done_in_order(talk):
    stream = talk("Batch")
    operations = []
    for number in range(200):
        operations.append({"id": 2 * number, "put": {"key": b"order/a", "value": b"%d" % number}})
        operations.append({"id": 2 * number + 1, "get": b"order/a"})
    stream.say(operations=operations)
    results = {result.id: result.value for answer in stream.finish() for result in answer.results}
    assert [results[2 * number + 1] for number in range(200)] == [b"%d" % number for number in range(200)]


def test_one_wrong_operation_spoils_no_other(talk):
    stream = talk("Batch")
    stream.say(
        operations=[
            {"id": 1, "put": {"key": b"spoil/a", "value": b"1"}},
            {"id": 2, "put": {"key": b"", "value": b"1"}},
            {"id": 3},
            {"id": 4, "get": b"k" * 5000},
            {"id": 5, "put": {"key": b"spoil/a", "value": b"x" * (1 << 20) + b"x"}},
            {"id": 6, "put": {"key": b"spoil/a", "value": b"1", "ttl_ms": -1}},
            {"id": 7, "write": {}},
            {"id": 8, "write": {"operations": [{"put": {"key": b"x", "value": b""}}], "conditions": [{}]}},
            {"id": 9, "write": {
                "operations": [{"put": {"key": b"spoil/a", "value": b"2"}}],
                "conditions": [{"key_present": {"key": b"spoil/a"}}, {"key_absent": {"key": b"spoil/a"}}],
            }},
        ]
    )  # fmt: skip
    results = {result.id: result for answer in stream.finish() for result in answer.results}
    assert results[1].WhichOneof("result") == "seq"
    codes = [results[number].error.code for number in range(2, 10)]
    assert codes == ["invalid_argument"] * 2 + ["too_large"] * 2 + ["invalid_argument"] * 3 + ["condition_failed"]
    assert results[9].error.mismatch.condition == 1


def test_a_message_with_wrong_options_fails_alone(talk):
    stream = talk("Batch")
    one = [{"id": 1, "get": b"a"}]
    assert stream.ask(keyspace="none", operations=one).results[0].error.code == "keyspace_not_found"
    assert stream.ask(consistency=9, operations=one).results[0].error.code == "invalid_argument"
    assert stream.ask(timeout_ms=-1, operations=one).results[0].error.code == "invalid_argument"
    assert stream.ask(operations=one).results[0].WhichOneof("result") == "absent"


def test_a_batch_in_a_session_ends_with_its_token(api, talk):
    stream = talk("Batch")
    stream.say(session="", operations=[{"id": 1, "put": {"key": b"token/a", "value": b"1"}}])
    token = stream.finish()[-1].session
    assert api.call("Get", key=b"token/a", session=token).entry.value == b"1"


def test_operations_that_are_late_say_so(talk):
    stream = talk("Batch")
    answers = stream.ask(
        timeout_ms=1, operations=[{"id": number, "get": b"late-%d" % number} for number in range(2000)]
    )
    codes = {result.error.code for answer in [answers, *stream.finish()] for result in answer.results}
    assert "deadline_exceeded" in codes
    assert codes <= {"deadline_exceeded", ""}


def test_thousands_of_operations_in_many_messages_are_each_answered_once(talk):
    stream = talk("Batch")
    for first in range(0, 20_000, 1000):
        stream.say(
            operations=[
                {"id": number, "put": {"key": b"load-%d" % number, "value": b"v"}}
                for number in range(first, first + 1000)
            ]
        )
    ids = [result.id for answer in stream.finish() for result in answer.results if result.seq]
    assert sorted(ids) == list(range(20_000))


# -- transactions


def test_a_transaction_reads_its_own_writes_and_commits_them_together(api, talk):
    api.call("PutMany", rows=[{"key": b"tx/a", "value": b"1"}, {"key": b"tx/b", "value": b"2"}])
    stream = talk("Transact")
    stream.say(begin={"session": ""})
    assert stream.ask(get=b"tx/a").get.value == b"1"
    stream.say(put={"key": b"tx/c", "value": b"3"})
    stream.say(delete=b"tx/a")
    assert not stream.ask(get=b"tx/a").get.HasField("value")
    page, end = stream.ask(scan={"prefix": b"tx/"}).scan, next(stream.answers).scan
    assert [row.key for row in page.rows] == [b"tx/b", b"tx/c"]
    assert (page.ended, end.ended) == (False, True)
    assert not api.call("Exists", key=b"tx/c").exists
    committed = stream.ask(commit={}).committed
    assert api.call("Get", key=b"tx/c", session=committed.session).entry.seq == committed.seq
    assert not api.call("Exists", key=b"tx/a").exists
    assert stream.finish() == []


def test_a_transaction_that_others_got_in_between_is_aborted_and_writes_nothing(api, talk):
    stream = talk("Transact")
    stream.say(begin={})
    stream.ask(get=b"conflict/a")
    api.call("Put", key=b"conflict/a", value=b"theirs")
    stream.say(put={"key": b"conflict/b", "value": b"ours"})
    stream.say(commit={})
    with pytest.raises(grpc.RpcError) as aborted:
        stream.finish()
    assert aborted.value.code() is grpc.StatusCode.ABORTED
    error = api.error_of(aborted.value)
    assert (error.code, error.retryable, error.maybe_applied) == ("transaction_conflict", True, False)
    assert not api.call("Exists", key=b"conflict/b").exists


def test_a_stream_that_ends_without_commit_has_changed_nothing(api, talk):
    stream = talk("Transact")
    stream.say(begin={})
    stream.say(put={"key": b"left/a", "value": b"1"})
    assert stream.finish() == []
    assert not api.call("Exists", key=b"left/a").exists


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([{"get": b"a"}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"begin": {}}, {"begin": {}}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"begin": {}}, {}], grpc.StatusCode.INVALID_ARGUMENT),
        ([{"begin": {"keyspace": "none"}}], grpc.StatusCode.NOT_FOUND),
        ([{"begin": {}}, {"put": {"key": b"a", "value": b""}}] + [{"get": b"z%d" % n} for n in range(40)],
         grpc.StatusCode.FAILED_PRECONDITION),
        ([{"begin": {}}] + [{"put": {"key": b"p/%d" % n, "value": b"x" * (1 << 20)}} for n in range(9)],
         grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["no begin", "two begins", "an empty step", "no such keyspace", "two shards", "too much to write"],
)  # fmt: skip
def test_a_wrong_transaction_is_refused(talk, steps, status):
    stream = talk("Transact")
    for step in steps:
        stream.say(**step)
    with pytest.raises(grpc.RpcError) as refused:
        stream.finish()
    assert refused.value.code() is status
