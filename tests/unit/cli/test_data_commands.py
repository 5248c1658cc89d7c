"""`get`, `put`, `delete` and how errors end a command."""

from __future__ import annotations

import json
import os

import pytest
from shoal import errors
from shoal.cli.failures import ExitCode, exit_code_of
from shoal.protocol.messages import Failure, Read


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
    assert entry == {"key": "k", "value": "v", "seq": 7, "served_by": leader}


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
