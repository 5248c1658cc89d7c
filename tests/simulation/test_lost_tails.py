"""One disk at a time loses what it had confirmed: nothing acknowledged is lost, all are in step again, and it is said."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import Random

import pytest
from shoal_chaos.simulation.faults.lost_tails import LostTails
from shoal_chaos.simulation.run import simulate
from shoal_chaos.simulation.scene import NodesScene
from shoal_chaos.simulation.world.logs import logging_from
from structlog.testing import capture_logs


@pytest.fixture
def errors_are_logged() -> Iterator[None]:
    with logging_from(logging.ERROR):
        yield


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.usefixtures("errors_are_logged")
def test_disks_that_forget_are_filled_up_from_the_others_and_reported(seed: int) -> None:
    made: list[LostTails] = []

    def lost_tails(scene: NodesScene, random: Random) -> LostTails:
        made.append(LostTails(scene, random))
        return made[0]

    with capture_logs() as logs:
        simulate(seed, fault_seconds=20, make_faults=lost_tails)
    assert made[0].lost >= 2
    reports = [entry for entry in logs if entry["event"] == "replica_lost_entries"]
    assert reports, "some of them were replicas that did not lead, of a leader that led on"
    assert all(entry["missing"] <= entry["acknowledged"] for entry in reports)
