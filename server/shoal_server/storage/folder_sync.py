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


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of whatever has its name: after a crash there is the old one or the new one, whole.

    Raises:
        OSError: it may be either.
    """
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)
