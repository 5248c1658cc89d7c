"""A keyspace that is full: what adds to it fails at once and by name, and nothing else waits for that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.frames import operations_decoder
from shoal.protocol.messages import Failure, Write
from shoal.quotas import adds


def full(cluster: Any) -> Any:
    """Return a script by which the keyspace is full: a write with anything in it that adds is refused whole."""

    def script(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and any(map(adds, operations_decoder.decode(request.operations))):
            return Failure(
                request.request,
                ErrorCode.OVERLOADED,
                "keyspace 'default' is full",
                retry_after_ms=5000,
                reason="quota",
                only_adding=True,
            )
        return cluster.serve(node, request)

    return script


async def test_what_adds_fails_and_what_it_travelled_with_is_done(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put_many({"a": "1", "b": "2", "n": "3"})
        cluster.script = full(cluster)
        began = asyncio.get_running_loop().time()
        deleted, put, touched, sum_of, kept = await asyncio.gather(
            db.delete("a"),
            db.put("c", "v"),
            db.touch("b", 60),
            db.increment("n"),
            db.get("b"),
            return_exceptions=True,
        )
        assert asyncio.get_running_loop().time() - began < 2
    assert isinstance(deleted, shoal.WriteResult)
    assert touched is True
    assert kept == b"2"
    for failed in (put, sum_of):
        assert isinstance(failed, shoal.Overloaded)
        assert (failed.maybe_applied, failed.retry_after) == (False, 5.0)
        assert "is full" in str(failed)
    assert sorted(cluster.rows) == [b"b", b"n"]
    assert cluster.rows[b"n"][0] == b"3"


async def test_writes_that_come_later_do_not_wait_for_room(cluster: Any) -> None:
    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.script = full(cluster)
        for _ in range(3):
            with pytest.raises(shoal.Overloaded, match="put of key b'c'"):
                await asyncio.wait_for(db.put("c", "v"), 1)
        await asyncio.wait_for(db.delete("a"), 1)
        cluster.script = None
        await asyncio.wait_for(db.put("c", "v"), 1)
    assert list(cluster.rows) == [b"c"]


async def test_a_write_that_may_have_been_done_says_so(cluster: Any) -> None:
    """The first attempt's answer is lost with its connection; by the second one the keyspace is full."""
    lost: list[Any] = []

    def script(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and not lost:
            lost.append(request)
            node.drop_connections()
            return None
        return full(cluster)(node, request)

    async with shoal.AsyncClient(cluster.url()) as db:
        await db.put("a", "1")
        cluster.script = script
        put, deleted = await asyncio.gather(db.put("c", "v"), db.delete("a"), return_exceptions=True)
    assert lost
    for failed in (put, deleted):
        assert isinstance(failed, shoal.Overloaded)
        assert failed.maybe_applied
