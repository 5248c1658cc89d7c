"""Simulated nodes log as real ones do, which nobody reads here; and how a planted bug is looked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pytest
from shoal_chaos.simulation.world.logs import logging_from

PLANTING_ERRORS = (TypeError, AttributeError, NameError)
COUNTED_SEEDS = 12
"""How many seeds `make soak` tries, to see how many of them find a bug."""


@pytest.fixture(autouse=True, scope="module")
def quiet_nodes() -> Iterator[None]:
    with logging_from(logging.CRITICAL):
        yield


class MustBeFound(Protocol):
    """See the fixture `must_be_found`."""

    def __call__(
        self,
        run: Callable[[int], object],
        seeds: Sequence[int],
        *,
        sign: type[Exception] = Exception,
        planting: tuple[type[Exception], ...] = PLANTING_ERRORS,
    ) -> None:
        """
        Args:
            seeds: the first one is known to find it.
            sign: what a run ends with that finds it.
            planting: what shows that the bug is not planted any more.
        """


@pytest.fixture(
    params=[
        pytest.param("once", marks=pytest.mark.timeout(300)),
        pytest.param("counted", marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ]
)
def must_be_found(request: pytest.FixtureRequest) -> MustBeFound:
    """Run seeds until one fails, as a planted bug makes it; in `make soak` some in any case, to count those that do."""
    count: bool = request.param == "counted"

    def search(
        run: Callable[[int], object],
        seeds: Sequence[int],
        *,
        sign: type[Exception] = Exception,
        planting: tuple[type[Exception], ...] = PLANTING_ERRORS,
    ) -> None:
        found: list[int] = []
        tried = 0
        for seed in seeds:
            if found and (not count or tried >= COUNTED_SEEDS):
                break
            tried += 1
            try:
                run(seed)
            except planting as error:
                pytest.fail(f"the bug is not planted any more: {error!r}")
            except sign:
                found.append(seed)
        print(f"found by {len(found)} of {tried} seeds: {found}")
        assert found, f"{tried} seeds did not find it"

    return search
