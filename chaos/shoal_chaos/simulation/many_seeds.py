"""Many seeds at once: each in one of a few processes, what it ended with in the order of the seeds.

The processes are started afresh, not forked: a fork has the objects of threads that it has not, and what gRPC's waits for
in its destructors never comes.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Generic, TypeVar

from shoal_server.logs import configure_logging

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """How a seed ended: with a report, or with `failure`, which says what went wrong and how to see it again."""

    seed: int
    report: T | None
    failure: str = ""


def run_seeds(
    simulate: Callable[[int], T], seeds: Iterable[int], *, processes: int = 2, mix: str = ""
) -> list[Ended[T]]:
    """Run `simulate`, of a module whose package can be run with `--seed`, for each seed.

    Args:
        mix: by what name of a mix it is run there.
    """
    with ProcessPoolExecutor(processes, get_context("spawn"), configure_logging, (logging.CRITICAL,)) as pool:
        return list(pool.map(partial(_run, simulate, mix), seeds, chunksize=4))


def _run(simulate: Callable[[int], T], mix: str, seed: int) -> Ended[T]:
    try:
        return Ended(seed, simulate(seed))
    except Exception:
        named = f" --mix {mix}" if mix else ""
        package = simulate.__module__.rpartition(".")[0]
        return Ended(seed, None, f"{traceback.format_exc()}\nreplay with: python -m {package} --seed {seed}{named}")
