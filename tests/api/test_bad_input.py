"""What is wrong is refused with a clear error, before anything is done by half, and harms nobody else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shoal

Call = Callable[[Any, str], Any]
"""A call on a client (untyped, or the type checker would refuse it first) with keys of a partition."""


def _calls(name: str, calls: dict[str, Call]) -> Any:
    return pytest.mark.parametrize("call", [pytest.param(call, id=f"{name} {case}") for case, call in calls.items()])


def _named(value: object) -> str:
    """Name a value in the same way in every process."""
    return f"{value!r:.20}".partition(" at 0x")[0]


def _with(values: tuple[object, ...], make: Callable[[Any], Call]) -> dict[str, Call]:
    return {_named(value): make(value) for value in values}


NOT_BYTES = (None, 5, 1.5, bytearray(b"k"), memoryview(b"k"), ["k"], "\ud800")
NO_SECONDS = (-1, -0.001, math.nan, math.inf, 3153600001, 1e300, 10**400, "5", b"5", [], True)


@pytest.fixture(autouse=True)
def untouched(db: shoal.Client, ns: str) -> Iterator[None]:
    """Whatever is refused leaves what there was, and the client goes on serving."""
    db.put(f"{ns}/k", "before")
    yield
    assert list(db.scan(f"{ns}/")) == [(f"{ns}/k".encode(), b"before")]
    with db.transaction() as tx:
        tx.put(f"{ns}/k", "after")
    assert db.get(f"{ns}/k") == b"after"


def refused(db: shoal.Client, ns: str, call: Call) -> shoal.InvalidArgument:
    with pytest.raises(shoal.InvalidArgument) as caught:
        call(db, f"{ns}/")
    assert str(caught.value)
    assert not caught.value.maybe_applied
    assert not caught.value.retryable
    return caught.value


@pytest.mark.parametrize("key", NOT_BYTES, ids=_named)
@pytest.mark.parametrize("method", ["put", "get", "delete", "increment", "exists", "ttl", "touch"])
def test_a_key_of_a_wrong_type(db: shoal.Client, ns: str, key: Any, method: str) -> None:
    arguments = (key, "v") if method == "put" else (key,)
    with pytest.raises(shoal.InvalidArgument, match="a key is"):
        getattr(db, method)(*arguments)


@pytest.mark.parametrize("method", ["put", "get", "get_entry", "delete", "increment", "exists", "ttl", "touch"])
@pytest.mark.parametrize("key", ["", b"", "k" * 4097], ids=["text", "bytes", "long"])
def test_a_key_of_no_or_too_many_bytes(db: shoal.Client, ns: str, key: str | bytes, method: str) -> None:
    arguments = (key, "v") if method == "put" else (key,)
    with pytest.raises(shoal.InvalidArgument, match="1 to 4096 bytes"):
        getattr(db, method)(*arguments)


@_calls("value", _with(NOT_BYTES, lambda value: lambda db, ns: db.put(ns + "k", value)))
def test_a_value_of_a_wrong_type(db: shoal.Client, ns: str, call: Call) -> None:
    assert "a value is" in str(refused(db, ns, call))


@pytest.mark.parametrize("ttl", NO_SECONDS, ids=_named)
@pytest.mark.parametrize(
    "call",
    [
        lambda db, ns, ttl: db.put(ns + "k", "v", ttl=ttl),
        lambda db, ns, ttl: db.put(ns + "k", "v", ttl=ttl, durability="fast"),
        lambda db, ns, ttl: db.touch(ns + "k", ttl),
        lambda db, ns, ttl: db.put_many({ns + "a": "v", ns + "k": "v"}, ttl=ttl),
        lambda db, ns, ttl: db.put_if_absent(ns + "a", "v", ttl=ttl),
        lambda db, ns, ttl: db.compare_and_set(ns + "k", "before", "v", ttl=ttl),
        lambda db, ns, ttl: db.write([shoal.put(ns + "a", "v"), shoal.put(ns + "k", "v", ttl=ttl)]),
        lambda db, ns, ttl: db.write([shoal.put(ns + "a", "v"), shoal.touch(ns + "k", ttl)]),
        lambda db, ns, ttl: db.pipeline().put(ns + "a", "v").put(ns + "k", "v", ttl=ttl),
        lambda db, ns, ttl: db.run(lambda tx: (tx.put(ns + "a", "v"), tx.put(ns + "k", "v", ttl=ttl))),
    ],
    ids=["put", "fast", "touch", "put_many", "put_if_absent", "cas", "write", "write touch", "pipeline", "run"],
)
def test_a_time_to_live_that_is_none(
    db: shoal.Client, ns: str, call: Callable[[Any, str, object], Any], ttl: object
) -> None:
    assert "ttl is a number of seconds" in str(refused(db, ns, lambda db, ns: call(db, ns, ttl)))


@_calls(
    "max_staleness",
    _with((0, *NO_SECONDS), lambda s: lambda db, ns: db.get(ns + "k", consistency="eventual", max_staleness=s)),
)
def test_a_staleness_that_is_none(db: shoal.Client, ns: str, call: Call) -> None:
    assert "max_staleness is a number of seconds" in str(refused(db, ns, call))


def test_a_strong_read_has_no_staleness(db: shoal.Client, ns: str) -> None:
    for call in (
        lambda db, ns: db.get(ns + "k", max_staleness=1),
        lambda db, ns: db.scan(ns, max_staleness=1),
        lambda db, ns: db.get_many([ns + "k"], consistency="strong", max_staleness=1),
    ):
        assert "consistency='eventual'" in str(refused(db, ns, call))


@_calls("timeout", _with((0, *NO_SECONDS), lambda timeout: lambda db, ns: db.put(ns + "k", "v", timeout=timeout)))
def test_a_timeout_that_is_none(db: shoal.Client, ns: str, call: Call) -> None:
    assert "timeout is a number of seconds" in str(refused(db, ns, call))


@_calls("consistency", _with(("", "stron", 5, b"strong", [], {}), lambda c: lambda db, ns: db.get(ns, consistency=c)))
def test_a_consistency_that_is_none(db: shoal.Client, ns: str, call: Call) -> None:
    assert "consistency is one of" in str(refused(db, ns, call))


@_calls("durability", _with(("", "slow", None, 5, []), lambda d: lambda db, ns: db.put(ns + "k", "v", durability=d)))
def test_a_durability_that_is_none(db: shoal.Client, ns: str, call: Call) -> None:
    assert "durability is" in str(refused(db, ns, call))


@_calls("by", _with((2**63, -(2**63) - 1, 1.0, "1", None, True), lambda by: lambda db, ns: db.increment(ns + "n", by)))
def test_an_increment_by_what_is_no_integer_of_64_bits(db: shoal.Client, ns: str, call: Call) -> None:
    assert "-2**63" in str(refused(db, ns, call))


@_calls(
    "scan",
    {
        f"limit {limit!r}": (lambda db, ns, limit=limit: db.scan(ns, limit=limit))
        for limit in (-1, 1.5, "1", True, 2**63)
    }
    | {f"page_rows {n!r}": (lambda db, ns, n=n: db.scan(ns, page_rows=n)) for n in (0, -1, 1.5, "1", 2**31, 2**70)}
    | {
        "prefix 5": lambda db, ns: db.scan(5),
        "start 5": lambda db, ns: db.scan(ns, start=5),
        "end 5": lambda db, ns: db.scan(ns, end=5),
        "reversed bounds": lambda db, ns: db.scan(start=ns + "b", end=ns + "a"),
        "long prefix": lambda db, ns: db.scan("x" * 20_000_000),
        "long start": lambda db, ns: db.scan(start="x" * 20_000_000),
        "long end": lambda db, ns: db.scan(end="x" * 20_000_000),
        "cursor 5": lambda db, ns: db.scan(cursor=5),
    },
)
def test_a_scan_that_cannot_be(db: shoal.Client, ns: str, call: Call) -> None:
    refused(db, ns, call)


@_calls(
    "range",
    {
        "prefix": lambda db, ns: db.delete_prefix("x" * 20_000_000),
        "start": lambda db, ns: db.delete_range("x" * 20_000_000, "y"),
        "end": lambda db, ns: db.delete_range(ns, "x" * 20_000_000),
        "prefix 5": lambda db, ns: db.delete_prefix(5),
        "start None": lambda db, ns: db.delete_range(None, ns),
    },
)
def test_a_deletion_of_a_range_that_cannot_be(db: shoal.Client, ns: str, call: Call) -> None:
    refused(db, ns, call)


@_calls(
    "many",
    {
        "get_many text": lambda db, ns: db.get_many("abc"),
        "get_many bytes": lambda db, ns: db.get_many(b"abc"),
        "get_many None": lambda db, ns: db.get_many(None),
        "get_many wrong key": lambda db, ns: db.get_many([ns + "k", 5]),
        "delete_many text": lambda db, ns: db.delete_many(ns + "k"),
        "delete_many wrong key": lambda db, ns: db.delete_many([ns + "k", 5]),
        "put_many list": lambda db, ns: db.put_many([(ns + "a", "v")]),
        "put_many wrong value": lambda db, ns: db.put_many({ns + "a": "v", ns + "k": 5}),
        "put_many empty key": lambda db, ns: db.put_many({ns + "a": "v", "": "v"}),
    },
)
def test_many_keys_of_which_one_is_wrong(db: shoal.Client, ns: str, call: Call) -> None:
    refused(db, ns, call)


@_calls(
    "write",
    {
        "nothing": lambda db, ns: db.write([]),
        "text": lambda db, ns: db.write([shoal.put(ns + "k", "v"), "put"]),
        "one op": lambda db, ns: db.write(shoal.put(ns + "k", "v")),
        "one condition": lambda db, ns: db.write([shoal.put(ns + "k", "v")], when=shoal.key_present(ns + "k")),
        "condition as op": lambda db, ns: db.write([shoal.put(ns + "k", "v"), shoal.key_present(ns + "k")]),
        "op as condition": lambda db, ns: db.write([shoal.put(ns + "k", "v")], when=[shoal.put(ns + "k", "v")]),
        "empty key": lambda db, ns: db.write([shoal.put(ns + "k", "v"), shoal.put("", "v")]),
        "empty key in a condition": lambda db, ns: db.write([shoal.put(ns + "k", "v")], when=[shoal.key_absent("")]),
        "negative seq": lambda db, ns: db.write([shoal.put(ns + "k", "v")], when=[shoal.seq_equals(ns + "k", -1)]),
        "cas on 5": lambda db, ns: db.compare_and_set(ns + "k", 5, "v"),
    },
)
def test_an_atomic_write_of_which_a_part_is_wrong(db: shoal.Client, ns: str, call: Call) -> None:
    refused(db, ns, call)


LARGE = b"v" * (1 << 20)


@_calls(
    "oversized",
    {
        "write of values": lambda db, ns: db.write([shoal.put(f"{ns}{number}", LARGE) for number in range(8)]),
        "write of keys": lambda db, ns: db.write([shoal.put(ns + "x" * 4000 + str(n), "") for n in range(2200)]),
        "conditions": lambda db, ns: db.write(
            [shoal.put(ns + "k", "v")], when=[shoal.value_equals_or_absent(f"{ns}{n}", LARGE) for n in range(9)]
        ),
        "results": lambda db, ns: db.write([shoal.increment(f"{ns}{number}") for number in range(16_384)]),
        "value": lambda db, ns: db.write([shoal.put(ns + "k", "v"), shoal.put(ns + "a", LARGE + b"v")]),
        "put_many": lambda db, ns: db.put_many({ns + "k": "v", ns + "a": LARGE + b"v"}),
        "pipeline": lambda db, ns: db.pipeline().put(ns + "k", "v").put(ns + "a", LARGE + b"v").execute(),
        "transaction": lambda db, ns: db.run(lambda tx: [tx.put(f"{ns}{number}", LARGE) for number in range(9)]),
    },
)
def test_what_is_too_large_to_be_done_at_once(db: shoal.Client, ns: str, call: Call) -> None:
    assert isinstance(refused(db, ns, call), shoal.TooLarge)


@pytest.mark.parametrize("url", ["", "x", "http://h", "shoal://", "shoal://h:99999", "shoal://h/a/b", "shoal://h?x=1"])
def test_a_url_that_is_none(db: shoal.Client, url: str) -> None:
    with pytest.raises(shoal.InvalidArgument, match=r"."):
        shoal.Client(url)


@pytest.mark.parametrize("setting", ["timeout=0s", "timeout=-1s", "timeout=99999999999s", "max_in_flight=0"])
def test_a_setting_that_cannot_be(db: shoal.Client, setting: str) -> None:
    with pytest.raises(shoal.InvalidArgument):
        shoal.Client(f"shoal://127.0.0.1:1?{setting}")
