"""The shard manager's operations in simulation: many seeds, planted bugs, and determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from shoal.shardmap import Shard
from shoal_chaos.control_simulation.run import Focus, simulate
from shoal_chaos.simulation.invariants import Violation
from shoal_chaos.simulation.many_seeds import run_seeds
from shoal_shardmanager.control import operation_queue
from shoal_shardmanager.control.node_requests import DEMOTE, ChangeMember
from shoal_shardmanager.control.observed import Leading
from shoal_shardmanager.control.operations import replica
from shoal_shardmanager.control.operations.outcome import Outcome, ask, go
from shoal_shardmanager.control.requests import shards as shard_orders
from shoal_shardmanager.control.rows import MoveReplica, OperationRow, Step
from shoal_shardmanager.control.state import ClusterState, RowChange, with_shards, without_replica
from shoal_shardmanager.process import store
from shoal_shardmanager.process.leadership import Leadership
from shoal_shardmanager.process.store import Store

from .conftest import MustBeFound

SEEDS = range(24)
PLANTED_SEEDS = range(106, 136)


@pytest.mark.timeout(600)
def test_operations_end_or_say_why_not_and_no_shard_loses_its_quorum() -> None:
    runs = run_seeds(simulate, SEEDS)
    failures = [run.failure for run in runs if run.failure]
    assert not failures, "\n".join(failures)
    ended: Counter[str] = sum((run.report.ended for run in runs if run.report is not None), Counter())
    kinds = {
        "move done",
        "drain done",
        "heal done",
        "rebalance done",
        "failover done",
        "split done",
        "transfer-leader done",
    }
    assert kinds <= ended.keys(), "the seeds have to do what operators do"


TRACE = """
from shoal_chaos.control_simulation.run import Focus, simulate
deposed = Focus(("move", "failover", "rebalance"), ("elect", "pause_manager", "crash"))
print(simulate(19, request_seconds=8, settles=False, focus=deposed))
"""
ANOTHER_PROCESS = """
import gc, time
gc.set_threshold(50, 2, 2)
def shifted(read, by):
    return lambda: read() + by
for name in ("time", "monotonic", "perf_counter", "process_time"):
    setattr(time, name, shifted(getattr(time, name), 1e5))
    setattr(time, name + "_ns", shifted(getattr(time, name + "_ns"), 10**14))
"""
"""Garbage is collected often, and every clock shows another time."""


def test_equal_seeds_give_equal_runs_in_processes_that_differ() -> None:
    def printed(program: str, hash_seed: str) -> list[str]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return [line for line in done.stdout.splitlines() if line.startswith("ControlReport(")]

    here = printed(TRACE, "1")
    assert len(here) == 1
    assert here == printed(ANOTHER_PROCESS + TRACE, "2")


def drop_what_the_log_still_counts_on(patch: pytest.MonkeyPatch) -> None:
    """A move deletes the old replica once it has lost its vote, and nobody removes it from the shard."""

    def remove(
        row: OperationRow, work: MoveReplica, shard: Shard, leader: Leading, state: ClusterState, now: int
    ) -> Outcome:
        del leader
        shard_map = with_shards(state.map, [without_replica(shard, replica.retiring(row, work))])
        return go(row, Step.DROP, now, shard_map, map_version=shard_map.version)

    patch.setattr(replica, "_remove", remove)


def demote_before_the_new_one_votes(patch: pytest.MonkeyPatch) -> None:
    """A move takes the old vote, and leaves the new replica without one."""

    def promote(row: OperationRow, work: MoveReplica, leader: Leading, now: int) -> Outcome:
        del work, leader
        return go(row, Step.HAND_OVER, now)

    def demote(row: OperationRow, work: MoveReplica, leader: Leading, state: ClusterState, now: int) -> Outcome:
        del state
        leaving = replica.retiring(row, work)
        if leaving not in leader.voters:
            return go(row, Step.REMOVE, now)
        return ask(
            ChangeMember(leader.node, work.shard, DEMOTE, leaving, row.id, leader.replica.membership_version),
            waiting="",
        )

    patch.setattr(replica, "_promote", promote)
    patch.setattr(replica, "_demote", demote)


def take_orders_for_busy_shards(patch: pytest.MonkeyPatch) -> None:
    """Two operations may work on one shard."""
    patch.setattr(shard_orders, "check_idle", lambda *_: None)


def write_rows_without_the_fence(patch: pytest.MonkeyPatch) -> None:
    """A manager that was deposed writes on."""

    async def write(self: Store, changes: Iterable[RowChange]) -> None:
        rows = dict(map(store._as_operation, changes))
        await self._client.write(list(rows.values()), when=[])

    patch.setattr(Store, "write", write)


def go_on_after_a_write_of_unknown_outcome(patch: pytest.MonkeyPatch) -> None:
    """What was written and not acknowledged is taken for not written."""
    patch.setattr(Leadership, "_ended", property(lambda self: None, lambda self, error: None), raising=False)


def begin_more_than_the_caps_allow(patch: pytest.MonkeyPatch) -> None:
    """Whatever waits in the queue begins."""
    patch.setattr(operation_queue._Moving, "admits", lambda *_: True)


def place_on_nodes_that_are_being_emptied(patch: pytest.MonkeyPatch) -> None:
    """A move that was queued begins, whatever has become of its target."""
    patch.setattr(operation_queue, "_pointless", lambda *_: "")


BUGS: dict[Callable[[pytest.MonkeyPatch], None], Focus] = {
    drop_what_the_log_still_counts_on: Focus(("move", "rebalance")),
    demote_before_the_new_one_votes: Focus(("move", "rebalance")),
    take_orders_for_busy_shards: Focus(("move", "move_leader")),
    write_rows_without_the_fence: Focus(("move", "split", "alter"), ("elect", "pause_manager")),
    go_on_after_a_write_of_unknown_outcome: Focus(("move", "split", "alter"), ("bad_rows",)),
    begin_more_than_the_caps_allow: Focus(("move", "rebalance", "drain")),
    place_on_nodes_that_are_being_emptied: Focus(("move", "drain", "undrain"), ("crash_many",)),
}
"""What is planted, and what the runs that are to find it are about."""
FIRST_SEED = {go_on_after_a_write_of_unknown_outcome: 190, place_on_nodes_that_are_being_emptied: 116}
"""What is tried first for a bug that few seeds find: 190 and 5 of 0 to 190 the last time, where it was looked for."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_of_the_controller_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, must_be_found: MustBeFound
) -> None:
    bug(monkeypatch)
    seeds = (FIRST_SEED.get(bug, PLANTED_SEEDS.start), *PLANTED_SEEDS)
    must_be_found(lambda seed: simulate(seed, settles=False, focus=BUGS[bug]), seeds, sign=Violation)
