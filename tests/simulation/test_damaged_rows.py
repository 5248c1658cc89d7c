"""Damage on one disk at a time: whoever meets it fails and is rebuilt, nothing is lost, and nothing damaged becomes a copy.

Each planted bug is what this is for; what is found of each is in docs/simulation.md.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

import pytest
from shoal.shardmap import Shard
from shoal_chaos.simulation.faults.damaged_rows import DamagedMeta, DamagedRows, LostLogs
from shoal_chaos.simulation.faults.usual import UsualFaults
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_server.node import opening
from shoal_server.node.failing import Failing
from shoal_server.node.rebuilding import Rebuilding
from shoal_server.raft.group import Group
from shoal_server.storage.damaged_meta import LOADERS
from shoal_server.storage.engine import Damaged, Engine, Piece
from shoal_server.storage.layout import group_key
from shoal_server.storage.memory import MemoryReader
from shoal_server.storage.twice import COPIES

from .conftest import MustBeFound

SEEDS = 20


T = TypeVar("T", bound=UsualFaults)


def run(seed: int, kind: type[T], seconds: int = 10) -> T:
    made: list[T] = []

    def faults(scene: NodesScene, random: Random) -> T:
        made.append(kind(scene, random))
        return made[0]

    simulate(seed, fault_seconds=seconds, make_faults=faults)
    return made[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_replicas_are_rebuilt_and_nothing_is_lost(seed: int) -> None:
    assert run(seed, DamagedRows).damaged >= 2


@pytest.mark.parametrize("seed", [1, 2])
def test_replicas_whose_own_rows_are_damaged_are_rebuilt_and_break_no_promise(seed: int) -> None:
    assert run(seed, DamagedMeta).damaged >= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_is_elected_by_a_replica_that_has_lost_its_log(seed: int) -> None:
    assert run(seed, LostLogs, seconds=30).lost >= 1


class Watched(DamagedRows):
    """Damaged rows, and whether the others were whole each time that something was damaged."""

    def __init__(self, scene: NodesScene, random: Random) -> None:
        super().__init__(scene, random)
        self.cluster = scene.cluster

    def _damage(self) -> None:
        before = self.damaged
        silent = {
            name
            for name, node in self.cluster.nodes.items()
            if any(
                replica.group.is_silent and name in replica.group.membership.voters
                for replica in node.replicas.values()
            )
        }
        super()._damage()
        if self.damaged > before:
            damaged = {name for name, node in self.cluster.nodes.items() if node.engine.damage}
            assert len(damaged) == 1
            assert silent <= damaged
            [name] = damaged
            ends = {key[:4]: key for key in self.cluster.nodes[name].engine.tables["log"].keys}
            assert not set(ends.values()) & self.cluster.nodes[name].engine.damage.of("log")


@pytest.mark.parametrize("seed", [1, 9115])
def test_nothing_is_damaged_while_a_replica_elsewhere_is_silent(seed: int) -> None:
    assert run(seed, Watched).damaged >= 2


def take_damage_for_the_end(patch: pytest.MonkeyPatch) -> None:
    """Iterators end where they cannot read on, and nobody asks why."""

    original = MemoryReader.read

    def read(self: MemoryReader, start: bytes, end: bytes, max_rows: int, max_bytes: int, **how: bool) -> Piece:
        try:
            piece = original(self, start, end, max_rows, max_bytes, **how)
        except Damaged:
            return Piece([], None, 0)
        whole = len(piece.rows) >= max_rows or piece.size >= max_bytes
        return piece if whole else Piece(piece.rows, None, piece.size)

    patch.setattr(MemoryReader, "read", read)


def forget_what_was_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """A rebuilt replica begins its log anew behind the snapshot, whatever it had acknowledged behind that."""
    patch.setattr(Group, "keeps_log", lambda *_: False)
    patch.setattr(
        Group,
        "can_restore",
        lambda self, index, term: (
            index >= self.log.commit_index
            if self.failed
            else (index > self.log.commit_index and not self.log.matches(index, term))
        ),
    )


def vote_without_a_log(patch: pytest.MonkeyPatch) -> None:
    """A replica whose log is damaged votes as if it had lost nothing."""
    patch.setattr(Group, "is_silent", property(lambda self: self.history.current.version < self.silent_until))


def never_rebuild(patch: pytest.MonkeyPatch) -> None:
    """A failed replica waits for somebody to come."""
    patch.setattr(Rebuilding, "tick", lambda *_: None)


def serve_what_is_left(patch: pytest.MonkeyPatch) -> None:
    """A replica that has met damage goes on as if nothing were."""
    patch.setattr(Failing, "fail", lambda *_: None)


def take_damaged_meta_rows_for_absent(patch: pytest.MonkeyPatch) -> None:
    """What cannot be read of a replica's own rows counts as never stored, be it that another copy can be."""

    def forget(engine: Engine, shard: Shard) -> None:
        for kind, load in LOADERS.items():
            key = group_key(kind, shard.id)
            try:
                load(engine, shard.id)
                if kind.stored_twice:
                    engine.get(engine.meta, key)
                    engine.get(engine.log, COPIES + key)
            except Damaged:
                batch = engine.batch()
                batch.delete(key, engine.meta)
                batch.delete(COPIES + key, engine.log)
                engine.write(batch)

    patch.setattr(opening, "set_right", forget)


BUGS = [
    take_damage_for_the_end,
    forget_what_was_acknowledged,
    vote_without_a_log,
    never_rebuild,
    serve_what_is_left,
    take_damaged_meta_rows_for_absent,
]

FAULTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[type[UsualFaults], int]] = {
    vote_without_a_log: (LostLogs, 30),
    take_damaged_meta_rows_for_absent: (DamagedMeta, 10),
}
"""The faults that a bug needs, and for how many seconds, where damaged rows seldom bring it out."""


FIRST_SEED = {forget_what_was_acknowledged: 13}
"""Where the search begins for a bug that was found late the last time."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    must_be_found: MustBeFound,
) -> None:
    bug(monkeypatch)
    faults, seconds = FAULTS.get(bug, (DamagedRows, 10))
    first = FIRST_SEED.get(bug, 0)
    must_be_found(lambda seed: run(seed, faults, seconds=seconds), (*range(first, SEEDS), *range(first)))
