"""The pytest plugin: the fixture `shoal_sim`, with which an application tests itself on a simulated cluster under faults.

It loads nothing of Shoal's before a test asks for the fixture. docs/testing-your-application.md says how to use it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shoal_chaos.application_simulation.search import ShoalSimulation

SEEDS = 10


def _seeds(text: str) -> int:
    """Return how many seeds to run. Of none there would be no test, and all would seem well."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"it is a number from 1, not {text!r}")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("shoal", "simulated Shoal clusters")
    group.addoption(
        "--shoal-seeds", type=_seeds, default=SEEDS, metavar="N", help=f"run tests with shoal_sim for N seeds ({SEEDS})"
    )
    group.addoption("--shoal-seed", type=int, default=None, metavar="S", help="run them for the seed S alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed."""
    if "shoal_sim" in metafunc.fixturenames:
        chosen: int | None = metafunc.config.getoption("--shoal-seed")
        count: int = metafunc.config.getoption("--shoal-seeds")
        seeds = list(range(count)) if chosen is None else [chosen]
        metafunc.parametrize("shoal_sim", seeds, ids=[f"seed{seed}" for seed in seeds], indirect=True)


@pytest.fixture
def shoal_sim(request: pytest.FixtureRequest) -> ShoalSimulation:
    """A simulated Shoal cluster of a seed: `shoal_sim.run(application)`."""
    from shoal_chaos.application_simulation.search import ShoalSimulation

    seed: int = request.param
    return ShoalSimulation(seed, f'pytest "{request.node.nodeid}" --shoal-seed {seed}')
