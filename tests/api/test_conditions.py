"""Writes that depend on conditions: all or nothing, with one winner, and with what was found instead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import shoal
from shoal.protocol.messages import Condition

from .conftest import Database


def refused(db: shoal.Client, ns: str, *conditions: Condition) -> shoal.ConditionFailed:
    """Return the error of a write that fails, and see that it wrote nothing."""
    with pytest.raises(shoal.ConditionFailed) as caught:
        db.write([shoal.put(f"{ns}/other", "v"), shoal.delete(f"{ns}/k")], when=conditions)
    assert db.get(f"{ns}/other") is None
    assert not caught.value.maybe_applied
    return caught.value


@pytest.mark.parametrize(
    "condition",
    [
        shoal.key_present,
        lambda key: shoal.value_equals(key, "v"),
        lambda key: shoal.value_equals_or_absent(key, "v"),
    ],
)
def test_a_condition_on_what_is_there_holds(db: shoal.Client, ns: str, condition: Callable[[str], Condition]) -> None:
    db.put(f"{ns}/k", "v")
    db.write([shoal.put(f"{ns}/k", "w")], when=[condition(f"{ns}/k")])
    assert db.get(f"{ns}/k") == b"w"


@pytest.mark.parametrize(
    "condition",
    [
        shoal.key_absent,
        lambda key: shoal.value_equals_or_absent(key, "v"),
        lambda key: shoal.seq_equals(key, 0),
    ],
)
def test_a_condition_on_what_is_not_there_holds(
    db: shoal.Client, ns: str, condition: Callable[[str], Condition]
) -> None:
    db.write([shoal.put(f"{ns}/k", "w")], when=[condition(f"{ns}/k")])
    assert db.get(f"{ns}/k") == b"w"


@pytest.mark.parametrize(
    "condition",
    [
        shoal.key_absent,
        lambda key: shoal.value_equals(key, "other"),
        lambda key: shoal.value_equals_or_absent(key, ""),
        lambda key: shoal.seq_equals(key, 0),
        lambda key: shoal.seq_equals(key, 1 << 40),
    ],
)
def test_a_failed_condition_says_what_was_found(
    db: shoal.Client, ns: str, condition: Callable[[str], Condition]
) -> None:
    seq = db.put(f"{ns}/k", "v").seq
    wanted = condition(f"{ns}/k")
    error = refused(db, ns, wanted)
    assert (error.condition, error.found, error.found_seq) == (wanted, b"v", seq)
    assert db.get(f"{ns}/k") == b"v"


@pytest.mark.parametrize(
    "condition",
    [
        shoal.key_present,
        lambda key: shoal.value_equals(key, ""),
        lambda key: shoal.seq_equals(key, 7),
    ],
)
def test_a_failed_condition_says_that_nothing_was_found(
    db: shoal.Client, ns: str, condition: Callable[[str], Condition]
) -> None:
    wanted = condition(f"{ns}/k")
    error = refused(db, ns, wanted)
    assert (error.condition, error.found, error.found_seq) == (wanted, None, 0)


def test_the_first_condition_that_fails_is_the_one_that_is_told(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v")
    second, third = shoal.value_equals(f"{ns}/k", "x"), shoal.key_absent(f"{ns}/k")
    error = refused(db, ns, shoal.key_present(f"{ns}/k"), second, third)
    assert error.condition == second
    assert f"{ns}/k" in str(error)


def test_a_long_value_that_was_found_is_left_out(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v" * 1024)
    assert refused(db, ns, shoal.key_absent(f"{ns}/k")).found == b"v" * 1024
    seq = db.put(f"{ns}/k", "v" * 1025).seq
    error = refused(db, ns, shoal.key_absent(f"{ns}/k"))
    assert (error.found, error.found_seq) == (None, seq)


def test_a_write_on_the_entry_that_was_read_is_done_once(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v")
    entry = db.get_entry(f"{ns}/k")
    assert entry is not None
    db.write([shoal.put(f"{ns}/k", "w")], when=[shoal.seq_equals(f"{ns}/k", entry.seq)])
    assert refused(db, ns, shoal.seq_equals(f"{ns}/k", entry.seq)).found == b"w"


def test_conditions_alone_are_a_question(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/k", "v")
    db.write([], when=[shoal.key_present(f"{ns}/k"), shoal.key_absent(f"{ns}/none")])
    with pytest.raises(shoal.ConditionFailed):
        db.write([], when=[shoal.key_absent(f"{ns}/k")])


def test_all_operations_are_done_in_their_order(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/gone": "v", f"{ns}/n": "5"})
    result = db.write(
        [
            shoal.put(f"{ns}/a", "1"),
            shoal.increment(f"{ns}/a", 10),
            shoal.increment(f"{ns}/n", -6),
            shoal.delete(f"{ns}/gone"),
            shoal.touch(f"{ns}/gone", 60),
            shoal.touch(f"{ns}/a", 60),
        ]
    )
    assert result.results == (11, -1, 0, 1)
    assert db.get_many([f"{ns}/a", f"{ns}/n", f"{ns}/gone"]) == [b"11", b"-1", None]
    entries = [db.get_entry(f"{ns}/{name}") for name in "an"]
    assert [entry.seq for entry in entries if entry is not None] == [result.seq, result.seq]


def test_where_one_operation_is_impossible_none_is_done(db: shoal.Client, ns: str) -> None:
    db.put_many({f"{ns}/text": "x", f"{ns}/gone": "v"})
    with pytest.raises(shoal.InvalidArgument, match="nothing was written"):
        db.write([shoal.put(f"{ns}/a", "1"), shoal.delete(f"{ns}/gone"), shoal.increment(f"{ns}/text")])
    assert db.get_many([f"{ns}/a", f"{ns}/gone", f"{ns}/text"]) == [None, b"v", b"x"]


def test_keys_of_several_shards_are_refused_before_anything_is_written(database: Database, ns: str) -> None:
    db = database.db
    ops = [shoal.put(f"{ns}-{number}", "v") for number in range(64)]
    with pytest.raises(shoal.CrossShard, match="several shards") as caught:
        db.write(ops)
    assert not caught.value.maybe_applied
    with pytest.raises(shoal.CrossShard):
        db.write([shoal.put(f"{ns}-0", "v")], when=[shoal.key_absent(f"{ns}-{number}") for number in range(64)])
    assert list(db.scan(f"{ns}-")) == []


def test_an_embedded_database_refuses_keys_of_two_partitions_where_a_cluster_may(database: Database, ns: str) -> None:
    db = database.db
    db.write([shoal.put(f"{ns}/a", "1"), shoal.increment(f"{ns}/n")], when=[shoal.key_absent(f"{ns}/a")])
    if not database.embedded:
        return
    for ops, when in (
        ([shoal.put(f"{ns}-1", "v"), shoal.delete(f"{ns}-2")], []),
        ([shoal.put(f"{ns}/b", "v")], [shoal.key_present(f"{ns}-2/a")]),
    ):
        with pytest.raises(
            shoal.CrossShard, match=r"an embedded or simulated database refuses .* first b'/'"
        ) as caught:
            db.write(ops, when=when)
        assert not caught.value.maybe_applied
    pipeline = db.pipeline().write([shoal.put(f"{ns}-1", "v"), shoal.put(f"{ns}-2", "v")]).put(f"{ns}-3", "v")
    failed, done = pipeline.execute(raise_on_error=False)
    assert isinstance(failed, shoal.CrossShard)
    assert isinstance(done, shoal.WriteResult)
    assert [key.decode() for key in db.scan(ns, keys_only=True)] == [f"{ns}-3", f"{ns}/a", f"{ns}/n"]


def test_a_whole_partition_is_of_one_shard(db: shoal.Client, ns: str) -> None:
    db.write([shoal.put(f"{ns}/{number}", "v") for number in range(2000)])
    assert len(list(db.scan(f"{ns}/", keys_only=True))) == 2000


def test_put_if_absent_and_compare_and_set_say_whether_they_did(db: shoal.Client, ns: str) -> None:
    assert db.put_if_absent(f"{ns}-k", "1")
    assert not db.put_if_absent(f"{ns}-k", "2")
    assert db.compare_and_set(f"{ns}-k", "1", "3")
    assert not db.compare_and_set(f"{ns}-k", "1", "4")
    assert not db.compare_and_set(f"{ns}-k", None, "5")
    assert db.get(f"{ns}-k") == b"3"
    assert db.compare_and_set(f"{ns}-new", None, "6")
    assert not db.compare_and_set(f"{ns}-none", "", "7")
    assert db.get(f"{ns}-none") is None


@pytest.mark.parametrize("how", ["put_if_absent", "compare_and_set", "seq_equals"])
def test_a_race_has_one_winner(db: shoal.Client, ns: str, how: str) -> None:
    def race(round_: int, runner: int) -> bool:
        key = f"{ns}/{round_}"
        if how == "put_if_absent":
            return db.put_if_absent(key, str(runner))
        if how == "compare_and_set":
            return db.compare_and_set(key, None, str(runner))
        try:
            db.write([shoal.put(key, str(runner))], when=[shoal.seq_equals(key, 0)])
        except shoal.ConditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        for round_ in range(10):
            won = list(threads.map(race, [round_] * 8, range(8)))
            assert won.count(True) == 1
            assert db.get(f"{ns}/{round_}") == b"%d" % won.index(True)
