"""Runs seeds: `python -m shoal_chaos.simulation --seed 7`, `--seeds 0..500`, `--minutes 60`, `--mix each`."""

from __future__ import annotations

from shoal_chaos.simulation.mixes import MIXES
from shoal_chaos.simulation.seeds import run_program

if __name__ == "__main__":
    run_program("shoal_chaos.simulation", MIXES)
