"""`get`, `put`, `delete`, `ttl`, `touch`, `increment` and how errors end a command."""

from __future__ import annotations

import json
import os
import time

import pytest
from shoal import errors
from shoal.cli.failures import ExitCode, exit_code_of
from shoal.protocol.messages import Failure, Read, Write

from .conftest import MICROSHARDS, NOW_MS


def test_put_then_get_gives_the_bytes_back_without_a_newline(shoal):
    put = shoal("put", "user:1/name", "Ada")
    assert put.stdout == "put user:1/name at seq 1\n"
    assert shoal("get", "user:1/name").stdout_bytes == b"Ada"


def test_put_takes_binary_values_from_stdin(fake, shoal):
    value = bytes(range(256)) + b"\r\n"
    shoal("put", "k", "-", stdin=value)
    assert fake.value(b"k") == value
    assert shoal("get", "k").stdout_bytes == value


def test_an_empty_value_is_a_value(fake, shoal):
    shoal("put", "k", "")
    assert fake.value(b"k") == b""
    assert shoal("get", "k").stdout_bytes == b""


def test_keys_are_taken_as_the_bytes_that_the_shell_gave(fake, shoal):
    shoal("put", os.fsdecode(b"k\xff"), "v")
    assert fake.value(b"k\xff") == b"v"


def test_get_of_no_such_key_prints_nothing_and_ends_with_3(shoal):
    result = shoal("get", "nosuch", code=3)
    assert result.stdout == ""
    assert result.stderr == "shoal: no such key: nosuch\n"


def test_get_as_json_says_seq_and_server(fake, shoal):
    fake.put(b"k", b"v")
    entry = json.loads(shoal("get", "k", "--json").stdout)
    leader = fake.script.leaders[fake.routes.shard_of(fake.keyspace, b"k")]
    known = {"seq": 7, "expires_at": None, "staleness": 0.0, "served_by": leader}
    assert entry == {"key": "k", "value": "v", **known}


def test_a_weak_get_says_how_stale_its_answer_may_be(fake, shoal):
    fake.put(b"k", b"v")
    fake.expiries[b"k"] = NOW_MS
    fake.script.staleness_ms = 250
    entry = json.loads(shoal("get", "k", "--json", "--consistency", "eventual", "--max-staleness", "2s").stdout)
    assert (entry["staleness"], entry["expires_at"]) == (0.25, NOW_MS / 1000)
    (read,) = [request for request in fake.requests if isinstance(request, Read)]
    assert (read.freshness.strong, read.freshness.max_staleness_ms) == (False, 2000)


def test_what_a_read_may_miss_is_checked_before_it_is_sent(fake, shoal):
    shoal("get", "k", "--consistency", "eventul", code=2)
    shoal("get", "k", "--consistency", "eventual", "--max-staleness", "soon", code=2)
    assert "consistency='eventual'" in shoal("get", "k", "--max-staleness", "2s", code=1).stderr
    assert not [request for request in fake.requests if isinstance(request, Read)]


@pytest.mark.parametrize(("ttl", "ttl_ms"), [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("2m", 120_000)])
def test_put_with_a_ttl_expires(fake, shoal, ttl, ttl_ms):
    shoal("put", "k", "v", "--ttl", ttl)
    assert fake.expiries[b"k"] == NOW_MS + ttl_ms
    shoal("put", "k", "v", "--ttl", "0")
    assert fake.expiries[b"k"] == 0


@pytest.mark.parametrize("ttl", ["-1", "soon", "", "99999999999", "1e3"])
def test_a_ttl_that_is_none_is_wrong_usage(fake, shoal, ttl):
    shoal("put", "k", "v", "--ttl", ttl, code=2)
    shoal("touch", "k", "--", ttl, code=2)
    assert fake.value(b"k") is None


def test_put_if_absent_says_with_4_that_there_was_something(fake, shoal):
    assert shoal("put", "k", "v", "--if-absent", "--ttl", "5").stdout == "put k at seq 1\n"
    assert fake.expiries[b"k"] == NOW_MS + 5000
    refused = shoal("put", "k", "w", "--if-absent", code=4)
    assert refused.stdout == ""
    assert "b'v'" in refused.stderr
    assert fake.value(b"k") == b"v"


def test_put_may_be_fast_and_says_so(fake, shoal):
    assert json.loads(shoal("put", "k", "v", "--durability", "fast", "--json").stdout)["durability"] == "fast"
    assert [request.fast for request in fake.requests if isinstance(request, Write)] == [True]
    shoal("put", "k", "v", "--durability", "fastest", code=2)
    shoal("put", "k", "v", "--durability", "fast", "--if-absent", code=2)


def test_ttl_says_how_long_a_key_lives(fake, shoal):
    fake.put(b"k", b"v")
    assert shoal("ttl", "k").stdout == "never\n"
    assert json.loads(shoal("ttl", "k", "--json").stdout) == {"key": "k", "ttl": None}
    fake.expiries[b"k"] = int(time.time() * 1000) + 60_000
    assert 55 < float(shoal("ttl", "k").stdout) <= 60
    assert 55 < json.loads(shoal("ttl", "k", "--json").stdout)["ttl"] <= 60
    assert shoal("ttl", "nosuch", code=3).stderr == "shoal: no such key: nosuch\n"


