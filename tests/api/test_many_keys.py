"""Many keys at once, and pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import shoal


def test_many_keys_come_back_in_the_order_asked(db: shoal.Client, ns: str) -> None:
    written = db.put_many({f"{ns}-{number}": f"v{number}" for number in range(300)})
    assert len(written) == 300
    keys = [f"{ns}-{number}" for number in (5, 299, 1000, 5)]
    assert db.get_many(keys) == [b"v5", b"v299", None, b"v5"]
    assert len(db.delete_many(iter([f"{ns}-5", f"{ns}-1000"]))) == 2
    assert db.get_many(keys) == [None, b"v299", None, None]


def test_nothing_asked_is_nothing_done(db: shoal.Client) -> None:
    assert (db.get_many([]), db.put_many({}), db.delete_many([]), db.pipeline().execute()) == ([], [], [], [])


def test_twenty_of_the_largest_values_go_and_come(db: shoal.Client, ns: str) -> None:
    largest = b"v" * (1 << 20)
    db.put_many({f"{ns}/{number}": largest for number in range(20)})
    assert db.get_many([f"{ns}/{number}" for number in range(20)]) == [largest] * 20
    assert sum(len(value) for _, value in db.scan(f"{ns}/")) == 20 * len(largest)
    db.delete_prefix(f"{ns}/")


def test_where_one_key_is_wrong_none_is_sent(db: shoal.Client, ns: str) -> None:
    with pytest.raises(shoal.TooLarge):
        db.put_many({f"{ns}-a": "v", f"{ns}-{'b' * 5000}": "v", f"{ns}-c": "v"})
    assert db.get_many([f"{ns}-a", f"{ns}-c"]) == [None, None]


def test_the_keys_that_failed_are_named(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}-text", "x")
    pipeline = db.pipeline().increment(f"{ns}-n").increment(f"{ns}-text").put(f"{ns}-k", "v")
    with pytest.raises(shoal.InvalidArgument) as caught:
        pipeline.execute()
    assert caught.value.failed_keys == (f"{ns}-text".encode(),)
    assert db.get_many([f"{ns}-n", f"{ns}-k"]) == [b"1", b"v"]


def test_a_pipeline_gives_the_results_of_every_call_in_order(db: shoal.Client, ns: str) -> None:
    pipeline = (
        db.pipeline()
        .put(f"{ns}/k", "1")
        .get(f"{ns}/k")
        .get_entry(f"{ns}/k")
        .exists(f"{ns}/k")
        .increment(f"{ns}/k", 4)
        .touch(f"{ns}/k", 60)
        .touch(f"{ns}/none", 60)
        .put_if_absent(f"{ns}/k", "no")
        .compare_and_set(f"{ns}/k", "5", "6")
        .write([shoal.increment(f"{ns}/k"), shoal.put(f"{ns}/other", "v")], when=[shoal.value_equals(f"{ns}/k", "6")])
        .get(f"{ns}/k", consistency="strong")
        .put(f"{ns}/k", "fast", durability="fast")
        .delete(f"{ns}/other")
        .get(f"{ns}/other")
        .get(f"{ns}/k")
    )
    assert len(pipeline) == 15
    results: list[Any] = pipeline.execute()
    assert len(pipeline) == 0
    assert isinstance(results[0], shoal.WriteResult)
    assert isinstance(results[2], shoal.Entry)
    assert (results[1], results[2].value, results[3:9]) == (b"1", b"1", [True, 5, True, False, False, True])
    assert (results[9].results, results[10], results[11].durability) == ((7,), b"7", "fast")
    assert results[13:] == [None, b"fast"]


def test_a_pipelines_calls_succeed_or_fail_alone(db: shoal.Client, ns: str) -> None:
    db.put(f"{ns}/text", "x")
    pipeline = db.pipeline().put(f"{ns}/a", "1").increment(f"{ns}/text")
    pipeline.write([shoal.put(f"{ns}/b", "1")], when=[shoal.key_present(f"{ns}/none")]).put(f"{ns}/c", "1")
    results = pipeline.execute(raise_on_error=False)
    assert [type(result) for result in results] == [
        shoal.WriteResult,
        shoal.InvalidArgument,
        shoal.ConditionFailed,
        shoal.WriteResult,
    ]
    assert db.get_many([f"{ns}/a", f"{ns}/b", f"{ns}/c"]) == [b"1", None, b"1"]


def test_neighbours_in_a_batch_do_not_pay_for_each_other(db: shoal.Client, ns: str) -> None:
    """What one request may carry is no limit of what is called at once."""
    pipeline = db.pipeline()
    for part in range(3):
        pipeline.write([shoal.increment(f"{ns}/{part}-{number}") for number in range(1600)])
    pipeline.put(f"{ns}/k", "v")
    *atomics, _ = pipeline.execute(timeout=20)
    assert all(isinstance(result, shoal.WriteResult) and result.results == (1,) * 1600 for result in atomics)
    assert db.get(f"{ns}/k") == b"v"
