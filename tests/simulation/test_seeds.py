"""The whole cluster in simulation: many seeds, the ones that found something before, and determinism itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from shoal_chaos.simulation.many_seeds import run_seeds
from shoal_chaos.simulation.run import simulate

FEW, MANY = range(40), range(40, 160)


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(FEW, marks=pytest.mark.timeout(600)),
        pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_no_seed_breaks_an_invariant_or_fails_to_recover(seeds: range) -> None:
    failures = [ended.failure for ended in run_seeds(simulate, seeds) if ended.failure]
    assert not failures, "\n".join(failures)


def test_equal_seeds_give_equal_runs_whatever_the_hash_seed() -> None:
    def trace(hash_seed: str) -> str:
        program = "from shoal_chaos.simulation.run import simulate; print(simulate(5, fault_seconds=5))"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]

    assert trace("1") == trace("2")


def test_different_seeds_give_different_runs() -> None:
    assert simulate(5, fault_seconds=2).trace != simulate(6, fault_seconds=2).trace
