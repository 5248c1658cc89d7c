"""What is kept of a run: one JSON file each, in a folder. Times are seconds from the beginning of the run's load."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path

import msgspec

SUFFIX = ".run.json"


class RunOutcome(StrEnum):
    """What a run says about its hypothesis."""

    HELD = "held"
    REFUTED = "refuted"
    SKIPPED = "skipped"


class Phase(StrEnum):
    """The parts of a run."""

    STEADY = "steady"
    FAULTS = "faults"
    AFTER = "after"


class FaultSpan(msgspec.Struct, frozen=True):
    """One fault: from when to when it was at work, and when every shard took writes again (None: too late).

    `outcome`: what came of it, in words; "": that is not said.
    """

    nemesis: str
    words: str
    began: float
    healed: float
    ready: float | None = None
    outcome: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What one checker says; `found` in words, at most some of it."""

    checker: str
    passed: bool
    judged: str = ""
    found: tuple[str, ...] = ()
    safety: bool = True


class PhaseFigures(msgspec.Struct, frozen=True):
    """What the probes saw in one part of the run; latencies in milliseconds, of the calls that were answered."""

    phase: Phase
    calls: int
    answered: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def availability(self) -> float:
        """The share of calls that were answered."""
        return self.answered / self.calls if self.calls else 0.0


class ShardRecovery(msgspec.Struct, frozen=True):
    """How one shard came through, in seconds.

    Args:
        steady_gap: the longest time between two acknowledged writes before any fault.
        longest_gap: the same since the first fault.
        after_heal: the longest time from a heal to the next write that was acknowledged.
    """

    shard: int
    steady_gap: float
    longest_gap: float
    after_heal: float


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """A moment of the time line: calls that were due then."""

    at: float
    answered: int
    failed: int
    p50_ms: float
    max_ms: float


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `began` is when its load did, or when it was skipped: UTC, as ISO 8601 has it."""

    scenario: str
    hypothesis: str
    outcome: RunOutcome
    reason: str
    seed: int
    began: str
    seconds: float
    cluster: str
    score: int
    faults: tuple[FaultSpan, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    phases: tuple[PhaseFigures, ...] = ()
    shards: tuple[ShardRecovery, ...] = ()
    timeline: tuple[Bucket, ...] = ()
    remarks: tuple[str, ...] = ()
    must_break: bool = False


class Kept(msgspec.Struct, frozen=True):
    """The records of a folder, the oldest first, and of each file that is none: which it is, and why."""

    records: list[RunRecord]
    unreadable: list[str]


def make_folder(folder: Path) -> None:
    """Make the folder of runs, where it is not there, and see that files can be written in it.

    Raises:
        OSError: they cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def keep(record: RunRecord, folder: Path) -> Path:
    """Write a record into the folder of runs, whole or not at all; return the file.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.began.replace(':', '')}-{record.scenario}-{record.seed}{SUFFIX}"
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    unfinished.replace(path)
    return path


def kept(folder: Path) -> Kept:
    """Return what a folder has."""
    records: list[RunRecord] = []
    unreadable: list[str] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=RunRecord))
        except OSError as error:
            unreadable.append(f"{path} cannot be read: {error.strerror}")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            unreadable.append(f"{path} is not the record of a run: {error}")
    return Kept(sorted(records, key=lambda record: record.began), unreadable)
