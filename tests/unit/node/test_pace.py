"""What nobody waits for goes on at half its pace while clients' requests wait, and at its own again when none do."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from shoal.protocol.messages import Put
from shoal_server.node.overload import WINDOW_NS, Overload
from shoal_server.node.pace import YIELD_NS, Pace
from shoal_server.node.row_counting import STEP_INTERVAL_NS
from shoal_server.node.settings import ComparisonSettings, NodeSettings

MS = 1_000_000


def test_half_the_pace_beyond_ten_milliseconds() -> None:
    for delay, factor in ((0, 1), (YIELD_NS, 1), (YIELD_NS + 1, 2), (10**9, 2)):
        pace = Pace(lambda now, delay=delay: delay + now * 0)
        assert pace.pause(300, 7) == factor * 300
        assert pace.extra(300, 7) == (factor - 1) * 300


def test_a_delay_is_of_now_not_of_when_somebody_asked_last() -> None:
    overload = Overload(0)
    for turn in range(1, 4):
        overload.waited(50 * MS)
        overload.turn_taken(turn * WINDOW_NS, left=True)
    assert overload.delay_at(3 * WINDOW_NS) == 50 * MS
    assert overload.delay_at(5 * WINDOW_NS) == 50 * MS
    assert overload.delay_at(7 * WINDOW_NS) == 0


def busy(nodes: Any, name: str, delay_ns: int) -> None:
    """Have clients' requests wait for so long at a node, as far as it knows."""
    nodes.nodes[name].overload = SimpleNamespace(delay_at=lambda _now: delay_ns)


@pytest.fixture
def milliseconds_for_a_snapshot(make_nodes: Any) -> Callable[[int], int]:
    def measure(delay_ns: int) -> int:
        """Return how long a snapshot of some chunks takes, whose sender's clients wait for so long."""
        settings = NodeSettings(log_retain_bytes=300, log_checkpoint_bytes=100, snapshot_chunk_bytes=500)
        nodes = make_nodes(settings)
        behind, leader = nodes.others[0], nodes.leader
        nodes.isolate(behind)
        for number in range(60):
            nodes.answer(nodes.write(Put(b"key-%d" % number, b"x" * 100)))
        nodes.until(lambda: nodes.replica(leader).group.log.first_index > 20)
        busy(nodes, leader, delay_ns)
        nodes.heal()
        nodes.nodes[leader].peer_connected(behind)
        nodes.until(lambda: nodes.nodes[leader].counters.snapshots_started > 0)
        began = nodes.now
        nodes.until(lambda: nodes.nodes[behind].counters.snapshots_adopted > 0, 20_000)
        return (nodes.now - began) // MS

    return measure


def test_chunks_of_snapshots_follow_each_other_half_as_fast(milliseconds_for_a_snapshot: Callable[[int], int]) -> None:
    usual, slow = milliseconds_for_a_snapshot(0), milliseconds_for_a_snapshot(20 * MS)
    assert usual >= 20, "it has to have some chunks"
    assert 1.6 * usual < slow < 6 * usual  # a chunk that waits goes with the next tick of the node, 10 ms


def test_rows_are_counted_half_as_often(nodes: Any) -> None:
    leader = nodes.leader
    counting = nodes.nodes[leader]._row_counting
    nodes.pass_time(100)
    for delay, factor in ((0, 1), (20 * MS, 2)):
        busy(nodes, leader, delay)
        counting._pass.extend([(nodes.replica(leader), microshard) for microshard in range(4)] * 500)
        counting.step(nodes.now)
        assert counting.due_at == nodes.now + factor * STEP_INTERVAL_NS
        counting._pass.clear()


def test_replicas_are_compared_half_as_often(make_nodes: Any) -> None:
    settings = NodeSettings(comparison=ComparisonSettings(share_permille=100))
    nodes = make_nodes(settings)
    comparisons = nodes.nodes[nodes.leader]._comparisons
    silences = []
    for delay in (0, 20 * MS):
        busy(nodes, nodes.leader, delay)
        comparisons._pace_at = 0
        comparisons._spend(5 * MS, nodes.now)
        silences.append(comparisons._pace_at - nodes.now)
    assert silences == [50 * MS, 100 * MS]
