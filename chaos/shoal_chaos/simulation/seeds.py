"""Runs a simulation for many seeds, from the command line: `--seed 7`, `--seeds 0..500`, `--minutes 60`."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from typing import Annotated

import typer
from shoal_server.logs import configure_logging


def run_program(module: str, simulate: Callable[[int], object]) -> None:
    """Be the program `python -m MODULE`: run `simulate` for the seeds that its arguments choose."""

    def main(
        seed: Annotated[int | None, typer.Option(help="Run this one.")] = None,
        seeds: Annotated[str, typer.Option(help="Run FIRST..END, without END.")] = "0..100",
        minutes: Annotated[float, typer.Option(help="Run new seeds for as long as this.")] = 0,
    ) -> None:
        """Simulate clusters under faults; a seed that fails is printed with the command that replays it."""
        configure_logging(logging.CRITICAL)
        failed = runs = 0
        for number in _chosen(seed, seeds, minutes):
            runs += 1
            try:
                report = simulate(number)
            except Exception:  # whatever it is, it is what this program looks for
                failed += 1
                traceback.print_exc()
                print(f"FAILED: replay with  python -m {module} --seed {number}", flush=True)
            else:
                if seed is not None or runs % 50 == 0:
                    print(f"{report} ({runs} runs, {failed} failed)", flush=True)
        print(f"{runs - failed} passed, {failed} failed")
        sys.exit(1 if failed else 0)

    typer.run(main)


def _chosen(seed: int | None, seeds: str, minutes: float) -> Iterator[int]:
    if seed is not None:
        yield seed
    elif minutes:
        end = time.monotonic() + minutes * 60
        for number in count(int(time.time())):
            if time.monotonic() >= end:
                return
            yield number
    else:
        first, _, last = seeds.partition("..")
        yield from range(int(first), int(last))
