"""`shoal skip-entry` on a cluster whose replicas are well."""

from __future__ import annotations

import pytest
from shoal.cli.skipping import ReplicaView, SkipView, _what_next

WELL = ReplicaView("n1", 9, "applied", 0, "")
BEHIND = ReplicaView("n2", 5, "behind", 0, "")
STUCK = ReplicaView("n3", 6, "stuck", 3, "5f1d0c9a")


@pytest.mark.parametrize(
    ("replicas", "says"),
    [
        ([WELL, BEHIND], "no replica is stuck at entry 7"),
        ([WELL, STUCK], "bring the nodes that cannot to the same version"),
        ([BEHIND, STUCK], "shoal skip-entry 1 7 --term 3 --checksum 5f1d0c9a"),
        ([STUCK, ReplicaView("n1", 6, "stuck", 4, "5f1d0c9a")], "different entries"),
    ],
)
def test_a_plan_says_what_it_comes_to(replicas: list[ReplicaView], says: str):
    assert says in _what_next(SkipView(1, 7, replicas))


def test_an_entry_that_is_not_named_is_wrong_usage(shoal):
    assert "--term" in shoal("skip-entry", "1", "7", code=2).stderr
    assert "no replica is stuck" in shoal("skip-entry", "1", "7", "--plan").stdout


def test_those_that_have_applied_it_are_named(shoal):
    refused = shoal("skip-entry", "1", "1", "--term", "1", "--checksum", "00000000", code=1).stderr
    assert "n1, n2, n3 have applied entry 1" in refused


@pytest.mark.parametrize("command", ["skip-entry", "export", "status"])
def test_commands_that_ask_nodes_do_not_offer_an_embedded_database(shoal, command: str):
    assert "embedded" not in shoal(command, "--help").stdout
