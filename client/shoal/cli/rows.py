"""One row of an import or export file: JSON Lines and CSV, with base64 variants for what is not UTF-8 text.

JSON Lines: `{"key": "user:1/name", "value": "Ada"}`; `key_base64` and `value_base64` stand for binary ones. `expires_at`
says when the row expires (Unix time in seconds), or `ttl` how long it is to live (seconds, or text such as "10m"; 0: for
ever). CSV: a header that names the same fields.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import msgspec

from shoal.arguments import to_ttl_ms
from shoal.cli.options import parse_ttl
from shoal.errors import InvalidArgument

UNIX_SECONDS_MAX = 1 << 40
"""A later time is a mistake: nothing expires in 30,000 years."""
LINE_BYTES_MAX = 16 * 1024 * 1024
"""A longer line is a mistake (a file of another kind): it is refused before it is held in memory."""


class EncodedRow(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A row as it stands in a file: each of key and value either as text or as base64."""

    key: str | None = None
    key_base64: str | None = None
    value: str | None = None
    value_base64: str | None = None


class FileRow(EncodedRow, forbid_unknown_fields=True, omit_defaults=True):
    """A row of an import or export file."""

    expires_at: float | str | None = None
    ttl: float | str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A key and its value, and the number of the line they came from, from 1.

    `expires_at` (Unix time) and `ttl` are in seconds, None where the line does not say; it says one of them at most.
    """

    line: int
    key: bytes
    value: bytes
    expires_at: float | None = None
    ttl: float | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no row, and why."""

    line: int
    reason: str


Line: TypeAlias = Row | BadLine

_FIELDS = FileRow.__struct_fields__
_decoder = msgspec.json.Decoder(FileRow)
_encoder = msgspec.json.Encoder()


def encoded_key(key: bytes) -> EncodedRow:
    """Return a row that has a key only."""
    text = _text(key)
    return EncodedRow(key=text, key_base64=_base64(key) if text is None else None)


def encoded_row(key: bytes, value: bytes) -> EncodedRow:
    """Return a row, with text where it is UTF-8 and base64 where it is not."""
    row = encoded_key(key)
    row.value = _text(value)
    row.value_base64 = _base64(value) if row.value is None else None
    return row


def encode_key(key: bytes) -> bytes:
    """Return a row that has a key only as one line of JSON, with its newline."""
    return _encoder.encode(encoded_key(key)) + b"\n"


def encode_row(key: bytes, value: bytes) -> bytes:
    """Return a row as one line of JSON, with its newline."""
    return _encoder.encode(encoded_row(key, value)) + b"\n"


def encode_file_row(key: bytes, value: bytes, expiry_ms: int, *, may_say_never: bool) -> bytes:
    """Return a row of an export as one line of JSON, with its newline.

    Args:
        expiry_ms: Unix time in milliseconds, 0: it never expires.
        may_say_never: say so, since a row that says nothing would get the keyspace's time to live.
    """
    row = encoded_row(key, value)
    lives = FileRow(row.key, row.key_base64, row.value, row.value_base64)
    if expiry_ms:
        lives.expires_at = expiry_ms / 1000
    elif may_say_never:
        lives.ttl = 0
    return _encoder.encode(lives) + b"\n"


def read_json_lines(stream: BinaryIO) -> Iterator[Line]:
    """Yield the rows of a JSON Lines stream; blank lines are passed over."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX):
        number += 1
        if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_BYTES_MAX)
            yield BadLine(number, f"the line is longer than {LINE_BYTES_MAX} bytes")
        elif line.strip():
            yield _decode_json(number, line)


def _decode_json(number: int, line: bytes) -> Line:
    try:
        return _decode_row(number, _decoder.decode(line))
    except msgspec.ValidationError as error:
        return BadLine(number, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return BadLine(number, f"not JSON: {error}")


def read_csv(stream: BinaryIO) -> Iterator[Line]:
    """Yield the rows of a CSV stream, whose first line names the fields."""
    # Bytes that are no UTF-8 pass the decoder as surrogates and are refused with their line's number in `_decode_row`.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(LINE_BYTES_MAX)
    reader = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield BadLine(number, str(error))
            continue
        if cells is None:
            if header is None:
                yield BadLine(1, "there is no header that names the fields: the file is empty")
            break
        if not cells:
            continue
        if header is None:
            header = cells
            problem = _header_problem(header)
            if problem:
                yield BadLine(number, problem)
                break
        elif len(cells) != len(header):
            yield BadLine(number, f"{len(cells)} fields; the header names {len(header)}")
        else:
            # In a CSV file an unused variant is an empty cell; the other variant then counts.
            fields = dict(zip(header, cells, strict=True))
            for name in ("key", "value"):
                if name in fields and f"{name}_base64" in fields:
                    del fields[name if fields[f"{name}_base64"] else f"{name}_base64"]
            lives = {name: fields.pop(name, "") or None for name in ("expires_at", "ttl")}
            yield _decode_row(number, FileRow(**fields, **lives))
    text.detach()


def _header_problem(header: list[str]) -> str:
    unknown = [name for name in header if name not in _FIELDS]
    if unknown:
        return f"unknown field {unknown[0]!r} in the header; the fields are {', '.join(_FIELDS)}"
    if len(set(header)) != len(header):
        return "the header names a field twice"
    for name in ("key", "value"):
        if name not in header and f"{name}_base64" not in header:
            return f"the header names no {name!r}; it must name key and value (or key_base64, value_base64)"
    return ""


def _decode_row(number: int, row: FileRow) -> Line:
    try:
        key = _bytes("key", row.key, row.key_base64)
        value = _bytes("value", row.value, row.value_base64)
        expires_at, ttl = _expires_at(row.expires_at), _ttl(row.ttl)
    except (ValueError, InvalidArgument) as error:
        return BadLine(number, str(error))
    if not key:
        return BadLine(number, "the key is empty")
    if expires_at is not None and ttl is not None:
        return BadLine(number, "a row has 'expires_at' or 'ttl', not both")
    return Row(number, key, value, expires_at, ttl)


def _expires_at(given: float | str | None) -> float | None:
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < UNIX_SECONDS_MAX:
        raise ValueError(f"'expires_at' is Unix time in seconds, such as 1798761600, not {given!r}")
    return seconds


def _ttl(given: float | str | None) -> float | None:
    if given is None:
        return None
    if isinstance(given, str):
        return parse_ttl(given)
    to_ttl_ms(given)
    return given


def _bytes(name: str, text: str | None, encoded: str | None) -> bytes:
    if text is not None and encoded is None:
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the {name} is not UTF-8 text: give it as '{name}_base64'") from None
    if text is None and encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise ValueError(f"{name}_base64: {error}") from None
    found = "neither" if text is None else "both"
    raise ValueError(f"a row has either {name!r} or '{name}_base64'; this one has {found}")


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
