"""The scenario with another cluster at clients' addresses, on real processes: it holds, and finds clients that do not mind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import pytest
from shoal.routing.network import Network
from shoal_chaos.nemeses.other_clusters import ComesBack, OtherCluster
from shoal_chaos.report.records import RunOutcome, RunRecord
from shoal_chaos.scenarios.library import BY_NAME
from shoal_chaos.scenarios.model import Scenario, TimedNemesis
from shoal_chaos.scenarios.run import run_here

SEED = 1
ONE_FAULT_SECONDS = 1.0


def with_one_fault(as_what: ComesBack) -> Scenario:
    def make(random: Random) -> Sequence[TimedNemesis]:
        return [TimedNemesis(OtherCluster(as_what), ONE_FAULT_SECONDS)]

    return replace(BY_NAME["other-cluster"], round=make)


def broken_promises(record: RunRecord) -> dict[str, tuple[str, ...]]:
    return {one.checker: one.found for one in record.verdicts if one.safety and not one.passed}


@pytest.mark.timeout(150)
async def test_clients_believe_nothing_of_another_cluster_and_say_so(tmp_path: Path) -> None:
    record = await run_here(with_one_fault(ComesBack.OLDER), SEED, ONE_FAULT_SECONDS, tmp_path, print)
    assert broken_promises(record) == {}
    assert record.outcome is RunOutcome.HELD, record.reason
    assert ComesBack.OLDER in record.faults[0].words


@pytest.mark.timeout(150)
async def test_clients_that_take_every_cluster_for_their_own_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Network.up

    def up(self, address, welcome, now):
        return original(self, address, msgspec.structs.replace(welcome, cluster="any", cluster_id="0" * 32), now)

    monkeypatch.setattr(Network, "up", up)
    record = await run_here(with_one_fault(ComesBack.EMPTY), SEED, ONE_FAULT_SECONDS, tmp_path, print)
    assert record.outcome is RunOutcome.REFUTED
    found = broken_promises(record)
    assert "what faults themselves have shown" in found
    assert {"acknowledged writes", "registers"} & found.keys(), "what the other cluster acknowledged must be missed"
