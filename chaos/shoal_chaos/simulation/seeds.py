"""Runs simulations for many seeds, from the command line: `--seed 7`, `--seeds 0..500`, `--minutes 60`, `--mix each`."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Annotated

import typer
from shoal_server.logs import configure_logging

EACH = "each"
"""In place of a mix's name: all of them, with every seed."""


def run_program(module: str, mixes: Mapping[str, Callable[[int], object]]) -> None:
    """Be the program `python -m MODULE`: run one of `mixes`, or each, for the seeds that its arguments choose.

    Args:
        mixes: what runs a seed, by its name; the first is run where none is named.
    """
    default = next(iter(mixes))

    def main(
        seed: Annotated[int | None, typer.Option(help="Run this one.")] = None,
        seeds: Annotated[str, typer.Option(help="Run FIRST..END, without END.")] = "0..100",
        minutes: Annotated[float, typer.Option(help="Run new seeds for as long as this.")] = 0,
        mix: Annotated[str, typer.Option(help="Which mix of faults, or `each` of them.")] = default,
    ) -> None:
        """Simulate clusters under faults; a seed that fails is printed with the command that replays it."""
        configure_logging(logging.CRITICAL)
        if mix not in (*mixes, EACH):
            raise typer.BadParameter(f"there is no mix {mix!r}: choose one of {', '.join(mixes)}, or {EACH}")
        names = list(mixes) if mix == EACH else [mix]
        failed = runs = 0
        for number, name in ((number, name) for number in _chosen(seed, seeds, minutes) for name in names):
            runs += 1
            try:
                report = mixes[name](number)
            except Exception:  # whatever it is, it is what this program looks for
                failed += 1
                traceback.print_exc()
                named = "" if name == default else f" --mix {name}"
                print(f"FAILED: replay with  python -m {module} --seed {number}{named}", flush=True)
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
