"""HTTP/2 as callers send it, taken apart and put together again: what is changed, and what waits."""

from __future__ import annotations

import random

import pytest
from shoal_server.api.front import requests as front
from shoal_server.api.front.requests import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    Answers,
    Requests,
    Wait,
    frame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
BLOCK = b"\x83\x86"


class Ledger:
    """Gives as many bytes and resets as it has."""

    def __init__(self, room: int = 1 << 30, resets: int = 1 << 30) -> None:
        self.room = room
        self.resets = resets

    def may_reset(self) -> bool:
        self.resets -= self.resets > 0
        return self.resets > 0

    def take(self, size: int) -> bool:
        if size > self.room:
            return False
        self.room -= size
        return True

    def give_back(self, size: int) -> None:
        self.room += size


def named(stream: int, connection: int = 7) -> bytes:
    value = f"{connection}.{stream}".encode()
    block = b"\x00\x0ashoal-call" + bytes((len(value),)) + value
    return frame(CONTINUATION, END_HEADERS, stream, block)


def message(body: bytes) -> bytes:
    return b"\x00" + len(body).to_bytes(4, "big") + body


def call(stream: int, body: bytes = b"hello") -> bytes:
    return frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(DATA, END_STREAM, stream, message(body))


def called(stream: int, body: bytes = b"hello") -> bytes:
    """What gRPC is to get of `call`."""
    return frame(HEADERS, 0, stream, BLOCK) + named(stream) + frame(DATA, END_STREAM, stream, message(body))


def passed(requests: Requests, data: bytes) -> bytes:
    requests.feed(data)
    return b"".join(requests.go_on(0.0))


@pytest.mark.parametrize("seed", range(20))
def test_each_call_gets_its_name_however_the_bytes_come(seed: int) -> None:
    chance = random.Random(seed)
    long_head = (
        frame(HEADERS, 0, 5, BLOCK) + frame(CONTINUATION, 0, 5, b"\x86") + frame(CONTINUATION, END_HEADERS, 5, b"")
    )
    unnamed = (
        frame(HEADERS, 0, 5, BLOCK) + frame(CONTINUATION, 0, 5, b"\x86") + frame(CONTINUATION, 0, 5, b"") + named(5)
    )
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 5, BLOCK)
    sent = PREFACE + call(1) + call(3, b"") + long_head + trailers + call(7, bytes(70_000))
    wanted = PREFACE + called(1) + called(3, b"") + unnamed + trailers + called(7, bytes(70_000))
    requests = Requests(7, 1 << 20, Ledger())
    got = b""
    while sent:
        size = chance.choice((1, 2, 5, 9, 100, 60_000))
        got += passed(requests, sent[:size])
        sent = sent[size:]
    assert got == wanted
    assert set(requests.calls) == {1, 3, 5, 7}
    assert not requests.coming


def test_a_call_that_is_given_up_waits_until_one_may_be() -> None:
    ledger = Ledger(resets=2)
    requests = Requests(7, 1 << 20, ledger)
    resets = [call(stream) + frame(RST_STREAM, 0, stream, bytes(4)) for stream in (1, 3, 5)]
    assert passed(requests, PREFACE + b"".join(resets)).endswith(called(3))
    assert requests.waits_for is Wait.RESET
    assert not requests.go_on(0.0)
    ledger.resets = 10
    assert b"".join(requests.go_on(0.0)) == frame(RST_STREAM, 0, 3, bytes(4)) + called(5) + frame(
        RST_STREAM, 0, 5, bytes(4)
    )
    assert not requests.calls


def test_a_reset_of_what_is_over_costs_nothing() -> None:
    requests = Requests(7, 1 << 20, Ledger(resets=0))
    passed(requests, PREFACE + call(1))
    Answers(requests).feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK))
    assert passed(requests, frame(RST_STREAM, 0, 1, bytes(4)))
    assert requests.waits_for is Wait.NOTHING


def test_a_message_waits_for_room_and_has_it_until_its_call_is_over() -> None:
    ledger = Ledger(room=1000)
    requests, other = Requests(7, 1 << 20, ledger), Requests(8, 1 << 20, ledger)
    passed(requests, PREFACE + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 0, 1, message(bytes(900))[:100]))
    assert ledger.room == 100
    assert list(requests.coming) == [1]
    body = frame(DATA, END_STREAM, 1, message(bytes(500)))
    assert not passed(other, PREFACE + frame(HEADERS, END_HEADERS, 1, BLOCK) + body).endswith(body[-1:] * 20)
    assert other.waits_for is Wait.ROOM
    # What is there of the first one goes on: whoever has room comes to its end.
    passed(requests, frame(DATA, END_STREAM, 1, message(bytes(900))[100:]))
    assert not requests.coming
    Answers(requests).feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK))
    assert ledger.room == 1000
    assert b"".join(other.go_on(0.0)) == bytes(500)
    assert ledger.room == 500
    other.close()
    assert ledger.room == 1000


def test_messages_of_a_stream_are_given_back_one_by_one() -> None:
    ledger = Ledger(room=1000)
    requests = Requests(7, 1 << 20, ledger)
    passed(requests, PREFACE + frame(HEADERS, END_HEADERS, 1, BLOCK))
    passed(requests, frame(DATA, 0, 1, message(bytes(600)) + message(bytes(300))))
    assert ledger.room == 100
    requests.done_with(1, 600)
    assert ledger.room == 700
    passed(requests, frame(RST_STREAM, 0, 1, bytes(4)))
    requests.done_with(1, 300)
    assert ledger.room == 1000


def test_a_message_that_grpc_refuses_takes_no_more_than_the_longest() -> None:
    ledger = Ledger(room=1000)
    requests = Requests(7, 400, ledger)
    passed(requests, PREFACE + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 0, 1, b"\x00\x7f\xff\xff\xff"))
    assert requests.waits_for is Wait.NOTHING
    assert ledger.room == 600


def test_a_flood_of_frames_has_its_turn_and_no_more() -> None:
    requests = Requests(7, 1 << 20, Ledger())
    passed(requests, PREFACE)
    one = frame(SETTINGS, 0, 0, b"")
    assert passed(requests, one * 1000) == one * front.FRAMES_A_TURN
    assert requests.waits_for is Wait.TURN
    assert b"".join(requests.go_on(0.0)) == one * front.FRAMES_A_TURN


@pytest.mark.parametrize("size", [1, 4, 9, 13, 1000])
def test_ends_of_calls_are_found_in_answers_however_they_come(size: int) -> None:
    requests = Requests(7, 1 << 20, Ledger())
    passed(requests, PREFACE + call(1) + call(3) + call(5))
    answers = Answers(requests)
    said = frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 0, 1, bytes(50)) + frame(RST_STREAM, 0, 3, bytes(4))
    said += frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK) + frame(DATA, END_STREAM, 9, b"")
    for at in range(0, len(said), size):
        answers.feed(said[at : at + size])
    assert list(requests.calls) == [5]
    assert requests.close() == 1
