"""What benchmarks leave behind: the table that they print, as text, and their figures, as JSON, in bench/results/."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, RenderableType

RESULTS = Path(__file__).parent / "results"
COLUMNS = 150


def machine() -> str:
    """Say what all figures depend on: the processor, how many of them, and the interpreter."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


class Record:
    """The output of one benchmark."""

    def __init__(self, name: str, progress: Console) -> None:
        self._console = Console(record=True, width=COLUMNS)
        self._progress = progress
        self._stem = RESULTS / f"{name}-{datetime.now(UTC).strftime('%Y-%m-%dT%H%M')}"

    def print(self, what: RenderableType) -> None:
        """Print on stdout what is kept as well."""
        self._console.print(what)

    def keep(self, figures: Mapping[str, object]) -> None:
        """Write what was printed, and the figures, into files."""
        RESULTS.mkdir(exist_ok=True)
        Path(f"{self._stem}.txt").write_text(self._console.export_text())
        Path(f"{self._stem}.json").write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
        self._progress.print(f"kept in {self._stem}.txt and .json")
