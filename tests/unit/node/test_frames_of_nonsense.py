"""What a frame costs that is refused: little, whatever is in it, and no more than what may be asked."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from shoal.protocol.messages import Failure, Ping
from shoal_server.node import request_frames
from shoal_server.node.memory import Account
from shoal_server.node.request_frames import MAX_IN_WORDS, MAX_REFUSED, TooManyRequests, decode_requests


def nonsense(count: int, first: int = 0) -> list[Any]:
    """Reads of a keyspace that there cannot be."""
    return [[12, first + number, 1, -1, 0, [b"k"]] for number in range(count)]


def test_what_is_wrong_is_looked_up_once_for_each_kind_of_message(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[Any] = []
    find = inspect.type_info

    def counting(kind: Any) -> Any:
        looked_up.append(kind)
        return find(kind)

    monkeypatch.setattr(inspect, "type_info", counting)
    request_frames._shape_of.cache_clear()
    for _ in range(5):
        assert len(decode_requests(msgspec.msgpack.encode(nonsense(10)), traced=False)[1]) == 10
    assert len(looked_up) == 1


def test_the_first_hear_what_is_wrong_the_others_that_they_are_like_them_and_the_rest_is_served() -> None:
    body = msgspec.msgpack.encode([*nonsense(500), [17, 900]])
    requests, failures = decode_requests(body, traced=False)
    assert requests == [Ping(900)]
    assert [failure.request for failure in failures] == list(range(500))
    assert {failure.code for failure in failures} == {"invalid_argument"}
    assert all(failure.message.startswith("Read.keyspace: ") for failure in failures[:MAX_IN_WORDS])
    assert not any("keyspace" in failure.message for failure in failures[MAX_IN_WORDS:])


def test_whoever_sends_nothing_else_is_not_answered_one_by_one() -> None:
    assert len(decode_requests(msgspec.msgpack.encode(nonsense(MAX_REFUSED)), traced=False)[1]) == MAX_REFUSED
    with pytest.raises(TooManyRequests, match=r"make no sense: Read\.keyspace"):
        decode_requests(msgspec.msgpack.encode(nonsense(MAX_REFUSED + 1)), traced=False)


@pytest.mark.parametrize("number", [0, 1, -1, 127, 128, -32, -33, 300, -300, 1 << 20, -(1 << 20), 1 << 40, -(1 << 40)])
def test_a_request_is_known_by_its_number_however_that_is_written(number: int) -> None:
    body = msgspec.msgpack.encode(nonsense(1, number))
    assert decode_requests(body, traced=False)[1][0].request == number


def test_of_a_huge_request_that_makes_no_sense_only_the_number_is_decoded() -> None:
    things = 1_000_000
    body = b"\x91\x96\x0c\x05\x01\x01\x00\xdf" + things.to_bytes(4, "big") + b"\x80" * 2 * things
    tracemalloc.start()
    try:
        _, [failure] = decode_requests(body, traced=False)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert failure.request == 5
    assert most < 1_000_000


def test_what_is_refused_counts_as_unanswered_until_a_turn_has_answered_it(nodes: Any) -> None:
    node = nodes.nodes[nodes.leader]
    most = nodes.nodes[nodes.leader].settings.limits.client_requests
    node.client_connected(7, b"")
    sent, taken = 0, True
    while taken:
        requests, failures = decode_requests(msgspec.msgpack.encode(nonsense(MAX_REFUSED, sent)), traced=False)
        taken = node.receive_client(7, [*requests, *failures], 20 * MAX_REFUSED)
        sent += MAX_REFUSED
        assert sent <= most + MAX_REFUSED, "it is read from, whatever it sends"
    answers: list[Any] = []
    while len(answers) < sent:
        nodes.now += 1_000_000
        turn = node.turn(nodes.now, nodes.wall_ms)
        if turn.sync is not None:
            node.synced(turn.sync)
        end = node.finish_turn(nodes.now)
        answers += [answer for answer in end.to_clients.get(7, []) if isinstance(answer, Failure)]
    assert node.memory.used(Account.REQUESTS) == 0