def test_touch_changes_how_long_a_key_lives(fake, shoal):
    assert shoal("touch", "k", "30s", code=3).stderr == "shoal: no such key: k\n"
    fake.put(b"k", b"v")
    assert shoal("touch", "k", "30s").stdout == "k expires in 30 s\n"
    assert fake.expiries[b"k"] == NOW_MS + 30_000
    assert json.loads(shoal("touch", "k", "1.5", "--json").stdout) == {"key": "k", "ttl": 1.5}
    assert shoal("touch", "k", "0").stdout == "k never expires\n"
    assert fake.expiries[b"k"] == 0


def test_increment_prints_the_sum(fake, shoal):
    assert shoal("increment", "n").stdout == "1\n"
    assert shoal("increment", "n", "10").stdout == "11\n"
    assert shoal("increment", "n", "-20").stdout == "-9\n"
    assert json.loads(shoal("increment", "n", "--json").stdout) == {"key": "n", "sum": -8}
    shoal("increment", "n", "much", code=2)
    shoal("increment", "n", "--nosuch", code=2)
    shoal("increment", "n", str(2**63), code=1)
    fake.put(b"text", b"x")
    assert "no integer" in shoal("increment", "text", code=1).stderr


def test_get_as_json_gives_binary_values_in_base64(fake, shoal):
    fake.put(b"k", b"\xff")
    entry = json.loads(shoal("get", "k", "--json").stdout)
    assert entry["value_base64"] == "/w=="
    assert "value" not in entry


def test_delete_removes_and_may_be_repeated(fake, shoal):
    fake.put(b"k", b"v")
    shoal("delete", "k")
    assert fake.value(b"k") is None
    assert json.loads(shoal("delete", "k", "--json").stdout) == {"key": "k", "seq": 2, "durability": "quorum"}


@pytest.mark.parametrize("prefix", ["a/", "a"])
def test_delete_takes_a_prefix_instead_of_a_key(fake, shoal, prefix):
    for key in (b"a/1", b"a/2", b"b/1"):
        fake.put(key, b"v")
    assert shoal("delete", "--prefix", prefix).stdout == f"deleted all keys that begin with {prefix}\n"
    assert [fake.value(key) for key in (b"a/1", b"a/2", b"b/1")] == [None, None, b"v"]
    touched = 1 if prefix == "a/" else MICROSHARDS
    assert json.loads(shoal("delete", "--prefix", prefix, "--json").stdout) == {
        "prefix": prefix,
        "microshards": touched,
    }


def test_delete_needs_either_a_key_or_a_prefix(fake, shoal):
    fake.put(b"k", b"v")
    shoal("delete", code=2)
    shoal("delete", "k", "--prefix", "k", code=2)
    shoal("delete", "--prefix", "", code=1)
    assert fake.value(b"k") == b"v"


def test_an_empty_key_is_refused(shoal):
    shoal("put", "", "v", code=1)


def test_an_unknown_keyspace_is_not_found(fake, shoal):
    shoal("get", "k", "--url", fake.url.replace("/default", "/nosuch"), code=3)


def test_nobody_there_is_unavailable_or_out_of_time_in_one_line(shoal):
    result = shoal("get", "k", "--url", "shoal://127.0.0.1:1/default?timeout=300ms", code=5)
    assert len(result.stderr.splitlines()) == 1


def test_a_servers_refusal_is_passed_on(fake, shoal):
    fake.script.failures[Read] = Failure(0, "permission_denied", "not for you")
    assert "not for you" in shoal("get", "k", code=1).stderr


def test_missing_arguments_and_unknown_commands_are_wrong_usage(shoal):
    shoal("get", code=2)
    assert "No such command" in shoal("gett", "k", code=2).stderr
    shoal("get", "k", "--nosuch", code=2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.InvalidArgument("x"), ExitCode.FAILED),
        (errors.TooLarge("x"), ExitCode.FAILED),
        (errors.CrossShard("x"), ExitCode.FAILED),
        (errors.PermissionDenied("x"), ExitCode.FAILED),
        (errors.ProtocolMismatch("x"), ExitCode.FAILED),
        (errors.Internal("x"), ExitCode.FAILED),
        (errors.KeyspaceNotFound("x"), ExitCode.NOT_FOUND),
        (errors.ConditionFailed("x"), ExitCode.CONFLICT),
        (errors.TransactionConflict("x"), ExitCode.CONFLICT),
        (errors.TooStale("x"), ExitCode.UNAVAILABLE),
        (errors.Overloaded("x"), ExitCode.UNAVAILABLE),
        (errors.Unavailable("x"), ExitCode.UNAVAILABLE),
        (errors.DeadlineExceeded("x"), ExitCode.DEADLINE),
        (errors.DeadlineExceeded("x", maybe_applied=True), ExitCode.OUTCOME_UNKNOWN),
        (errors.OutcomeUnknown("x"), ExitCode.OUTCOME_UNKNOWN),
    ],
)
def test_every_error_has_its_exit_code(error, expected):
    assert exit_code_of(error) is expected
