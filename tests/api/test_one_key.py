"""One key: written, read, removed, and what is said of it."""

from __future__ import annotations

import pytest
import shoal


def test_what_was_put_is_got_until_it_is_deleted(db: shoal.Client, ns: str) -> None:
    assert db.get(f"{ns}-k") is None
    assert not db.exists(f"{ns}-k")
    first = db.put(f"{ns}-k", "v")
    assert first.durability == "quorum"
    assert db.get(f"{ns}-k") == b"v"
    assert db.exists(f"{ns}-k")
    second = db.delete(f"{ns}-k")
    assert second.seq > first.seq
    assert db.get(f"{ns}-k") is None
    assert not db.exists(f"{ns}-k")
    db.delete(f"{ns}-k")


def test_text_is_utf8_and_what_comes_back_is_bytes(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-ключ", "значение")
    assert db.get(f"{ns}-ключ".encode()) == "значение".encode()
    every_byte = bytes(range(256))
    db.put(ns.encode() + every_byte, every_byte)
    assert db.get(ns.encode() + every_byte) == every_byte


def test_an_empty_value_is_a_value(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-k", "")
    assert db.get(f"{ns}-k") == b""
    assert db.exists(f"{ns}-k")


def test_the_largest_key_and_value_are_accepted(db: shoal.Client, ns: str) -> None:
    key, value = ns.ljust(4096, "k"), b"v" * (1 << 20)
    db.put(key, value)
    assert db.get(key) == value
    with pytest.raises(shoal.TooLarge, match="1 to 4096 bytes"):
        db.put(key + "k", "v")
    with pytest.raises(shoal.TooLarge, match="at most 1048576"):
        db.put(f"{ns}-v", value + b"v")
    assert db.get(f"{ns}-v") is None


def test_an_entry_says_when_it_was_written_and_who_says_so(db: shoal.Client, ns: str) -> None:
    assert db.get_entry(f"{ns}/k") is None
    written = db.put(f"{ns}/k", "v")
    db.put(f"{ns}/other", "v")
    entry = db.get_entry(f"{ns}/k")
    assert entry is not None
    assert (entry.value, entry.seq, entry.expires_at, entry.staleness) == (b"v", written.seq, None, 0.0)
    assert entry.served_by in ("n1", "n2", "n3")


def test_a_fast_write_is_seen_at_once_and_says_that_it_was_fast(db: shoal.Client, ns: str) -> None:
    for number in range(20):
        written = db.put(f"{ns}/k", str(number), durability="fast")
        assert written.durability == "fast"
        entry = db.get_entry(f"{ns}/k")
        assert entry is not None
        assert (entry.value, entry.seq) == (b"%d" % number, written.seq)
    assert db.delete(f"{ns}/k", durability="fast").durability == "fast"
    assert db.get(f"{ns}/k") is None


def test_fast_and_safe_writes_of_one_key_keep_their_order(db: shoal.Client, ns: str) -> None:
    for number in range(20):
        db.put(f"{ns}/k", f"{number}", durability="fast" if number % 2 else "quorum")
        assert db.increment(f"{ns}/k") == number + 1
