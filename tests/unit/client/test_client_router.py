"""The pure router against every order of answers, failures and timeouts that hypothesis can think of."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal.errors import DeadlineExceeded, ErrorCode, OutcomeUnknown, Overloaded, TooStale, Unavailable
from shoal.key_sets import keys_of
from shoal.keys import microshard_of
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import (
    SESSION_WINDOW,
    Applied,
    Done,
    Failure,
    GetShardMap,
    Increment,
    OpenSession,
    Ping,
    Put,
    Read,
    Rows,
    SessionOpened,
    ShardMapReply,
    Welcome,
    Write,
    Written,
)
from shoal.routing import shard_queue
from shoal.routing.calls import ReadCall, WriteCall
from shoal.routing.router import Router
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

NODES = ("n1", "n2", "n3")
SHARDS = 2
MICROSHARDS = 4
TIMEOUT = 5.0


def shard(number: int, leader: str) -> Shard:
    per = MICROSHARDS // SHARDS
    return Shard(number, 1, (MicroshardRange((number - 1) * per, number * per),), NODES, leader=leader)


@dataclass
class World:
    """Nodes as one shared state, a network that holds every request until it is told what becomes of it."""

    random: Random
    router: Router[int] = field(init=False)
    now: float = 0.0
    leader: str = "n1"
    up: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    wire: list[tuple[str, Any]] = field(default_factory=list)
    sessions: dict[bytes, dict[int, int]] = field(default_factory=dict)
    operations_of: dict[tuple[int, int], bytes] = field(default_factory=dict)
    opened: int = 0
    seq: int = 0
    applied: list[int] = field(default_factory=list)
    waiting: dict[int, bool] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    calls: dict[int, Any] = field(default_factory=dict)
    fast: dict[tuple[int, int], bool] = field(default_factory=dict)
    too_stale: set[str] = field(default_factory=set)
    lacking: set[int] = field(default_factory=set)
    lacked: bool = False
    lacking_code: ErrorCode = ErrorCode.WRONG_SHARD

    def __post_init__(self) -> None:
        self.router = Router(("s:1",), self.random)
        self.router.network.discover(self.now)
        self.turn()

    def address(self, node: str) -> str:
        return "s:1" if node == "n1" else f"{node}:1"

    def node(self, address: str) -> str:
        return "n1" if address == "s:1" else address[:2]

    def map(self) -> ShardMap:
        return ShardMap(
            1,
            "c",
            tuple(NodeAddress(node, self.address(node)) for node in NODES),
            (Keyspace(1, "default", MICROSHARDS, b"/"),),
            tuple(shard(number, "n1") for number in range(1, SHARDS + 1)),
        )

    def welcome(self, node: str) -> Welcome:
        return Welcome(1, "c", node, "i", 1 << 24, 4096, 1 << 20, 8 << 20, self.map(), cluster_id="id")

    # -- the driver's side ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        turn = self.router.turn(self.now)
        for link, requests in turn.frames:
            for request in requests:
                self.check_sent(request)
                self.wire.append((link.address, request))
        for address in turn.connects:
            if address in self.dead:
                self.router.link_down(address, "refused", None, self.now)
                continue
            self.up.add(address)
            self.router.link_up(address, self.welcome(self.node(address)), self.now)
        for address, reason, refusal, _ in turn.disconnects:
            self.lose(address, reason, refusal)
        self.collect()
        if turn.connects or turn.disconnects:
            self.turn()

    def check_sent(self, request: Any) -> None:
        if isinstance(request, Read):
            self.check_in_time(request.keys)
        if isinstance(request, Write):
            name = (request.session, request.number)
            if name not in self.operations_of:
                operations = operations_decoder.decode(request.operations)
                self.check_in_time([key for operation in operations for key in keys_of(operation)])
            known = self.operations_of.setdefault(name, bytes(request.operations))
            assert known == bytes(request.operations), "a number never changes its operations"
            newest = max(number for session, number in self.operations_of if session == request.session)
            assert newest - request.number < SESSION_WINDOW
            self.fast[name] = request.fast
            if self.lacked:
                return  # what goes apart waits for no other write
            of_kind = [
                number for session, number in self.operations_of
                if session == request.session and self.fast[session, number] is request.fast
            ]  # fmt: skip
            assert max(of_kind) - request.number < shard_queue.WRITES_IN_FLIGHT

    def check_in_time(self, keys: list[bytes]) -> None:
        """A write that may have been applied goes on as it is; of all else nothing is sent that has expired."""
        assert all(self.calls[int(key)].deadline > self.now for key in keys), "nothing that has expired is sent"

    def collect(self) -> None:
        outcomes = self.router.take_outcomes()
        if outcomes is None:
            return
        for calls, result, _ in outcomes.written:
            for call in calls:
                self.complete(call, result)
        for gets, rows, _ in outcomes.read:
            for get, value in zip(gets, rows.values, strict=True):
                self.complete(get, (value, rows.served_by))
        for waiter, error in outcomes.failed:
            self.told(waiter, error)

    def complete(self, call: Any, result: Any) -> None:
        if call.waiter is not None:
            waiter, call.waiter = call.waiter, None
            self.told(waiter, result)

    def told(self, waiter: int, result: Any) -> None:
        assert waiter in self.waiting, "a cancelled call is told nothing"
        assert waiter not in self.results, "a call ends once"
        self.results[waiter] = result

    def lose(self, address: str, reason: str = "lost", refusal: ErrorCode | None = None) -> None:
        if address not in self.up:
            return
        self.wire = [(at, request) for at, request in self.wire if at != address]
        self.up.discard(address)
        self.router.link_down(address, reason, refusal, self.now)

    # -- the nodes' side -----------------------------------------------------------------------------------------------

    def lacks(self, key: bytes) -> bool:
        return microshard_of(key, b"/", MICROSHARDS) in self.lacking

    def lack(self, *microshards: int) -> None:
        """The shards' logs have all but these, whatever the map says."""
        self.lacking = set(microshards)
        self.lacked = True

    def refuse(self, request: Any) -> Failure:
        return Failure(
            request.request, self.lacking_code, "not here", route=shard(request.shard, self.leader), map_version=1
        )

    def answer(self, address: str, request: Any, *, apply: bool = True) -> Any:
        number = request.request
        if isinstance(request, Ping):
            return Done(number)
        if isinstance(request, GetShardMap):
            return ShardMapReply(number, self.map())
        if isinstance(request, Read) and not request.freshness.strong:
            node = self.node(address)
            if node in self.too_stale:
                return Failure(number, ErrorCode.TOO_STALE, "too stale")
            if any(map(self.lacks, request.keys)):
                return self.refuse(request)
            return Rows(number, 1, node, [b"v"] * len(request.keys), [1] * len(request.keys))
        if self.node(address) != self.leader:
            return Failure(number, ErrorCode.NOT_LEADER, "no", route=shard(request.shard, self.leader))
        if isinstance(request, OpenSession):
            self.opened += 1
            opened = self.opened.to_bytes(16, "big")
            self.sessions[opened] = {}
            return SessionOpened(number, opened)
        if isinstance(request, Read):
            if any(map(self.lacks, request.keys)):
                return self.refuse(request)
            return Rows(number, 1, self.leader, [b"v"] * len(request.keys), [1] * len(request.keys))
        session = self.sessions.get(request.session)
        if session is None:
            return Failure(number, ErrorCode.SESSION_EXPIRED, "who?")
        keys = [key for operation in operations_decoder.decode(request.operations) for key in keys_of(operation)]
        if request.number not in session and any(map(self.lacks, keys)):
            return self.refuse(request)
        if apply and request.number not in session:
            self.seq += 1
            session[request.number] = self.seq
            for operation in operations_decoder.decode(request.operations):
                self.applied.append(int(operation.key))
        results = [
            Applied([int(operation.key)])
            for operation in operations_decoder.decode(request.operations)
            if isinstance(operation, Increment)
        ]
        return Written(number, session.get(request.number, 0), results)  # type: ignore[arg-type]

    # -- what may happen -----------------------------------------------------------------------------------------------

    def submit(self, write: bool, timeout: float, kind: str = "") -> None:
        name = len(self.calls)
        self.waiting[name] = write
        routed = self.router.routed("default")
        assert routed is not None
        key = b"%d" % name
        call: Any
        if kind == "weak get":
            call = ReadCall(name, self.now + timeout, 8, key, False, None, 1000)
            self.router.submit(routed, call)
        elif kind == "fast put":
            call = WriteCall(name, self.now + timeout, 8, Put(key, b"v"), None, True)
            self.router.submit(routed, call)
        elif write:
            call = WriteCall(name, self.now + timeout, 8, Increment(key) if kind else Put(key, b"v"))
            self.router.write(routed, call)
        else:
            call = ReadCall(name, self.now + timeout, 8, key, False)
            self.router.read(routed, call)
        self.calls[name] = call
        if name % 2:
            self.turn()

    def cancel(self, at: int) -> None:
        waiting = [name for name in self.waiting if name not in self.results]
        if waiting:
            name = waiting[at % len(waiting)]
            self.calls[name].waiter = None
            del self.waiting[name]

    def deliver(self, at: int, fate: str) -> None:
        if not self.wire:
            return
        address, request = self.wire.pop(at % len(self.wire))
        if fate == "lost answer":
            self.answer(address, request)
            self.lose(address)
        elif fate == "lost request":
            self.lose(address)
        elif fate == "demoted" and isinstance(request, Write | Read | OpenSession):
            self.answer(address, request, apply=at % 2 == 0)
            failure = Failure(request.request, ErrorCode.NOT_LEADER, "demoted", maybe_applied=True)
            self.router.receive(address, [failure], self.now)
        elif fate == "overloaded" and isinstance(request, Write | Read | OpenSession):
            failure = Failure(request.request, ErrorCode.OVERLOADED, "full", retry_after_ms=at % 50)
            self.router.receive(address, [failure], self.now)
        elif fate == "dropped" and isinstance(request, Write | Read):
            failure = Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "too late")
            self.router.receive(address, [failure], self.now)
        else:
            self.router.receive(address, [self.answer(address, request)], self.now)
        self.collect()

    def heal(self) -> None:
        """Let time pass with a network that works, until every call has ended."""
        for _ in range(140):
            self.turn()
            while self.wire:
                self.deliver(0, "answered")
                self.turn()
            self.now += 0.05


