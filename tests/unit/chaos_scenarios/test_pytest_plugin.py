"""The pytest plugin's options. What its fixture does is in tests/simulation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_a_number_of_seeds_that_would_test_nothing_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing(shoal_sim): ...\n")
    # By name, whether or not the package's entry point is installed.
    plugins = ["-p", "no:shoal", "-p", "no:cacheprovider", "-p", "shoal_chaos.pytest_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, f"--rootdir={tmp_path}", "--shoal-seeds=0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "a number from 1" in done.stderr
