"""A disk that falls behind: clients may write less the further it does, and a node whose engine takes no writes goes on."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason, Priority
from shoal.protocol.messages import Delete, Done, Failure, Freshness, GetStatus, Ping, Put, Rows, StatusReply, Written
from shoal_server.node.core import LOOK_NS
from shoal_server.node.disk_health import DiskHealth, DiskState
from shoal_server.node.write_budget import (
    FIRST_LEVEL_FILES,
    MEMTABLES,
    PENDING_BYTES,
    RATE_LEAST,
    REFUSED_MS,
    EngineState,
    WriteBudget,
    pressure_of,
)
from shoal_server.raft.ready import TooManyUncommitted

SECOND = 1_000_000_000
LOOK = SECOND // 4
WELL = EngineState(memtables=1.4, first_level_files=10)

states = st.builds(
    EngineState,
    memtables=st.floats(0, 4),
    first_level_files=st.integers(0, 60),
    pending_bytes=st.integers(0, 1 << 39),
    delayed_rate=st.sampled_from([0, 100_000, 1 << 24]),
)


def test_pressure_goes_from_the_lower_to_the_upper_bound_of_the_worst() -> None:
    assert pressure_of(WELL) == (0.0, "")
    for field, (low, high) in (
        ("memtables", MEMTABLES),
        ("first_level_files", FIRST_LEVEL_FILES),
        ("pending_bytes", PENDING_BYTES),
    ):
        found = [
            pressure_of(
                EngineState(
                    **{field: low + (high - low) * part / 4 if field == "memtables" else low + (high - low) * part // 4}
                )
            )[0]
            for part in range(6)
        ]  # type: ignore[arg-type]
        assert found == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    worst, words = pressure_of(EngineState(memtables=2.0, first_level_files=31))
    assert worst == pytest.approx(0.95)
    assert words == "31 files of the first level are not compacted"
    assert pressure_of(EngineState(stopped_ns=1)) == (1.0, "RocksDB takes no writes until its disk has caught up")
    assert pressure_of(EngineState(delayed_rate=1 << 20))[0] > 0


def written(budget: WriteBudget, state: EngineState, now: int, looks: int, size: int = 10_000) -> tuple[int, int]:
    """Write as fast as is let through, looking at the engine between; return the bytes a second, and the time then."""
    total = 0
    for _ in range(looks):
        budget.judge(state, now)
        for millisecond in range(250):
            for _ in range(20):
                if budget.admit(size, now + millisecond * SECOND // 1000):
                    break
                total += size
        now += LOOK
    return total * 4 // looks, now


def test_the_rate_falls_with_the_pressure_and_without_it_there_is_no_bound() -> None:
    budget = WriteBudget(0)
    usual, now = written(budget, WELL, 0, 8)
    assert usual == 200_000_000
    before = usual
    for part in (0.25, 0.5, 0.75, 0.9):
        state = EngineState(memtables=MEMTABLES[0] + part * (MEMTABLES[1] - MEMTABLES[0]))
        rate, now = written(budget, state, now, 8)
        assert 0.4 * (1 - part) * usual < rate < 1.4 * (1 - part) * usual
        assert rate < before
        before = rate
        assert "MB/s" in budget.words
    rate, now = written(budget, EngineState(memtables=2.5), now, 4)
    assert rate == 0
    assert budget.admit(1, now) == REFUSED_MS
    refused = budget.refused
    rate, _ = written(budget, WELL, now, 2)
    assert rate == usual
    assert (budget.words, budget.rate, budget.refused) == ("", None, refused)


@given(st.lists(st.tuples(states, st.integers(0, 2_000_000)), max_size=60))
def test_whatever_is_found_the_rate_is_known_and_a_wait_has_an_end(found: list[tuple[EngineState, int]]) -> None:
    budget, now = WriteBudget(0), SECOND
    for state, size in found:
        now += LOOK
        budget.judge(state, now)
        assert 0 <= budget.pressure <= 1
        assert (budget.rate is None) == (budget.pressure == 0) == (budget.words == "")
        if state.delayed_rate and budget.rate is not None:
            assert budget.rate <= state.delayed_rate / 3
        wait = budget.admit(size, now)
        assert 0 <= wait <= 5000
        if budget.rate is None:
            assert wait == 0


def test_a_node_that_was_not_written_to_has_something_to_begin_with() -> None:
    budget = WriteBudget(0)
    budget.judge(EngineState(memtables=2.0), SECOND)
    assert budget.rate == RATE_LEAST / 2


def test_an_engine_that_takes_no_writes_for_long_is_a_disk_that_hangs() -> None:
    health = DiskHealth(stall_ns=2 * SECOND, slow_ns=SECOND // 10)
    health.state = DiskState(engine=EngineState(stopped_ns=SECOND))
    health.judge([], 0)
    assert (health.stalled, health.not_leading) == (False, "")
    health.state = DiskState(engine=EngineState(stopped_ns=3 * SECOND))
    health.judge([], 0)
    assert health.stalled
    assert health.not_leading == "RocksDB has taken no writes for 3.0 seconds: the disk does not keep up"


# -- at a node


def find(nodes: Any, name: str, state: EngineState) -> None:
    nodes.nodes[name].set_disk(DiskState(free_bytes=1 << 40, engine=state), nodes.now)


def test_writes_are_refused_with_the_reason_and_reads_are_not(nodes: Any) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(Put(b"k", b"v")))
    find(nodes, leader, EngineState(memtables=3.0))
    for operation in (Put(b"k", b"w"), Delete(b"k")):
        refused = nodes.answer(nodes.write(operation))
        assert isinstance(refused, Failure)
        assert (refused.code, refused.reason) == (ErrorCode.OVERLOADED.value, OverloadReason.DISK.value)
        assert refused.retry_after_ms == REFUSED_MS
        assert f"the disk of node {leader} falls behind: 3.0 memtables" in refused.message
    assert isinstance(nodes.answer(nodes.read(leader, b"k", freshness=Freshness())), Rows)
    find(nodes, leader, EngineState(memtables=1.0))
    assert isinstance(nodes.answer(nodes.write(Put(b"k", b"w"))), Written)


def test_a_node_under_pressure_says_so(nodes: Any) -> None:
    leader = nodes.leader
    find(nodes, leader, EngineState(first_level_files=22))
    status = nodes.ask_and_wait(leader, GetStatus)
    assert isinstance(status, StatusReply)
    assert (status.write_pressure, status.write_rate) == (0.5, RATE_LEAST // 2)
    assert status.writes_slowed == "22 files of the first level are not compacted: writes are let through at 0.5 MB/s"
    find(nodes, leader, WELL)
    status = nodes.ask_and_wait(leader, GetStatus)
    assert (status.write_pressure, status.write_rate, status.writes_slowed) == (0.0, 0, "")


def test_while_the_engine_takes_no_writes_a_node_writes_nothing_and_keeps_its_leases(nodes: Any) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(Put(b"k", b"v")))
    engine = nodes.engines[leader]
    writes: list[object] = []
    for name in ("write", "write_unlogged"):
        real = getattr(engine, name)
        setattr(engine, name, lambda batch, real=real: (writes.append(batch), real(batch)))
    term = nodes.replica(leader).group.term
    engine.writes_stopped = True
    nodes.pass_time(3)
    writes.clear()
    waiting = nodes.write(Put(b"k", b"w"))
    read = nodes.read(leader, b"k", freshness=Freshness())
    nodes.pass_time(5000)
    assert writes == []
    assert waiting not in nodes.answers
    assert isinstance(nodes.ask_and_wait(leader, Ping), Done)
    assert isinstance(nodes.ask_and_wait(leader, GetStatus), StatusReply)
    assert nodes.replica(leader).group.read_index(nodes.now) is not None, "its heartbeats go on"
    assert nodes.replica(leader).group.term == term
    engine.writes_stopped = False
    assert isinstance(nodes.answer(waiting), Written)
    answer = nodes.answer(read)
    assert isinstance(answer, Rows)
    assert answer.values in ([b"v"], [b"w"])
    assert writes


def test_what_the_first_half_of_a_turn_did_not_take_up_is_not_done_for_the_second(nodes: Any) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(Put(b"k", b"v")))
    node, engine = nodes.nodes[leader], nodes.engines[leader]
    waiting = nodes.write(Put(b"k", b"w"))
    now = nodes.now + LOOK_NS
    engine.writes_stopped = True
    node.turn(now, nodes.wall_ms)
    engine.writes_stopped = False
    end = node.finish_turn(now)
    assert end.wake_at <= now + nodes.settings.tick_interval_ns
    now += LOOK_NS
    assert node.turn(now, nodes.wall_ms).to_peers, "the write is on its way with the next turn"
    node.finish_turn(now)
    assert waiting not in nodes.answers


def test_a_follower_whose_engine_takes_no_writes_catches_up_when_it_does(nodes: Any) -> None:
    other = nodes.others[0]
    nodes.engines[other].writes_stopped = True
    for number in range(20):
        nodes.answer(nodes.write(Put(b"k%d" % number, b"v")))
    assert nodes.stored_keys(other) == []
    nodes.engines[other].writes_stopped = False
    nodes.until(lambda: len(nodes.stored_keys(other)) == 20)


def test_writes_beyond_what_may_be_uncommitted_are_refused_with_the_reason(nodes: Any) -> None:
    leader = nodes.leader
    nodes.answer(nodes.write(Put(b"k", b"v")))
    node = nodes.nodes[leader]
    [replica] = node.replica_set.by_shard.values()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(replica.group), "propose", Mock(side_effect=TooManyUncommitted("16 MiB are uncommitted")))
        refused = nodes.answer(nodes.write(Put(b"k", b"w")))
    assert isinstance(refused, Failure)
    assert (refused.code, refused.reason) == (ErrorCode.OVERLOADED.value, OverloadReason.UNCOMMITTED.value)
    assert node.overload.shed[OverloadReason.UNCOMMITTED, Priority.INTERACTIVE, 1] == 1
