"""The scenarios there are: each can be run as it says."""

from __future__ import annotations

from random import Random

import pytest
from shoal import AsyncClient
from shoal_chaos.nemeses.base import Disturbance
from shoal_chaos.scenarios.library import ALL, BY_NAME
from shoal_chaos.scenarios.model import Scenario
from shoal_chaos.workloads.suite import Suite

SEEDS = range(20)


def test_there_are_at_least_fifteen_and_their_names_are_unique() -> None:
    assert len(ALL) >= 15
    assert len(BY_NAME) == len(ALL)


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_every_round_has_faults_that_last_and_workloads_that_exist(scenario: Scenario) -> None:
    client = AsyncClient("shoal://127.0.0.1:1/default")
    names = {
        workload.name
        for workload in Suite("t", Random(0), [client], exported_url="shoal://127.0.0.1:1/default").workloads
    }
    assert set(scenario.workloads) <= names
    for seed in SEEDS:
        faults = scenario.round(Random(seed))
        assert faults
        assert all(0 < fault.seconds < 10 for fault in faults)
        if scenario.anywhere:
            assert all(isinstance(fault.nemesis, Disturbance) for fault in faults)


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_every_round_brings_nemeses_of_its_own(scenario: Scenario) -> None:
    first, second = scenario.round(Random(0)), scenario.round(Random(0))
    assert not {id(fault.nemesis) for fault in first} & {id(fault.nemesis) for fault in second}


def test_equal_seeds_give_equal_rounds() -> None:
    for scenario in ALL:
        first, second = scenario.round(Random(1)), scenario.round(Random(1))
        assert [(type(one.nemesis), one.seconds) for one in first] == [
            (type(one.nemesis), one.seconds) for one in second
        ]