FREQUENCIES = {
    "put": 20,
    "get": 8,
    "weak get": 8,
    "fast put": 6,
    "increment": 6,
    "stale": 3,
    "hasty put": 4,
    "answered": 22,
    "lost answer": 8,
    "lost request": 4,
    "demoted": 8,
    "overloaded": 5,
    "dropped": 5,
    "cancel": 4,
    "elect": 3,
    "forget sessions": 3,
    "lack": 3,
    "have all": 2,
    "lose": 2,
    "wait": 5,
    "wait long": 1,
    "turn": 6,
}
steps = st.sampled_from([name for name, frequency in FREQUENCIES.items() for _ in range(frequency)])
scripts = st.lists(st.tuples(steps, st.integers(0, 99)), min_size=60, max_size=150)


windows = st.sampled_from([1, 3, SESSION_WINDOW - 1])


def play(script: list[tuple[str, int]], seed: int, window: int) -> World:
    with patch.object(shard_queue, "WRITES_IN_FLIGHT", window):
        return _play(script, seed)


def _play(script: list[tuple[str, int]], seed: int) -> World:
    world = World(Random(seed))
    for _ in range(8):
        world.submit(True, TIMEOUT)
    world.heal()
    for name, at in script:
        if name in ("put", "get", "hasty put"):
            world.submit(name != "get", TIMEOUT if name != "hasty put" else (0.05, 0.001, -0.001)[at % 3])
        elif name in ("weak get", "fast put", "increment"):
            world.submit(name != "weak get", TIMEOUT if at % 4 else 0.05, name)
        elif name == "stale":
            world.too_stale ^= {NODES[at % len(NODES)]}
        elif name == "cancel":
            world.cancel(at)
        elif name == "elect":
            world.leader = NODES[at % len(NODES)]
        elif name == "forget sessions":
            world.sessions.clear()
        elif name == "lack":
            world.lacking_code = (ErrorCode.WRONG_SHARD, ErrorCode.UNAVAILABLE)[at % 2]
            world.lack(*(microshard for microshard in range(MICROSHARDS) if at >> 1 >> microshard & 1))
        elif name == "have all":
            world.lacking = set()
        elif name == "lose":
            world.lose(world.address(NODES[at % len(NODES)]))
        elif name.startswith("wait"):
            world.now += at / 1000 if name == "wait" else TIMEOUT
            world.turn()
        elif name == "turn":
            world.turn()
        else:
            world.deliver(at, name)
    world.heal()
    return world


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(scripts, st.integers(0, 2**32), windows)
def test_every_call_ends_once_and_every_write_is_told_the_truth(
    script: list[tuple[str, int]], seed: int, window: int
) -> None:
    world = play(script, seed, window)
    assert set(world.results) == set(world.waiting), "every call ends"
    for name, write in world.waiting.items():
        result = world.results[name]
        times_applied = world.applied.count(name)
        if write:
            assert times_applied <= 1, "a retried write is applied once"
            if isinstance(result, Exception):
                assert isinstance(result, DeadlineExceeded | OutcomeUnknown | Overloaded | Unavailable)
                assert result.maybe_applied or times_applied == 0, "surely not done means not done"
            else:
                assert times_applied == 1, "acknowledged means done"
                if isinstance(world.calls[name].operation, Increment):
                    assert result.results == (name,), "each gets its own result"
        elif not isinstance(result, Exception):
            assert result[0] == b"v"
        elif isinstance(result, TooStale):
            assert world.calls[name].max_staleness_ms > 0
        else:
            assert isinstance(result, DeadlineExceeded | Overloaded | Unavailable)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(scripts, st.integers(0, 2**32), windows)
