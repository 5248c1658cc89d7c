"""A progress line on stderr, where that is a terminal: how much, of how much, how fast, how long still."""

from __future__ import annotations

import sys
from types import TracebackType


class Progress:
    """Shows `done` of `total` (None: unknown) in whatever unit these are, and a number of rows beside it."""

    def __init__(self, label: str, total: int | None) -> None:
        from rich.console import Console  # slow to import, and most commands show no progress
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        self._display = Display(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._display.add_task(label, total=total, rows=0, rate=0.0)

    def __enter__(self) -> Progress:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.stop()

    def update(self, done: int, rows: int) -> None:
        """Show that `done` of the total, and `rows` rows, are behind us."""
        elapsed = self._display.tasks[self._task].elapsed
        self._display.update(self._task, completed=done, rows=rows, rate=rows / elapsed if elapsed else 0.0)
