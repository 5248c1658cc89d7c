"""Whoever asks for a keyspace that there is waits for nobody who asks for those that there are none of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shoal.errors import KeyspaceNotFound
from shoal.priorities import Priority
from shoal_server.api import gateway
from shoal_server.api.call_priority import PRIORITY


class Asked:
    session = ""

    def __init__(self, keyspace: str) -> None:
        self.keyspace = keyspace

    def HasField(self, _name: str) -> bool:  # noqa: N802 - protobuf's
        return False


class Opening:
    """A client that takes as long as the test wants to find its keyspace."""

    opened: list[str]
    may_end: asyncio.Event
    there = ("carts", "later")

    def __init__(self, url: str, **_kinds: Any) -> None:
        self.name = url.rpartition("/")[2].partition("?")[0]

    async def __aenter__(self) -> Opening:
        self.opened.append(self.name)
        if self.name not in self.there:
            await self.may_end.wait()
            raise KeyspaceNotFound(f"there is no {self.name}")
        return self

    async def close(self) -> None: ...


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> type[Opening]:
    monkeypatch.setattr(gateway.shoal, "AsyncClient", Opening)
    monkeypatch.setattr(Opening, "opened", [], raising=False)
    monkeypatch.setattr(Opening, "may_end", asyncio.Event(), raising=False)
    return Opening


async def test_one_that_the_node_knows_waits_for_none_that_nobody_knows(opening: type[Opening]) -> None:
    made = gateway.Gateway("n1:1", "", knows="carts".__eq__)
    others = [asyncio.create_task(made.client(Asked(f"no{number}"), 5.0)) for number in range(50)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await made.client(Asked("carts"), 5.0)
        PRIORITY.set(Priority.BATCH)
        assert await made.client(Asked("carts"), 5.0)
    assert opening.opened == ["no0", "carts", "carts"], "and those are looked for one after the other"
    opening.may_end.set()
    assert [type(each) for each in await asyncio.gather(*others, return_exceptions=True)] == [KeyspaceNotFound] * 50


async def test_what_there_is_none_of_is_looked_for_once_in_a_while(
    opening: type[Opening], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = gateway.Gateway("n1:1", "")
    opening.may_end.set()
    asked = [made.client(Asked("none"), 5.0) for _ in range(50)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {(type(each), str(each)) for each in found} == {(KeyspaceNotFound, "there is no none")}
    assert opening.opened == ["none"]
    monkeypatch.setattr(gateway, "ABSENT_MAX", 2)
    for name in ("a", "b", "c", "none"):
        with pytest.raises(KeyspaceNotFound):
            await made.client(Asked(name), 5.0)
    assert len(made._absent) == 2
    assert opening.opened == ["none", "a", "b", "c", "none"]


async def test_one_that_is_there_now_is_found_as_soon_as_the_node_knows_it(
    opening: type[Opening], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: set[str] = set()
    made = gateway.Gateway("n1:1", "", knows=known.__contains__)
    opening.may_end.set()
    monkeypatch.setattr(opening, "there", ())
    with pytest.raises(KeyspaceNotFound):
        await made.client(Asked("later"), 5.0)
    monkeypatch.setattr(opening, "there", ("later",))
    with pytest.raises(KeyspaceNotFound):
        await made.client(Asked("later"), 5.0)
    known.add("later")
    assert await made.client(Asked("later"), 5.0)


async def test_it_is_looked_for_again_after_a_while(opening: type[Opening], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "ABSENT_SECONDS", 0.0)
    made = gateway.Gateway("n1:1", "")
    opening.may_end.set()
    for _ in range(2):
        with pytest.raises(KeyspaceNotFound):
            await made.client(Asked("none"), 5.0)
    assert opening.opened == ["none", "none"]
