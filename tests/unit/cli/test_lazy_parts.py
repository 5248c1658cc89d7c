"""Commands of other components are loaded only when asked for, and say what to install where they are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.testing
from shoal.cli import main
from shoal.cli.main import LazyPart


def loaded_modules(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_data_commands_load_neither_server_nor_its_libraries():
    modules = loaded_modules(
        "from typer.testing import CliRunner\n"
        "from shoal.cli.main import app\n"
        "assert CliRunner().invoke(app, ['get', 'k', '--url', 'shoal://127.0.0.1:1?timeout=50ms']).exit_code == 5"
    )
    assert "shoal.cli.data" in modules
    roots = {name.partition(".")[0] for name in modules}
    # Not pydantic: typer itself looks whether it is there.
    assert not roots & {"shoal_server", "shoal_chaos", "yaml", "psutil", "rocksdict", "grpc"}


def test_a_part_without_its_libraries_says_what_to_install(monkeypatch):
    part = LazyPart(("fly", "swim"), "shoal_no_such_part.cli", "sea")
    monkeypatch.setattr(main, "LAZY_PARTS", (part,))
    result = typer.testing.CliRunner().invoke(main.app, ["fly"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "pip install 'shoal[sea]'" in result.stderr
    overview = typer.testing.CliRunner().invoke(main.app, ["--help"])
    assert overview.exit_code == 0
    assert "swim" in overview.stdout
    assert "Needs shoal[sea]." in overview.stdout


@pytest.mark.parametrize("command", ["up", "down", "node"])
def test_server_commands_have_help(command):
    result = typer.testing.CliRunner().invoke(main.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_help_lists_every_command_and_the_exit_codes():
    result = typer.testing.CliRunner().invoke(main.app, ["--help"])
    data = ("get", "put", "delete", "increment", "scan", "ttl", "touch", "import", "export")
    for command in (*data, "status", "transfer-leader", "up", "down", "node", "bench"):
        assert command in result.stdout
    assert "7 outcome unknown" in " ".join(result.stdout.split())


def test_version_is_printed():
    result = typer.testing.CliRunner().invoke(main.app, ["--version"])
    assert result.stdout.strip()[0].isdigit()
