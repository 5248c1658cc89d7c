"""Transactions: what was read still holds when all is written, or nothing is written."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import shoal

from .conftest import Database


def test_what_the_block_writes_is_written_at_its_end(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/a": "1", f"{ns}/gone": "1"})
    with db.transaction() as tx:
        stock = int(tx.get(f"{ns}/a") or 0)
        tx.put(f"{ns}/a", str(stock + 1))
        tx.put(f"{ns}/b", "new")
        tx.delete(f"{ns}/gone")
        assert db.get_many([f"{ns}/a", f"{ns}/b", f"{ns}/gone"]) == [b"1", None, b"1"]
        assert tx.result is None
    assert db.get_many([f"{ns}/a", f"{ns}/b", f"{ns}/gone"]) == [b"2", b"new", None]
    entry = db.get_entry(f"{ns}/b")
    assert entry is not None
    assert tx.result is not None
    assert entry.seq == tx.result.seq


def test_a_transaction_sees_what_it_has_written(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/{name}": "old" for name in "abc"})
    with db.transaction() as tx:
        tx.put(f"{ns}/b", "new")
        tx.delete(f"{ns}/c")
        tx.put(f"{ns}/d", "new")
        assert [tx.get(f"{ns}/{name}") for name in "abcd"] == [b"old", b"new", None, b"new"]
        rows = [(f"{ns}/a".encode(), b"old"), (f"{ns}/b".encode(), b"new"), (f"{ns}/d".encode(), b"new")]
        assert list(tx.scan(f"{ns}/")) == rows
        assert list(tx.scan(f"{ns}/", reverse=True)) == rows[::-1]
        assert list(tx.scan(f"{ns}/", limit=2)) == rows[:2]
        assert list(tx.scan(f"{ns}/", page_rows=1)) == rows
        assert list(tx.scan(f"{ns}/", start=f"{ns}/b", end=f"{ns}/d")) == rows[1:2]
        tx.put(f"{ns}/c", "again")
        assert tx.get(f"{ns}/c") == b"again"
    assert db.get(f"{ns}/c") == b"again"


def test_a_repeated_read_gives_the_same(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "1")
    with pytest.raises(shoal.TransactionConflict), db.transaction() as tx:
        assert tx.get(f"{ns}/k") == b"1"
        db.put(f"{ns}/k", "2")
        assert tx.get(f"{ns}/k") == b"1"
        tx.put(f"{ns}/copy", "1")
    assert db.get(f"{ns}/copy") is None


@pytest.mark.parametrize("change", ["put the same", "delete", "touch", "increment", "create"])
def test_any_change_of_what_was_read_is_a_conflict(db: shoal.Client, ns: str, change: str) -> None:
    key = f"{ns}/k"
    if change != "create":
        db.put(key, "1")
    with pytest.raises(shoal.TransactionConflict) as caught, db.transaction() as tx:
        tx.get(key)
        match change:
            case "put the same" | "create":
                db.put(key, "1")
            case "delete":
                db.delete(key)
            case "touch":
                db.touch(key, 60)
            case "increment":
                db.increment(key)
        tx.put(f"{ns}/other", "v")
    assert caught.value.retryable
    assert not caught.value.maybe_applied
    assert tx.result is None
    assert db.get(f"{ns}/other") is None


def test_a_change_of_what_was_not_read_is_none(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/read": "1", f"{ns}/written": "1", f"{ns}/other": "1"})
    with db.transaction() as tx:
        tx.get(f"{ns}/read")
        db.put(f"{ns}/other", "2")
        db.put(f"{ns}/written", "2")
        tx.put(f"{ns}/written", "3")
    assert db.get(f"{ns}/written") == b"3"


@pytest.mark.parametrize("change", ["insert", "delete", "overwrite", "expire"])
@pytest.mark.parametrize("how", [{}, {"reverse": True}, {"page_rows": 2}])
def test_a_change_in_a_range_that_was_scanned_is_a_conflict(
    db: shoal.Client, ns: str, change: str, how: dict[str, int]
) -> None:
    db.put_many({f"{ns}/order-{number}": "v" for number in range(5)})
    with pytest.raises(shoal.TransactionConflict), db.transaction() as tx:
        orders = len(list(tx.scan(f"{ns}/order-", **how)))
        match change:
            case "insert":
                db.put(f"{ns}/order-25", "phantom")
            case "delete":
                db.delete(f"{ns}/order-2")
            case "overwrite":
                db.put(f"{ns}/order-2", "v")
            case "expire":
                db.touch(f"{ns}/order-2", 0.01)
                time.sleep(0.05)
        tx.put(f"{ns}/orders", str(orders))
    assert db.get(f"{ns}/orders") is None


def test_a_change_beside_the_range_that_was_scanned_is_no_conflict(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/b{number}": "v" for number in range(5)})
    with db.transaction() as tx:
        assert len(list(tx.scan(f"{ns}/b"))) == 5
        db.put_many({f"{ns}/a": "v", f"{ns}/c": "v", f"{ns}/": "v"})
        tx.put(f"{ns}/b5", "v")
    assert db.get(f"{ns}/b5") == b"v"


def test_of_a_scan_that_was_left_early_only_what_was_read_counts(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/{number}": "v" for number in range(9)})
    with db.transaction() as tx:
        assert [key for key, _ in tx.scan(f"{ns}/", limit=3)] == [f"{ns}/{number}".encode() for number in range(3)]
        db.put(f"{ns}/7", "w")
        tx.put(f"{ns}/done", "v")
    assert db.get(f"{ns}/done") == b"v"


def test_write_skew_is_refused(db: shoal.Client, ns: str) -> None:
    """Two doctors on call: each goes home because the other is there."""
    db.put_many({f"{ns}/ann": "on", f"{ns}/bob": "on"})
    with db.transaction() as ann:
        assert ann.get(f"{ns}/bob") == b"on"
        with pytest.raises(shoal.TransactionConflict), db.transaction() as bob:
            assert bob.get(f"{ns}/ann") == b"on"
            bob.put(f"{ns}/bob", "off")
            ann.put(f"{ns}/ann", "off")
            ann.__exit__(None, None, None)
        assert db.get_many([f"{ns}/ann", f"{ns}/bob"]) == [b"off", b"on"]


def test_what_only_reads_is_of_one_instant_or_says_that_it_is_not(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/a": "1", f"{ns}/b": "1"})
    with db.transaction() as tx:
        assert (tx.get(f"{ns}/a"), tx.get(f"{ns}/b")) == (b"1", b"1")
    with pytest.raises(shoal.TransactionConflict), db.transaction() as tx:
        tx.get(f"{ns}/a")
        db.write([shoal.put(f"{ns}/a", "2"), shoal.put(f"{ns}/b", "2")])
        tx.get(f"{ns}/b")


def test_an_empty_transaction_does_nothing(db: shoal.Client) -> None:
    with db.transaction() as tx:
        pass
    assert tx.result is None


def test_an_exception_in_the_block_writes_nothing_and_comes_out(db: shoal.Client, ns: str) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction() as tx:
        tx.put(f"{ns}/k", "v")
        1 / 0  # noqa: B018 - it is to raise
    assert db.get(f"{ns}/k") is None
    assert tx.result is None


def test_a_transaction_left_open_blocks_nobody(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "1")
    left_open = db.transaction()
    left_open.__enter__()
    assert left_open.get(f"{ns}/k") == b"1"
    list(left_open.scan(f"{ns}/"))
    left_open.put(f"{ns}/k", "never")
    db.put(f"{ns}/k", "2", timeout=10)
    with db.transaction(timeout=10) as tx:
        tx.put(f"{ns}/k", str(int(tx.get(f"{ns}/k") or 0) + 1))
    assert db.get(f"{ns}/k") == b"3"


def test_a_transaction_is_used_once_and_in_its_block(db: shoal.Client, ns: str) -> None:
    tx = db.transaction()
    with pytest.raises(shoal.InvalidArgument, match="inside"):
        tx.get(f"{ns}/k")
    with tx:
        tx.put(f"{ns}/k", "1")
    with pytest.raises(shoal.InvalidArgument, match="inside"):
        tx.put(f"{ns}/k", "2")
    with pytest.raises(shoal.InvalidArgument, match="once"), tx:
        pass
    assert db.get(f"{ns}/k") == b"1"


def test_run_does_it_again_until_nobody_got_in_between(db: shoal.Client, ns: str) -> None:
    attempts: list[int] = []

    def add(tx: shoal.Transaction) -> int:
        attempts.append(1)
        total = int(tx.get(f"{ns}/n") or 0) + 1
        if len(attempts) < 3:
            db.put(f"{ns}/n", str(10 * len(attempts)))
        tx.put(f"{ns}/n", str(total))
        return total

    assert db.run(add) == 21
    assert len(attempts) == 3
    assert db.get(f"{ns}/n") == b"21"


def test_run_gives_up_at_its_deadline_and_passes_other_errors_on(db: shoal.Client, ns: str) -> None:
    def never(tx: shoal.Transaction) -> None:
        tx.get(f"{ns}/k")
        db.increment(f"{ns}/k")
        tx.put(f"{ns}/other", "v")

    with pytest.raises((shoal.TransactionConflict, shoal.DeadlineExceeded)):
        db.run(never, timeout=0.3)
    assert db.get(f"{ns}/other") is None

    def fail(tx: shoal.Transaction) -> None:
        tx.put(f"{ns}/other", "v")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        db.run(fail)
    assert db.get(f"{ns}/other") is None


def test_concurrent_transfers_keep_the_sum(db: shoal.Client, ns: str) -> None:
    accounts = [f"{ns}/{number}" for number in range(4)]
    db.put_many(dict.fromkeys(accounts, "100"))

    def transfer(number: int) -> None:
        source, target = accounts[number % 4], accounts[(number * 3 + 1) % 4]

        def move(tx: shoal.Transaction) -> None:
            have, other = int(tx.get(source) or 0), int(tx.get(target) or 0)
            if source != target:
                tx.put(source, str(have - 1))
                tx.put(target, str(other + 1))

        db.run(move, timeout=20)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(transfer, range(60)))
    with db.transaction() as tx:
        assert sum(int(value) for _, value in tx.scan(f"{ns}/")) == 400


def test_keys_of_several_shards_are_refused_at_once(database: Database, ns: str) -> None:
    db = database.db
    with pytest.raises(shoal.CrossShard, match="common partition"), db.transaction() as tx:
        for number in range(64):
            tx.put(f"{ns}-{number}", "v")
    with pytest.raises(shoal.CrossShard, match="several shards"), db.transaction() as tx:
        tx.scan(f"{ns}-")
    assert list(db.scan(f"{ns}-")) == []


def test_what_is_certain_of_ranges_in_transactions_is_one_partition(database: Database, ns: str) -> None:
    db = database.db
    db.put_many({f"{ns}/{number}": "v" for number in range(9)})
    for bounds in ({"prefix": f"{ns}/"}, {"prefix": f"{ns}/1"}, {"start": f"{ns}/2", "end": f"{ns}/7"}):
        with db.transaction() as tx:
            found = len(list(tx.scan(**bounds, page_rows=2)))
            assert list(tx.scan(**bounds, reverse=True, page_rows=2))[-1][1] == b"v"
            tx.put(f"{ns}/{len(bounds)}{found}", "w")
    if not database.embedded:
        return
    for bounds in ({}, {"prefix": ns}, {"start": f"{ns}/2"}, {"start": f"{ns}/2", "end": f"{ns}x/7"}):
        with pytest.raises(shoal.CrossShard, match="several partitions"), db.transaction() as tx:
            tx.scan(**bounds)
    with pytest.raises(shoal.CrossShard, match="two partitions"), db.transaction() as tx:
        list(tx.scan(f"{ns}/"))
        tx.put(f"{ns}-other", "v")


def test_a_keyspace_that_is_wanted_with_one_microshard_is_of_one_shard_everywhere() -> None:
    with shoal.Client("embedded://?microshards=1") as db:
        db.write([shoal.put("a", "1"), shoal.put("b", "2")])
        with db.transaction() as tx:
            assert len(list(tx.scan())) == 2
            tx.put("c", "3")
    with shoal.Client("embedded://?microshards=2") as db, pytest.raises(shoal.CrossShard):
        db.write([shoal.put("a", "1"), shoal.put("b", "2")])


def test_too_much_read_is_refused(db: shoal.Client, ns: str) -> None:
    for first in range(0, 10_001, 2000):
        db.write([shoal.put(f"{ns}/{number:05}", "") for number in range(first, min(first + 2000, 10_001))])
    with pytest.raises(shoal.TooLarge, match="10000"), db.transaction() as tx:
        for _ in tx.scan(f"{ns}/"):
            pass
