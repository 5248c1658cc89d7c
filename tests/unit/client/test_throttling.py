"""Clients that turn calls away themselves, of a node that refuses much: how many, which, for how long, and what comes of it."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
import shoal
from shoal.errors import ErrorCode, Overloaded
from shoal.protocol.messages import Done, Failure, GetShardMap, OpenSession, Ping, Read, Rows, Scan, Welcome, Write
from shoal.routing.calls import ReadCall
from shoal.routing.router import Router
from shoal.routing.shard_queue import ReadBatch, WriteBatch
from shoal.routing.throttle import LEAST_REQUESTS, MOST, Throttle
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

# -- how many ----------------------------------------------------------------------------------------------------------


def after(accepted: int, refused: int, now: float = 0.0) -> Throttle:
    throttle = Throttle(now)
    for _ in range(accepted):
        throttle.accepted(1.0, now)
    for _ in range(refused):
        throttle.refused(1.0, now)
    return throttle


@pytest.mark.parametrize(
    ("accepted", "refused", "probability"),
    [
        (0, 0, 0),
        (1000, 0, 0),
        (0, 9, 0),
        (50, 50, 0),
        (49, 51, 2 / 101),
        (100, 300, 200 / 401),
        (0, 20, MOST),
        (0, 10_000, MOST),
    ],
)
def test_as_much_is_turned_away_as_leaves_about_twice_what_is_accepted(
    accepted: int, refused: int, probability: float
) -> None:
    assert after(accepted, refused).probability(0.0) == pytest.approx(probability)


def test_a_few_refusals_turn_nothing_away() -> None:
    assert after(0, int(LEAST_REQUESTS) - 1).probability(0.0) == 0


def test_what_is_turned_away_counts_as_asked_for() -> None:
    throttle = after(100, 300)
    before = throttle.probability(0.0)
    throttle.turned_away(100.0, 0.0)
    assert throttle.probability(0.0) > before


def test_what_is_long_past_counts_no_more() -> None:
    throttle = after(0, 1000)
    assert throttle.probability(1.0) == MOST
    assert throttle.probability(30.0) == 0


def test_a_node_that_accepts_everything_again_is_asked_for_everything_within_seconds() -> None:
    """At a steady 100 requests a second, of which so many are sent as may be, and none accepted for a long time."""
    throttle, now = Throttle(0.0), 0.0
    for _ in range(6000):
        now += 0.01
        sent = 1.0 - throttle.probability(now)
        throttle.turned_away(1.0 - sent, now)
        throttle.refused(sent, now)
    began = now
    while throttle.probability(now) > 0:
        now += 0.01
        sent = 1.0 - throttle.probability(now)
        throttle.turned_away(1.0 - sent, now)
        throttle.accepted(sent, now)
    assert now - began < 5


# -- which -------------------------------------------------------------------------------------------------------------


def busy(cluster: Any, *kinds: type[Any], keyspace: int | None = None, code: ErrorCode = ErrorCode.OVERLOADED) -> Any:
    """A script by which requests of these kinds are refused."""

    def script(node: Any, request: Any) -> Any:
        if isinstance(request, kinds) and keyspace in (None, request.keyspace):
            return Failure(request.request, code, "too much", False, 5, reason="node_busy")
        return cluster.serve(node, request)

    return script


def throttled(db: shoal.AsyncClient) -> float:
    """How many calls the client has turned away itself."""
    [family] = [family for family in db.collect() if family.name == "shoal_client_throttled_calls"]
    return sum(sample.value for sample in family.samples)


async def overload(cluster: Any, db: shoal.AsyncClient) -> None:
    """Have the node refuse so much that the client turns most calls away itself, reads and writes."""
    cluster.script = busy(cluster, Write, Read, Scan)
    router, now = db._caller.driver.router, asyncio.get_running_loop().time

    def turned_away(kind: type) -> float:
        return max(link.throttles[1, kind].probability(now()) for link in router.network.links)

    async with asyncio.timeout(10):
        while throttled(db) < 5 or min(turned_away(ReadBatch), turned_away(WriteBatch)) < 0.8:
            await asyncio.gather(db.get("a", timeout=0.05), db.put("b", "1", timeout=0.05), return_exceptions=True)


async def test_calls_are_turned_away_at_once_and_say_so(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await overload(cluster, db)
        heard = await asyncio.gather(*(db.get("a", timeout=5) for _ in range(200)), return_exceptions=True)
        here = [error for error in heard if "turned away by this client" in str(error)]
        assert len(here) > 100
        for error in here:
            assert isinstance(error, Overloaded)
            assert (error.reason, error.retry_after, error.maybe_applied) == ("node_busy", 0.005, False)
            assert "the last refusal was: too much" in str(error)


@pytest.mark.parametrize("kind", ["get", "put", "eventual get", "increment"])
async def test_every_kind_of_call_is(cluster: Any, kind: str) -> None:
    def call(db: shoal.AsyncClient) -> Any:
        if kind == "put":
            return db.put("a", "2", timeout=3)
        if kind == "increment":
            return db.increment("n", timeout=3)
        return db.get("a", timeout=3, consistency="eventual" if kind == "eventual get" else "strong")

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await overload(cluster, db)
        before = throttled(db)
        await asyncio.gather(*(call(db) for _ in range(100)), return_exceptions=True)
        assert throttled(db) - before > 30


async def test_many_calls_at_once_are_not_thinned_out(cluster: Any) -> None:
    """Of hundreds chance would end some, and all of them would be in vain."""
    keys = [f"k{number}" for number in range(300)]
    async with shoal.AsyncClient(cluster.url()) as db:
        await overload(cluster, db)
        refused = 0

        def some_refused(node: Any, request: Any) -> Any:
            nonlocal refused
            refused += isinstance(request, Read | Write)
            return busy(cluster, Write, Read)(node, request) if refused < 5 else cluster.serve(node, request)

        cluster.script = some_refused
        before = throttled(db)
        await db.put_many(dict.fromkeys(keys, "v"), timeout=10)
        refused = 0
        assert await db.get_many(keys, timeout=10) == [b"v"] * 300
        pipeline = db.pipeline()
        for key in keys:
            pipeline.get(key)
        assert await pipeline.execute() == [b"v"] * 300
        assert throttled(db) == before
        assert refused >= 5


async def test_refused_writes_have_no_reads_turned_away(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.script = busy(cluster, Write)
        async with asyncio.timeout(10):
            while throttled(db) < 5:
                await asyncio.gather(*(db.put("b", "1", timeout=0.05) for _ in range(4)), return_exceptions=True)
        before = throttled(db)
        assert await asyncio.gather(*(db.get("a") for _ in range(200))) == [b"1"] * 200
        assert throttled(db) == before


async def test_other_keyspaces_are_served_as_ever(cluster: Any) -> None:
    """One that has used up its quota is not to cost others anything, on the same node."""
    first = cluster.map

    def two_keyspaces() -> ShardMap:
        found = first()
        second = Keyspace(2, "second", 16, b"/")
        shard = Shard(9, 2, (MicroshardRange(0, 16),), tuple(cluster.names), leader="n1")
        return ShardMap(found.version, found.cluster, found.nodes, (*found.keyspaces, second), (*found.shards, shard))

    cluster.map = two_keyspaces
    cluster.leaders[9] = "n1"
    async with shoal.AsyncClient(cluster.url()) as db:
        other = db.keyspace("second")
        await db.put("a", "1")
        await overload(cluster, db)
        cluster.script = busy(cluster, Write, Read, keyspace=1)
        before = throttled(db)
        assert await asyncio.gather(*(other.get("a", timeout=5) for _ in range(200))) == [b"1"] * 200
        assert throttled(db) == before


async def test_one_node_that_is_busy_costs_the_others_nothing(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2, shards=2)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{number}": "v" for number in range(40)})
        served = sorted(key for key in cluster.rows if cluster.holds(2, cluster.keyspace.microshard_of(key)))

        def first_is_busy(node: Any, request: Any) -> Any:
            return busy(cluster, Write, Read)(node, request) if node.name == "n1" else cluster.serve(node, request)

        cluster.script = first_is_busy
        keys = sorted(set(cluster.rows) - set(served))
        async with asyncio.timeout(10):
            while throttled(db) < 5:
                await asyncio.gather(*(db.get(key, timeout=0.05) for key in keys), return_exceptions=True)
        before = throttled(db)
        assert await db.get_many(served * 20) == [b"v"] * len(served) * 20
        assert throttled(db) == before


async def test_a_weak_read_goes_to_a_replica_that_is_not_busy(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await asyncio.gather(*(db.get("a", consistency="eventual") for _ in range(300)))

        def two_are_busy(node: Any, request: Any) -> Any:
            return cluster.serve(node, request) if node.name == "n3" else busy(cluster, Read)(node, request)

        cluster.script = two_are_busy
        for _ in range(200):
            assert await db.get("a", consistency="eventual") == b"1"
        asked = [node for node, _ in cluster.asked[-100:]]
        assert asked.count("n3") == 100 - asked.count("n1") - asked.count("n2")
        assert asked.count("n1") + asked.count("n2") < 60, "they would be 100 if each were asked first"


@pytest.mark.parametrize("code", [ErrorCode.DEADLINE_EXCEEDED, ErrorCode.UNAVAILABLE])
async def test_other_refusals_and_silence_turn_nothing_away(cluster: Any, code: ErrorCode) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        for script in (busy(cluster, Write, Read, code=code), lambda _node, _request: None):
            cluster.script = script
            calls = [db.get("a", timeout=0.05) for _ in range(20)] + [db.put("a", "2", timeout=0.05) for _ in range(20)]
            for _ in range(10):
                await asyncio.gather(*calls, return_exceptions=True)
                calls = [db.get("a", timeout=0.02) for _ in range(20)]
            await asyncio.gather(*calls, return_exceptions=True)
        assert throttled(db) == 0


async def test_a_write_that_may_have_been_done_is_never_turned_away(cluster: Any) -> None:
    """Its number is what tells the outcome, however busy the node is."""
    async with shoal.AsyncClient(cluster.url(), timeout=20) as db:
        await db.put("a", "1")
        attempts: list[Write] = []
        chances: list[float] = []

        def lose_once(node: Any, request: Any) -> Any:
            if not isinstance(request, Write):
                return busy(cluster, Read)(node, request)
            attempts.append(request)
            if len(attempts) == 1:
                cluster.serve(node, request)
                node.drop_connections()
                return None
            if len(attempts) == 12:
                return cluster.serve(node, request)
            for throttle in db._caller.driver.router.network.link(node.address).throttles.values():
                # As if many others had been refused meanwhile.
                now = asyncio.get_running_loop().time()
                throttle.refused(1000.0, now)
                chances.append(throttle.probability(now))
            return busy(cluster, Write)(node, request)

        cluster.script = lose_once
        assert await db.increment("n") == 1
        assert len({(write.session, write.number) for write in attempts}) == 1
        assert throttled(db) == 0
        assert len(chances) >= 8
        assert min(chances) == MOST


async def test_nothing_that_is_not_an_applications_is_turned_away(cluster: Any) -> None:
    """Maps are fetched, sessions opened and pings answered, however much is refused."""
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await overload(cluster, db)
        router = db._caller.driver.router
        [link] = [link for link in router.network._links.values() if link.throttles]
        before = len(cluster.of_kind(GetShardMap))
        for _ in range(20):
            router.network.map_fetched()
            router.network.fetch_map(link, asyncio.get_running_loop().time())
            await asyncio.sleep(0.005)
            db._caller.driver._flush_soon()
        await asyncio.sleep(0.05)
        assert len(cluster.of_kind(GetShardMap)) - before == 20
    assert len(cluster.of_kind(OpenSession)) == 1


async def test_a_new_connection_begins_anew(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await overload(cluster, db)
        cluster.script = None
        cluster.nodes["n1"].drop_connections()
        await asyncio.sleep(0.05)
        before = throttled(db)
        assert await asyncio.gather(*(db.get("a") for _ in range(200))) == [b"1"] * 200
        assert throttled(db) == before


async def test_overloads_are_counted_by_what_there_was_too_much_of(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        await overload(cluster, db)
        [family] = [family for family in db.collect() if family.name == "shoal_client_overloads"]
        assert [dict(sample.labels) for sample in family.samples] == [{"reason": "node_busy"}]
        assert family.samples[0].value >= 10


# -- what comes of it --------------------------------------------------------------------------------------------------

SERVE_SECONDS = 0.005
REFUSE_SECONDS = 0.001
SHED_SECONDS = 0.02
WAY_SECONDS = 0.0005
CAPACITY = 1 / SERVE_SECONDS
SHARDS = 4
MICROSHARDS = 64


def shard_map() -> ShardMap:
    per = MICROSHARDS // SHARDS
    shards = (
        Shard(n, 1, (MicroshardRange((n - 1) * per, n * per),), ("n1",), leader="n1") for n in range(1, SHARDS + 1)
    )
    keyspace = Keyspace(1, "default", MICROSHARDS, b"/")
    return ShardMap(1, "c", (NodeAddress("n1", "n1:1"),), (keyspace,), tuple(shards), "id")


class World:
    """Routers, and one node that does one thing after the other, on simulated time.

    What has waited there for too long is refused, which costs less than to serve it, and something.
    """

    def __init__(self, clients: int) -> None:
        self.now = 0.0
        self.random = Random(1)
        self.done: list[float] = []
        """How long the calls took that were done."""
        self.failed = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0
        self._queue: deque[tuple[float, Application, Any]] = deque()
        self._working = False
        self.clients = [Application(self) for _ in range(clients)]

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self._made += 1
        heapq.heappush(self._events, (self.now + seconds, self._made, what))

    def run(self, seconds: float) -> None:
        """Forget what was done so far, and let time pass."""
        until = self.now + seconds
        self.done, self.failed = [], 0
        while self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    def offer(self, calls_a_second: float) -> None:
        for client in self.clients:
            client.offer(calls_a_second / len(self.clients))

    def arrive(self, client: Application, requests: list[Any]) -> None:
        self._queue += [(self.now, client, request) for request in requests]
        if not self._working:
            self._working = True
            self._work()

    def _work(self) -> None:
        if not self._queue:
            self._working = False
            return
        arrived, client, request = self._queue.popleft()
        took, waited = REFUSE_SECONDS, self.now - arrived
        answer: Any
        if isinstance(request, Ping):
            answer = Done(request.request)
        elif waited > request.timeout_ms / 1000:
            answer = Failure(request.request, ErrorCode.DEADLINE_EXCEEDED, "too late")
        elif waited > SHED_SECONDS:
            answer = Failure(
                request.request, ErrorCode.OVERLOADED, "busy", False, self.random.randint(25, 250), reason="node_busy"
            )
        else:
            took = SERVE_SECONDS * len(request.keys)
            answer = Rows(request.request, 1, "n1", [b"v"] * len(request.keys), [1] * len(request.keys))

        def finish() -> None:
            self.after(WAY_SECONDS, lambda: client.receive(answer))
            self._work()

        self.after(took, finish)


class Application:
    """Makes calls, at random times, of a rate that does not depend on what becomes of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._began: dict[int, float] = {}
        self._calls = 0
        self._rate = 0.0
        self._phase = 0
        self._wake_at = float("inf")
        self._router: Router[int] = Router(("n1:1",), Random(world.random.random()))
        self._router.network.discover(0.0)
        self._router.turn(0.0)
        welcome = Welcome(1, "c", "n1", "i", 1 << 24, 4096, 1 << 20, 8 << 20, shard_map(), cluster_id="id")
        self._router.link_up("n1:1", welcome, 0.0)

    def offer(self, calls_a_second: float) -> None:
        self._rate = calls_a_second
        self._phase += 1
        self._call_later(self._phase)

    def _call_later(self, phase: int) -> None:
        def call() -> None:
            if phase == self._phase:
                self._call()
                self._call_later(phase)

        self._world.after(self._world.random.expovariate(self._rate), call)

    def _call(self) -> None:
        world, router = self._world, self._router
        self._calls += 1
        self._began[self._calls] = world.now
        routed = router.routed("default")
        assert routed is not None
        key = b"%d" % world.random.randrange(1 << 32)
        router.read(routed, ReadCall(self._calls, world.now + 1.0, 8, key, False))
        self._turn()

    def receive(self, answer: Any) -> None:
        self._router.receive("n1:1", [answer], self._world.now)
        self._turn()

    def _turn(self) -> None:
        world = self._world
        turn = self._router.turn(world.now)
        for _, requests in turn.frames:
            world.after(WAY_SECONDS, lambda requests=requests: world.arrive(self, requests))  # type: ignore[misc]
        assert not turn.disconnects, "it does not hang"
        outcomes = self._router.take_outcomes()
        if outcomes is not None:
            for gets, _, _ in outcomes.read:
                for get in gets:
                    waiter, get.waiter = get.waiter, None
                    if waiter is not None:
                        world.done.append(world.now - self._began.pop(waiter))
            for waiter, _ in outcomes.failed:
                del self._began[waiter]
                world.failed += 1
        if turn.wake_at < self._wake_at:
            self._wake_at = turn.wake_at
            world.after(max(0.0, turn.wake_at - world.now), self._wake)

    def _wake(self) -> None:
        if self._world.now >= self._wake_at:
            self._wake_at = float("inf")
        self._turn()


def test_a_node_that_is_asked_for_three_times_what_it_can_do_goes_on_doing_it() -> None:
    world = World(10)
    world.offer(3 * CAPACITY)
    world.run(3)
    world.run(6)
    assert len(world.done) > 0.8 * 6 * CAPACITY
    world.offer(0.7 * CAPACITY)
    world.run(5)
    world.run(4)
    assert world.failed <= 0.01 * len(world.done), "five seconds after it is over, nobody feels it any more"
    assert sorted(world.done)[len(world.done) // 2] < 0.05


def test_without_that_it_would_do_less_than_half() -> None:
    """What the test before would look like if clients asked for whatever they want, and went on asking."""
    with patch.object(Throttle, "probability", lambda *_: 0.0):
        world = World(10)
        world.offer(3 * CAPACITY)
        world.run(3)
        world.run(6)
        assert len(world.done) < 0.5 * 6 * CAPACITY
