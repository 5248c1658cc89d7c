"""The cluster that the controller's tests drive."""

from __future__ import annotations

import pytest

from .simulated import SimulatedCluster


@pytest.fixture
def simulated() -> type[SimulatedCluster]:
    return SimulatedCluster
