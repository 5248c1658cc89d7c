"""What commands print: data on stdout (tables for people, JSON for programs), everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 1000
"""Width of a table that is not read on a terminal: no cell is cut or folded for a screen that is not there."""


def print_json(value: object) -> None:
    """Print one JSON document, indented, on stdout."""
    write_bytes(msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def write_bytes(data: bytes) -> None:
    """Write bytes as they are to stdout."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def print_line(text: str) -> None:
    """Print a line of data on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say something on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
    """Print a table on stdout; numbers are set to the right."""
    from rich import box  # slow to import, and most commands print no table
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    _stdout().print(table)


def _stdout() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def shown(data: bytes) -> str:
    """Return bytes as text for people: UTF-8, with what is not UTF-8 or not printable as escapes."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown_bytes(count: int) -> str:
    """Return a number of bytes for people: `3.5 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def shown_duration(milliseconds: int) -> str:
    """Return a duration for people: `5 s`, `3 min`, `2 h 5 min`, `4 d 2 h`."""
    seconds = milliseconds // 1000
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
