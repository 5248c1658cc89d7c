"""The simulation finds what goes wrong with ranges while shards split and give each other microshards: each bug, planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from shoal.protocol.messages import Atomic, DeleteRange, Operation, RangeUnchanged
from shoal.shardmap import Ranges, microshards_in, ranges_of
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.events import MILLISECOND
from shoal_chaos.simulation.world.network import Conditions
from shoal_server.node.admission import Admission
from shoal_server.node.reads import ReplicaReads
from shoal_server.shard import machine
from shoal_server.shard.machine import ShardStateMachine
from shoal_server.shard.merging import MergedScan
from shoal_server.shard.microshards import Microshards
from shoal_server.shard.operations import WriteExecutor
from shoal_server.shard.overlay import Overlay
from shoal_server.shard.pages import PageReader
from shoal_server.shard.state import ShardState
from shoal_server.storage.journal import CHANGED, CLEARED, journal_prefix, journal_suffix
from shoal_server.storage.layout import DATA_PREFIX_BYTES, prefix_end

from .conftest import PLANTING_ERRORS, MustBeFound

SEEDS = 40
RANGE_CLIENTS = 4


class Resharding(UsualFaults):
    """Shards split and give each other microshards again and again, and nothing else happens; messages take their time."""

    intervals_ms = (50, 200)

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self.kinds = [self._split, self._migrate_in_peace, self._migrate_in_peace, self._migrate_in_peace]
        self._network.conditions = Conditions(delay_max=5 * MILLISECOND)

    def _migrate_in_peace(self) -> None:
        """One migration after another, each to its end."""
        if not self._manager.migrating:
            self._migrate()


class HastyResharding(Resharding):
    """The same, without waiting for one another: migrations are given up as often as not, so that there are more."""

    intervals_ms = (50,)

    def _migrate_in_peace(self) -> None:
        self._migrate()


def know_ranges_of_the_journal_by_their_start(patch: pytest.MonkeyPatch) -> None:
    """Of two ranges with one start that one entry clears, the journal has the later one alone."""

    def journal(self: Microshards, index: int, overlay: Overlay) -> None:
        keys, spans = overlay.take_changes()
        moving, rows = self._outgoing, overlay.rows
        prefix = journal_prefix(self._shared.shard.id, self._shared.state.generation)
        for key in keys:
            microshard = moving.get(key[:DATA_PREFIX_BYTES])
            if microshard is not None:
                rows[prefix + journal_suffix(index, CHANGED, microshard, key[DATA_PREFIX_BYTES:])] = b""
        for start, end in spans:
            microshard = moving.get(start[:DATA_PREFIX_BYTES])
            if microshard is not None:
                end_key = end[DATA_PREFIX_BYTES:] if end[:DATA_PREFIX_BYTES] == start[:DATA_PREFIX_BYTES] else b""
                rows[prefix + journal_suffix(index, CLEARED, microshard, start[DATA_PREFIX_BYTES:])] = end_key

    patch.setattr(Microshards, "journal", journal)


def _apply_in_what_is_here(patch: pytest.MonkeyPatch, kind: type) -> None:
    """Operations or conditions of a kind do not mind that some of their microshards have gone."""

    def named_ranges(operations: list[Operation]) -> Iterator[DeleteRange | RangeUnchanged]:
        for operation in operations:
            parts = operation.conditions if isinstance(operation, Atomic) else [operation]
            for part in parts:
                if isinstance(part, RangeUnchanged | DeleteRange) and not isinstance(part, kind):
                    yield part

    def spans(self: WriteExecutor, ranges: Ranges, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        for each in microshards_in(ranges):
            if each in self._prefixes and not (end and start >= end):
                prefix = self._prefixes[each]
                yield prefix + start, prefix + end if end else prefix_end(prefix)

    patch.setattr(machine, "named_ranges", named_ranges)
    patch.setattr(WriteExecutor, "_spans", spans)
    patch.setattr(Admission, "_check_all_here", lambda *_: None)


def compare_ranges_in_what_is_left(patch: pytest.MonkeyPatch) -> None:
    """A range condition is decided in the microshards that the shard still has."""
    _apply_in_what_is_here(patch, RangeUnchanged)


def delete_ranges_in_what_is_left(patch: pytest.MonkeyPatch) -> None:
    """A range is deleted in the microshards that the shard still has, and that is called done."""
    _apply_in_what_is_here(patch, DeleteRange)


def _read_what_is_here(patch: pytest.MonkeyPatch) -> None:
    """Readers are served whatever they ask for."""
    serving = False
    has_ranges, serve = ShardStateMachine.has_ranges, ReplicaReads._serve

    def served(self: ReplicaReads, *args: Any) -> None:
        nonlocal serving
        serving = True
        try:
            serve(self, *args)
        finally:
            serving = False

    patch.setattr(ShardStateMachine, "has_ranges", lambda self, ranges: serving or has_ranges(self, ranges))
    patch.setattr(ReplicaReads, "_serve", served)
    patch.setattr(Admission, "_check_all_here", lambda *_: None)


def _here(self: ShardState, ranges: Ranges) -> Ranges:
    return ranges_of(microshard for microshard in microshards_in(ranges) if microshard in self.prefixes)


def scan_what_is_left(patch: pytest.MonkeyPatch) -> None:
    """A scan has the rows of the microshards that the shard still has; an export is refused as it should be."""
    _read_what_is_here(patch)
    begin_scan, read_page = PageReader.begin_scan, PageReader.read_page

    def begin_here(self: PageReader, ranges: Ranges, *args: Any, **how: Any) -> MergedScan:
        return begin_scan(self, _here(self._state, ranges), *args, **how)

    def page_here(self: PageReader, ranges: Ranges, *args: Any) -> Any:
        return read_page(self, _here(self._state, ranges), *args)

    patch.setattr(PageReader, "begin_scan", begin_here)
    patch.setattr(PageReader, "read_page", page_here)


BUGS: list[Callable[[pytest.MonkeyPatch], None]] = [
    know_ranges_of_the_journal_by_their_start,
    compare_ranges_in_what_is_left,
    delete_ranges_in_what_is_left,
    scan_what_is_left,
]


FAULTS: dict[Callable[[pytest.MonkeyPatch], None], type[UsualFaults]] = {
    compare_ranges_in_what_is_left: HastyResharding
}
FIRST_SEED = {compare_ranges_in_what_is_left: 29}
"""Where the search begins for a bug that was found late the last time."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, must_be_found: MustBeFound
) -> None:
    bug(monkeypatch)
    first, faults = FIRST_SEED.get(bug, 0), FAULTS.get(bug, Resharding)
    must_be_found(
        lambda seed: simulate(seed, fault_seconds=8, make_faults=faults, range_clients=RANGE_CLIENTS),
        (*range(first, SEEDS), *range(first)),
        planting=(*PLANTING_ERRORS, KeyError),
    )
