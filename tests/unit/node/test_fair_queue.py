"""Requests that wait are taken in turn by cost: whoever asks for much takes from nobody else."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shoal.priorities import Priority
from shoal.protocol.messages import Ping, Read, Scan
from shoal_server.node.deadlines import SLOT_BITS, Deadlines
from shoal_server.node.fair_queue import CALLERS_REMEMBERED, FairQueue
from shoal_server.node.fair_ring import DEBT_MOST_NS
from shoal_server.node.fair_shares import (
    CLIENT_QUANTUM_NS,
    REMEMBERED_NS,
    STANDINGS_REMEMBERED,
    CallerKey,
    Flow,
    Waiting,
)
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.paused_reads import OpenReads, PausedRead
from shoal_server.node.waiting import QueuedRead
from shoal_server.shard.merging import ScannedPage

MS = 1_000_000
NOW = 1_000 * MS
INTERACTIVE, BATCH, BACKGROUND = Priority


def waiting(number: int) -> Waiting:
    return Waiting(Ping(number), NOW, 10)


def page(number: int) -> Waiting:
    return Waiting(Scan(number, 1, 1, 1000, (), b"", b"", False, True, 10), NOW, 10)


def fill(
    queue: FairQueue, client: int, keyspace: int, count: int, priority: Priority = INTERACTIVE, caller: CallerKey = ""
) -> None:
    for number in range(count):
        each = waiting(client * 100_000 + number)
        queue.add(client, priority, keyspace, each, NOW, blocked=False, caller=caller)


class Crowd:
    """Somebody who stays connected, as client 1, and others, who are served one request after the other.

    `had`: what each caller has had (ns), by the clock of the node, which does nothing else.
    """

    def __init__(self, caller: CallerKey = "10.0.0.1", keyspace: int = 1) -> None:
        self.queue = FairQueue()
        self.now = NOW
        self.had: Counter[CallerKey] = Counter()
        self.longest = self._since = 0
        self._clients = 1
        self._who: dict[int, tuple[CallerKey, int, Priority]] = {}
        self.connect(caller, keyspace, count=8)

    def connect(self, caller: CallerKey, keyspace: int = 1, priority: Priority = INTERACTIVE, count: int = 1) -> int:
        """Return a new client, of which so many requests wait."""
        client, self._clients = self._clients, self._clients + 1
        self._who[client] = caller, keyspace, priority
        for _ in range(count):
            self.ask(client)
        return client

    def ask(self, client: int) -> None:
        caller, keyspace, priority = self._who[client]
        self.queue.add(client, priority, keyspace, waiting(0), self.now, blocked=False, caller=caller)

    def serve(self, cost: int) -> int:
        """Return who was served: client 1 asks again at once, and is not told."""
        while True:
            taken = self.queue.take(self.now)
            assert taken is not None
            flow, _ = taken
            spent = 100_000 if flow.client == 1 else cost
            self.now += spent
            self.queue.charge(flow, spent)
            self.had[flow.caller.key] += spent
            if flow.client != 1:
                self.longest = max(self.longest, self.now - NOW - self._since)
                return flow.client
            self._since = self.now - NOW
            self.ask(1)

    def leave(self, client: int) -> None:
        self.queue.forget(client, self.now)

    def part(self, caller: CallerKey) -> float:
        return self.had[caller] / self.had.total()


def next_of(queue: FairQueue) -> tuple[Flow, Waiting]:
    taken = queue.take(NOW)
    assert taken is not None
    return taken


def spent_by(queue: FairQueue, budget: int, costs: dict[int, int]) -> Counter[int]:
    """Take until the budget is spent; return what that was for each client, whose requests cost what `costs` says."""
    spent: Counter[int] = Counter()
    while sum(spent.values()) < budget:
        taken = queue.take(NOW)
        if taken is None:
            break
        flow, _ = taken
        spent[flow.client] += costs[flow.client]
        queue.charge(flow, costs[flow.client])
    return spent


def test_a_client_with_one_request_waits_for_nobody_s_thousand() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 1000)
    fill(queue, 2, 1, 1)
    served = spent_by(queue, 10 * MS, {1: 100_000, 2: 100_000})
    assert served[2] == 100_000


def test_clients_are_equal_by_cost_not_by_count() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 5_000)
    fill(queue, 2, 1, 5_000)
    served = spent_by(queue, 200 * MS, {1: 4 * MS, 2: 40_000})
    assert abs(served[1] - served[2]) <= 8 * MS, "a scan of 4 ms is paid for before the next one"


def test_a_keyspace_gains_nothing_by_more_connections() -> None:
    queue = FairQueue()
    for client in range(1, 51):
        fill(queue, client, 1, 100)
    fill(queue, 99, 2, 5_000)
    costs = dict.fromkeys(range(100), 100_000)
    served = spent_by(queue, 200 * MS, costs)
    assert 0.8 < served[99] / (200 * MS - served[99]) < 1.25
    others = [served[client] for client in range(1, 51)]
    assert max(others) - min(others) <= MS


def test_background_work_has_a_small_share_and_is_not_starved() -> None:
    queue = FairQueue()
    for client, priority in ((1, INTERACTIVE), (2, BATCH), (3, BACKGROUND)):
        fill(queue, client, 1, 10_000, priority)
    served = spent_by(queue, 400 * MS, dict.fromkeys((1, 2, 3), 50_000))
    assert served[1] > 3 * served[2] > 6 * served[3] > 0


def test_background_work_alone_has_all_of_the_node() -> None:
    queue = FairQueue()
    fill(queue, 3, 1, 10_000, BACKGROUND)
    assert spent_by(queue, 400 * MS, {3: 50_000})[3] >= 400 * MS


def test_what_turns_out_to_cost_more_is_paid_for_in_later_turns() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 1000)
    fill(queue, 2, 1, 5000)
    spent_by(queue, MS, {1: 10_000, 2: 10_000})
    queue.charge_later(1, 1, 20 * MS, pages=False)
    assert spent_by(queue, 10 * MS, {1: 10_000, 2: 10_000})[1] == 0


def test_a_debt_is_bounded_and_forgiven_with_time() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 2)
    taken = queue.take(NOW)
    assert taken is not None
    flow, _ = taken
    queue.charge(flow, 3600 * 1000 * MS)
    assert flow.deficit == -DEBT_MOST_NS
    queue.take(NOW)
    queue.add(1, INTERACTIVE, 1, waiting(3), NOW + 2 * DEBT_MOST_NS, blocked=False)
    assert flow.deficit == CLIENT_QUANTUM_NS, "as one that is new"


def test_whoever_asks_now_and_then_comes_before_those_who_always_wait() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 1000)
    for client, keyspace in ((2, 2), (3, 1), (2, 2)):
        spent_by(queue, 20 * MS, {1: MS})
        fill(queue, client, keyspace, 1)
        taken = queue.take(NOW)
        assert taken is not None
        assert taken[0].client == client
        queue.charge(taken[0], 10_000)


def test_those_who_ask_again_as_soon_as_they_are_served_have_no_more_than_one_who_always_waits() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 5_000)
    others = range(2, 10)
    for client in others:
        fill(queue, client, client, 1)
    spent: Counter[int] = Counter()
    for _ in range(2_000):
        taken = queue.take(NOW)
        assert taken is not None
        client = taken[0].client
        spent[client] += MS
        queue.charge(taken[0], MS)
        if client != 1:
            fill(queue, client, client, 1)
    fair = 2_000 * MS / 9
    assert all(abs(spent[client] - fair) <= 2 * MS for client in (1, *others))


def test_beside_hundreds_of_connections_one_that_asks_now_and_then_is_served_within_a_quantum() -> None:
    queue = FairQueue()
    for client in range(1, 257):
        fill(queue, client, 1, 20)
    spent_by(queue, 256 * CLIENT_QUANTUM_NS * 2, dict.fromkeys(range(1, 257), 50_000))
    for _ in range(3):
        fill(queue, 999, 1, 1)
        meanwhile = 0
        while (taken := next_of(queue))[0].client != 999:
            meanwhile += 50_000
            queue.charge(taken[0], 50_000)
        queue.charge(taken[0], 50_000)
        assert meanwhile <= CLIENT_QUANTUM_NS


def test_nobody_gains_by_asking_for_nothing_for_a_moment() -> None:
    """Both ask for as much as they get; one of them has nothing waiting between its requests, however short that is."""
    queue = FairQueue()
    fill(queue, 1, 1, 5_000)
    for client in range(3, 20):
        fill(queue, client, 1, 5_000)
    fill(queue, 2, 1, 1)
    spent: Counter[int] = Counter()
    now, away = NOW, 0
    for _ in range(3_000):
        if away == 1:
            queue.add(2, INTERACTIVE, 1, waiting(0), now, blocked=False)
        away = max(0, away - 1)
        taken = queue.take(now)
        assert taken is not None
        now += 2 * MS
        client = taken[0].client
        spent[client] += 2 * MS
        queue.charge(taken[0], 2 * MS)
        if client == 2:
            away = 2
    assert spent[2] <= spent[1] * 1.1


def test_a_caller_gains_nothing_by_more_connections() -> None:
    queue = FairQueue()
    for client in range(1, 101):
        fill(queue, client, 1, 100, caller="10.0.0.1")
    for client, caller in ((201, "10.0.0.2"), (202, b"who a certificate is of")):
        fill(queue, client, 1, 5_000, caller=caller)
    served = spent_by(queue, 150 * MS, dict.fromkeys(range(1, 203), 100_000))
    assert all(abs(served[client] - 50 * MS) <= MS for client in (201, 202))


def test_pages_have_half_of_what_a_caller_has_however_many_connections_ask_for_them() -> None:
    queue = FairQueue()
    for client in range(1, 101):
        for number in range(20):
            queue.add(client, INTERACTIVE, 1, page(number), NOW, blocked=False)
    fill(queue, 200, 1, 5_000)
    served = spent_by(queue, 200 * MS, {**dict.fromkeys(range(1, 101), 2 * MS), 200: 50_000})
    assert abs(served[200] - 100 * MS) <= 4 * MS


def test_what_a_request_has_waited_for_is_what_its_own_client_has_had_meanwhile() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 30)
    for client in range(2, 257):
        fill(queue, client, 1, 1)
    waited: dict[int, list[int]] = {}
    while (taken := queue.take(NOW)) is not None:
        flow, each = taken
        waited.setdefault(flow.client, []).append(flow.had_since(each))
        queue.charge(flow, 50_000)
    assert waited.pop(1) == [50_000 * before for before in range(30)]
    assert all(had == [0] for had in waited.values())


def test_a_flow_that_is_parked_keeps_its_requests_and_goes_on_in_the_order_of_parking() -> None:
    queue = FairQueue()
    for client in (1, 2, 3):
        queue.add(client, INTERACTIVE, 1, page(client), NOW, blocked=False)
        queue.park(*next_of(queue), NOW)
    queue.add(1, INTERACTIVE, 1, page(11), NOW, blocked=False)
    assert (queue.ready, queue.length, len(queue.parked)) == (False, 4, 3)
    queue.forget(2, NOW)
    queue.block(1, NOW, blocked=True)
    queue.block(1, NOW, blocked=False)
    assert not queue.ready
    queue.unpark(1, NOW)
    assert [next_of(queue)[1].request.request for _ in range(2)] == [1, 11]
    queue.unpark(5, NOW)
    assert next_of(queue)[0].client == 3
    assert (queue.length, len(queue.parked)) == (0, 0)


def test_what_was_begun_goes_on_before_all_else_also_where_its_flow_is_parked() -> None:
    queue = FairQueue()
    reads = OpenReads(MemoryBudget(0))
    for number in (1, 2, 3):
        queue.add(1, INTERACTIVE, 1, page(number), NOW, blocked=False)
    (_, first), (flow, second) = next_of(queue), next_of(queue)
    queue.park(flow, first, NOW)
    second.paused = PausedRead(
        None, QueuedRead(1, Scan(2, 1, 1, 0, (), b"", b"", False, False, 1), []), 0, reads, reads._memory
    )
    second.paused.page = ScannedPage()
    second.arrived += 1
    queue.add(1, INTERACTIVE, 1, second, NOW, blocked=False)
    assert next_of(queue)[1] is second
    assert not queue.ready
    queue.add(1, INTERACTIVE, 1, second, NOW, blocked=False)
    queue.unpark(1, NOW)
    assert [next_of(queue)[1].request.request for _ in range(3)] == [2, 1, 3]
    queue.add(1, INTERACTIVE, 1, first, NOW, blocked=False)
    queue.park(*next_of(queue), NOW)
    queue.add(1, INTERACTIVE, 1, second, NOW, blocked=False)
    # It has let go of what it had, while it waited.
    second.paused.page = None
    assert queue.take(NOW) is None
    assert (queue.ready, queue.length) == (False, 2)


@given(st.lists(st.tuples(st.integers(10_000, 3 * MS), st.integers(1, 20)), min_size=2, max_size=40))
def test_all_who_always_wait_have_the_same_whatever_their_requests_cost(asks: list[tuple[int, int]]) -> None:
    """Each connection has so many requests waiting of that cost, and asks for another one as each is taken."""
    queue = FairQueue()
    costs = {}
    for client, (cost, count) in enumerate(asks):
        fill(queue, client, 1, count)
        costs[client] = cost
    spent: Counter[int] = Counter()
    while sum(spent.values()) < len(asks) * 10 * MS:
        flow, _ = next_of(queue)
        spent[flow.client] += costs[flow.client]
        queue.charge(flow, costs[flow.client])
        fill(queue, flow.client, 1, 1)
    assert all(abs(spent[client] - 10 * MS) <= 2 * CLIENT_QUANTUM_NS + 4 * MS for client in costs)


def test_what_is_no_page_goes_on_where_there_is_no_time_for_pages() -> None:
    queue = FairQueue()
    queue.add(1, INTERACTIVE, 1, page(1), NOW, blocked=False)
    assert queue.take(NOW, pages=False) is None
    fill(queue, 2, 2, 1)
    taken = queue.take(NOW, pages=False)
    assert taken is not None
    assert taken[0].client == 2
    assert queue.take(NOW, pages=False) is None
    taken = queue.take(NOW)
    assert taken is not None
    assert type(taken[1].request) is Scan
    assert queue.length == 0


def test_nothing_is_taken_of_a_client_that_is_blocked_and_nothing_of_it_is_lost() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 3)
    fill(queue, 2, 1, 3)
    queue.block(1, NOW, blocked=True)
    fill(queue, 1, 1, 2)
    assert {flow.client for flow, _ in iter(lambda: queue.take(NOW), None)} == {2}
    assert (queue.ready, queue.length) == (False, 5)
    queue.block(1, NOW, blocked=False)
    numbers = [each.request.request for _, each in iter(lambda: queue.take(NOW), None)]
    assert numbers == [100_000, 100_001, 100_002, 100_000, 100_001]
    assert queue.length == 0


def test_a_client_that_is_gone_leaves_nothing() -> None:
    queue = FairQueue()
    fill(queue, 1, 1, 3)
    fill(queue, 1, 2, 3)
    fill(queue, 2, 1, 1)
    queue.forget(1, NOW)
    assert queue.length == 1
    assert [flow.client for flow, _ in iter(lambda: queue.take(NOW), None)] == [2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "block", "unblock", "forget", "later"]),
            st.integers(1, 4),
            st.integers(1, 2),
            st.integers(0, 30 * MS),
        ),
        max_size=80,
    )
)
def test_each_request_is_taken_once_in_its_client_s_order(steps: list[tuple[str, int, int, int]]) -> None:
    queue = FairQueue()
    expected: dict[tuple[int, int], list[int]] = {}
    blocked: set[int] = set()
    number = 0
    for what, client, keyspace, cost in steps:
        if what == "add":
            number += 1
            queue.add(client, INTERACTIVE, keyspace, waiting(number), NOW, blocked=client in blocked)
            expected.setdefault((client, keyspace), []).append(number)
        elif what == "take":
            taken = queue.take(NOW)
            takeable = [key for key, left in expected.items() if left and key[0] not in blocked]
            assert (taken is not None) == bool(takeable)
            if taken is not None:
                flow, each = taken
                queue.charge(flow, cost)
                assert flow.client not in blocked
                assert expected[flow.client, flow.caller.group.keyspace].pop(0) == each.request.request
        elif what == "later":
            queue.charge_later(client, keyspace, cost, pages=False)
        elif what == "forget":
            queue.forget(client, NOW)
            blocked.discard(client)
            expected = {key: left for key, left in expected.items() if key[0] != client}
        else:
            (blocked.add if what == "block" else blocked.discard)(client)
            queue.block(client, NOW, blocked=what == "block")
        assert queue.length == sum(map(len, expected.values()))


def test_connections_that_come_anew_gain_nothing_over_one_of_the_same_caller_that_stays() -> None:
    crowd = Crowd("10.0.0.1")
    had: Counter[bool] = Counter()
    left = {crowd.connect("10.0.0.1", count=4): 4 for _ in range(8)}
    while crowd.now < NOW + 1_000 * MS:
        before = crowd.now
        client = crowd.serve(100_000)
        had[True] += 100_000
        had[False] += crowd.now - before - 100_000
        left[client] -= 1
        if not left[client]:
            del left[client]
            left[crowd.connect("10.0.0.1", count=4)] = 4
            crowd.leave(client)
    assert had[False] / had.total() > 0.8 / 9
    assert crowd.longest < 20 * MS


def test_callers_that_come_anew_bring_what_they_owe() -> None:
    crowd = Crowd("10.0.0.1")
    for caller in ("10.0.0.2", "10.0.0.3"):
        crowd.connect(caller)
    while crowd.now < NOW + 3_000 * MS:
        client = crowd.serve(20 * MS)
        caller = crowd._who[client][0]
        crowd.leave(client)
        crowd.connect(caller)
    assert crowd.part("10.0.0.1") > 0.2


@pytest.mark.parametrize(("cost", "part"), [(400_000, 0.15), (5 * MS, 0.01)])
def test_callers_that_nobody_knows_overtake_who_stays_no_more_than_once_each(cost: int, part: float) -> None:
    crowd = Crowd("10.0.0.1")
    for number in range(4):
        crowd.connect(f"10.1.0.{number}")
    number = 4
    while crowd.now < NOW + 3_000 * MS:
        crowd.leave(crowd.serve(cost))
        crowd.connect(f"10.1.{number // 250}.{number % 250}")
        number += 1
    assert crowd.part("10.0.0.1") > part
    assert crowd.longest < 4 * 6 * (cost + CLIENT_QUANTUM_NS)


@pytest.mark.parametrize("keyspaces", [(1,), tuple(range(1, 10)), tuple(range(2, 11))])
@pytest.mark.parametrize("priorities", [(INTERACTIVE,), (INTERACTIVE, BATCH, BACKGROUND)])
def test_a_caller_gains_nothing_by_asking_for_several_things(
    keyspaces: tuple[int, ...], priorities: tuple[Priority, ...]
) -> None:
    crowd = Crowd("10.0.0.1")
    for keyspace in keyspaces:
        for priority in priorities:
            crowd.connect("10.0.0.2", keyspace, priority, count=4)
    while crowd.now < NOW + 2_000 * MS:
        crowd.ask(crowd.serve(100_000))
    assert 0.45 < crowd.part("10.0.0.1") < 0.7


def test_a_caller_gains_nothing_by_asking_for_one_thing_after_the_other() -> None:
    crowd = Crowd("10.0.0.1")
    others = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    for keyspace, caller in enumerate(others, start=2):
        crowd.connect(caller, keyspace, count=4)
    clients = [crowd.connect("10.9.9.9", keyspace, count=0) for keyspace in range(5, 14)]
    at = 0
    crowd.ask(clients[0])
    while crowd.now < NOW + 3_000 * MS:
        client = crowd.serve(5 * MS)
        if client in clients:
            at += 1
            crowd.ask(clients[at % len(clients)])
        else:
            crowd.ask(client)
    assert crowd.part("10.0.0.1") > 0.15
    assert crowd.part("10.9.9.9") < 0.3


def test_a_keyspace_in_which_many_ask_takes_no_more_than_its_part_of_the_node() -> None:
    crowd = Crowd("10.0.0.1")
    for number in range(40):
        crowd.connect(f"10.1.0.{number}", 2, count=4)
    while crowd.now < NOW + 1_000 * MS:
        crowd.ask(crowd.serve(100_000))
    assert crowd.part("10.0.0.1") > 0.45


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(1, 6), st.sampled_from(Priority), st.integers(1, 12), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_whoever_stays_has_its_part_beside_callers_that_come_and_go_and_ask_for_anything(
    deeds: list[tuple[int, int, Priority, int, bool]],
) -> None:
    """Up to five others, of whom each is served, goes, and comes again, to ask for the next thing; or leaves it out."""
    crowd = Crowd("stays", 1)
    callers = {deed[0] for deed in deeds}
    for which, keyspace, priority, _, _ in deeds:
        crowd.connect(str(which), keyspace, priority)
    step = 0
    while crowd.now < NOW + 500 * MS:
        which, keyspace, priority, cost, stays = deeds[step % len(deeds)]
        step += 1
        client = crowd.serve(cost * 500_000)
        if stays:
            crowd.ask(client)
        else:
            crowd.leave(client)
            crowd.connect(str(which), keyspace, priority)
    assert crowd.part("stays") > 0.5 / (1 + len(callers))


def test_of_those_who_are_gone_so_many_are_remembered_and_for_so_long() -> None:
    queue = FairQueue()
    for client in range(3 * CALLERS_REMEMBERED):
        queue.add(client, INTERACTIVE, 1, waiting(client), NOW, blocked=False, caller=str(client))
        queue.forget(client, NOW)
    [group] = queue._groups.values()
    assert len(group.by_key) == len(queue._gone) == len(queue._askers) == CALLERS_REMEMBERED
    later = NOW + REMEMBERED_NS
    queue.add(1, INTERACTIVE, 1, waiting(1), later, blocked=False, caller="one")
    for client in range(2, 3 * STANDINGS_REMEMBERED):
        queue.add(client, INTERACTIVE, 1, waiting(client), later, blocked=False, caller="one")
    for client in range(2, 3 * STANDINGS_REMEMBERED):
        queue.forget(client, later)
    [caller] = group.by_key.values()
    assert len(caller._left[False]) == STANDINGS_REMEMBERED
    assert queue.length == 1


def late(number: int, timeout_ms: int) -> Waiting:
    return Waiting(Read(number, 1, 1, timeout_ms, [b"key"]), NOW, 10)


def test_requests_are_taken_out_when_their_time_is_over_wherever_they_wait() -> None:
    queue = FairQueue()
    for number, timeout_ms in enumerate((60_000, 100, 0, 200, 50)):
        queue.add(1, INTERACTIVE, 1, late(number, timeout_ms), NOW, blocked=False)
    queue.add(2, INTERACTIVE, 1, late(9, 100), NOW, blocked=True)
    assert queue.take_late(NOW + 40 * MS, 100) == []
    first = queue.take_late(NOW + 180 * MS, 100)
    assert sorted(each.request.request for _, each in first) == [1, 4]
    assert queue.length == 4
    queue.block(2, NOW + 190 * MS, blocked=False)
    second = queue.take_late(NOW + 600 * MS, 100)
    assert sorted(each.request.request for _, each in second) == [3, 9]
    assert [each.request.request for _, each in iter(lambda: queue.take(NOW + 600 * MS), None)] == [0, 2]
    assert (queue.length, queue.ready) == (0, False)
    assert queue.take_late(NOW + 3600 * 1000 * MS, 100) == []


def test_so_many_are_looked_at_for_their_time_at_once_and_the_others_later() -> None:
    queue = FairQueue()
    for number in range(250):
        queue.add(1, INTERACTIVE, 1, late(number, 100), NOW, blocked=False)
    assert [len(queue.take_late(NOW + 300 * MS, 100)) for _ in range(4)] == [100, 100, 50, 0]
    assert not queue.ready


@given(st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 3_000), st.integers(0, 60)), max_size=30))
def test_each_deadline_is_found_within_a_slot_however_far_off_it_is(asks: list[tuple[int, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    now = NOW
    expected: dict[int, int] = {}
    for number, (wait_ms, gap_ms, forgotten) in enumerate([*asks, *[(0, 10_000, 60)] * 25]):
        expected[number] = now + wait_ms * MS
        deadlines.note(number, expected[number], number)
        now += gap_ms * MS
        expected.pop(forgotten, None)
        deadlines.forget(forgotten)
        for each in deadlines.take_due(now, 1_000):
            assert expected.pop(each) < now
        assert all(due >> SLOT_BITS >= now >> SLOT_BITS for due in expected.values())
