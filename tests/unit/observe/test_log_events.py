"""The logs' events are a stable set: the code logs those that the documentation lists, and no secrets."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from shoal_server.logs import LEVELS, SECRET_FIELDS, configure_logging, set_log_level

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "observability.md"
METHODS = {"debug", "info", "warning", "error", "critical"}


def events_logged() -> Iterator[tuple[str, set[str]]]:
    """Yield every event that the code logs, and its fields."""
    for package in ("server/shoal_server", "shardmanager/shoal_shardmanager"):
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text()
            if "structlog.get_logger" not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                    fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                    for part in ast.walk(node.args[0]):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value, fields


def documented() -> dict[str, set[str]]:
    """The events of the page's table, with the fields beside them."""
    section = PAGE.read_text().split("\n## Logs")[1].split("\n## ")[0]
    found: dict[str, set[str]] = {}
    for row in re.findall(r"^\| (`[^|]*) \| [^|]* \| ([^|]*) \|$", section, re.MULTILINE):
        fields = set(re.findall(r"\w+", row[1]))
        found |= dict.fromkeys(re.findall(r"`(\w+)`", row[0]), fields)
    return found


def test_every_event_is_documented_and_every_documented_one_is_logged():
    assert {event for event, _ in events_logged()} == set(documented())


def test_the_fields_of_every_event_are_documented():
    known = documented()
    for event, fields in events_logged():
        if event not in ("slow_request", "slow_requests_left_out"):  # their fields have a section of their own
            assert fields - {"exc_info"} <= known[event], event


def test_no_event_has_a_field_that_is_a_secret():
    for event, fields in events_logged():
        assert not fields & SECRET_FIELDS, event


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leave logging as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("as_before")
def test_a_secret_that_somebody_logs_all_the_same_is_withheld(capsys: pytest.CaptureFixture[str]):
    configure_logging()
    structlog.get_logger("shoal.test").info("node_started", node="n1", value=b"hunter2", token="hunter2")
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert json.loads(said)["value"] == "[withheld]"


@pytest.mark.usefixtures("as_before")
def test_the_level_can_be_changed_at_any_time(capsys: pytest.CaptureFixture[str]):
    configure_logging()
    log = structlog.get_logger("shoal.test")
    log.debug("peer_connected")
    assert capsys.readouterr().err == ""
    assert set_log_level("debug") == ""
    log.debug("peer_connected")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["log_level_set", "peer_connected"]
    assert set_log_level("error") == ""
    capsys.readouterr()
    log.warning("peer_cut_off")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("as_before")
def test_a_level_that_there_is_not_is_refused():
    assert set_log_level("loud") == f"'loud' is no log level: there are {', '.join(LEVELS)}"
