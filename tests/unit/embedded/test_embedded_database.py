"""A database in this process: the same calls as on a cluster, answered without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import shoal
from shoal_server.storage.engine import StorageFailed
from shoal_server.storage.rocks import RocksEngine


@pytest.fixture(params=["in memory", "in a folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "embedded://" if request.param == "in memory" else f"embedded://{tmp_path / 'db'}"


@pytest.fixture
def db(url: str) -> Iterator[shoal.Client]:
    with shoal.Client(url) as client:
        yield client


def test_one_key(db: shoal.Client) -> None:
    assert db.get("k") is None
    first = db.put("k", "v")
    assert db.get("k") == b"v"
    assert db.exists("k")
    entry = db.get_entry("k")
    assert entry is not None
    assert (entry.value, entry.seq, entry.served_by) == (b"v", first.seq, "n1")
    assert db.delete("k").seq > first.seq
    assert db.get("k") is None
    db.put("empty", "")
    assert db.get("empty") == b""


def test_many_keys_and_pipelines(db: shoal.Client) -> None:
    db.put_many({f"k{number}": f"v{number}" for number in range(1000)})
    assert db.get_many([b"k0", b"k999", b"none"]) == [b"v0", b"v999", None]
    db.delete_many(["k0", "k1"])
    assert db.get_many(["k0", "k1", "k2"]) == [None, None, b"v2"]
    pipeline = db.pipeline().put("p", "1").get("p").delete("p").exists("p")
    written, value, _, exists = pipeline.execute()
    assert isinstance(written, shoal.WriteResult)
    assert (value, exists) == (b"1", False)


def test_limits_are_those_of_a_node(db: shoal.Client) -> None:
    with pytest.raises(shoal.TooLarge):
        db.put("k" * 4097, "v")
    with pytest.raises(shoal.TooLarge):
        db.put("k", b"v" * ((1 << 20) + 1))
    largest = b"v" * (1 << 20)
    db.put_many({f"large{number}": largest for number in range(20)})
    assert db.get_many([f"large{number}" for number in range(20)]) == [largest] * 20


def test_many_threads_share_a_client(db: shoal.Client) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: db.put(f"k{number}", str(number)), range(200)))
        assert list(threads.map(lambda number: db.get(f"k{number}"), range(200))) == [b"%d" % n for n in range(200)]


async def test_asyncio(url: str) -> None:
    async with shoal.AsyncClient(f"{url}?max_in_flight=16") as db:
        await asyncio.gather(*(db.put(f"k{number}", str(number)) for number in range(500)))
        assert await asyncio.gather(*(db.get(f"k{number}") for number in range(500))) == [b"%d" % n for n in range(500)]
    await db.close()
    with pytest.raises(shoal.Closed):
        await db.get("k1")


def test_it_leads_at_once_also_after_a_restart(tmp_path: Path) -> None:
    for number in range(3):
        began = time.monotonic()
        with shoal.Client(f"embedded://{tmp_path}") as db:
            db.put("k", str(number))
        # A node with peers would wait for a second, or three, to let its promises run out.
        assert time.monotonic() - began < 0.9


def test_a_closed_client_says_so_and_closing_twice_does_no_harm(url: str) -> None:
    db = shoal.Client(url)
    db.put("k", "v")
    other = db.keyspace("default")
    db.close()
    db.close()
    for client in (db, other):
        with pytest.raises(shoal.Closed):
            client.get("k")
    shoal.Client(url).close()


def test_two_databases_in_memory_are_two() -> None:
    with shoal.Client("embedded://") as one, shoal.Client("embedded://") as two:
        one.put("k", "one")
        assert two.get("k") is None
    with shoal.Client("embedded://") as again:
        assert again.get("k") is None


def test_a_keyspace_is_made_by_naming_it(url: str) -> None:
    with shoal.Client(f"{url}?keyspace=orders&microshards=16") as db:
        db.put("k", "v")
        assert db.keyspace("orders").get("k") == b"v"
        with pytest.raises(shoal.KeyspaceNotFound, match="there are: orders"):
            db.keyspace("default").get("k")
    if url == "embedded://":
        return
    with shoal.Client(url) as db:
        assert db.get("k") is None
        db.put("k", "default's")
        assert db.keyspace("orders").get("k") == b"v"
    with shoal.Client(f"{url}?keyspace=orders") as db:
        assert db.get("k") == b"v"
        assert db.keyspace("default").get("k") == b"default's"
    with (
        pytest.raises(shoal.InvalidArgument, match="made with 16 microshards"),
        shoal.Client(f"{url}?keyspace=orders&microshards=8"),
    ):
        pass


@pytest.mark.parametrize(
    ("query", "message"), [("keyspace=-", "cannot be a keyspace's name"), ("microshards=70000", "at most 65536")]
)
def test_a_keyspace_that_cannot_be_made_is_refused(query: str, message: str) -> None:
    with pytest.raises(shoal.InvalidArgument, match=message), shoal.Client(f"embedded://?{query}"):
        pass


def test_a_failed_disk_ends_it_for_good_and_nothing_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    sync = RocksEngine.sync

    def sync_or_fail(engine: RocksEngine) -> None:
        if gone:
            raise StorageFailed(gone[0])
        sync(engine)

    monkeypatch.setattr(RocksEngine, "sync", sync_or_fail)
    db = shoal.Client(f"embedded://{tmp_path}?timeout=300ms")
    db.put("k", "v")
    gone.append("the disk is gone")
    with pytest.raises(shoal.ShoalError) as caught:
        db.put("k", "w")
    assert caught.value.maybe_applied
    with pytest.raises(shoal.Unavailable, match=r"has failed \(the disk is gone\): restart the process"):
        db.get("k")
    db.close()
    with pytest.raises(shoal.Unavailable, match="in use by process"), shoal.Client(f"embedded://{tmp_path}"):
        pass


def test_a_full_disk_turns_writes_away_and_reads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shoal.Client(f"embedded://{tmp_path}?timeout=400ms") as db:
        db.put("k", "v")
        with monkeypatch.context() as patch:
            patch.setattr(RocksEngine, "free_bytes", lambda _: 1)
            time.sleep(0.3)
            with pytest.raises(shoal.Unavailable, match="make room") as caught:
                db.put("k", "w")
            assert not caught.value.maybe_applied
            assert db.get("k") == b"v"
        time.sleep(0.3)
        db.get("k")
        db.put("k", "x", timeout=5)
        assert db.get("k") == b"x"