def test_equal_seeds_and_events_give_equal_requests_and_outcomes(
    script: list[tuple[str, int]], seed: int, window: int
) -> None:
    first, second = play(script, seed, window), play(script, seed, window)
    assert first.operations_of == second.operations_of
    assert first.applied == second.applied
    assert {name: str(result) for name, result in first.results.items()} == {
        name: str(result) for name, result in second.results.items()
    }


@pytest.mark.parametrize("window", [1, 32])
def test_the_window_of_a_session_is_never_overrun(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_queue, "WRITES_IN_FLIGHT", window)
    world = World(Random(1))
    for _ in range(200):
        world.submit(True, TIMEOUT)
        world.turn()
        while any(isinstance(request, OpenSession) for _, request in world.wire):
            at = next(i for i, (_, request) in enumerate(world.wire) if isinstance(request, OpenSession))
            world.deliver(at, "answered")
            world.turn()
    sent = [request for _, request in world.wire if isinstance(request, Write)]
    assert len(sent) == SHARDS * window
    world.heal()
    assert sorted(world.applied) == list(range(200))


def test_a_batch_nobody_waits_for_any_more_is_not_sent_again() -> None:
    world = World(Random(1))
    world.submit(True, TIMEOUT)
    world.turn()
    world.deliver(0, "answered")
    world.turn()
    (at,) = [i for i, (_, request) in enumerate(world.wire) if isinstance(request, Write)]
    world.cancel(0)
    world.deliver(at, "lost request")
    world.heal()
    assert world.applied == []


