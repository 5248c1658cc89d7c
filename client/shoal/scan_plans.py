"""What a scan has still to return: planned, gone on with, and told as a string from which another process can go on."""

from __future__ import annotations

import msgspec
from msgspec import structs

from shoal import tokens
from shoal.bounds import CountOrNone, Name, RangeBound
from shoal.errors import InvalidArgument
from shoal.key_sets import prefix_end

ALL_ROWS = -1
"""In place of a limit."""


class Cursor(msgspec.Struct, frozen=True, array_like=True, tag="scan-1"):
    """What a scan has still to return: the keys with `prefix` in [start, end), `limit` of them (-1: all)."""

    keyspace: Name
    prefix: RangeBound
    start: RangeBound
    end: RangeBound
    limit: CountOrNone
    reverse: bool
    keys_only: bool


def plan(
    keyspace: str,
    prefix: bytes,
    start: bytes | None,
    end: bytes | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
) -> Cursor:
    """Return the plan of a new scan: the cursor before its first row.

    Raises:
        InvalidArgument: the limit is negative, or the end is before the start.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit < 2**63):
        raise InvalidArgument(f"limit is a number of rows from 0 to {2**63 - 1}, or None for all, not {limit!r}")
    last = prefix_end(prefix)
    first = max(prefix, start or b"")
    if end and last:
        last = min(end, last)
    elif end:
        last = end
    if start and end and end < start:
        raise InvalidArgument(f"a range runs from its start up to its end, not from {start!r} down to {end!r}")
    if last and last <= first:
        limit = 0
    return Cursor(keyspace, prefix, first, last, ALL_ROWS if limit is None else limit, reverse, keys_only)


def resumed(cursor: str, keyspace: str, keys_only: bool) -> Cursor:
    """Return the plan of a scan that goes on.

    Raises:
        InvalidArgument: the cursor is none, or of another keyspace or kind of scan.
    """
    found = tokens.decode("cursor of a scan", cursor, Cursor)
    if found.keyspace != keyspace:
        raise InvalidArgument(f"the cursor is of keyspace {found.keyspace!r}; this client is on {keyspace!r}")
    if found.keys_only != keys_only:
        raise InvalidArgument(f"the cursor is of a scan with keys_only={found.keys_only}; say the same here")
    return found


def check_page_rows(page_rows: int) -> None:
    """
    Raises:
        InvalidArgument: it is not a positive number, or no request can hold it.
    """
    if isinstance(page_rows, bool) or not isinstance(page_rows, int) or not 0 < page_rows < 2**31:
        raise InvalidArgument(f"page_rows is a number of rows from 1 to {2**31 - 1}, not {page_rows!r}")


def behind(at: Cursor, key: bytes, rows: int) -> Cursor:
    """Return the plan of what follows `key`, the last of so many rows of the plan `at`."""
    limit = at.limit if at.limit == ALL_ROWS else max(0, at.limit - rows)
    if at.reverse:
        return structs.replace(at, end=key, limit=limit)
    return structs.replace(at, start=key + b"\0", limit=limit)
