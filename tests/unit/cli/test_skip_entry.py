"""`shoal skip-entry` against a fake cluster: it tells the replicas that are stuck, and no others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shoal.protocol.messages import Done, SkipEntry, StatusReply

STUCK = "stuck: entry 17 (term 3, checksum 0000002a, 9 bytes) cannot be applied: error: no"


@pytest.fixture
def stuck(fake: Any) -> set[str]:
    """The nodes whose replica of shard 1 is stuck; the others have applied entry 17, or not: `fake.applied`."""
    names = {"n1", "n2", "n3"}
    status, answer = fake._status, fake._answer
    fake.applied = 16

    def with_failures(node: str, number: int) -> StatusReply:
        reply = status(node, number)
        replicas = tuple(
            msgspec.structs.replace(each, applied_index=16, failure=STUCK)
            if each.shard == 1 and node in names
            else msgspec.structs.replace(each, applied_index=fake.applied)
            for each in reply.replicas
        )
        return msgspec.structs.replace(reply, replicas=replicas)

    def skipping(node: str, request: Any) -> Any:
        if isinstance(request, SkipEntry):
            fake.requests.append(request)
            return Done(request.request)
        return answer(node, request)

    fake._status, fake._answer = with_failures, skipping
    return names


def asked(fake: Any) -> list[SkipEntry]:
    return [request for request in fake.requests if isinstance(request, SkipEntry)]


def test_the_plan_shows_the_entry_and_does_nothing(fake: Any, shoal: Any, stuck: set[str]) -> None:
    out = shoal("skip-entry", "1", "17", "--plan").stdout
    assert out.count("0000002a") == 3
    assert "nothing was done" in out
    assert asked(fake) == []


def test_every_replica_that_is_stuck_is_told(fake: Any, shoal: Any, stuck: set[str]) -> None:
    out = shoal("skip-entry", "1", "17", "--term", "3", "--checksum", "0000002a").stdout
    assert out.count("skipped") == 3
    assert [(each.shard, each.index, each.term, each.checksum) for each in asked(fake)] == [(1, 17, 3, 42)] * 3


def test_without_naming_the_entry_nothing_is_done(fake: Any, shoal: Any, stuck: set[str]) -> None:
    assert "--plan" in shoal("skip-entry", "1", "17", "--term", "3", code=1).stderr
    assert asked(fake) == []


def test_where_a_replica_has_applied_it_the_others_are_not_to_skip_it(fake: Any, shoal: Any, stuck: set[str]) -> None:
    stuck.remove("n3")
    fake.applied = 20
    arguments = ("skip-entry", "1", "17", "--term", "3", "--checksum", "0000002a")
    assert "n3 can apply entry 17" in shoal(*arguments, code=1).stderr
    assert asked(fake) == []
    shoal(*arguments, "--although-applied")
    assert len(asked(fake)) == 2


def test_where_nobody_is_stuck_there_it_is_not_found(fake: Any, shoal: Any, stuck: set[str]) -> None:
    assert (
        "no replica of shard 1 is stuck"
        in shoal("skip-entry", "1", "18", "--term", "3", "--checksum", "0000002a", code=3).stderr
    )
    assert "no shard 99" in shoal("skip-entry", "99", "17", "--plan", code=3).stderr
