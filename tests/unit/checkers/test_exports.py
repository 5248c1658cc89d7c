"""What is wrong with an export: rows that are missing, there twice, or other than they were."""

from __future__ import annotations

import pytest
from shoal.shardmap import Keyspace, MicroshardRange, Shard, ShardMap
from shoal_chaos.checkers.exports import find_violations, rows_of
from shoal_chaos.workloads.exports import whole_or_not

KEPT = {b"a": b"1", b"b": b"2", b"\xff": b"\xfe"}
WHOLE = [*KEPT.items(), (b"others", b"x")]


def test_lines_are_read_as_they_are_written() -> None:
    lines = [b'{"key":"\\u00e4","value":"1","expires_at":17.5}\n', b'{"key_base64":"/w==","value_base64":"/g=="}\n']
    assert list(rows_of(lines)) == [("ä".encode(), b"1"), (b"\xff", b"\xfe")]


@pytest.mark.parametrize("line", ['{"key":"a"}', "{", '{"key_base64":"?","value":""}'])
def test_what_is_no_row_is_no_row(line: str) -> None:
    with pytest.raises((KeyError, ValueError)):
        list(rows_of([line.encode()]))


def test_a_whole_export_is_whole() -> None:
    assert list(find_violations(KEPT, WHOLE)) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (WHOLE[1:], "1 of 3 rows that were there throughout are missing: [b'a']"),
        ([*WHOLE, (b"b", b"2")], "1 rows are there more than once: [b'b']"),
        ([*WHOLE, (b"others", b"y")], "1 rows are there more than once: [b'others']"),
        ([(b"a", b"0"), *WHOLE[1:]], "1 rows have values that they never had: [b'a']"),
    ],
)
def test_what_is_wrong_is_said(rows: list[tuple[bytes, bytes]], said: str) -> None:
    assert list(find_violations(KEPT, rows)) == [said]


def test_a_map_has_each_microshard_once() -> None:
    def problems(*ranges: tuple[int, int]) -> list[str]:
        shards = tuple(
            Shard(number, 1, (MicroshardRange(first, end),), ("n1",)) for number, (first, end) in enumerate(ranges, 1)
        )
        return list(whole_or_not(ShardMap(1, "c", (), (Keyspace(1, "k", 8, b":"),), shards)))

    assert problems((0, 4), (4, 8)) == []
    assert problems((0, 4), (3, 8)) == ["microshards [3] of k are not those of one shard each"]
    assert problems((0, 4), (5, 8)) == ["microshards [4] of k are not those of one shard each"]
