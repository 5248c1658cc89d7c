"""Runs seeds: `python -m shoal_chaos.control_simulation --seed 7`, `--seeds 0..500`, `--minutes 60`."""

from __future__ import annotations

from shoal_chaos.control_simulation.run import simulate
from shoal_chaos.simulation.seeds import run_program

if __name__ == "__main__":
    run_program("shoal_chaos.control_simulation", {"any": simulate})
