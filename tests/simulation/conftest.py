"""Simulated nodes log as real ones do, which nobody reads here; and how a planted bug is looked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import pytest
from shoal_chaos.simulation.logs import logging_from


@pytest.fixture(autouse=True, scope="module")
def quiet_nodes() -> Iterator[None]:
    with logging_from(logging.CRITICAL):
        yield


@pytest.fixture
def must_be_found() -> Callable[[Callable[[int], object], Sequence[int]], None]:
    """Run seeds until one fails, as a planted bug makes it; an error of the planting itself is none of the bug's."""

    def search(run: Callable[[int], object], seeds: Sequence[int]) -> None:
        for seed in seeds:
            try:
                run(seed)
            except (TypeError, AttributeError, NameError) as error:
                pytest.fail(f"the bug is not planted any more: {error!r}")
            except Exception:
                return
        pytest.fail(f"{len(seeds)} seeds did not find it")

    return search
