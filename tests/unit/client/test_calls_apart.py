"""A call that the leader cannot serve, since its shard lacks a microshard, keeps no other from being served."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from shoal.errors import ErrorCode, Unavailable
from shoal.key_sets import keys_of
from shoal.keys import microshard_of
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import (
    Applied,
    Atomic,
    Failure,
    GetShardMap,
    KeyAbsent,
    OpenSession,
    Put,
    Read,
    Rows,
    Scan,
    ScanPage,
    SessionOpened,
    ShardMapReply,
    Welcome,
    Write,
    Written,
)
from shoal.routing.apart import ATTEMPTS_A_SECOND, PATIENCE
from shoal.routing.calls import ReadCall, ScanCall, WriteCall
from shoal.routing.router import Router
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap, microshards_in, one_microshard

MICROSHARDS = 64
TIMEOUT = 4.0
STEP = 0.002
"""Seconds that a request and its answer take together."""

LACKING = 5
KEYS = [b"key-%d" % number for number in range(400)]


def about(key: bytes) -> int:
    return microshard_of(key, b"/", MICROSHARDS)


SERVED = [key for key in KEYS if about(key) != LACKING]
UNSERVED = [key for key in KEYS if about(key) == LACKING]


class Scene:
    """One node that leads the one shard, and lacks microshards of it; `asked` are all requests, and when they came."""

    def __init__(self, code: ErrorCode = ErrorCode.WRONG_SHARD, seed: int = 1) -> None:
        self.lacking = {LACKING}
        self.code = code
        self.now = 0.0
        self.version = 1
        self.asked: list[tuple[float, Any]] = []
        self.results: dict[Any, Any] = {}
        self.ended: dict[Any, float] = {}
        self.applied: list[bytes] = []
        self.sessions = 0
        self.lose: Callable[[Any], bool] = lambda request: False
        self.router: Router[Any] = Router(("s:1",), Random(seed))
        self.router.network.discover(self.now)
        self.turn()

    def shard(self) -> Shard:
        return Shard(1, 1, (MicroshardRange(0, MICROSHARDS),), ("n1",), leader="n1")

    def map(self) -> ShardMap:
        keyspace = Keyspace(1, "default", MICROSHARDS, b"/")
        return ShardMap(self.version, "c", (NodeAddress("n1", "s:1"),), (keyspace,), (self.shard(),))

    def submit(self, name: Any, call: Any) -> None:
        call.waiter, call.deadline = name, call.deadline or self.now + TIMEOUT
        routed = self.router.routed("default")
        assert routed is not None
        self.router.submit(routed, call)

    def get(self, key: bytes, max_staleness_ms: int = -1) -> None:
        self.submit(("get", key), ReadCall(None, 0.0, 8, key, False, None, max_staleness_ms))

    def put(self, key: bytes, fast: bool = False) -> None:
        self.submit(("put", key), WriteCall(None, 0.0, 8, Put(key, b"v"), None, fast))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.turn()
            self.now += STEP

    def turn(self) -> None:
        turn = self.router.turn(self.now)
        for address in turn.connects:
            welcome = Welcome(1, "c", "n1", "i", 1 << 24, 4096, 1 << 20, 8 << 20, self.map(), cluster_id="id")
            self.router.link_up(address, welcome, self.now)
        for link, requests in turn.frames:
            answers = []
            for request in requests:
                self.asked.append((self.now, request))
                answers.append(self.answer(request))
                if self.lose(request):
                    self.router.link_down(link.address, "lost", None, self.now)
                    break
            else:
                self.router.receive(link.address, answers, self.now + STEP)
        outcomes = self.router.take_outcomes()
        if outcomes is None:
            return
        for calls, result, _ in outcomes.written:
            for call in calls:
                self.end(call, result)
        for gets, rows, _ in outcomes.read:
            for get, value in zip(gets, rows.values, strict=True):
                self.end(get, value)
        for scan, page, _ in outcomes.scanned:
            self.end(scan, page)
        for waiter, error in outcomes.failed:
            self.results[waiter] = error
            self.ended[waiter] = self.now

    def end(self, call: Any, result: Any) -> None:
        if call.waiter is not None:
            self.results[call.waiter], call.waiter = result, None

    def answer(self, request: Any) -> Any:
        number = request.request
        if isinstance(request, GetShardMap):
            return ShardMapReply(number, self.map())
        if isinstance(request, OpenSession):
            self.sessions += 1
            return SessionOpened(number, self.sessions.to_bytes(16, "big"))
        if isinstance(request, Scan):
            if self.lacking.intersection(microshards_in(request.ranges)):
                return self.refusal(request)
            return ScanPage(number, 1, "n1", [], [], [], None)
        if isinstance(request, Read):
            if self.lacking.intersection(map(about, request.keys)):
                return self.refusal(request)
            return Rows(number, 1, "n1", [b"v"] * len(request.keys), [1] * len(request.keys))
        assert isinstance(request, Write)
        operations = operations_decoder.decode(request.operations)
        keys = [key for operation in operations for key in keys_of(operation)]
        if self.lacking.intersection(map(about, keys)):
            return self.refusal(request)
        self.applied += keys
        return Written(number, 1, [Applied([]) for operation in operations if isinstance(operation, Atomic)])

    def refusal(self, request: Any) -> Failure:
        return Failure(request.request, self.code, "not here", route=self.shard(), map_version=self.version)

    @property
    def requests(self) -> list[Any]:
        return [request for _, request in self.asked]


@pytest.mark.parametrize("code", [ErrorCode.WRONG_SHARD, ErrorCode.UNAVAILABLE])
@pytest.mark.parametrize("how", ["get", "weak get", "put", "fast put"])
def test_the_others_of_a_batch_are_served_at_once(how: str, code: ErrorCode) -> None:
    scene = Scene(code)
    for key in KEYS:
        if how.endswith("get"):
            scene.get(key, 0 if how == "weak get" else -1)
        else:
            scene.put(key, fast=how == "fast put")
    scene.run(0.15)
    assert sorted(key for _, key in scene.results) == sorted(SERVED)
    assert not any(isinstance(result, Exception) for result in scene.results.values())
    scene.run(TIMEOUT)
    for key in UNSERVED:
        error = scene.results[how.split(" ")[-1], key]
        assert isinstance(error, Unavailable)
        assert not error.maybe_applied
        assert "not here" in str(error)
    assert sorted(scene.applied) == (sorted(SERVED) if how.endswith("put") else [])


def test_who_comes_later_does_not_wait_for_what_is_unserved_nor_is_refused_with_it() -> None:
    scene = Scene()
    for key in KEYS[:100]:
        scene.get(key)
        scene.put(key)
    scene.run(0.3)
    for number in range(500):
        served, unserved = SERVED[number % len(SERVED)], UNSERVED[number % len(UNSERVED)]
        scene.results.clear()
        scene.get(served)
        scene.put(served)
        scene.get(unserved)
        scene.put(unserved)
        scene.turn()
        assert set(scene.results) >= {("get", served), ("put", served)} or number == 0
        scene.now += STEP
        scene.turn()
    attempts = [
        request
        for at, request in scene.asked
        if at > 0.4 and isinstance(request, Read) and scene.lacking.intersection(map(about, request.keys))
    ]
    assert 3 < len(attempts) <= ATTEMPTS_A_SECOND, "they ask now and then, one at a time"
    assert all(len(request.keys) == 1 for request in attempts)


def test_what_comes_to_the_shard_is_served_soon_all_of_it() -> None:
    scene = Scene(ErrorCode.UNAVAILABLE)
    scene.lacking = set(range(1, MICROSHARDS))
    for key in KEYS:
        scene.get(key)
        scene.put(key)
    scene.run(1.0)
    asked = len(scene.asked)
    scene.run(1.0)
    assert len(scene.asked) - asked <= 1.2 * ATTEMPTS_A_SECOND, "however many microshards are lacking"
    scene.lacking = set()
    scene.run(0.3)
    assert len(scene.results) == 2 * len(KEYS)
    assert not any(isinstance(result, Exception) for result in scene.results.values())
    assert sorted(scene.applied) == sorted(KEYS)
    scene.run(TIMEOUT)
    scene.get(KEYS[0])
    scene.turn()
    assert scene.router._shard_queues[1].apart is None, "nothing is remembered for ever"


def test_a_moment_without_a_microshard_costs_no_more_requests_than_attempts() -> None:
    scene = Scene(ErrorCode.UNAVAILABLE)
    for key in KEYS:
        scene.get(key)
    scene.turn()
    scene.lacking = set()
    scene.run(0.05)
    assert len(scene.results) == len(KEYS)
    assert len([request for request in scene.requests if isinstance(request, Read)]) == 2


def test_a_batch_that_may_have_been_applied_keeps_its_number_and_others_get_theirs() -> None:
    scene = Scene()
    scene.put(SERVED[0])
    scene.run(0.1)
    scene.lose = lambda request: isinstance(request, Write)
    for key in (*UNSERVED[:1], SERVED[1]):
        scene.put(key)
    scene.turn()
    scene.lose = lambda request: False
    sent = next(request for request in reversed(scene.requests) if isinstance(request, Write))
    scene.run(0.5)
    for key in SERVED[2:102]:
        scene.put(key)
        scene.run(2 * STEP)
        assert ("put", key) in scene.results
    scene.run(TIMEOUT)
    for key in (*UNSERVED[:1], SERVED[1]):
        assert scene.results["put", key].maybe_applied
    same = [
        request
        for request in scene.requests
        if isinstance(request, Write) and bytes(request.operations) == bytes(sent.operations)
    ]
    assert len(same) > PATIENCE
    assert {(request.session, request.number) for request in same} == {(sent.session, sent.number)}
    assert not any(
        scene.lacking.intersection(
            about(key) for operation in operations_decoder.decode(request.operations) for key in keys_of(operation)
        )
        for request in scene.requests
        if isinstance(request, Write) and request not in same
    ), "nothing that may have been done is sent under another number"


def test_a_scan_of_all_microshards_keeps_no_get_of_one_of_them() -> None:
    scene = Scene()
    ranges = (MicroshardRange(0, MICROSHARDS),)
    scene.submit("all", ScanCall(None, 0.0, 8, ranges, b"", b"", False, False, 10))
    scene.submit("one", ScanCall(None, 0.0, 8, one_microshard(7), b"", b"", False, False, 10))
    wide = Atomic([KeyAbsent(SERVED[0])], [Put(SERVED[0], b"v"), Put(UNSERVED[0], b"v")])
    scene.submit("wide", WriteCall(None, 0.0, 8, wide, None, False, {about(SERVED[0]), LACKING}))
    scene.put(SERVED[0])
    scene.run(0.2)
    scene.get(SERVED[0])
    scene.run(0.01)
    assert set(scene.results) == {"one", ("put", SERVED[0]), ("get", SERVED[0])}
    scene.lacking = set()
    scene.run(0.4)
    assert isinstance(scene.results["all"], ScanPage)
    assert scene.results["wide"].results == ()


def test_each_call_ends_at_its_own_deadline() -> None:
    scene = Scene()
    for number, key in enumerate(UNSERVED):
        scene.submit(number, ReadCall(None, 0.5 + 0.1 * number, 8, key, False))
    scene.run(TIMEOUT)
    for number in range(len(UNSERVED)):
        assert 0 <= scene.ended[number] - (0.5 + 0.1 * number) < 0.02


def test_what_is_unserved_follows_a_newer_map_and_takes_no_part_in_the_retry_budget() -> None:
    scene = Scene()
    tokens = scene.router._answers._budget._tokens
    for key in KEYS:
        scene.get(key)
    scene.run(1.0)
    assert scene.router._answers._budget._tokens >= tokens
    assert scene.router.counters.retries > PATIENCE
    scene.lacking, scene.version = set(), 2
    scene.router._adopt(scene.map(), scene.router.network.link("s:1"))
    scene.run(0.3)
    assert len(scene.results) == len(KEYS)
