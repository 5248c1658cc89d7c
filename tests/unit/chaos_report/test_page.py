"""Records of runs, kept and read again, and the page about them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from shoal_chaos.report.page import page
from shoal_chaos.report.plot import MARKS, RIGHT, WIDTH, timeline
from shoal_chaos.report.records import (
    SUFFIX,
    Bucket,
    FaultSpan,
    Kept,
    Phase,
    PhaseFigures,
    RunOutcome,
    RunRecord,
    ShardRecovery,
    Verdict,
    keep,
    kept,
)

VOID = {"meta", "rect", "line", "circle", "polyline"}


def record(scenario: str = "leader-kill", began: str = "2026-11-21T10:00:00+00:00", **changes: object) -> RunRecord:
    plain = RunRecord(
        scenario=scenario,
        hypothesis="Others are <elected>.",
        outcome=RunOutcome.HELD,
        reason="nothing was found",
        seed=7,
        began=began,
        seconds=12.0,
        cluster="3 nodes",
        score=90,
        faults=(
            FaultSpan("kill", "killed n1 & n2", 2.0, 4.0, 5.0),
            FaultSpan("kill", "killed n3", 7.0, 9.0, None, "3 < 4"),
        ),
        verdicts=(
            Verdict("registers", False, "10 calls", ("a <stale> read",)),
            Verdict("recovery", True, safety=False),
        ),
        phases=tuple(PhaseFigures(phase, 10, 9, 1.0, 2.0, 3.0) for phase in Phase),
        shards=(ShardRecovery(1, 0.2, 2.0, 1.25),),
        timeline=(Bucket(0.0, 5, 0, 1.0, 2.0), Bucket(0.25, 0, 5, 0.0, 0.0), Bucket(0.5, 5, 0, 1.0, 900.0)),
        remarks=("a move was refused",),
    )
    return msgspec.structs.replace(plain, **changes)


class Balance(HTMLParser):
    """Checks that every tag is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        return


def test_what_was_kept_is_read_again_oldest_first(tmp_path: Path) -> None:
    newer, older = record(began="2026-11-21T11:00:00+00:00"), record("ring")
    for one in (newer, older):
        keep(one, tmp_path / "runs")
    assert kept(tmp_path / "runs").records == [older, newer]


def test_a_folder_without_runs_has_none(tmp_path: Path) -> None:
    assert kept(tmp_path / "nowhere") == Kept([], [])


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b'{"scenario": "\xff"}'])
def test_a_file_that_is_no_record_is_named_and_the_others_are_read(tmp_path: Path, content: bytes) -> None:
    path = keep(record("ring"), tmp_path)
    path.write_bytes(content)
    keep(record(), tmp_path)
    found = kept(tmp_path)
    assert found.records == [record()]
    [words] = found.unreadable
    assert words.startswith(f"{path} is not the record of a run")


def test_a_record_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = tmp_path / f"ring{SUFFIX}"
    folder.mkdir()
    keep(record(), tmp_path)
    assert kept(tmp_path) == Kept([record()], [f"{folder} cannot be read: Is a directory"])


def test_the_page_is_well_formed_and_needs_nothing_beside_itself() -> None:
    balance = Balance()
    balance.feed(page([record(), record("ring", outcome=RunOutcome.SKIPPED, reason="no compiler", score=0)]))
    assert balance.open == []
    assert all(link.startswith("#") for link in balance.links)


@pytest.mark.parametrize("seconds", [0.5, 45.0, 1e5, 1e15])
def test_the_axis_of_time_has_few_marks_however_long_a_run_says_it_was(seconds: float) -> None:
    text = timeline((Bucket(seconds, 1, 0, 1.0, 1.0),), ())
    assert 1 <= text.count('class="middle"') <= MARKS + 1


def test_the_page_shows_faults_verdicts_and_recovery_and_escapes_what_it_quotes() -> None:
    text = page([record()])
    assert "Others are &lt;elected&gt;." in text
    assert "killed n1 &amp; n2" in text
    assert "a &lt;stale&gt; read" in text
    assert "3 &lt; 4" in text
    assert "1.25 s" in text
    assert "never" in text
    assert "a move was refused" in text


def test_the_trend_has_the_scores_of_all_runs_that_were_not_skipped() -> None:
    runs = [
        record(score=10),
        record(score=0, outcome=RunOutcome.SKIPPED),
        record(score=95, began="2026-11-21T12:00:00+00:00"),
    ]
    text = page(runs)
    assert 'aria-label="scores: 10, 95"' in text
    assert "3 runs of 1 scenarios" in text


def test_a_line_of_latencies_has_gaps_where_nothing_was_answered_and_stays_within_the_plot() -> None:
    text = page([record()])
    assert text.count('<polyline class="median"') == 2
    rights = [
        float(x) + float(width)
        for x, width in re.findall(r'<rect class="answered" x="([\d.]+)".*?width="([\d.]+)', text)
    ]
    assert max(rights) <= WIDTH - RIGHT


def test_what_was_refuted_stands_out_in_the_trend() -> None:
    text = page([record(), record(score=0, outcome=RunOutcome.REFUTED, seed=8, began="2026-11-21T12:00:00+00:00")])
    assert re.findall(r'class="dot bad"[^>]*><title>[^<]*seed 8: refuted, score 0', text)


def test_broken_verdicts_are_shown_before_the_others_which_are_folded_up() -> None:
    text = page([record()])
    assert text.index("a &lt;stale&gt; read") < text.index("<details>") < text.index("<td>recovery</td>")
