"""Commands on a database in their own process: each opens its folder, and leaves it to the next."""

from __future__ import annotations

import json

import pytest
import shoal as client

from .conftest import Shell


@pytest.fixture
def shoal(tmp_path):
    return Shell(f"embedded://{tmp_path / 'db'}")


def test_every_data_command_works_on_a_folder(shoal, tmp_path):
    shoal("put", "k", "v", "--ttl", "60")
    assert shoal("get", "k").stdout_bytes == b"v"
    assert json.loads(shoal("get", "k", "--json").stdout)["served_by"] == "n1"
    assert 50 < float(shoal("ttl", "k").stdout) <= 60
    shoal("touch", "k", "0")
    assert shoal("ttl", "k").stdout == "never\n"
    assert shoal("increment", "n", "41").stdout == "41\n"
    shoal("put", "k", "w", "--if-absent", code=4)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"key":"a/1","value":"x"}\n{"key":"a/2","value":"y"}\n')
    assert "imported 2 rows" in shoal("import", str(rows), "--ttl", "10m").stdout
    assert 590 < float(shoal("ttl", "a/1").stdout) <= 600
    assert shoal("scan", "--keys-only").stdout.splitlines() == ["a/1", "a/2", "k", "n"]
    shoal("delete", "--prefix", "a/")
    shoal("delete", "n")
    assert shoal("scan").stdout == "k\tv\n"


def test_a_folder_in_use_is_unavailable(shoal, tmp_path):
    with client.Client(f"embedded://{tmp_path / 'db'}") as db:
        db.put("k", "v")
        assert "in use by process" in shoal("get", "k", code=5).stderr
    assert shoal("get", "k").stdout_bytes == b"v"
