"""The scenario with a wrong clock, on real processes: it holds, and finds nodes that believe their own clocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from shoal_chaos.clusters import process_cluster
from shoal_chaos.clusters.system_faults import LibraryMissing, library
from shoal_chaos.report.records import RunOutcome, RunRecord
from shoal_chaos.scenarios.library import BY_NAME
from shoal_chaos.scenarios.run import run_here

SEED = 1
SECONDS = 4.0

BELIEVING_NODE = """
from shoal.cli.main import main
from shoal_server.node.replica import Replica
from shoal_server.node.wall_clock import MILLISECOND, WallClock


def judge(self, now, wall_ms, *, nodes):
    self.settled = True
    self._base = wall_ms * MILLISECOND - now


original = Replica.queue_upkeep
WallClock.judge = judge
Replica.queue_upkeep = lambda self, time_ms, beyond_ms: original(self, time_ms, 1 << 60)
main()
"""
"""A node whose wall clock is the time, and a shard's clock the newest of all that leaders' clocks have shown."""


@pytest.fixture(autouse=True)
def _needs_the_library() -> None:
    try:
        library()
    except LibraryMissing as missing:
        pytest.skip(str(missing))


def broken_promises(record: RunRecord) -> dict[str, tuple[str, ...]]:
    return {one.checker: one.found for one in record.verdicts if one.safety and not one.passed}


@pytest.mark.timeout(120)
async def test_rows_live_as_long_as_they_are_to_while_one_clock_is_wrong(tmp_path: Path) -> None:
    record = await run_here(BY_NAME["clock-jump"], SEED, SECONDS, tmp_path, print)
    assert broken_promises(record) == {}
    assert record.outcome is RunOutcome.HELD, record.reason
    assert record.faults


@pytest.mark.timeout(120)
async def test_nodes_that_believe_their_own_clocks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "believing_node.py"
    planted.write_text(BELIEVING_NODE, "utf-8")
    monkeypatch.setattr(process_cluster, "NODE_COMMAND", (sys.executable, str(planted), "node"))
    record = await run_here(BY_NAME["clock-jump"], SEED, SECONDS, tmp_path / "cluster", print)
    assert record.outcome is RunOutcome.REFUTED
    assert {"expiry", "locks"} & broken_promises(record).keys(), record.verdicts
