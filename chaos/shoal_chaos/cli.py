"""`shoal chaos list | run | report`: faults and verdicts."""

from __future__ import annotations

import shutil
import tempfile
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption, checked_duration
from shoal.cli.output import note, print_json, print_line, print_table
from shoal.options import parse_duration

from shoal_chaos.report.page import page
from shoal_chaos.report.records import RunOutcome, RunRecord, keep, kept, make_folder
from shoal_chaos.report.table import table
from shoal_chaos.scenarios.library import ALL, BY_NAME
from shoal_chaos.scenarios.model import Scenario
from shoal_chaos.scenarios.run import NotPossibleThere, run_here, run_there

RUNS = Path("chaos-runs")
PAGE = "report.html"

RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where runs are kept.")]

chaos = typer.Typer(name="chaos", help="Break things on purpose: faults, and whether every promise still holds.")


def register(app: typer.Typer) -> None:
    """Add `chaos` to the `shoal` command."""
    app.add_typer(chaos)


class ListedScenario(msgspec.Struct, frozen=True):
    """A scenario, as `list --json` prints it."""

    name: str
    hypothesis: str
    cluster: str
    workloads: tuple[str, ...]
    anywhere: bool
    needs: str
    """Of the machine; "": nothing that is not always there."""


@chaos.command("list")
def list_scenarios(as_json: JsonOption = False) -> None:
    """List the scenarios."""
    listed = [
        ListedScenario(one.name, one.hypothesis, one.shape.words, one.workloads, one.anywhere, one.needs) for one in ALL
    ]
    if as_json:
        print_json(listed)
    else:
        print_table(
            ("scenario", "with --url", "needs", "hypothesis"),
            [(one.name, "yes" if one.anywhere else "", one.needs, one.hypothesis) for one in listed],
        )


@chaos.command("run")
def run(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="By name (see `list`), or `all`.")],
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of faults and workloads.", show_default="the time")
    ] = None,
    duration: Annotated[
        str,
        typer.Option("--duration", metavar="DURATION", callback=checked_duration, help="How long faults may begin."),
    ] = "60s",
    url: Annotated[
        str,
        typer.Option(
            "--url",
            help="A cluster that is there, in place of a new one. Then only load and operators' requests are possible: its "
            "processes, links, disks and clocks are not ours.",
        ),
    ] = "",
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Run scenarios, one after another, each on a new cluster on this machine.

    A hypothesis that is refuted leaves the cluster's configuration, data and logs behind, and ends with code 1.
    """
    wanted = _wanted(scenarios)
    seed = int(time.time()) if seed is None else seed
    seconds = parse_duration(duration)
    try:
        make_folder(runs)
    except OSError as error:
        raise CommandFailed(f"no run can be kept in {runs}, and none was begun: {error.strerror}") from error
    records: list[RunRecord] = []
    for scenario in wanted:
        note(f"{scenario.name}, seed {seed}: {scenario.hypothesis}")
        record = _run_once(scenario, seed, seconds, url)
        records.append(record)
        try:
            path = keep(record, runs)
        except OSError as error:
            raise CommandFailed(
                f"{scenario.name}: {record.outcome}; {record.reason}; not kept in {runs}: {error.strerror}"
            ) from error
        note(f"{scenario.name}: {_judged(record)}; {record.reason}; kept in {path}")
    if as_json:
        print_json(records)
    else:
        print_table(
            ("scenario", "outcome", "score", "why"),
            [(one.scenario, str(one.outcome), _score(one), one.reason) for one in records],
        )
    refuted = [one.scenario for one in records if one.outcome is RunOutcome.REFUTED]
    if refuted:
        raise CommandFailed(
            f"refuted: {', '.join(refuted)}; again with `shoal chaos run {' '.join(refuted)} --seed {seed} "
            f"--duration {duration}`"
        )


def _score(record: RunRecord) -> int | str:
    return "" if record.outcome is RunOutcome.SKIPPED else record.score


def _judged(record: RunRecord) -> str:
    return str(record.outcome) if record.outcome is RunOutcome.SKIPPED else f"{record.outcome}, score {record.score}"


def _wanted(names: list[str]) -> list[Scenario]:
    if names == ["all"]:
        return list(ALL)
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        near = get_close_matches(unknown[0], BY_NAME, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise CommandFailed(
            f"no scenario is called {', '.join(unknown)}; {hint}`shoal chaos list` shows those that there are",
            ExitCode.NOT_FOUND,
        )
    return [BY_NAME[name] for name in names]


def _run_once(scenario: Scenario, seed: int, seconds: float, url: str) -> RunRecord:
    def say(words: str) -> None:
        note(f"  {words}")

    if url:
        try:
            return uvloop.run(run_there(scenario, url, seed, seconds, say))
        except NotPossibleThere as error:
            raise CommandFailed(str(error), ExitCode.USAGE) from error
    folder = Path(tempfile.mkdtemp(prefix=f"shoal-chaos-{scenario.name}-"))
    try:
        record = uvloop.run(run_here(scenario, seed, seconds, folder, say))
    except BaseException:
        note(f"configuration, data and logs are in {folder}")
        raise
    if record.outcome is RunOutcome.REFUTED:
        note(f"configuration, data and logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return record


@chaos.command("report")
def report(
    runs: RunsOption = RUNS,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="The page.  [default: in DIR]")
    ] = None,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print a line for each scenario instead, as a Markdown table.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write one page about all runs that are kept, with their trend; or print them, as a Markdown table or as JSON."""
    found = kept(runs)
    records = found.records
    for words in found.unreadable:
        note(f"left out: {words}")
    if found.unreadable and not records:
        raise CommandFailed(f"none of the runs in {runs} can be read")
    if not records:
        raise CommandFailed(f"no runs are kept in {runs}: `shoal chaos run SCENARIO` keeps one", ExitCode.NOT_FOUND)
    if as_json:
        print_json(records)
        return
    if as_table:
        print_line(table(records).rstrip())
        return
    path = output or runs / PAGE
    try:
        path.write_text(page(records), "utf-8")
    except OSError as error:
        raise CommandFailed(f"the page cannot be written to {path}: {error.strerror}") from error
    print_line(str(path))
