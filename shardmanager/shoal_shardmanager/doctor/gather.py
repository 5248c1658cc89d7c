"""Asks a cluster's processes what the doctor wants to know. Every question has a time limit, and a refusal is an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from ssl import SSLContext

from shoal.admin.connection import AdminConnection
from shoal.admin.hot_keys import find_hot_keys
from shoal.admin.survey import examine
from shoal.cli.failures import CommandFailed
from shoal.errors import ShoalError
from shoal.shardmap import NodeAddress

from shoal_shardmanager.control.rows import NodeState
from shoal_shardmanager.doctor.evidence import (
    ClockReading,
    ControlPlane,
    Evidence,
    ManagerAnswer,
    RunningOperation,
    SilentNode,
)
from shoal_shardmanager.rpc.client import ManagersClient


async def gather(
    seeds: Sequence[str],
    managers: ManagersClient | None,
    manager_addresses: Sequence[str],
    timeout_seconds: float,
    tls: SSLContext | None = None,
    managers_tls: SSLContext | None = None,
) -> Evidence:
    """Ask everybody.

    Args:
        managers: None: nobody knows where they are.
        manager_addresses: of the managers' own nodes.
        tls, managers_tls: of connections to nodes, and to the managers' own; None: they are plain.

    Raises:
        Unavailable: no node of the cluster answers.
    """
    found, control, answers = await asyncio.gather(
        examine(seeds, timeout_seconds, tls=tls),
        asyncio.to_thread(_control, managers),
        asyncio.gather(*(_manager(address, timeout_seconds, managers_tls) for address in manager_addresses)),
    )
    reachable = [report.node for report in found.survey.nodes if report.status is not None]
    clocks = await asyncio.gather(*(_clock(node, timeout_seconds, tls) for node in reachable))
    hot = await find_hot_keys(reachable, found.survey.shard_map, 0, timeout_seconds, tls)
    return Evidence(
        found.survey,
        dict(found.target_indexes),
        tuple(clock for clock in clocks if clock is not None),
        control,
        tuple(answers),
        tuple(hot.keys),
    )


async def _clock(node: NodeAddress, timeout_seconds: float, tls: SSLContext | None) -> ClockReading | None:
    try:
        async with await AdminConnection.open(node.address, timeout_seconds, tls) as connection:
            asked = _unix_ms()
            status = await connection.status()
            return ClockReading(node.id, asked, status.wall_ms, _unix_ms())
    except ShoalError:
        # It answered a moment ago: the next look says what has become of it.
        return None


async def _manager(address: str, timeout_seconds: float, tls: SSLContext | None) -> ManagerAnswer:
    try:
        async with await AdminConnection.open(address, timeout_seconds, tls) as connection:
            await connection.status()
    except ShoalError as error:
        return ManagerAnswer(address, str(error))
    return ManagerAnswer(address)


def _control(managers: ManagersClient | None) -> ControlPlane:
    if managers is None:
        return ControlPlane(asked=False)
    try:
        cluster = managers.cluster()
        operations = managers.operations(running_only=True)
    except CommandFailed as error:
        return ControlPlane(asked=True, problem=str(error))
    now = _unix_ms()
    return ControlPlane(
        asked=True,
        manager=cluster.manager,
        map_version=cluster.map_version,
        silent=tuple(
            SilentNode(node.id, node.state, node.silent_because) for node in cluster.nodes if node.silent_because
        ),
        drained=tuple(node.id for node in cluster.nodes if node.state == NodeState.DRAINED),
        operations=tuple(
            RunningOperation(
                operation.id,
                operation.kind,
                operation.subject,
                operation.step,
                max(0, now - operation.step_since_ms) / 1000,
                operation.waiting,
            )
            for operation in operations
        ),
    )


def _unix_ms() -> int:
    return int(time.time() * 1000)
