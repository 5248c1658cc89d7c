"""What users of other databases look for: times as timedeltas, names, what transactions and records can do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version
from math import inf

import pytest
import shoal

from .conftest import Database


def test_times_may_be_timedeltas(db: shoal.Client, ns: str) -> None:
    minute, patience = timedelta(minutes=1), timedelta(seconds=20)
    db.put(f"{ns}/a", "v", ttl=minute, timeout=patience)
    assert 50 < (db.ttl(f"{ns}/a", timeout=patience) or 0) < 61
    assert db.touch(f"{ns}/a", 2 * minute)
    assert db.get(f"{ns}/a", consistency="eventual", max_staleness=minute) == b"v"
    db.pipeline().put(f"{ns}/b", "v", ttl=minute).touch(f"{ns}/b", 2 * minute).execute(timeout=patience)
    db.write([shoal.put(f"{ns}/c", "v", ttl=minute), shoal.touch(f"{ns}/b", 3 * minute)], timeout=patience)
    with db.transaction(timeout=patience) as tx:
        tx.put(f"{ns}/d", "v", ttl=minute)
    assert [50 < (db.ttl(f"{ns}/{name}") or 0) < 181 for name in "abcd"] == [True] * 4
    assert len(list(db.scan(f"{ns}/", timeout=patience))) == 4


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(days=-1), timedelta(days=40_000), True, "1m", inf])
def test_wrong_times_are_refused_in_words(db: shoal.Client, ns: str, wrong: object) -> None:
    with pytest.raises(shoal.InvalidArgument, match=r"timeout is a number of seconds greater than 0, .*or a timedelta"):
        db.get(f"{ns}/a", timeout=wrong)  # type: ignore[arg-type]
    with pytest.raises(shoal.InvalidArgument, match="max_staleness is a number of seconds greater than 0"):
        db.get(f"{ns}/a", consistency="eventual", max_staleness=wrong)  # type: ignore[arg-type]
    if wrong != timedelta(0):
        with pytest.raises(shoal.InvalidArgument, match="ttl is a number of seconds"):
            db.put(f"{ns}/a", "v", ttl=wrong)  # type: ignore[arg-type]


async def test_an_asyncio_client_closes_as_contextlib_does_it(cluster_database: Database) -> None:
    async with contextlib.aclosing(shoal.AsyncClient(cluster_database.url)) as db:
        assert await db.get("nobody") is None
    with pytest.raises(shoal.Closed):
        await db.get("nobody")
    assert "(closed)" in repr(db)


def test_the_version_is_the_distributions() -> None:
    assert shoal.__version__ == version("shoal")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        shoal.nothing  # noqa: B018


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "shoal", "--version"], capture_output=True, text=True, check=True)
    assert version("shoal") in done.stdout


def test_objects_say_what_they_are(db: shoal.Client, ns: str, database: Database) -> None:
    where = "the embedded database in" if database.embedded else "127.0.0.1:"
    assert repr(db).startswith("<shoal.Client on keyspace 'default' of ")
    assert where in repr(db)
    assert repr(db.session()).endswith(", session, read_your_writes reads>")
    assert repr(db.pipeline().get("a").get("b")).startswith("<shoal.Pipeline of 2 calls on keyspace 'default' of ")
    tx = db.transaction()
    assert repr(tx).startswith("<shoal.Transaction not begun, on keyspace")
    with tx:
        tx.get(f"{ns}/a")
        tx.put(f"{ns}/a", "secret")
        assert "open, 1 keys and rows read, 1 written" in repr(tx)
        assert "secret" not in repr(tx)
    assert tx.result is not None
    assert f"committed at {tx.result.seq}" in repr(tx)
    rows = db.scan(f"{ns}/")
    list(rows)
    assert repr(rows) == "<shoal.Scan, 1 rows returned, ended>"


def test_records_are_dataclasses_that_encoders_take(db: shoal.Client, ns: str) -> None:
    written = db.put(f"{ns}/a", "v", ttl=60)
    entry = db.get_entry(f"{ns}/a")
    assert entry is not None
    assert json.loads(json.dumps(asdict(written))) == {"seq": written.seq, "durability": "quorum", "results": []}
    assert asdict(entry)["value"] == b"v"
    assert hash(written) == hash(shoal.WriteResult(written.seq))
    with pytest.raises(AttributeError):
        written.seq = 0  # type: ignore[misc]


# -- transactions ----------------------------------------------------------------------------------------------------------


def test_a_transaction_counts_touches_and_asks_for_many(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/n", "41", ttl=60)
    db.put(f"{ns}/t", "v")
    with db.transaction() as tx:
        assert tx.get_many([f"{ns}/n", f"{ns}/none", f"{ns}/t"]) == [b"41", None, b"v"]
        assert tx.exists(f"{ns}/n")
        assert not tx.exists(f"{ns}/none")
        assert tx.increment(f"{ns}/n") == 42
        assert tx.increment(f"{ns}/n", -2) == 40
        assert tx.get(f"{ns}/n") == b"40"
        assert tx.touch(f"{ns}/t", 60)
        assert not tx.touch(f"{ns}/none", 60)
        assert tx.increment(f"{ns}/new", 7) == 7
        assert [value for _, value in tx.scan(f"{ns}/")] == [b"40", b"7", b"v"]
    assert db.get_many([f"{ns}/n", f"{ns}/new", f"{ns}/none"]) == [b"40", b"7", None]
    assert [50 < (db.ttl(f"{ns}/{name}") or 0) < 61 for name in "nt"] == [True, True], "an increment keeps the expiry"
    assert db.ttl(f"{ns}/new") == inf


def test_what_a_transaction_wrote_is_what_it_counts_and_touches(db: shoal.Client, ns: str) -> None:
    with db.transaction() as tx:
        tx.put(f"{ns}/n", "5", ttl=60)
        assert tx.increment(f"{ns}/n", 2) == 7
        assert tx.touch(f"{ns}/n", 600)
        assert tx.increment(f"{ns}/n") == 8
        tx.put(f"{ns}/gone", "5")
        tx.delete(f"{ns}/gone")
        assert not tx.touch(f"{ns}/gone", 60)
        assert tx.increment(f"{ns}/gone") == 1
    assert db.get_many([f"{ns}/n", f"{ns}/gone"]) == [b"8", b"1"]
    assert 500 < (db.ttl(f"{ns}/n") or 0) < 601


def test_a_transactions_counts_conflict_with_others(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/n", "1")
    with pytest.raises(shoal.TransactionConflict), db.transaction() as tx:
        assert tx.increment(f"{ns}/n") == 2
        db.increment(f"{ns}/n", 10)
    assert db.get(f"{ns}/n") == b"11"

    def thrice(tx: shoal.Transaction) -> int:
        for _ in range(2):
            tx.increment(f"{ns}/n")
        return tx.increment(f"{ns}/n")

    assert db.run(thrice) == 14
    assert db.get(f"{ns}/n") == b"14"


def test_a_transaction_refuses_to_count_what_is_no_number(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/word", "five")
    db.put(f"{ns}/much", str(2**63 - 1))
    with db.transaction() as tx:
        with pytest.raises(shoal.InvalidArgument, match="is no decimal integer of 64 bits: b'five'"):
            tx.increment(f"{ns}/word")
        with pytest.raises(shoal.InvalidArgument, match="does not fit into 64 bits"):
            tx.increment(f"{ns}/much")
        with pytest.raises(shoal.InvalidArgument, match="by an integer"):
            tx.increment(f"{ns}/much", 2**63)
    assert db.get_many([f"{ns}/word", f"{ns}/much"]) == [b"five", str(2**63 - 1).encode()]
