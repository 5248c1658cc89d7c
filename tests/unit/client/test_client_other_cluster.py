"""A client whose cluster was made anew, or restored from a copy, at the same addresses: it says so, and believes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, Write
from shoal.routing.router import BACKOFF_CAP_SECONDS


async def make_anew(cluster: Any, cluster_id: str = "second") -> None:
    """Another cluster begins at the addresses of this one, with nothing but an older map."""
    cluster.cluster_id = cluster_id
    cluster.rows, cluster.seq, cluster.version = {}, 0, 1
    cluster.asked.clear()
    for node in cluster.nodes.values():
        node.drop_connections()
    await asyncio.sleep(0.05)  # what is sent before the client has heard of that may have been done


async def test_every_call_says_that_it_is_another_cluster_and_which(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=2)
    async with shoal.AsyncClient(cluster.url(), timeout=5) as db:
        cluster.version = 7
        await asyncio.gather(*(db.put(f"k{number}", "v") for number in range(20)))
        await make_anew(cluster)
        calls = (
            lambda: db.put("k1", "w"),
            lambda: db.put("k1", "w", durability="fast"),
            lambda: db.get("k2"),
            lambda: db.get("k2", consistency="eventual"),
            lambda: db.increment("n"),
            lambda: anext(aiter(db.scan("k"))),
        )
        for _ in range(2):
            for call in calls:
                with pytest.raises(shoal.ProtocolMismatch, match=r"id second.*id first.*make a new client") as caught:
                    await call()
                assert not caught.value.maybe_applied
                assert not caught.value.retryable
        assert cluster.asked == [], "nothing of the old cluster is asked of the new one"
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("k1", "w")
        assert await db.get("k2") is None


async def test_it_is_said_at_once_and_not_at_the_deadline(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=1)
    async with shoal.AsyncClient(cluster.url(), timeout=60) as db:
        await db.put("k", "v")
        await make_anew(cluster)
        async with asyncio.timeout(10):
            with pytest.raises(shoal.ProtocolMismatch):
                await db.put("k", "w")


async def test_writes_on_their_way_may_have_been_done_and_others_surely_were_not(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url(), timeout=5) as db:
        await db.put("k", "v")
        cluster.script = lambda *_: None
        sent = asyncio.ensure_future(db.put("k", "w"))
        while not any(isinstance(request, Write) and request.number == 2 for _, request in cluster.asked):
            await asyncio.sleep(0)
        waits = asyncio.ensure_future(db.put("k2", "w"))
        await asyncio.sleep(0)
        await make_anew(cluster)
        with pytest.raises(shoal.OutcomeUnknown, match="id second") as caught:
            await sent
        assert caught.value.maybe_applied
        with pytest.raises(shoal.ProtocolMismatch):
            await waits


async def test_a_session_and_its_token_are_of_the_cluster_that_they_were_begun_in(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=1)
    async with shoal.AsyncClient(cluster.url()) as db:
        session = db.session()
        await session.put("k", "v")
        token = session.token()
        await make_anew(cluster)
        with pytest.raises(shoal.ProtocolMismatch):
            await session.get("k", consistency="eventual")
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.get("k")
        with pytest.raises(shoal.InvalidArgument, match=r"id first.*id second.*begin a new session"):
            db.session(token)
        with pytest.raises(shoal.InvalidArgument, match="is a string, not bytes"):
            db.session(token.encode())  # type: ignore[arg-type]
        late = shoal.AsyncClient(cluster.url()).session(token)
        with pytest.raises(shoal.InvalidArgument, match="begin a new session"):
            await late.get("k", consistency="eventual")
        await late.close()


async def test_the_clients_own_cluster_may_come_back(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=1)
    async with shoal.AsyncClient(cluster.url(), timeout=5) as db:
        await db.put("k", "v")
        await make_anew(cluster)
        with pytest.raises(shoal.ProtocolMismatch):
            await db.put("k", "w")
        await make_anew(cluster, "first")
        await asyncio.sleep(BACKOFF_CAP_SECONDS)
        await db.put("k", "x")
        assert await db.get("k") == b"x"


async def test_one_address_that_was_given_to_another_cluster_is_left_alone(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=3, shards=1)
    async with shoal.AsyncClient(cluster.url(), timeout=5) as db:
        await db.put("k", "v")
        cluster.cluster_id = "second"
        cluster.nodes["n1"].drop_connections()
        await asyncio.sleep(0.1)
        cluster.cluster_id = "first"
        cluster.leaders[1] = "n2"
        await db.put("k", "w")
        assert await db.get("k") == b"w"


async def test_a_node_that_does_not_know_its_cluster_yet_is_waited_for(start_cluster: Any) -> None:
    cluster = await start_cluster(nodes=1)
    cluster.cluster_id = ""
    db = shoal.AsyncClient(cluster.url(), timeout=5)
    with pytest.raises(shoal.Unavailable, match="being founded"):
        await db.put("k", "v", timeout=0.2)
    putting = asyncio.ensure_future(db.put("k", "v"))
    await asyncio.sleep(0.1)
    assert cluster.asked == []
    cluster.cluster_id = "first"
    await putting
    await db.close()


async def test_results_that_are_forgotten_end_the_call_as_unknown(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.increment("n")
        cluster.script = lambda _, request: Failure(
            request.request, ErrorCode.OUTCOME_UNKNOWN, "done, at seq 7, but not remembered", maybe_applied=True
        )
        with pytest.raises(shoal.OutcomeUnknown, match="at seq 7"):
            await db.increment("n")
