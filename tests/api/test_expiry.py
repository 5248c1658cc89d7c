"""Times to live: an expired row is invisible to everybody at once, and nothing but its expiry takes it away."""

from __future__ import annotations

import time
from math import inf

import pytest
import shoal

from .conftest import Database

LONG = 3600.0


def let_expire(db: shoal.Client, *keys: str) -> None:
    """Let keys that are there expire, and wait until they have."""
    for key in keys:
        assert db.touch(key, 0.02)
    time.sleep(0.06)


def test_a_row_is_there_until_it_expires_and_says_when_that_is(db: shoal.Client, ns: str) -> None:
    before = time.time()
    db.put(f"{ns}-k", "v", ttl=LONG)
    assert db.get(f"{ns}-k") == b"v"
    entry = db.get_entry(f"{ns}-k")
    assert entry is not None
    assert entry.expires_at is not None
    assert before + LONG - 1 < entry.expires_at < time.time() + LONG + 1
    left = db.ttl(f"{ns}-k")
    assert left is not None
    assert LONG - 60 < left <= LONG + 1


def test_what_never_expires_and_what_is_not_there_are_told_apart(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-k", "v")
    db.put(f"{ns}-zero", "v", ttl=0)
    assert db.ttl(f"{ns}-k") == inf
    assert db.ttl(f"{ns}-zero") == inf
    assert db.ttl(f"{ns}-none") is None


def test_an_expired_row_is_invisible_to_every_kind_of_read(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/{name}": name for name in "abc"})
    let_expire(db, f"{ns}/b")
    assert db.get(f"{ns}/b") is None
    assert db.get_entry(f"{ns}/b") is None
    assert not db.exists(f"{ns}/b")
    assert db.ttl(f"{ns}/b") is None
    assert db.get(f"{ns}/b", consistency="eventual") is None
    assert db.get_many([f"{ns}/a", f"{ns}/b"]) == [b"a", None]
    rows = [(f"{ns}/a".encode(), b"a"), (f"{ns}/c".encode(), b"c")]
    assert list(db.scan(f"{ns}/")) == rows
    assert list(db.scan(f"{ns}/", reverse=True)) == rows[::-1]
    assert list(db.scan(f"{ns}/", limit=2)) == rows
    with db.transaction() as tx:
        assert tx.get(f"{ns}/b") is None
        assert list(tx.scan(f"{ns}/")) == rows


def test_an_expired_row_is_absent_for_conditions(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "old")
    let_expire(db, f"{ns}/k")
    for condition in (
        shoal.key_present(f"{ns}/k"),
        shoal.value_equals(f"{ns}/k", "old"),
        shoal.seq_equals(f"{ns}/k", 1),
    ):
        with pytest.raises(shoal.ConditionFailed) as caught:
            db.write([shoal.put(f"{ns}/other", "v")], when=[condition])
        assert (caught.value.found, caught.value.found_seq) == (None, 0)
    assert not db.compare_and_set(f"{ns}/k", "old", "new")
    held = [shoal.key_absent(f"{ns}/k"), shoal.value_equals_or_absent(f"{ns}/k", "x"), shoal.seq_equals(f"{ns}/k", 0)]
    db.write([shoal.put(f"{ns}/other", "v")], when=held)
    assert db.put_if_absent(f"{ns}/k", "new")
    assert db.get(f"{ns}/k") == b"new"


def test_an_expired_counter_begins_at_zero_and_does_not_expire_again(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-n", "41")
    let_expire(db, f"{ns}-n")
    assert db.increment(f"{ns}-n") == 1
    assert db.ttl(f"{ns}-n") == inf


def test_a_counter_that_begins_gets_the_time_to_live_and_keeps_it(db: shoal.Client, ns: str) -> None:
    assert db.increment(f"{ns}/n", ttl=LONG) == 1
    assert db.increment(f"{ns}/n", ttl=10 * LONG) == 2
    assert db.pipeline().increment(f"{ns}/n", 2, ttl=1).execute() == [4]
    assert db.write([shoal.increment(f"{ns}/n", ttl=1)]).results == (5,)
    with db.transaction() as tx:
        assert tx.increment(f"{ns}/n", ttl=1) == 6
        assert tx.increment(f"{ns}/other", ttl=LONG) == 1
        assert tx.increment(f"{ns}/other", ttl=1) == 2
    assert [LONG - 60 < (db.ttl(f"{ns}/{name}") or 0) <= LONG + 1 for name in ("n", "other")] == [True, True]
    db.put(f"{ns}/eternal", "1")
    db.increment(f"{ns}/eternal", ttl=LONG)
    assert db.ttl(f"{ns}/eternal") == inf


def test_a_window_of_a_counter_ends_and_another_begins(db: shoal.Client, ns: str) -> None:
    assert db.increment(f"{ns}/window", ttl=0.2) == 1
    assert db.increment(f"{ns}/window", ttl=0.2) == 2
    until = time.monotonic() + 20
    while db.exists(f"{ns}/window"):
        assert time.monotonic() < until
    assert db.increment(f"{ns}/window", ttl=LONG) == 1


def test_a_counter_that_begins_has_the_keyspaces_default(cluster_database: Database, ns: str) -> None:
    brief = cluster_database.db.keyspace("brief")
    brief.increment(f"{ns}/n")
    brief.increment(f"{ns}/eternal", ttl=0)
    until = time.monotonic() + 20
    while brief.exists(f"{ns}/n"):
        assert time.monotonic() < until
    assert brief.ttl(f"{ns}/eternal") == inf


def test_an_expired_row_cannot_be_touched_back(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-k", "v")
    let_expire(db, f"{ns}-k")
    assert not db.touch(f"{ns}-k", LONG)
    assert db.get(f"{ns}-k") is None


def test_a_row_that_expires_during_a_transaction_conflicts_with_it(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v", ttl=0.8)
    with pytest.raises(shoal.TransactionConflict), db.transaction() as tx:
        assert tx.get(f"{ns}/k") == b"v"
        tx.put(f"{ns}/copy", "v")
        time.sleep(0.9)
    assert db.get(f"{ns}/copy") is None


def test_overwriting_drops_the_expiry(db: shoal.Client, ns: str) -> None:
    for name in ("put", "cas", "write", "tx"):
        db.put(f"{ns}/{name}", "1", ttl=LONG)
    db.put(f"{ns}/put", "2")
    assert db.compare_and_set(f"{ns}/cas", "1", "2")
    db.write([shoal.put(f"{ns}/write", "2")])
    with db.transaction() as tx:
        tx.put(f"{ns}/tx", "2")
    assert [db.ttl(f"{ns}/{name}") for name in ("put", "cas", "write", "tx")] == [inf] * 4


def test_incrementing_keeps_the_expiry(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-n", "1", ttl=LONG)
    before = db.get_entry(f"{ns}-n")
    assert db.increment(f"{ns}-n") == 2
    after = db.get_entry(f"{ns}-n")
    assert before is not None
    assert after is not None
    assert after.expires_at == before.expires_at
    db.put(f"{ns}-gone", "1", ttl=0.8)
    assert db.increment(f"{ns}-gone") == 2
    time.sleep(0.9)
    assert db.get(f"{ns}-gone") is None


def test_a_row_that_was_written_anew_outlives_its_first_expiry(db: shoal.Client, ns: str) -> None:
    for name in ("forever", "longer", "again"):
        db.put(f"{ns}-{name}", "1", ttl=0.05)
    db.put(f"{ns}-forever", "2")
    db.put(f"{ns}-longer", "2", ttl=LONG)
    time.sleep(0.1)
    db.put(f"{ns}-again", "2")
    time.sleep(0.3)  # whoever removes expired rows has been there by now
    assert db.get_many([f"{ns}-{name}" for name in ("forever", "longer", "again")]) == [b"2"] * 3


def test_touch_changes_the_expiry_and_not_the_value(db: shoal.Client, ns: str) -> None:
    assert not db.touch(f"{ns}-k", LONG)
    assert db.get(f"{ns}-k") is None
    db.put(f"{ns}-k", "v")
    assert db.touch(f"{ns}-k", LONG)
    assert (db.ttl(f"{ns}-k") or 0) > LONG - 60
    assert db.touch(f"{ns}-k", 0)
    assert db.ttl(f"{ns}-k") == inf
    assert db.get(f"{ns}-k") == b"v"


def test_touch_counts_as_a_write_for_conditions(db: shoal.Client, ns: str) -> None:
    seq = db.put(f"{ns}-k", "v").seq
    assert db.touch(f"{ns}-k", LONG)
    with pytest.raises(shoal.ConditionFailed):
        db.write([shoal.put(f"{ns}-k", "w")], when=[shoal.seq_equals(f"{ns}-k", seq)])


def test_every_way_of_writing_takes_a_time_to_live(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/many1": "1", f"{ns}-many2": "1"}, ttl=LONG)
    assert db.put_if_absent(f"{ns}/absent", "1", ttl=LONG)
    db.put(f"{ns}/cas", "0")
    assert db.compare_and_set(f"{ns}/cas", "0", "1", ttl=LONG)
    db.write([shoal.put(f"{ns}/write", "1", ttl=LONG), shoal.increment(f"{ns}/n"), shoal.touch(f"{ns}/n", LONG)])
    with db.transaction() as tx:
        tx.put(f"{ns}/tx", "1", ttl=LONG)
    db.pipeline().put(f"{ns}/pipeline", "1", ttl=LONG).execute()
    db.put(f"{ns}/fast", "1", ttl=LONG, durability="fast")
    keys = [f"{ns}/{name}" for name in ("many1", "absent", "cas", "write", "n", "tx", "pipeline", "fast")]
    for key in (*keys, f"{ns}-many2"):
        assert (db.ttl(key) or 0) > LONG - 60, key
        assert db.get(key) == b"1"


def test_many_rows_that_expire_together_are_all_gone(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}-{number:03}": "v" for number in range(0, 500, 2)}, ttl=0.3)
    db.put_many({f"{ns}-{number:03}": "v" for number in range(1, 500, 2)})
    time.sleep(0.35)
    assert list(db.scan(f"{ns}-", keys_only=True, page_rows=7)) == [
        b"%s-%03d" % (ns.encode(), n) for n in range(1, 500, 2)
    ]


def test_a_keyspace_may_let_rows_expire_by_default(cluster_database: Database, ns: str) -> None:
    brief = cluster_database.db.keyspace("brief")
    brief.put(f"{ns}/k", "v")
    brief.put(f"{ns}/forever", "v", ttl=0)
    brief.put(f"{ns}/long", "v", ttl=LONG)
    brief.put(f"{ns}/touched", "v", ttl=LONG)
    brief.touch(f"{ns}/touched")
    brief.increment(f"{ns}/n")
    entry = brief.get_entry(f"{ns}/forever")
    assert entry is not None
    assert entry.expires_at is None
    assert (brief.ttl(f"{ns}/long") or 0) > LONG - 60
    time.sleep(0.4)
    assert list(brief.scan(f"{ns}/", keys_only=True)) == [f"{ns}/{name}".encode() for name in ("forever", "long")]
