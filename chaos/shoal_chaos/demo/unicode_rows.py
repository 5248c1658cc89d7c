"""The Unicode character database as rows, from Python's own copy of it.

Every named code point has a name and a category, and whichever other properties differ from the usual value:
`char:0041/name` -> `LATIN CAPITAL LETTER A`. All properties of a code point share a partition, `char:0041/`, and with
it a shard; the code points spread over all shards.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator


def unicode_rows() -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows, in the order of the code points."""
    for code_point in range(sys.maxunicode + 1):
        char = chr(code_point)
        name = unicodedata.name(char, None)
        if name is None:
            continue
        prefix = f"char:{code_point:04x}/"
        yield f"{prefix}name".encode(), name.encode()
        yield f"{prefix}category".encode(), unicodedata.category(char).encode()
        for field, value in _unusual(char):
            yield f"{prefix}{field}".encode(), value.encode()


def _unusual(char: str) -> Iterator[tuple[str, str]]:
    bidirectional = unicodedata.bidirectional(char)
    if bidirectional != "L":
        yield "bidirectional", bidirectional
    combining = unicodedata.combining(char)
    if combining:
        yield "combining", str(combining)
    decomposition = unicodedata.decomposition(char)
    if decomposition:
        yield "decomposition", decomposition
    if unicodedata.mirrored(char):
        yield "mirrored", "1"
    numeric = unicodedata.numeric(char, None)
    if numeric is not None:
        yield "numeric", repr(numeric)
