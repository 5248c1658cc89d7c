"""`shoal chaos`: what it lists, refuses and reports. Runs of scenarios are in tests/cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.testing
from shoal.cli.failures import ExitCode
from shoal.cli.main import app
from shoal_chaos import cli
from shoal_chaos.report.records import SUFFIX, RunOutcome, RunRecord, keep

RUNNER = typer.testing.CliRunner()


def record(outcome: RunOutcome = RunOutcome.HELD) -> RunRecord:
    return RunRecord(
        scenario="ring", hypothesis="It holds.", outcome=outcome, reason="nothing was found", seed=1,
        began="2026-11-21T10:00:00+00:00", seconds=1.0, cluster="5 nodes", score=99,
    )  # fmt: skip


def test_list_names_every_scenario_what_can_be_done_to_any_cluster_and_what_the_machine_has_to_have() -> None:
    result = RUNNER.invoke(app, ["chaos", "list", "--json"])
    assert result.exit_code == ExitCode.DONE
    listed = {one["name"]: (one["anywhere"], one["needs"]) for one in json.loads(result.stdout)}
    assert listed["load-spike"] == (True, "")
    assert listed["leader-kill"] == (False, "")
    assert listed["slow-disk"] == (False, "a C compiler")
    assert listed["packet-loss"] == (False, "Linux, root, iproute2")


def test_an_unknown_scenario_is_not_found_and_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run_once", lambda *_: pytest.fail("nothing may be run"))
    result = RUNNER.invoke(app, ["chaos", "run", "ring", "no-such"])
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "no-such" in result.stderr


def test_a_scenario_that_needs_our_own_processes_is_refused_on_any_cluster(tmp_path: Path) -> None:
    arguments = ["chaos", "run", "leader-kill", "--url", "shoal://127.0.0.1:1/default", "--runs", str(tmp_path)]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "leave out --url" in result.stderr


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(RunOutcome.HELD, ExitCode.DONE), (RunOutcome.SKIPPED, ExitCode.DONE), (RunOutcome.REFUTED, ExitCode.FAILED)],
)
def test_the_exit_code_says_whether_the_hypothesis_was_refuted_and_the_run_is_kept(
    outcome: RunOutcome, code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_run_once", lambda *_: record(outcome))
    result = RUNNER.invoke(app, ["chaos", "run", "ring", "--seed", "1", "--runs", str(tmp_path), "--json"])
    assert result.exit_code == code
    assert [one["outcome"] for one in json.loads(result.stdout)] == [outcome]
    assert len(list(tmp_path.iterdir())) == 1
    if code:
        assert "shoal chaos run ring --seed 1" in result.stderr


def test_report_writes_a_page_about_what_is_kept(tmp_path: Path) -> None:
    keep(record(), tmp_path)
    result = RUNNER.invoke(app, ["chaos", "report", "--runs", str(tmp_path)])
    assert result.exit_code == ExitCode.DONE
    assert "ring" in Path(result.stdout.strip()).read_text()


def test_without_runs_there_is_nothing_to_report(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["chaos", "report", "--runs", str(tmp_path)])
    assert result.exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize("options", [[], ["--json"], ["--table"]])
def test_a_file_that_is_no_record_is_named_and_the_others_are_reported(tmp_path: Path, options: list[str]) -> None:
    keep(record(), tmp_path)
    (tmp_path / f"damaged{SUFFIX}").write_text("{}")
    result = RUNNER.invoke(app, ["chaos", "report", "--runs", str(tmp_path), *options])
    assert result.exit_code == ExitCode.DONE
    assert f"left out: {tmp_path / f'damaged{SUFFIX}'} is not the record of a run" in result.stderr
    said = result.stdout if options else Path(result.stdout.strip()).read_text()
    assert "ring" in said


def test_where_no_file_is_a_record_the_report_fails(tmp_path: Path) -> None:
    keep(record(), tmp_path).write_text("{}")
    result = RUNNER.invoke(app, ["chaos", "report", "--runs", str(tmp_path)])
    assert result.exit_code == ExitCode.FAILED
    assert "is not the record of a run" in result.stderr
    assert f"none of the runs in {tmp_path} can be read" in result.stderr


def test_a_name_that_is_nearly_a_scenarios_is_answered_with_it() -> None:
    assert "did you mean leader-kill?" in RUNNER.invoke(app, ["chaos", "run", "leader-kil"]).stderr


def test_where_runs_cannot_be_kept_none_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run_once", lambda *_: pytest.fail("nothing may be run"))
    (tmp_path / "file").touch()
    result = RUNNER.invoke(app, ["chaos", "run", "ring", "--runs", str(tmp_path / "file")])
    assert result.exit_code == ExitCode.FAILED
    assert "none was begun" in result.stderr


def test_a_run_that_cannot_be_kept_in_the_end_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> RunRecord:
        (tmp_path / "runs").rmdir()
        (tmp_path / "runs").touch()
        return record()

    monkeypatch.setattr(cli, "_run_once", run)
    result = RUNNER.invoke(app, ["chaos", "run", "ring", "--runs", str(tmp_path / "runs")])
    assert result.exit_code == ExitCode.FAILED
    assert "held; nothing was found; not kept" in result.stderr


def test_a_scenario_that_was_skipped_has_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run_once", lambda *_: record(RunOutcome.SKIPPED))
    result = RUNNER.invoke(app, ["chaos", "run", "ring", "--runs", str(tmp_path)])
    assert "skipped; nothing was found" in result.stderr
    assert "99" not in result.stdout


def test_a_record_that_cannot_be_read_and_a_page_that_cannot_be_written_are_one_line_each(tmp_path: Path) -> None:
    path = keep(record(), tmp_path)
    unwritable = RUNNER.invoke(app, ["chaos", "report", "--runs", str(tmp_path), "--output", str(path / "page.html")])
    assert unwritable.exit_code == ExitCode.FAILED
    assert "cannot be written" in unwritable.stderr
    path.unlink()
    path.mkdir()
    unreadable = RUNNER.invoke(app, ["chaos", "report", "--runs", str(tmp_path)])
    assert unreadable.exit_code == ExitCode.FAILED
    assert "cannot be read" in unreadable.stderr
