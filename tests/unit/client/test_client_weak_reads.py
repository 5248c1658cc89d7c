"""Reads that need not be the leader's: who is asked, what is accepted, and what sessions remember."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, Freshness, Read, Scan
from shoal.routing.links import LinkState
from shoal.sessions import SessionVector, to_token
from shoal.shardmap import MicroshardRange


async def until(condition: Callable[[], object]) -> None:
    """Wait, one loop turn at a time, until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def connected_to_all(db: shoal.AsyncClient, cluster: Any) -> None:
    """Have the client connect to every node, as its weak reads do in the background."""
    network = db._caller.driver.router.network
    await db.get("k", consistency="eventual")
    links = [network.link(node.address) for node in cluster.nodes.values()]
    await until(lambda: all(link.state is LinkState.UP for link in links))
    cluster.asked.clear()


def asked(cluster: Any) -> list[str]:
    return [node for node, request in cluster.asked if isinstance(request, Read)]


def shard_of(cluster: Any, key: bytes) -> int:
    return next(shard for shard in cluster.leaders if cluster.holds(shard, cluster.keyspace.microshard_of(key)))


# -- arguments ---------------------------------------------------------------------------------------------------------


async def test_wrong_levels_and_bounds_are_refused(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        for bad in ({"consistency": "weak"}, {"consistency": "eventual", "max_staleness": 0}, {"max_staleness": 1}):
            for call in (db.get, db.get_entry, db.exists):
                with pytest.raises(shoal.InvalidArgument):
                    await call("k", **bad)
            with pytest.raises(shoal.InvalidArgument):
                await db.get_many(["k"], **bad)
            with pytest.raises(shoal.InvalidArgument):
                db.scan("k", **bad)
        for bound in (-1, float("nan"), float("inf"), "1", True):
            with pytest.raises(shoal.InvalidArgument, match="max_staleness"):
                await db.get("k", consistency="eventual", max_staleness=bound)  # type: ignore[arg-type]
        with pytest.raises(shoal.InvalidArgument):
            db.session(consistency="weak")  # type: ignore[arg-type]
    assert cluster.asked == []
    for query in ("?consistency=weak", "?max_staleness=0s", "?consistancy=eventual"):
        with pytest.raises(shoal.InvalidArgument):
            shoal.AsyncClient(cluster.url(query=query))


async def test_the_bound_is_the_calls_else_the_clients_else_the_keyspaces(cluster: Any) -> None:
    async def sent(db: shoal.AsyncClient, **how: Any) -> Freshness:
        cluster.asked.clear()
        await db.get("k", **how)
        freshness: Freshness = cluster.of_kind(Read)[0].freshness
        return freshness

    cluster.max_staleness_ms = 7000
    async with shoal.AsyncClient(cluster.url()) as db:
        assert await sent(db) == Freshness()
        assert await sent(db, consistency="strong") == Freshness()
        assert await sent(db, consistency="eventual") == Freshness(False, 0, 7000)
        assert await sent(db, consistency="eventual", max_staleness=0.25) == Freshness(False, 0, 250)
        assert await sent(db, consistency="read_your_writes") == Freshness(False, 0, 0)
        assert await sent(db, consistency="read_your_writes", max_staleness=2) == Freshness(False, 0, 2000)
    async with shoal.AsyncClient(cluster.url(query="?consistency=eventual&max_staleness=2s")) as db:
        assert await sent(db) == Freshness(False, 0, 2000)
        assert await sent(db.keyspace("default"), max_staleness=1) == Freshness(False, 0, 1000)
        assert await sent(db, consistency="strong") == Freshness()


# -- whom to ask -------------------------------------------------------------------------------------------------------


async def test_weak_reads_are_spread_over_all_replicas(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await connected_to_all(db, cluster)
        for _ in range(60):
            await db.get("k", consistency="eventual")
        assert min(Counter(asked(cluster)).get(name, 0) for name in cluster.names) > 5


async def test_many_weak_reads_of_one_moment_are_shared_out(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await connected_to_all(db, cluster)
        keys = [f"p/{number}" for number in range(300)]  # of one partition, so of one shard
        assert await db.get_many(keys, consistency="eventual") == [None] * len(keys)
        sizes = [len(request.keys) for request in cluster.of_kind(Read)]
        assert sizes == [100, 100, 100]
        assert len(set(asked(cluster))) > 1


async def test_replicas_of_the_clients_region_come_first_and_others_serve_when_it_is_gone(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    cluster.regions = {"n1": "us", "n2": "eu", "n3": "us"}
    async with shoal.AsyncClient(cluster.url(query="?region=eu&consistency=eventual")) as db:
        await connected_to_all(db, cluster)
        for _ in range(10):
            await db.get("k")
        assert set(asked(cluster)) == {"n2"}
        await db.get("k", consistency="strong")
        assert asked(cluster)[-1] == "n1"
        await cluster.nodes["n2"].stop()
        cluster.asked.clear()
        for _ in range(10):
            await db.get("k")
        assert set(asked(cluster)) <= {"n1", "n3"}
        assert len(asked(cluster)) == 10


async def test_the_less_loaded_of_two_replicas_is_asked(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    async with shoal.AsyncClient(cluster.url(query="?consistency=eventual")) as db:
        await connected_to_all(db, cluster)
        cluster.nodes["n2"].hold = True
        stuck = []
        while not cluster.nodes["n2"].held:
            stuck.append(asyncio.ensure_future(db.get("k")))
            await asyncio.sleep(0.005)
        before = len(cluster.nodes["n2"].held)
        for _ in range(20):
            assert await db.get("k") is None
        assert len(cluster.nodes["n2"].held) == before
        for task in stuck:
            task.cancel()


async def test_weak_reads_of_one_turn_share_a_request_for_each_bound(start_cluster: Any) -> None:
    cluster = await start_cluster()
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "v")
        cluster.asked.clear()
        bounds = [{"consistency": "eventual", "max_staleness": 1}, {"consistency": "eventual", "max_staleness": 2}, {}]
        assert await asyncio.gather(*(db.get("k", **bounds[i % 3]) for i in range(30))) == [b"v"] * 30  # type: ignore[arg-type]
    assert sorted((read.freshness.max_staleness_ms, len(read.keys)) for read in cluster.of_kind(Read)) == [
        (0, 10),
        (1000, 10),
        (2000, 10),
    ]


async def test_many_weak_keys_come_from_replicas_and_entries_say_how_stale_they_are(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    cluster.lag = {"n1": (0, 300), "n2": (0, 300)}
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "v")
        entry = await db.get_entry("k", consistency="eventual")
        assert entry is not None
        assert entry.staleness == 0.3
        strong = await db.get_entry("k")
        assert strong is not None
        assert (strong.staleness, strong.served_by) == (0.0, "n1")
        assert await db.get_many(["k", "x"], consistency="eventual") == [b"v", None]
        assert await db.exists("k", consistency="eventual") is True


async def test_rows_that_did_not_fit_are_asked_for_again_from_a_replica(cluster: Any) -> None:
    def two_at_most(node: Any, request: Any) -> Any:
        answer = cluster.serve(node, request)
        if isinstance(request, Read):
            return type(answer)(answer.request, answer.seq, "n1", answer.values[:2], answer.seqs[:2])
        return answer

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({f"k{i}": f"v{i}" for i in range(9)})
        cluster.script = two_at_most
        keys = [f"k{i}" for i in range(9)]
        assert await db.get_many(keys, consistency="eventual") == [b"v%d" % i for i in range(9)]
    assert all(not read.freshness.strong for read in cluster.of_kind(Read))


# -- declines ----------------------------------------------------------------------------------------------------------


async def test_each_replica_that_declines_is_asked_once_and_then_the_leader_strongly(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    cluster.lag = dict.fromkeys(("n1", "n2", "n3"), (0, 9000))
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "v")
        await connected_to_all(db, cluster)
        entry = await db.get_entry("k", consistency="eventual", max_staleness=1)
        assert entry is not None
        assert (entry.value, entry.staleness, entry.served_by) == (b"v", 0.0, "n1")
    reads = [(node, request) for node, request in cluster.asked if isinstance(request, Read)]
    assert sorted(node for node, _ in reads[:-1]) == ["n1", "n2", "n3"]
    assert reads[-1][0] == "n1"
    assert reads[-1][1].freshness.strong


@pytest.mark.parametrize("code", [ErrorCode.UNAVAILABLE, ErrorCode.OVERLOADED, ErrorCode.NOT_LEADER, ErrorCode.CLOSED])
async def test_whoever_cannot_serve_is_followed_by_another_without_waiting(start_cluster: Any, code: ErrorCode) -> None:
    cluster = await start_cluster(nodes=3)

    def only_the_third(node: Any, request: Any) -> Any:
        if isinstance(request, Read) and node.name != "n3":
            return Failure(request.request, code, "not now", retry_after_ms=5000)
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await connected_to_all(db, cluster)
        cluster.script = only_the_third
        for _ in range(10):
            assert await db.get("k", consistency="eventual", timeout=1) is None


async def test_a_refusal_that_no_replica_can_change_ends_the_call(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "v")
        cluster.script = lambda node, request: Failure(request.request, ErrorCode.PERMISSION_DENIED, "no")
        with pytest.raises(shoal.PermissionDenied):
            await db.get("k", consistency="eventual")


async def test_a_lost_connection_is_followed_by_another_replica(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    dropped: list[str] = []

    def drop_once(node: Any, request: Any) -> Any:
        if isinstance(request, Read) and not dropped:
            dropped.append(node.name)
            node.drop_connections()
            return None
        return cluster.serve(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await connected_to_all(db, cluster)
        cluster.script = drop_once
        assert await db.get("k", consistency="eventual", timeout=1) is None
    assert len(asked(cluster)) == 2
    assert asked(cluster)[1] != dropped[0]


async def test_without_a_leader_weak_reads_are_served_and_strong_ones_wait(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url("n2", "n3")) as db:
        await db.put("k", "v")
        await cluster.nodes["n1"].stop()
        strong = asyncio.ensure_future(db.get("k", timeout=0.3))
        for _ in range(10):
            assert await db.get("k", consistency="eventual", timeout=0.2) == b"v"
        with pytest.raises(shoal.ShoalError):
            await strong


async def test_too_stale_names_those_who_declined_where_the_leader_is_gone(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k", "v")
        await connected_to_all(db, cluster)
        await cluster.nodes["n1"].stop()
        cluster.lag = dict.fromkeys(("n2", "n3"), (0, 3000))
        with pytest.raises(shoal.TooStale, match=r"1000 ms.*stale for 3000 ms.*n1") as caught:
            await db.get("k", consistency="eventual", max_staleness=1, timeout=0.2)
        assert "n2" in str(caught.value)
        assert "n3" in str(caught.value)
        assert caught.value.retryable
        with pytest.raises(shoal.ShoalError) as of_session:
            session = db.session()
            session._caller.session_vector.note((MicroshardRange(0, 16),), 99)  # type: ignore[union-attr]
            await session.get("k", timeout=0.2)
        assert isinstance(of_session.value, shoal.Unavailable | shoal.DeadlineExceeded)
        assert await db.get("k", consistency="eventual", max_staleness=5) == b"v"


async def test_weak_reads_wait_for_the_first_node_and_time_out_without_one(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    async with shoal.AsyncClient(cluster.url(query="?consistency=eventual")) as db:
        await db.put("k", "v")
        for node in cluster.nodes.values():
            await node.stop()
        with pytest.raises(shoal.Unavailable):
            await db.get("k", timeout=0.15)
        reading = asyncio.ensure_future(db.get("k"))
        await asyncio.sleep(0.05)
        await cluster.nodes["n2"].start()
        assert await reading == b"v"


async def test_a_cancelled_weak_read_frees_its_place_and_is_not_sent_again(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=2)
    cluster.lag = dict.fromkeys(cluster.names, (0, 9000))
    async with shoal.AsyncClient(cluster.url(query="?max_in_flight=1")) as db:
        await db.put("k", "v")
        for node in cluster.nodes.values():
            node.hold = True
        reading = asyncio.ensure_future(db.get("k", consistency="eventual", max_staleness=1))
        await until(lambda: any(node.held for node in cluster.nodes.values()))
        reading.cancel()
        for node in cluster.nodes.values():
            node.hold = False
        cluster.nodes["n1"].drop_connections()
        assert await db.get("k") == b"v"
    assert all(read.freshness.strong for read in cluster.of_kind(Read))


async def test_closing_ends_weak_reads(start_cluster: Any) -> None:
    cluster = await start_cluster()
    db = shoal.AsyncClient(cluster.url())
    await db.put("k", "v")
    cluster.nodes["n1"].hold = True
    sent = asyncio.ensure_future(db.get("k", consistency="eventual"))
    await until(lambda: cluster.nodes["n1"].held)
    queued = asyncio.ensure_future(db.get("k", consistency="eventual"))
    await asyncio.sleep(0)
    await db.close()
    for task in (sent, queued):
        with pytest.raises(shoal.Closed):
            await task


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_session_reads_its_own_writes_from_replicas_that_have_them(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await connected_to_all(db, cluster)
        cluster.lag = {"n1": (1, 0), "n2": (1, 0), "n3": (0, 0)}
        session = db.session()
        written = await session.put("k", "v")
        cluster.asked.clear()
        for _ in range(5):
            entry = await session.get_entry("k")
            assert entry is not None
            assert entry.served_by == "n3"
        assert all(read.freshness == Freshness(False, written.seq, 0) for read in cluster.of_kind(Read))
        cluster.asked.clear()
        await db.get("k", consistency="read_your_writes")
        assert cluster.of_kind(Read)[0].freshness == Freshness(False, 0, 0)


async def test_reads_of_every_level_raise_what_a_session_asks_for(start_cluster: Any) -> None:
    cluster = await start_cluster()

    async def asked_for(session: shoal.AsyncClient, **how: Any) -> int:
        cluster.asked.clear()
        await session.get("k", **how)
        seq: int = cluster.of_kind(Read)[0].freshness.min_seq
        return seq

    async with shoal.AsyncClient(cluster.url()) as db:
        session = db.session()
        await db.put("other", "1")
        assert await asked_for(session) == 0
        assert await asked_for(session, consistency="eventual") == 1
        await db.put("other", "2")
        await session.get("k", consistency="strong")
        assert await asked_for(session, consistency="eventual") == 2
        await db.put("other", "3")
        assert await session.put_if_absent("other", "no") is False
        assert await asked_for(session) == 4
        await session.increment("n")
        assert await asked_for(session) == 5
        async for _ in session.scan(""):
            pass
        assert cluster.of_kind(Scan)[0].freshness == Freshness(False, 5, 0)
        session.keyspace("default")
        assert await asked_for(session.keyspace("default")) == 0


async def test_a_token_goes_on_in_another_client(start_cluster: Any) -> None:
    cluster = await start_cluster(shards=4)
    async with shoal.AsyncClient(cluster.url()) as one, shoal.AsyncClient(cluster.url()) as other:
        session = one.session()
        for i in range(20):
            await session.put(f"k{i}", "")
        token = session.token()
        assert len(token) < 200
        follower = other.session(token)
        cluster.asked.clear()
        await follower.get("k19")
        of_shard = [row[1] for key, row in cluster.rows.items() if shard_of(cluster, key) == shard_of(cluster, b"k19")]
        assert cluster.of_kind(Read)[0].freshness.min_seq == max(of_shard)
        assert follower.token() == token
        late = other.session()
        await late.put("k0", "")
        late.merge(token)
        assert late._caller.session_vector.spans()[0].seq >= session._caller.session_vector.spans()[0].seq  # type: ignore[union-attr]


async def test_session_vectors_apply_to_the_shards_of_a_newer_map(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=1)
    async with shoal.AsyncClient(cluster.url()) as db:
        session = db.session()
        written = await session.put("k", "v")
        cluster.shard_count, cluster.version, cluster.leaders[2] = 2, 2, "n1"
        # A write of a key that has moved makes the client fetch the map.
        await asyncio.gather(*(db.put(f"x{i}", "") for i in range(20)))
        cluster.asked.clear()
        for key in ("k", "x1", "x2", "x3", "x4"):
            await session.get(key)
        reads = cluster.of_kind(Read)
        assert {read.shard for read in reads} == {1, 2}
        assert all(read.freshness.min_seq >= written.seq for read in reads)


async def test_where_marks_are_missing_the_leader_is_asked(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3)
    async with shoal.AsyncClient(cluster.url()) as db:
        await connected_to_all(db, cluster)
        session = db.session()
        session._caller.session_vector.merge([], True)  # type: ignore[union-attr]
        for _ in range(5):
            await session.get("k")
        assert [row async for row in session.scan("k")] == []
    assert set(asked(cluster)) == {"n1"}
    assert all(request.freshness.strong for request in (*cluster.of_kind(Read), *cluster.of_kind(Scan)))


async def test_tokens_of_another_cluster_or_keyspace_are_refused(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        session = db.session()
        await session.put("k", "v")
        token = session.token()
        with pytest.raises(shoal.InvalidArgument, match="keyspace"):
            db.keyspace("other").session(token)
        with pytest.raises(shoal.InvalidArgument, match="no session"):
            db.token()
        with pytest.raises(shoal.InvalidArgument, match="no session"):
            db.merge(token)
        with pytest.raises(shoal.InvalidArgument):
            db.session("garbage")
    unconnected = shoal.AsyncClient(cluster.url()).session(token)
    assert await unconnected.get("k") == b"v"
    assert unconnected.token() == token
    await unconnected.close()


async def test_a_token_of_another_cluster_is_refused_once_the_cluster_is_known(cluster: Any) -> None:
    foreign = to_token(SessionVector(), "elsewhere", "default")
    db = shoal.AsyncClient(cluster.url())
    session = db.session(foreign)
    with pytest.raises(shoal.InvalidArgument, match="elsewhere"):
        await session.get("k")
    with pytest.raises(shoal.InvalidArgument, match="elsewhere"):
        db.session(foreign)
    await db.close()
