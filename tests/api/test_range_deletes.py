"""Deleting ranges: exactly the keys within the bounds, and nothing beside them."""

from __future__ import annotations

import pytest
import shoal

from .conftest import Database


def left(db: shoal.Client, prefix: str) -> list[str]:
    return [key.decode() for key in db.scan(prefix, keys_only=True)]


def test_a_prefix_takes_every_key_that_begins_with_it_and_no_other(db: shoal.Client, ns: str) -> None:
    inside = [f"{ns}/a", f"{ns}/a\0", f"{ns}/a/b", f"{ns}/aa", f"{ns}/a\x7f"]
    outside = [f"{ns}/", f"{ns}/A", f"{ns}/b", f"{ns}0a"]
    db.put_many(dict.fromkeys(inside + outside, "v"))
    assert db.delete_prefix(f"{ns}/a") == 1
    assert left(db, ns) == sorted(outside)


def test_a_prefix_of_several_partitions_is_deleted_in_every_shard(database: Database, ns: str) -> None:
    db = database.db
    db.put_many({f"{ns}-{number:03}": "v" for number in range(200)} | {f"{ns}.keep": "v", f"{ns},keep": "v"})
    assert db.delete_prefix(f"{ns}-") == database.microshards
    assert left(db, ns) == [f"{ns},keep", f"{ns}.keep"]


def test_a_prefix_of_the_highest_bytes_ends_where_it_should(db: shoal.Client, ns: str) -> None:
    prefix = ns.encode() + b"/\xff"
    db.put_many({prefix: "v", prefix + b"\xff\xff": "v", ns.encode() + b"/\xfe\xff": "v", ns.encode() + b"0": "v"})
    db.delete_prefix(prefix)
    assert list(db.scan(ns, keys_only=True)) == [ns.encode() + b"/\xfe\xff", ns.encode() + b"0"]


@pytest.mark.parametrize("separator", ["/", "-"])
def test_a_range_has_its_start_and_not_its_end(db: shoal.Client, ns: str, separator: str) -> None:
    keys = [f"{ns}{separator}{number:02}" for number in range(10)]
    db.put_many(dict.fromkeys(keys, "v"))
    db.delete_range(keys[3], keys[6])
    assert left(db, f"{ns}{separator}") == keys[:3] + keys[6:]
    db.delete_range(keys[6] + "\0", keys[7])
    assert left(db, f"{ns}{separator}") == keys[:3] + keys[6:]
    db.delete_range(keys[6], keys[6] + "\0")
    assert left(db, f"{ns}{separator}") == keys[:3] + keys[7:]


def test_an_empty_range_deletes_nothing_and_a_reversed_one_is_refused(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v")
    assert db.delete_range(f"{ns}/k", f"{ns}/k") == 0
    with pytest.raises(shoal.InvalidArgument, match="not from"):
        db.delete_range(f"{ns}/l", f"{ns}/k")
    assert db.get(f"{ns}/k") == b"v"


def test_an_empty_prefix_is_no_way_to_delete_everything(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v")
    with pytest.raises(shoal.InvalidArgument, match="every key"):
        db.delete_prefix("")
    assert db.get(f"{ns}/k") == b"v"


def test_a_range_without_bounds_empties_the_keyspace_and_no_other(database: Database, ns: str) -> None:
    orders = database.db.keyspace("orders")
    orders.put_many({f"{ns}-{number}": "v" for number in range(50)})
    database.db.put(f"{ns}-k", "v")
    assert orders.delete_range("", "") == 16
    assert list(orders.scan()) == []
    assert database.db.get(f"{ns}-k") == b"v"


def test_what_is_written_after_a_deletion_stays(db: shoal.Client, ns: str) -> None:
    for round_ in range(5):
        db.put_many({f"{ns}-{number}": str(round_) for number in range(20)})
        db.delete_prefix(f"{ns}-")
        db.put(f"{ns}-5", str(round_))
        assert list(db.scan(f"{ns}-")) == [(f"{ns}-5".encode(), b"%d" % round_)]


def test_deleting_what_may_expire_leaves_nothing_that_comes_back(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/{number}": "old" for number in range(10)}, ttl=0.2)
    db.delete_prefix(f"{ns}/")
    db.put(f"{ns}/3", "new")
    assert list(db.scan(f"{ns}/")) == [(f"{ns}/3".encode(), b"new")]
