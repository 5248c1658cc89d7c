"""The priority of a gRPC call: what may be said, and that nodes hear of it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from shoal.errors import InvalidArgument
from shoal.priorities import Priority
from shoal_server.api import gateway
from shoal_server.api.call_priority import PRIORITY_METADATA, priority_of
from shoal_server.grpc_places import CALLER, Caller


def test_a_call_that_names_none_is_interactive() -> None:
    assert priority_of(()) is Priority.INTERACTIVE
    assert priority_of((("user-agent", "x"), ("shoal-priorities", "batch"))) is Priority.INTERACTIVE


@pytest.mark.parametrize("priority", list(Priority))
def test_each_may_be_named(priority: Priority) -> None:
    assert priority_of(((PRIORITY_METADATA, priority.value),)) is priority


@pytest.mark.parametrize("word", ["", "Batch", "batch ", "low", "1", "x" * 10_000, b"batch"])
def test_another_word_is_refused_and_those_that_there_are_named(word: str | bytes) -> None:
    with pytest.raises(InvalidArgument, match="one of interactive, batch, background, not") as caught:
        priority_of(((PRIORITY_METADATA, word),))
    assert len(str(caught.value)) < 200


def test_it_is_named_once() -> None:
    with pytest.raises(InvalidArgument, match="comes once with a call, not 2 times"):
        priority_of(((PRIORITY_METADATA, "batch"), (PRIORITY_METADATA, "batch")))


def call(api: Any, word: str) -> Any:
    request = api.message("GetRequest", key=b"priorities/a")
    return api.method("Get")(request, timeout=20, metadata=((PRIORITY_METADATA, word),))


@pytest.mark.parametrize("priority", list(Priority))
def test_a_call_of_any_priority_is_answered(api: Any, priority: Priority) -> None:
    api.call("Put", key=b"priorities/a", value=b"1")
    assert call(api, priority.value).entry.value == b"1"


def test_a_wrong_one_ends_the_call_with_details(api: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(api, "urgent")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert api.error_of(failed.value).code == "invalid_argument"


class Known:
    """Stands for a client."""

    def __init__(self, url: str, **_: Any) -> None:
        self.url = url

    async def __aenter__(self) -> Known:
        return self

    async def close(self) -> None: ...


class Asked:
    """Stands for a request."""

    session = ""

    def __init__(self, keyspace: str = "k") -> None:
        self.keyspace = keyspace

    def HasField(self, _name: str) -> bool:  # noqa: N802 - protobuf's
        return False


async def test_calls_go_by_a_client_of_their_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gateway.Gateway("n1:1", "")
    monkeypatch.setattr(gateway.shoal, "AsyncClient", Known)
    urls = {}
    for priority in (*Priority, *Priority):
        gateway.PRIORITY.set(priority)
        urls[priority] = (await made.client(Asked(), 1.0)).url  # type: ignore[attr-defined]  # a Known
    assert len(made._clients) == len(Priority)
    assert all(f"priority={priority.value}" in url for priority, url in urls.items())


async def test_calls_go_by_a_client_of_their_callers_lane_as_far_as_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = gateway.Gateway("n1:1", "", ways=4)
    monkeypatch.setattr(gateway.shoal, "AsyncClient", Known)

    async def client_of(lane: int, keyspace: str = "k") -> Any:
        CALLER.set(Caller("", lane, lambda _: None))
        return await made.client(Asked(keyspace), 1.0)

    first = [await client_of(lane) for lane in range(4)]
    assert len(set(map(id, first))) == 4
    assert await client_of(3) is first[3]
    assert await client_of(9) is first[0]
    other = await client_of(2, "other")
    assert other not in first
    assert await client_of(5, "other") is other
