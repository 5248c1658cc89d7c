"""Simulates an application on a whole cluster: its own code and the real client, nodes and managers, in simulated time.

docs/testing-your-application.md says how to use it. What tests name is offered here; `run` is where a run begins.
"""

from shoal_chaos.application_simulation.errors import NotSimulated, TimeStoodStill, TookTooLong
from shoal_chaos.application_simulation.faults import (
    BadNetwork,
    ClockJump,
    Crash,
    Fault,
    LeaderMove,
    OneWayCut,
    Partition,
    Pause,
    SlowDisk,
)
from shoal_chaos.application_simulation.processes import Process
from shoal_chaos.application_simulation.search import ShoalSimulation
from shoal_chaos.application_simulation.simulation import Simulation
from shoal_chaos.simulation.invariants import Violation

__all__ = [
    "BadNetwork",
    "ClockJump",
    "Crash",
    "Fault",
    "LeaderMove",
    "NotSimulated",
    "OneWayCut",
    "Partition",
    "Pause",
    "Process",
    "ShoalSimulation",
    "Simulation",
    "SlowDisk",
    "TimeStoodStill",
    "TookTooLong",
    "Violation",
]
