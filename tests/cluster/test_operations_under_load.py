"""Operators change a cluster of real processes while all workloads use it: no call fails, and every history holds."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from shoal_chaos.clusters.configuration import loopback
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_chaos.workloads.operations import (
    ADD_NODES,
    DRAIN,
    FAIL_OVER,
    MERGE,
    MOVE,
    MOVE_MICROSHARDS,
    ROLLING_RESTART,
    SPLIT,
    TRANSFER,
    UNDRAIN,
    without_manager,
)
from shoal_chaos.workloads.under_operations import KEYSPACE, operate

# Each once; `make soak` also kills the manager in the middle of the others.
OPERATIONS = (
    TRANSFER,
    FAIL_OVER,
    SPLIT,
    ADD_NODES,
    MOVE,
    without_manager(DRAIN),
    UNDRAIN,
    without_manager(MOVE_MICROSHARDS),
    MERGE,
    ROLLING_RESTART,
)

PACE_SECONDS = 0.1
"""Between two calls of one of some fifty tasks: the load is to see the operations; `make soak` also fills the machine."""


@pytest.mark.timeout(600)
async def test_no_operation_costs_a_call_or_breaks_a_history(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path, loopback(joiners=2, managers=1, keyspace=KEYSPACE))
    try:
        cluster.start_all()
        await cluster.ready()
        await cluster.linger_briefly()
        suite = await operate(cluster, "t", Random(1), OPERATIONS, PACE_SECONDS)
        exits = cluster.take_exits()
    finally:
        await cluster.stop_all()
    print(suite.summary())
    assert not exits
    assert not suite.failures()
    violations = suite.violations()
    assert not violations, "\n".join(violations[:10])
    for workload in suite.workloads:
        assert workload.recorder.done > 5, f"{workload.name} must have done something"
