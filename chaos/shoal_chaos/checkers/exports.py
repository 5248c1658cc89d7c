"""Does an export have every row that was there throughout exactly once, and no other row twice?"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

SHOWN = 3


def rows_of(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of JSON Lines as `shoal export` prints them.

    Raises:
        KeyError, ValueError: a line is none of these.
    """
    for line in lines:
        row = json.loads(line)
        yield _bytes_of(row, "key"), _bytes_of(row, "value")


def find_violations(kept: Mapping[bytes, bytes], rows: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
    """Yield, in words, what is wrong with an export.

    Args:
        kept: the rows that nobody touched from before it began until after it had ended.
        rows: what was exported, with rows of others, which may have changed meanwhile.
    """
    found: dict[bytes, bytes] = {}
    times: Counter[bytes] = Counter()
    for key, value in rows:
        times[key] += 1
        found[key] = value
    missing = [key for key in kept if key not in found]
    if missing:
        yield f"{len(missing)} of {len(kept)} rows that were there throughout are missing: {missing[:SHOWN]}"
    twice = [key for key, count in times.items() if count > 1]
    if twice:
        yield f"{len(twice)} rows are there more than once: {twice[:SHOWN]}"
    wrong = [key for key, value in kept.items() if found.get(key, value) != value]
    if wrong:
        yield f"{len(wrong)} rows have values that they never had: {wrong[:SHOWN]}"


def _bytes_of(row: Mapping[str, str], field: str) -> bytes:
    encoded = row.get(f"{field}_base64")
    return row[field].encode() if encoded is None else base64.b64decode(encoded, validate=True)
