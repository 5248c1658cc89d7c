"""`shoal skip-entry` on a cluster whose replicas are well."""

from __future__ import annotations

import json

import pytest
from shoal.cli.skipping import ReplicaView, SkipView, _what_next
from shoal.protocol.failures import FailureKind, ReplicaFailure

WELL = ReplicaView("n1", 9, "applied", 0, "")
BEHIND = ReplicaView("n2", 5, "behind", 0, "")
GONE = ReplicaView("n2", 0, "unreachable", 0, "")
STUCK = ReplicaView("n3", 6, "stuck", 3, "5f1d0c9a")


@pytest.mark.parametrize(
    ("replicas", "says"),
    [
        ([WELL, BEHIND], "no replica is stuck at entry 7"),
        ([WELL, STUCK], "bring the nodes that cannot to the same version"),
        ([BEHIND, STUCK], "shoal skip-entry 1 7 --term 3 --checksum 5f1d0c9a"),
        ([STUCK, GONE], "n2 cannot be reached, and may have applied it"),
        ([STUCK, ReplicaView("n1", 6, "stuck", 4, "5f1d0c9a")], "different entries"),
    ],
)
def test_a_plan_says_what_it_comes_to(replicas: list[ReplicaView], says: str):
    assert says in _what_next(SkipView(1, 7, replicas))


def test_whose_replica_is_stuck_where_is_known_whatever_the_words_are(shoal, fake):
    for node in ("n2", "n3"):
        fake.script.failed[1, node] = ReplicaFailure(FailureKind.STUCK, "entry 8 (term 9", 7, 3, 0x5F1D0C9A)
    fake.script.failed[1, "n1"] = ReplicaFailure(FailureKind.DAMAGED, "stuck: entry 7 (term 3, checksum 5f1d0c9a", 7)
    plan = json.loads(shoal("skip-entry", "1", "7", "--plan", "--json").stdout)
    assert [(each["state"], each["term"], each["checksum"]) for each in plan["replicas"]] == [
        ("applied", 0, ""),
        ("stuck", 3, "5f1d0c9a"),
        ("stuck", 3, "5f1d0c9a"),
    ]
    shown = json.loads(shoal("shards", "1", "--json", code=5).stdout)
    assert [each["state"] for each in shown["replicas"]] == ["failed (damaged)", "failed (stuck)", "failed (stuck)"]
    assert "the replica has failed (stuck: entry 8" in shoal("status", code=5).stdout


def test_an_entry_that_is_not_named_is_wrong_usage(shoal):
    assert "--term" in shoal("skip-entry", "1", "7", code=2).stderr
    assert "no replica is stuck" in shoal("skip-entry", "1", "7", "--plan").stdout


def test_those_that_have_applied_it_are_named(shoal):
    refused = shoal("skip-entry", "1", "1", "--term", "1", "--checksum", "00000000", code=1).stderr
    assert "n1, n2, n3 have applied entry 1" in refused


def test_nothing_is_skipped_while_a_replica_that_may_have_applied_it_is_not_heard(shoal, fake):
    for node in ("n2", "n3"):
        fake.script.failed[1, node] = ReplicaFailure(FailureKind.STUCK, "entry 8 (term 9", 107, 3, 0x5F1D0C9A)
    fake.take_down("n1")
    entry = ("skip-entry", "1", "107", "--term", "3", "--checksum", "5f1d0c9a")
    assert "n1 cannot be reached, and may have applied entry 107" in shoal(*entry, code=1).stderr
    assert "nothing was done; n1 cannot be reached" in shoal("skip-entry", "1", "107", "--plan").stdout


@pytest.mark.parametrize("command", ["skip-entry", "export", "status"])
def test_commands_that_ask_nodes_do_not_offer_an_embedded_database(shoal, command: str):
    assert "embedded" not in shoal(command, "--help").stdout
