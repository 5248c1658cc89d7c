"""Reading a whole keyspace page by page: each row once, whatever the map says from page to page."""

from __future__ import annotations

from random import Random

import pytest
from shoal.coverage import KeyspaceCoverage, Unread
from shoal.errors import Internal, KeyspaceNotFound
from shoal.protocol.messages import PageResume
from shoal.shardmap import (
    Keyspace,
    MicroshardRange,
    Ranges,
    Routes,
    Shard,
    ShardMap,
    ShardPart,
    count_in,
    is_well_formed,
    microshards_in,
    ranges_of,
)

MICROSHARDS = 12
KEYSPACE = Keyspace(1, "default", MICROSHARDS, b"/")
ROWS = {microshard: [b"%d-%d" % (microshard, number) for number in range(microshard % 4)] for microshard in range(12)}


def routes(owners: list[int], version: int = 1) -> Routes:
    shards = tuple(
        Shard(shard, 1, ranges_of(at for at, owner in enumerate(owners) if owner == shard), ("n1",))
        for shard in (1, 2, 3)
    )
    return Routes(ShardMap(version, "c", (), (KEYSPACE,), shards))


@pytest.mark.parametrize("seed", range(200))
def test_every_row_is_read_once_while_microshards_move(seed: int) -> None:
    random = Random(seed)

    def anyhow() -> Routes:
        return routes([random.choice([1, 2, 3]) for _ in range(MICROSHARDS)])

    coverage = KeyspaceCoverage(anyhow(), KEYSPACE)
    found: list[bytes] = []
    for _ in range(500):
        part = coverage.part
        if part is None:
            break
        assert is_well_formed(part.ranges, MICROSHARDS)
        rows = [(at, key) for at in microshards_in(part.ranges) for key in ROWS[at]]
        rows = [row for row in rows if row > (part.ranges[0].first, coverage.after)]
        page = rows[: random.randint(0, 5)]
        found += [key for _, key in page]
        reached = page[-1] if page else (part.ranges[0].first, coverage.after)
        if len(page) < len(rows):
            # Some of what comes before the next row may have been looked at, too.
            behind = random.choice(
                [reached, reached if page else (reached[0], reached[1] + b"\0"), (rows[len(page)][0], b"")]
            )
            reached = max(reached if page else (reached[0], reached[1] + b"\0"), behind)
        resume = None if len(page) == len(rows) else PageResume(*reached)
        coverage.take([at for at, _ in page], [key for _, key in page], resume)
        if random.random() < 0.4:
            coverage.follow(anyhow())
    assert coverage.part is None
    assert coverage.microshards_left == 0
    assert sorted(found) == sorted(key for keys in ROWS.values() for key in keys)


@pytest.mark.parametrize(
    ("microshards", "keys", "resume"),
    [
        ([], [], PageResume(1, b"a")),
        ([], [], PageResume(0, b"z")),
        ([], [], PageResume(4, b"")),
        ([1, 1], [b"x", b"y"], PageResume(1, b"x")),
        ([5], [b"x"], None),
        ([1, 0], [b"x", b"x"], None),
        ([1, 1], [b"x", b"x"], PageResume(1, b"x")),
        ([1], [b"a"], None),
        ([1, 1], [b"y", b"x"], None),
    ],
)
def test_a_page_that_was_not_asked_for_is_no_progress(
    microshards: list[int], keys: list[bytes], resume: PageResume | None
) -> None:
    coverage = KeyspaceCoverage(routes([1] * 4 + [2] * 8), KEYSPACE)
    coverage.take([1], [b"a"], PageResume(1, b"a"))
    with pytest.raises(Internal, match="shard 1 sent"):
        coverage.take(microshards, keys, resume)


def test_an_empty_page_that_says_where_to_go_on_gets_the_reader_on() -> None:
    coverage = KeyspaceCoverage(routes([1] * 4 + [2] * 8), KEYSPACE)
    coverage.take([], [], PageResume(0, b"far"))
    assert coverage.after == b"far"
    coverage.take([], [], PageResume(2, b""))
    assert coverage.part == ShardPart(1, (MicroshardRange(2, 4),))
    coverage.take([], [], None)
    assert coverage.part == ShardPart(2, (MicroshardRange(4, 12),))


def test_a_keyspace_that_is_dropped_meanwhile_is_not_read_to_its_end_in_silence() -> None:
    coverage = KeyspaceCoverage(routes([1] * MICROSHARDS), KEYSPACE)
    with pytest.raises(KeyspaceNotFound, match="dropped"):
        coverage.follow(Routes(ShardMap(2, "c", (), (), ())))


@pytest.mark.parametrize(
    ("spans", "well_formed"),
    [
        ([(0, 12)], True),
        ([(0, 1), (1, 2), (5, 12)], True),
        ([], False),
        ([(0, 13)], False),
        ([(3, 3)], False),
        ([(-1, 3)], False),
        ([(4, 5), (0, 1)], False),
        ([(0, 3), (2, 4)], False),
        ([(1 << 60, 1 << 61)], False),
    ],
)
def test_ranges_of_a_request_are_in_order_and_name_each_microshard_once(
    spans: list[tuple[int, int]], well_formed: bool
) -> None:
    ranges: Ranges = tuple(MicroshardRange(*span) for span in spans)
    assert is_well_formed(ranges, MICROSHARDS) is well_formed
    if well_formed:
        assert count_in(ranges) == len(set(microshards_in(ranges)))


def test_what_is_left_out_is_named_to_the_microshard_and_key_and_stays_out_by_newer_maps() -> None:
    coverage = KeyspaceCoverage(routes([1] * 4 + [2] * 4 + [3] * 4), KEYSPACE)
    coverage.take([1, 2], [b"1-0", b"2-0"], PageResume(2, b"2-0"))
    assert coverage.leave() == Unread(1, (MicroshardRange(2, 4),), b"2-0")
    assert coverage.after == b""
    assert coverage.microshards_left == 8
    coverage.follow(routes([3] * MICROSHARDS, version=2))
    unread = coverage.leave()
    assert (unread.shard, ranges_of(microshards_in(unread.ranges)), unread.after) == (3, (MicroshardRange(4, 12),), b"")
    assert coverage.part is None


def test_what_a_shard_serves_of_a_part_that_is_left_out_is_read_all_the_same() -> None:
    coverage = KeyspaceCoverage(routes([1] * 4 + [2] * 8), KEYSPACE)
    coverage.take([1, 1], [b"1-0", b"1-1"], PageResume(1, b"1-1"))
    served = (MicroshardRange(0, 2), MicroshardRange(3, 4))
    assert coverage.leave(served) == Unread(1, (MicroshardRange(2, 3),), b"")
    assert coverage.part == ShardPart(1, (MicroshardRange(1, 2), MicroshardRange(3, 4)))
    assert coverage.after == b"1-1"
    assert coverage.leave((MicroshardRange(3, 4),)) == Unread(1, (MicroshardRange(1, 2),), b"1-1")
    assert (coverage.part, coverage.after) == (ShardPart(1, (MicroshardRange(3, 4),)), b"")
    assert coverage.leave((MicroshardRange(0, 12),)) == Unread(1, (MicroshardRange(3, 4),), b"")
    assert coverage.part == ShardPart(2, (MicroshardRange(4, 12),))
