"""What clients ask is taken as far as a turn has time for it, fairly; and who floods a node is read from no more."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shoal.errors import ErrorCode
from shoal.priorities import OverloadReason, Priority
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.messages import (
    Done,
    Failure,
    GetShardMap,
    GetStatus,
    Ping,
    Put,
    Read,
    Scan,
    Working,
)
from shoal.shardmap import MicroshardRange
from shoal_server.node import client_input, request_costs, serving, turn_length
from shoal_server.node.checksums import START
from shoal_server.node.client_queue import QUEUED_BYTES, TIGHT_BYTES
from shoal_server.node.memory import Account
from shoal_server.node.settings import NodeSettings
from shoal_server.shard.work import ROW_US

from .conftest import OneNode

MS = 1_000_000
EVERYTHING = (MicroshardRange(0, 4),)


def scan(number: int, timeout_ms: int = 60_000) -> Scan:
    return Scan(number, 1, 1, timeout_ms, EVERYTHING, b"", b"", reverse=False, keys_only=False, max_rows=1000)


def read(number: int, timeout_ms: int = 60_000) -> Read:
    return Read(number, 1, 1, timeout_ms, [b"key"])


class Leader(OneNode):
    """The node that leads."""

    def __init__(self, nodes: Any) -> None:
        super().__init__(nodes, nodes.leader)

    def turn(self, milliseconds: int = 1) -> Counter[int]:
        """Take a turn of this node alone, and return how many answers each client got."""
        return Counter({client: len(answers) for client, answers in self.take_turn(milliseconds).items()})


def filled(nodes: Any, rows: int = 500) -> Leader:
    for at in range(0, rows, 100):
        nodes.answer(nodes.write(*(Put(b"key%04d" % number, b"v" * 20) for number in range(at, at + 100))))
    return Leader(nodes)


def test_a_flood_of_scans_is_served_over_many_turns_and_a_get_beside_it_in_one(nodes: Any) -> None:
    leader = filled(nodes)
    leader.send(7, *(scan(number) for number in range(200)))
    leader.turn()
    leader.send(8, read(1))
    answered = leader.turn()
    assert answered[8] == 1
    most = serving.SERVE_NS // (500 * ROW_US * 1_000) + 2
    assert answered[7] <= most
    turns = 2
    while len(leader.answers[7]) < 200:
        assert leader.wake_at <= nodes.now, "the next turn goes on at once"
        assert leader.turn()[7] <= most
        turns += 1
    assert turns > 10
    assert not any(isinstance(answer, Failure) for answer in leader.answers[7])


def test_status_and_maps_and_checksums_in_thousands_leave_room_for_the_manager(nodes: Any) -> None:
    leader = Leader(nodes)
    for flood in (
        [GetStatus(number) for number in range(2_000)],
        [GetShardMap(number) for number in range(20_000)],
        [ReadChecksum(number, 1, EVERYTHING, START, 1000) for number in range(8_000)],
    ):
        leader.send(7, *flood)
        leader.turn()
        leader.send(8, GetStatus(1), Ping(2), read(3))
        assert leader.turn()[8] == 3
        assert leader.turn()[7] <= turn_length.TURN_NS // request_costs.REQUEST_NS
        leader.node.client_gone(7)


def test_what_its_caller_does_not_wait_for_any_more_is_not_done(nodes: Any) -> None:
    leader = filled(nodes)
    leader.send(7, *(scan(number, timeout_ms=20) for number in range(100)))
    while leader.turn(5):
        pass
    late = [answer for answer in leader.answers[7] if isinstance(answer, Failure)]
    assert len(leader.answers[7]) == 100
    assert late
    assert all(each.code == ErrorCode.DEADLINE_EXCEEDED and not each.maybe_applied for each in late)
    assert len(late) < 100, "those that were in time were served"


def test_whoever_waits_behind_others_is_told_when_its_time_is_over(nodes: Any) -> None:
    leader = filled(nodes)
    leader.node.client_connected(7, b"", "background")
    leader.send(7, *(scan(number) for number in range(1_000)), scan(1_000, timeout_ms=200))
    for _ in range(6):
        leader.turn(50)
    [late] = [answer for answer in leader.answers[7] if isinstance(answer, Failure)]
    assert late.request == 1_000
    assert late.code == ErrorCode.DEADLINE_EXCEEDED
    assert not late.maybe_applied
    assert len(leader.answers[7]) < 500


def test_what_a_client_asked_who_is_gone_is_dropped(nodes: Any) -> None:
    leader = filled(nodes)
    before = leader.node.counters.requests.get(Scan, 0)
    leader.send(7, *(scan(number) for number in range(1000)))
    leader.turn()
    leader.node.client_gone(7)
    taken = leader.node.counters.requests[Scan] - before
    leader.turn()
    assert leader.node.counters.requests[Scan] - before == taken < 1000
    assert leader.node.queues()["client_requests_waiting"] == (0, 0)


def test_a_client_of_whom_too_much_waits_is_read_from_again_when_half_of_it_is_done(nodes: Any) -> None:
    leader = filled(nodes)
    most = nodes.settings.limits.client_requests
    assert leader.send(7, *(read(number) for number in range(most)))
    assert not leader.send(7, read(most))
    while not leader.resumed:
        leader.turn()
    assert leader.resumed == [7]
    assert most / 4 < len(leader.answers[7]) <= most
    leader.turn()
    assert not leader.send(7, read(most + 1), size=QUEUED_BYTES + 1)


def test_a_client_that_reads_no_answers_is_asked_for_none_until_it_does(nodes: Any) -> None:
    leader = filled(nodes)
    leader.node.client_is_behind(7, True)
    leader.send(7, read(0))
    leader.node.client_is_behind(7, True)
    leader.send(7, *(read(number) for number in range(1, 5)), Ping(5))
    before = leader.turn()[7] + leader.turn()[7]
    assert leader.wake_at > nodes.now, "nothing is to be done meanwhile"
    leader.node.client_is_behind(7, False)
    leader.turn()
    assert before + len(leader.answers[7]) >= 6
    assert len(leader.answers[7]) == 6


def test_who_is_not_read_from_hears_that_it_is_not_forgotten(nodes: Any) -> None:
    leader = filled(nodes)
    leader.node.client_connected(7, b"", Priority.BACKGROUND.value)
    most = nodes.settings.limits.client_requests
    leader.send(7, *(scan(number) for number in range(most + 1)))
    signs = 0
    for _ in range(20):
        # Others have all of the node's time.
        leader.send(8, *(scan(number) for number in range(40)))
        leader.turn(50)
    signs = sum(isinstance(answer, Working) for answer in leader.answers[7])
    heard = len(leader.answers[7])
    assert heard >= 3
    assert signs <= 20 * 50 // 250 + 1


def test_a_queue_that_stands_is_shed_and_what_is_left_is_served_in_time(nodes: Any) -> None:
    leader = filled(nodes)
    number = 0
    for _ in range(100):
        leader.send(7, *(scan(number + each) for each in range(30)))
        number += 30
        leader.turn(5)
    failures = [answer for answer in leader.answers[7] if isinstance(answer, Failure)]
    assert failures
    assert all(each.code == ErrorCode.OVERLOADED and not each.maybe_applied for each in failures)
    assert all(each.reason == OverloadReason.NODE_BUSY and 25 <= each.retry_after_ms <= 250 for each in failures)
    served = len(leader.answers[7]) - len(failures)
    assert served > 100, "what the node can do, it does"
    assert leader.node.overload.delay_ns > 0
    assert leader.node.overload.shed[OverloadReason.NODE_BUSY, Priority.INTERACTIVE, 1] == len(failures)
    assert leader.node.queues()["client_requests_waiting"][0] < 300


def test_an_address_gains_nothing_by_more_connections(nodes: Any) -> None:
    leader = Leader(nodes)
    leader.node.client_connected(7, b"", address="10.0.0.2")
    leader.send(7, *(read(number) for number in range(8_000)))
    for client in range(100, 150):
        leader.node.client_connected(client, b"", address="10.0.0.1")
        leader.send(client, *(read(number) for number in range(200)))
    leader.turn()
    answered: Counter[int] = Counter()
    for _ in range(4):
        answered += leader.turn()
    others = answered.total() - answered[7]
    assert 0.8 * others < answered[7] < 1.25 * others


def test_who_has_one_request_waiting_is_not_refused_for_what_hundreds_ask(nodes: Any) -> None:
    leader = filled(nodes)
    for client in range(100, 356):
        leader.send(client, *(scan(number) for number in range(4)))
    leader.turn()
    leader.send(7, scan(1))
    for number in range(40):
        leader.send(8, read(number))
        leader.turn(20)
        assert len(leader.answers.get(8, ())) >= number
    assert not any(isinstance(answer, Failure) for client in (7, 8) for answer in leader.answers.get(client, ()))


def test_more_pages_than_may_be_open_are_all_served_and_no_turn_is_for_nothing(nodes: Any) -> None:
    leader = filled(nodes, 3_000)
    clients = range(100, 300)
    for client in clients:
        leader.send(client, scan(1))
    turns = 0
    while len(leader.answers) < len(clients):
        assert leader.wake_at <= nodes.now if turns else True
        leader.turn()
        turns += 1
        assert turns < 3_000
    assert not any(isinstance(answer, Failure) for answers in leader.answers.values() for answer in answers)


def test_a_burst_that_is_over_soon_is_served_whole(nodes: Any) -> None:
    leader = filled(nodes)
    leader.send(7, *(scan(number) for number in range(60)))
    for _ in range(30):
        leader.turn(3)
    assert len(leader.answers[7]) == 60
    assert not any(isinstance(answer, Failure) for answer in leader.answers[7])


def test_what_there_is_no_memory_for_is_refused_in_words_and_the_rest_is_served(make_nodes: Any) -> None:
    nodes = make_nodes(NodeSettings(memory_bytes=128 << 20))
    leader = filled(nodes)
    bound = leader.node.memory.bound(Account.REQUESTS)
    for client in range(10, 20):
        leader.send(client, *(read(number) for number in range(100)), size=bound // 5)
    for _ in range(100):
        leader.turn()
    answers = [answer for client in range(10, 20) for answer in leader.answers[client]]
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    assert len(answers) == 1000
    assert {len(leader.answers[client]) for client in range(10, 20)} == {100}
    assert 300 <= len(failures) <= 700
    assert all(each.reason == OverloadReason.MEMORY and "limits.memory" in each.message for each in failures)
    assert leader.node.memory.used(Account.REQUESTS) == 0, "what is done is given back"


def test_memory_of_a_client_that_is_gone_is_given_back(nodes: Any) -> None:
    leader = filled(nodes)
    leader.send(7, *(scan(number) for number in range(300)))
    leader.turn()
    leader.send(7, scan(300))
    assert leader.node.memory.used(Account.REQUESTS) > 0
    leader.node.client_gone(7)
    leader.turn()
    assert leader.node.memory.used(Account.REQUESTS) == 0


def test_control_is_not_shed(nodes: Any) -> None:
    leader = filled(nodes)
    for round_ in range(50):
        leader.send(7, *(scan(round_ * 100 + each) for each in range(30)))
        leader.send(7, Ping(90_000 + round_))
        leader.turn(10)
    assert sum(isinstance(answer, Done) for answer in leader.answers[7]) >= 49


def test_a_flood_of_long_frames_is_queued_over_many_turns_and_the_small_ones_of_others_come_before(nodes: Any) -> None:
    leader = filled(nodes, 0)
    queue = leader.node._client_input.queue
    most = client_input.QUEUE_NS // request_costs.QUEUED_NS
    leader.send(6, *(read(number) for number in range(5000)))
    leader.turn()
    for client in range(10, 30):
        leader.send(client, *(read(number) for number in range(4000)))
    leader.send(8, read(1))
    waited = queue.length
    leader.turn()
    assert queue.length - waited <= most + 4000
    assert queue.arrived
    leader.turn()
    assert leader.answers[8], "it did not wait until all of theirs were queued"
    while leader.turn():
        pass
    assert all(len(leader.answers[client]) == 4000 for client in range(10, 30))


def test_where_memory_is_tight_a_client_is_read_from_again_when_half_of_what_it_may_send_then_is_done(
    make_nodes: Any,
) -> None:
    leader = Leader(make_nodes(NodeSettings(memory_bytes=128 << 20)))
    memory, node = leader.node.memory, leader.node
    memory.add(Account.REQUESTS, memory.bound(Account.REQUESTS) * 4 // 5)
    node.client_connected(7, b"", "interactive", "10.0.0.1")
    # Nothing of it is taken while it does not read its answers.
    node.client_is_behind(7, True)
    assert leader.send(7, read(1), size=TIGHT_BYTES // 2)
    assert not leader.send(7, read(2), size=TIGHT_BYTES)
    leader.turn()
    assert leader.resumed == []
    node.client_is_behind(7, False)
    leader.turn()
    assert leader.resumed == [7]
    node.client_is_behind(7, True)
    assert not leader.send(7, read(3), size=2 * TIGHT_BYTES)
    memory.give_back(Account.REQUESTS, memory.bound(Account.REQUESTS) // 5)
    leader.turn()
    assert leader.resumed == [7, 7], "memory is tight no more"
