"""Is what a scan returned in order and in its range, and does each row, there or missing, fit the history of its key?

A scan over several shards shows no single instant, but of each key a value that it had while the scan went on. So a scan
is one read of every key in the range that it covered, and goes into the histories of these keys (linearizability.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal_chaos.checkers.linearizability import Found, RegisterOperation


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan of [start, end) returned, at most `limit` rows (None: all), from `began` to `ended`.

    Attributes:
        rows: in the order in which they came, the highest key first where `reverse`.
        keys_only: no values were asked for; those of `rows` say nothing.
    """

    start: bytes
    end: bytes
    limit: int | None
    reverse: bool
    keys_only: bool
    rows: Sequence[tuple[bytes, bytes]]
    began: float
    ended: float


def find_violations(scan: Scan) -> Iterator[str]:
    """Yield, in words, what is wrong with the keys that a scan returned, whatever is stored."""
    told = f"A scan of [{scan.start!r}, {scan.end!r})" + (", from the end," if scan.reverse else "")
    for (one, _), (other, _) in pairwise(scan.rows):
        if (other >= one) if scan.reverse else (other <= one):
            yield f"{told} returned {one!r} and then {other!r}."
    for key, _ in scan.rows:
        if not scan.start <= key < scan.end:
            yield f"{told} returned {key!r}."
    if scan.limit is not None and len(scan.rows) > scan.limit:
        yield f"{told} returned {len(scan.rows)} rows, where at most {scan.limit} were asked for."


def reads_of(scan: Scan, keys: Sequence[bytes]) -> Iterator[tuple[bytes, RegisterOperation]]:
    """Yield what a scan says about each of `keys`, as a read of it.

    Args:
        keys: all that were ever written, in order. What a limit cut off the scan says nothing about.
    """
    rows = dict(scan.rows)
    full = scan.limit is not None and len(scan.rows) >= scan.limit
    for key in {*keys[bisect_left(keys, scan.start) : bisect_left(keys, scan.end)], *rows}:
        if full and (not rows or ((key < scan.rows[-1][0]) if scan.reverse else (key > scan.rows[-1][0]))):
            continue
        when = Found(None, equal=False) if scan.keys_only and key in rows else None
        yield key, RegisterOperation("scan", False, rows.get(key), scan.began, scan.ended, when)
