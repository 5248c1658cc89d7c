"""A row that changes in silence is found in time and put right from the others; and bugs in the comparison are found, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import Any

import pytest
from shoal_chaos.simulation.faults.silent_changes import SilentChanges
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_server.node import comparisons, digests
from shoal_server.node.comparisons import Comparisons
from shoal_server.node.digests import Slice
from shoal_server.node.verdicts import Copy, CopyVerdict, judge
from shoal_server.raft.messages import Entry, Membership
from shoal_server.shard.commands import DigestCursor
from shoal_server.shard.machine import CommandOutcome, ShardStateMachine
from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.engine import Engine

from .conftest import MustBeFound

SEEDS = 40


def silent_changes(made: list[SilentChanges]) -> Callable[[NodesScene, Random], SilentChanges]:
    def make(scene: NodesScene, random: Random) -> SilentChanges:
        made.append(SilentChanges(scene, random))
        return made[-1]

    return make


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 9, 24])
def test_rows_that_change_in_silence_are_found_and_put_right(seed: int) -> None:
    made: list[SilentChanges] = []
    simulate(seed, make_faults=silent_changes(made))
    assert made[0].changed >= 2
    assert made[0].found >= 1


# -- bugs


def compare_nothing(patch: pytest.MonkeyPatch) -> None:
    """No round begins."""
    patch.setattr(Comparisons, "_look", lambda self, now: setattr(self, "_look_at", now + self._settings.look_ns))


def compare_keys_only(patch: pytest.MonkeyPatch) -> None:
    """A digest does not take in what stands under a key."""

    class KeysOnly:
        def __init__(self, engine: Engine) -> None:
            self.data = engine.data
            self._engine = engine

        def scan(self, family: object, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
            for key, _ in self._engine.scan(family, start, end):  # type: ignore[arg-type]
                yield key, b""

    original = digests.slice_after

    def slice_after(cursor: DigestCursor, machine: ShardStateMachine, engine: Engine) -> Slice:
        return original(cursor, machine, KeysOnly(engine))  # type: ignore[arg-type]

    patch.setattr(comparisons, "slice_after", slice_after)


def end_every_round_after_a_slice(patch: pytest.MonkeyPatch) -> None:
    """What follows the first rows is never come to."""
    patch.setattr(digests, "MAX_ROWS", 40)
    original = digests.slice_after

    def slice_after(cursor: DigestCursor, machine: ShardStateMachine, engine: Engine) -> Slice:
        found = original(cursor, machine, engine)
        return Slice(found.digest, found.rows, found.bytes, None)

    patch.setattr(comparisons, "slice_after", slice_after)


def believe_the_first_to_report(patch: pytest.MonkeyPatch) -> None:
    """Whatever copy comes first is the right one."""

    def judge_first(reports: Mapping[str, Copy], membership: Membership, copied: Collection[str] = ()) -> CopyVerdict:
        verdict = judge(reports, membership, copied)
        first = reports[min(reports)]
        return CopyVerdict(verdict.copies, first, tuple(node for node, copy in reports.items() if copy != first))

    patch.setattr(comparisons, "judge", judge_first)


def apply_on_before_the_digest(patch: pytest.MonkeyPatch) -> None:
    """A digest is made of whatever is applied when there is time for it."""
    original = ShardStateMachine.apply

    def apply(self: ShardStateMachine, entries: list[Entry], *others: Any) -> list[tuple[Entry, list[CommandOutcome]]]:
        due, self.digest_due = self.digest_due, None
        results = original(self, entries, *others)
        while self.state.index < entries[-1].index:
            found, self.digest_due = self.digest_due, None
            results += original(self, entries[self.state.index + 1 - entries[0].index :], *others)
            self.digest_due = self.digest_due or found
        self.digest_due = self.digest_due or due
        return results

    patch.setattr(ShardStateMachine, "apply", apply)


def compare_where_rows_lie(patch: pytest.MonkeyPatch) -> None:
    """What is a node's own affair is in the digest."""
    patch.setattr(AppliedState, "shared", property(lambda self: self))


BUGS = [compare_nothing, compare_keys_only, end_every_round_after_a_slice, believe_the_first_to_report]
FALSE_ALARMS = [apply_on_before_the_digest, compare_where_rows_lie]
"""Bugs by which replicas that are the same are found to differ: any faults bring them out."""

FIRST_SEED: dict[Callable[[pytest.MonkeyPatch], None], int] = {compare_keys_only: 1, believe_the_first_to_report: 1}
"""Where the search begins for a bug that was found late the last time."""


@pytest.mark.parametrize("bug", BUGS + FALSE_ALARMS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, must_be_found: MustBeFound
) -> None:
    bug(monkeypatch)
    make_faults = silent_changes([]) if bug in BUGS else UsualFaults
    first = FIRST_SEED.get(bug, 0)
    seeds = (*range(first, SEEDS), *range(first))
    must_be_found(lambda seed: simulate(seed, make_faults=make_faults), seeds, sign=Violation)
