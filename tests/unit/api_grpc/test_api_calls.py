"""Every call with one request and one answer, by a client that knows the API by reflection only."""

from __future__ import annotations

import grpc
import pytest

CALLS = {
    "Get", "Exists", "Ttl", "Put", "Delete", "Touch", "Increment", "PutIfAbsent", "CompareAndSet", "Write",
    "GetMany", "PutMany", "DeleteMany", "DeletePrefix", "DeleteRange", "Scan", "Batch", "Transact",
}  # fmt: skip


def test_reflection_tells_of_all_services_and_calls(api):
    assert set(api.database.get_services()) >= {"shoal.v1.Shoal", "grpc.health.v1.Health"}
    assert set(api.methods) == CALLS


def test_a_value_that_was_put_is_got_with_what_is_known_of_it(api):
    written = api.call("Put", key=b"calls/a", value=b"1", ttl_ms=60_000)
    entry = api.call("Get", key=b"calls/a").entry
    assert (entry.value, entry.seq, entry.served_by, entry.staleness_ms) == (b"1", written.seq, "n1", 0)
    assert entry.HasField("expires_at_ms")
    assert written.durability == api.message("WriteReply", durability="DURABILITY_QUORUM").durability


def test_a_key_without_a_value_has_no_entry(api):
    assert not api.call("Get", key=b"calls/none").HasField("entry")
    assert not api.call("Exists", key=b"calls/none").exists
    assert not api.call("Ttl", key=b"calls/none").exists


def test_an_empty_value_is_a_value(api):
    api.call("Put", key=b"calls/empty", value=b"")
    assert api.call("Get", key=b"calls/empty").HasField("entry")
    assert api.call("Exists", key=b"calls/empty").exists


def test_a_deleted_key_is_gone(api):
    api.call("Put", key=b"calls/b", value=b"1")
    api.call("Delete", key=b"calls/b")
    assert not api.call("Exists", key=b"calls/b").exists


def test_touch_changes_the_time_to_live_of_what_is_there(api):
    api.call("Put", key=b"calls/t", value=b"1", ttl_ms=0)
    assert not api.call("Ttl", key=b"calls/t").HasField("ttl_ms")
    assert api.call("Touch", key=b"calls/t", ttl_ms=50_000).exists
    assert 0 < api.call("Ttl", key=b"calls/t").ttl_ms <= 50_000
    assert not api.call("Touch", key=b"calls/none", ttl_ms=50_000).exists


def test_increments_add_up(api):
    assert api.call("Increment", key=b"calls/n").value == 1
    assert api.call("Increment", key=b"calls/n", by=-5).value == -4
    assert api.call("Increment", key=b"calls/n", by=0).value == -4


def test_a_value_is_exchanged_only_for_the_expected_one(api):
    assert api.call("PutIfAbsent", key=b"calls/x", value=b"1").done
    assert not api.call("PutIfAbsent", key=b"calls/x", value=b"2").done
    assert not api.call("CompareAndSet", key=b"calls/x", value=b"2").done
    assert not api.call("CompareAndSet", key=b"calls/x", value=b"2", expected=b"0").done
    assert api.call("CompareAndSet", key=b"calls/x", value=b"2", expected=b"1").done
    assert api.call("Get", key=b"calls/x").entry.value == b"2"


def test_a_write_does_all_or_says_which_condition_did_not_hold(api):
    operations = [
        {"put": {"key": b"w/a", "value": b"1"}},
        {"increment": {"key": b"w/n", "by": 7}},
        {"touch": {"key": b"w/none"}},
        {"delete": {"key": b"w/gone"}},
    ]
    conditions = [{"key_absent": {"key": b"w/none"}}, {"value_equals_or_absent": {"key": b"w/a", "value": b"0"}}]
    assert list(api.call("Write", operations=operations, conditions=conditions).results) == [7, 0]
    seq = api.call("Get", key=b"w/a").entry.seq

    code, error = api.refusal("Write", operations=operations, conditions=conditions)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (error.code, error.maybe_applied, error.retryable) == ("condition_failed", False, False)
    assert (error.mismatch.condition, error.mismatch.found, error.mismatch.found_seq) == (1, b"1", seq)
    assert api.call("Get", key=b"w/n").entry.value == b"7"
    held = [{"key_present": {"key": b"w/a"}}, {"value_equals": {"key": b"w/a", "value": b"1"}}]
    assert api.call("Write", operations=operations, conditions=[*held, {"seq_equals": {"key": b"w/a", "seq": seq}}]).seq


def test_many_keys_at_once(api):
    rows = [{"key": b"many/%d" % number, "value": b"%d" % number} for number in range(500)]
    assert len(api.call("PutMany", rows=rows).seqs) == 500
    keys = [row["key"] for row in rows]
    got = api.call("GetMany", keys=[*keys, b"many/none"]).values
    assert [value.value for value in got[:-1]] == [row["value"] for row in rows]
    assert not got[-1].HasField("value")
    api.call("DeleteMany", keys=keys[:250])
    assert sum(value.HasField("value") for value in api.call("GetMany", keys=keys).values) == 250
    assert api.call("DeletePrefix", prefix=b"many/").microshards == 1
    assert not any(value.HasField("value") for value in api.call("GetMany", keys=keys).values)


def test_a_range_is_deleted(api):
    api.call("PutMany", rows=[{"key": b"range/%d" % number, "value": b""} for number in range(4)])
    assert api.call("DeleteRange", start=b"range/1", end=b"range/3").microshards == 1
    assert [row.key for page in api.call("Scan", prefix=b"range/") for row in page.rows] == [b"range/0", b"range/3"]


def test_a_session_sees_its_own_writes_and_its_token_goes_from_call_to_call(api):
    begun = api.call("Put", key=b"session/a", value=b"1", session="")
    assert begun.session
    read = api.call("Get", key=b"session/a", session=begun.session)
    assert read.entry.value == b"1"
    assert read.session
    assert not api.call("Get", key=b"session/a").HasField("session")
    code, error = api.refusal("Get", key=b"session/a", session="none")
    assert (code, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument")


@pytest.mark.parametrize("level", ["CONSISTENCY_STRONG", "CONSISTENCY_READ_YOUR_WRITES", "CONSISTENCY_EVENTUAL"])
def test_reads_of_each_level(api, level):
    api.call("Put", key=b"level/a", value=b"1")
    staleness = {} if level == "CONSISTENCY_STRONG" else {"max_staleness_ms": 60_000}
    assert api.call("Get", key=b"level/a", consistency=level, **staleness).entry.served_by == "n1"


def test_a_fast_write_says_that_it_was_one(api):
    written = api.call("Put", key=b"fast/a", value=b"1", durability="DURABILITY_FAST")
    assert written.durability == api.message("WriteReply", durability="DURABILITY_FAST").durability
    assert api.call("Get", key=b"fast/a").entry.value == b"1"


def test_a_call_without_a_deadline_is_answered(api):
    api.method("Put")(api.message("PutRequest", key=b"patient/a", value=b"1"))
    assert api.method("Get")(api.message("GetRequest", key=b"patient/a")).entry.value == b"1"
