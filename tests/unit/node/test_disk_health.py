"""When a disk is full, hung or slow, and what a node then does with its leaderships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, TransferLeader
from shoal_server.node.disk_health import HALF_WINDOW_NS, SLOW_LEAST_NS, DiskHealth, DiskState, SyncLatency

if TYPE_CHECKING:
    from conftest import Nodes

MS = 1_000_000
SECOND = 1000 * MS
STALL = 2 * SECOND
SLOW = 100 * MS
SHARD = 1


def judged(state: DiskState, *peers: int, health: DiskHealth | None = None, now: int = 0) -> DiskHealth:
    health = health or DiskHealth(stall_ns=STALL, slow_ns=SLOW)
    health.state = state
    health.judge(peers, now)
    return health


def test_a_sync_that_does_not_end_is_a_stall_until_it_ends() -> None:
    assert not judged(DiskState(syncing_ns=STALL - 1)).not_leading
    health = judged(DiskState(syncing_ns=STALL))
    assert health.stalled
    assert "has not ended for 2.0 seconds" in health.not_leading
    judged(DiskState(), health=health)
    assert not health.stalled
    assert not health.not_leading


def test_a_full_disk_says_the_reason_for_refusing_writes() -> None:
    health = judged(DiskState(not_writable="full"))
    assert health.not_leading == "full"
    assert not health.stalled


@pytest.mark.parametrize(
    ("own_us", "peers_us", "slow"),
    [
        (99_000, (1000, 1000), False),
        (100_000, (1000, 1000), True),
        (500_000, (100_000, 100_000), False),  # all are slow: nowhere to go
        (500_000, (100_000, 1000), True),  # one of them is a better place
        (500_000, (0, 0), True),  # theirs had nothing to do
        (500_000, (), False),  # nobody else has said anything
    ],
)
def test_a_disk_is_slow_by_itself_and_next_to_the_others(own_us: int, peers_us: tuple[int, ...], slow: bool) -> None:
    health = judged(DiskState(latency_us=own_us), *peers_us)
    assert bool(health.not_leading) == slow
    assert not health.stalled


def test_a_slow_disk_stays_slow_for_a_while_and_until_it_is_clearly_faster() -> None:
    health = judged(DiskState(latency_us=200_000), 1000)
    judged(DiskState(latency_us=1000), 1000, health=health, now=SLOW_LEAST_NS - 1)
    assert health.not_leading
    judged(DiskState(latency_us=90_000), 1000, health=health, now=SLOW_LEAST_NS)
    assert health.not_leading
    judged(DiskState(latency_us=49_000), 1000, health=health, now=SLOW_LEAST_NS)
    assert not health.not_leading


def test_latency_is_the_mean_of_the_last_seconds_and_unknown_from_a_few_syncs() -> None:
    latency = SyncLatency(0)
    assert latency.take([MS] * 4, 1) == 0
    assert latency.take([6 * MS], 2) == 2000
    assert latency.take([20 * MS] * 5, HALF_WINDOW_NS) == 11_000
    assert latency.take([], 2 * HALF_WINDOW_NS) == 20_000
    assert latency.take([], 3 * HALF_WINDOW_NS) == 0
    latency.take([MS] * 9, 3 * HALF_WINDOW_NS)
    assert latency.take([], 6 * HALF_WINDOW_NS) == 0


@pytest.mark.parametrize("state", [DiskState(syncing_ns=STALL), DiskState(latency_us=200_000), DiskState(0, 0, "full")])
def test_a_leader_whose_disk_is_unfit_hands_over_and_is_given_nothing_back(nodes: Nodes, state: DiskState) -> None:
    unfit = nodes.leader
    nodes.nodes[unfit].set_disk(state, nodes.now)
    nodes.until(lambda: not nodes.replica(unfit).group.is_leader, 100)
    leader = nodes.leader
    assert leader != unfit
    answer = nodes.ask_and_wait(leader, lambda request: TransferLeader(request, SHARD, unfit, 1000))
    assert isinstance(answer, Failure)
    assert answer.code == ErrorCode.UNAVAILABLE
    assert "takes no leadership now" in answer.message


def test_a_node_whose_disk_hangs_does_not_campaign_until_it_is_back(nodes: Nodes) -> None:
    first = nodes.leader
    [hung, _] = nodes.others
    nodes.nodes[hung].set_disk(DiskState(syncing_ns=STALL), nodes.now)
    nodes.isolate(first)
    nodes.until(lambda: nodes.leader not in (first, hung))
    nodes.heal()
    second = nodes.leader
    nodes.isolate(second)
    nodes.isolate(first)
    # Nobody but the hung one hears of it; it must wait.
    nodes.pass_time(5000)
    assert nodes.replica(hung).group.status().role == "voter"
    nodes.nodes[hung].set_disk(DiskState(), nodes.now)
    nodes.until(lambda: nodes.replica(hung).group.status().role == "candidate")


def test_a_leader_whose_transfer_came_to_nothing_has_a_lease_again_soon(nodes: Nodes) -> None:
    leader, target = nodes.leader, nodes.others[0]
    nodes.cut.add((leader, target))
    request = nodes.ask(leader, lambda request: TransferLeader(request, SHARD, target, 100))
    nodes.pass_time(10)
    nodes.heal()
    assert nodes.replica(leader).group.read_index(nodes.now) is None
    assert isinstance(nodes.answer(request), Failure)
    transfer_ms = nodes.settings.raft.transfer_timeout_ns // MS
    nodes.until(lambda: nodes.replica(leader).group.read_index(nodes.now) is not None, transfer_ms + 100)


def test_with_every_disk_hung_leaderships_end_within_the_bound_and_come_back(nodes: Nodes) -> None:
    for node in nodes.nodes.values():
        node.set_disk(DiskState(syncing_ns=STALL), nodes.now)
    support_ms = nodes.settings.timing.support_ns // MS
    nodes.pass_time(2 * support_ms + 100)
    assert not any(nodes.replica(name).group.is_leader for name in nodes.nodes)
    for node in nodes.nodes.values():
        node.set_disk(DiskState(), nodes.now)
    assert nodes.leader
