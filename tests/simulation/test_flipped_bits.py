"""Bits that flip between nodes harm nothing; and without the checksums they do, and that is found."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from shoal.protocol import frames
from shoal_chaos.simulation.faults.flipped_bits import FlippedBits
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_server.raft import follower, leader, state
from shoal_server.storage import layout

from .conftest import MustBeFound

SEEDS = 20


def flipped_bits(made: list[FlippedBits]) -> Callable[[NodesScene, Random], FlippedBits]:
    def make(scene: NodesScene, random: Random) -> FlippedBits:
        made.append(FlippedBits(scene, random))
        return made[-1]

    return make


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_harm_nothing(seed: int) -> None:
    simulate(seed, make_faults=flipped_bits([]))


def test_bits_are_flipped() -> None:
    made: list[FlippedBits] = []
    for seed in range(3):
        simulate(seed, fault_seconds=3, make_faults=flipped_bits(made))
    assert sum(each.flipped for each in made) > 10


def no_checksums_of_frames(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frames, "checksum", lambda _body: 0)


def no_checksums_of_entries(patch: pytest.MonkeyPatch) -> None:
    for module in (follower, leader, state):
        patch.setattr(module, "first_damaged", lambda _group, _entries: None)
    patch.setattr(layout, "entry_checksum", lambda *_: Anything())


class Anything:
    """Equal to whatever checksum a row has."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


PLANTED = [no_checksums_of_frames, no_checksums_of_entries]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_without_checksums_flipped_bits_are_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, must_be_found: MustBeFound
) -> None:
    plant(monkeypatch)
    # Whatever it is that goes wrong without them.
    must_be_found(lambda seed: simulate(seed, make_faults=flipped_bits([])), range(SEEDS), planting=())
