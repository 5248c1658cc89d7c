"""Damaged tables: which families have some, and how they get rid of them.

RocksDB stops taking writes for good when a compaction meets damage, in whichever family, so a node would end soon after,
and again after each start. So a family in which damage was met is not compacted any more, in this life or a later one,
until it has been written anew, at the next start (see rewriting.py).

DATABASE/DAMAGED has a line for each such family: its name, and the column family that has its rows. The rows are copied to
the other column family of the two that a family may have; where both are there, the copy was not finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shoal_server.storage.folder_sync import replace_file

MARKER = "DAMAGED"
SECOND = "-2"


def other_column(family: str, column: str) -> str:
    """Return the column family that a family's rows are copied to from `column`."""
    return family if column == family + SECOND else family + SECOND


class DamagedFamilies:
    """The file. `columns`: of each damaged family, the column family that has its rows."""

    def __init__(self, database: Path) -> None:
        """
        Raises:
            OSError: the file cannot be read.
        """
        self._path = database / MARKER
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self.columns: dict[str, str] = dict(line.split(" ", 1) for line in lines if " " in line)

    def __contains__(self, family: str) -> bool:
        return family in self.columns

    def add(self, columns: Iterable[tuple[str, str]]) -> None:
        """Note, durably, that families have damaged tables.

        Raises:
            OSError: it may not be noted.
        """
        self.columns.update(columns)
        self._store()

    def remove(self, family: str) -> None:
        """Note, durably, that a family has been written anew.

        Raises:
            OSError: it may not be noted.
        """
        self.columns.pop(family, None)
        self._store()

    def _store(self) -> None:
        lines = [f"{family} {column}\n" for family, column in sorted(self.columns.items())]
        replace_file(self._path, "".join(lines).encode())
