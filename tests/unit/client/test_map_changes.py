"""What splits, migrations and removals make of a shard map, for managers and nodes alike."""

from __future__ import annotations

from shoal.map_changes import with_migrated, with_split, without_shard
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Routes, Shard, ShardMap

FIRST, SECOND, CHILD, OTHER = 1, 2, 3, 9
VOTERS = ("n1",)


def span(first: int, end: int) -> tuple[MicroshardRange, ...]:
    return (MicroshardRange(first, end),)


def shard_map() -> ShardMap:
    return ShardMap(
        5,
        "test",
        (NodeAddress("n1", "n1:1"),),
        (Keyspace(1, "default", 8, b"/"), Keyspace(2, "other", 8, b"/")),
        (
            Shard(FIRST, 1, span(0, 6), VOTERS),
            Shard(SECOND, 1, span(6, 8), VOTERS),
            Shard(OTHER, 2, span(0, 8), VOTERS),
        ),
    )


def shards(known: ShardMap) -> dict[int, Shard]:
    Routes(known)  # Every microshard is of exactly one shard, or this raises.
    return {shard.id: shard for shard in known.shards}


def test_a_split_takes_its_microshards_from_the_parent_and_keeps_what_that_began_with() -> None:
    before = shard_map()
    after = with_split(before, Shard(CHILD, 1, span(4, 6), VOTERS, parent=FIRST), 6)
    found = shards(after)
    assert (after.version, found[FIRST].ranges, found[FIRST].founding_ranges) == (6, span(0, 4), span(0, 6))
    assert found[CHILD].ranges == span(4, 6)
    assert (found[SECOND], found[OTHER]) == (before.shards[1], before.shards[2]), "nobody else changes"


def test_a_split_that_is_newer_than_the_map_takes_its_microshards_from_whoever_has_them_there() -> None:
    """The parent had some from a migration that this map does not know of."""
    found = shards(with_split(shard_map(), Shard(CHILD, 1, span(5, 7), VOTERS, parent=FIRST), 7))
    assert (found[FIRST].ranges, found[SECOND].ranges, found[CHILD].ranges) == (span(0, 5), span(7, 8), span(5, 7))


def test_a_migration_moves_microshards_and_what_both_began_with_stays_after_the_next_one_too() -> None:
    once = with_migrated(shard_map(), FIRST, SECOND, span(4, 6), 6)
    twice = with_migrated(once, SECOND, FIRST, span(4, 8), 9)
    found = shards(twice)
    assert (twice.version, found[FIRST].ranges, found[SECOND].ranges) == (9, span(0, 8), ())
    assert (found[FIRST].founding_ranges, found[SECOND].founding_ranges) == (span(0, 6), span(6, 8))
    assert found[OTHER].ranges == span(0, 8)


def test_an_empty_shard_is_removed() -> None:
    emptied = with_migrated(shard_map(), SECOND, FIRST, span(6, 8), 6)
    after = without_shard(emptied, SECOND, 7)
    assert (after.version, shards(after).keys()) == (7, {FIRST, OTHER})
