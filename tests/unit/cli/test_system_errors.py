"""What the system refuses is told in one line, whichever command it happens to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import shoal
import typer.testing
from shoal.cli.failures import ExitCode
from shoal.cli.main import app

FULL = Path("/dev/full")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "data"
    result = typer.testing.CliRunner().invoke(app, ["up", "--data", str(folder), "--port", "0"])
    assert result.exit_code == ExitCode.FAILED
    assert result.stderr == f"shoal: {folder}: Not a directory\n"


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_told(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path / 'db'}"
    with shoal.Client(url) as db:
        db.put("k", b"v" * 100_000)
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shoal.cli", "scan", "--url", url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "shoal: No space left on device\n"