def test_a_shard_that_changes_hands_costs_the_wait_it_asked_for_and_no_other() -> None:
    world = World(Random(1))
    for _ in range(8):
        world.submit(True, TIMEOUT)
    world.heal()
    world.submit(True, TIMEOUT)
    world.turn()
    world.deliver(0, "overloaded")
    world.now += 1.0
    world.turn()
    world.leader = "n2"
    world.deliver(0, "answered")
    world.turn()
    ((asked, _),) = world.wire
    assert asked == world.address("n2"), "no time has passed since the old leader said who leads"
    world.deliver(0, "answered")
    assert len(world.results) == 9


def write_after_the_leader_died() -> World:
    """A write has been sent to n2, after n1, which led, could not be reached any more."""
    world = World(Random(1))
    for _ in range(8):
        world.submit(True, TIMEOUT)
    world.heal()
    world.dead.add(world.address("n1"))
    world.lose(world.address("n1"))
    world.submit(True, TIMEOUT)
    world.turn()
    assert [asked for asked, _ in world.wire] == [world.address("n2")]
    return world


def test_who_names_a_leader_that_is_down_does_not_use_up_the_redirect_that_is_followed_at_once() -> None:
    world = write_after_the_leader_died()
    world.deliver(0, "answered")
    world.turn()
    assert not world.wire, "n2 has yet to hear that n1 is gone: it is asked again a little later"
    world.now += 1.0
    world.turn()
    world.leader = "n3"
    world.deliver(0, "answered")
    world.turn()
    assert [asked for asked, _ in world.wire] == [world.address("n3")]


def test_a_node_that_has_come_to_lead_when_it_answers_is_asked_again_at_once() -> None:
    world = write_after_the_leader_died()
    ((address, request),) = world.wire
    world.wire.clear()
    elected = Failure(request.request, ErrorCode.NOT_LEADER, "now I do", route=shard(request.shard, "n2"))
    world.router.receive(address, [elected], world.now)
    world.turn()
    assert [asked for asked, _ in world.wire] == [address]
    world.leader = "n2"
    world.deliver(0, "answered")
    assert len(world.results) == 9
