"""Puts on disk what was made, renamed or removed in a folder: a file that is synced may still have no name after a crash."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder` are on disk.

    Raises:
        OSError: they may not be.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
