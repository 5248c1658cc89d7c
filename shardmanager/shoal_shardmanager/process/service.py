"""The gRPC service of a manager, with the reflection and health services beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from shoal.errors import ShoalError
from shoal_server.api.errors import status_code
from shoal_server.certificates import Certificates
from shoal_server.grpc_places import CallPlaces, calls_max, server_options
from shoal_server.secure_grpc import open_port

from shoal_shardmanager import placement
from shoal_shardmanager.control.placement_input import placement_settings, placement_state
from shoal_shardmanager.control.requests import Refused, Why
from shoal_shardmanager.control.requests.common import known_shard
from shoal_shardmanager.control.rows import NodeState
from shoal_shardmanager.process.leadership import Leadership
from shoal_shardmanager.process.store import Deposed
from shoal_shardmanager.rpc.convert import operation_message, operator_request_of, settings_message
from shoal_shardmanager.rpc.field_rules import check_fields
from shoal_shardmanager.rpc.generated import admin_pb2 as pb
from shoal_shardmanager.rpc.generated import admin_pb2_grpc as pb_grpc
from shoal_shardmanager.rpc.names import LEADER_METADATA

log = structlog.get_logger("shoal.manager")

WATCH_SECONDS = 1.0
"""A watcher hears of an operation so often at least: that is how a manager that hangs is told from a slow operation."""
STOP_SECONDS = 2.0
CALLERS_MAX = 256
"""Connections of operators: each command makes one."""
CALLS_MAX = 1024
SERVICE = pb.DESCRIPTOR.services_by_name["Admin"].full_name

_STATUS = {
    Why.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Why.WRONG: grpc.StatusCode.INVALID_ARGUMENT,
    Why.REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Why.CONFLICT: grpc.StatusCode.ABORTED,
}


class Context(Protocol):
    """What the service uses of gRPC's context."""

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error."""
        ...

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """Say something beside the error."""
        ...


class ControllerHost(Protocol):
    """What the service needs of the manager."""

    manager: str

    @property
    def leadership(self) -> Leadership | None:
        """The controller, where this manager runs it."""
        ...

    async def leader_hint(self) -> tuple[str, str]:
        """Return which manager runs the controller, as far as known, and its admin address."""
        ...


class AdminService(pb_grpc.AdminServicer):
    """Answers the control RPC; everything is decided elsewhere."""

    def __init__(self, host: ControllerHost) -> None:
        self._host = host

    async def Start(self, request: pb.StartRequest, context: Context) -> pb.StartReply:  # noqa: N802
        """Check a request, and begin it."""
        leadership = await self._leadership(context, request)
        try:
            accepted = await leadership.request(
                operator_request_of(request),
                plan_only=request.plan_only,
                if_version=request.if_version,
                request_id=request.request_id,
            )
        except (Refused, Deposed, ShoalError) as error:
            await _abort(context, error)
        reply = pb.StartReply(
            steps=accepted.steps,
            notes=accepted.notes,
            bytes=accepted.bytes,
            map_version=leadership.state.map.version,
        )
        if not request.plan_only:
            reply.operation.CopyFrom(operation_message(accepted.operation, leadership.state, None))
        return reply

    async def GetOperation(self, request: pb.GetOperationRequest, context: Context) -> pb.Operation:  # noqa: N802
        """Return one operation."""
        return await self._operation(await self._leadership(context, request), request.id, context)

    async def ListOperations(  # noqa: N802
        self, request: pb.ListOperationsRequest, context: Context
    ) -> pb.ListOperationsReply:
        """Return all operations that are known, the newest first."""
        leadership = await self._leadership(context)
        state = leadership.state
        rows = [row for _, row in sorted(state.operations.items(), reverse=True)]
        return pb.ListOperationsReply(
            operations=[
                operation_message(row, state, leadership.notes.get(row.id), leadership.paces.of(row.id))
                for row in rows
                if row.running or not request.running_only
            ]
        )

    async def WatchOperation(  # noqa: N802
        self, request: pb.GetOperationRequest, context: Context
    ) -> AsyncIterator[pb.Operation]:
        """Yield an operation whenever something about it has changed."""
        last: pb.Operation | None = None
        told = 0.0
        loop = asyncio.get_running_loop()
        while True:
            leadership = await self._leadership(context, request)
            now = await self._operation(leadership, request.id, context)
            if now != last or loop.time() - told > WATCH_SECONDS:
                yield now
                last, told = now, loop.time()
            if now.state != "running":
                return
            await leadership.next_progress(WATCH_SECONDS)

    async def CancelOperation(self, request: pb.GetOperationRequest, context: Context) -> pb.Operation:  # noqa: N802
        """Cancel an operation."""
        leadership = await self._leadership(context, request)
        try:
            await leadership.cancel(request.id)
        except (Refused, Deposed, ShoalError) as error:
            await _abort(context, error)
        return await self._operation(leadership, request.id, context)

    async def ExplainShard(  # noqa: N802
        self, request: pb.ExplainShardRequest, context: Context
    ) -> pb.ExplainShardReply:
        """Say why a shard is where it is."""
        leadership = await self._leadership(context, request)
        state = leadership.state
        try:
            known_shard(state, request.shard)
        except Refused as error:
            await _abort(context, error)
        known = placement_state(state, leadership.observed(), leadership.loads)
        explanation = await asyncio.to_thread(placement.why, known, placement_settings(state.settings), request.shard)
        lines = list(explanation.lines)
        row = state.operation_on(request.shard)
        if row is not None:
            note = leadership.notes.get(row.id)
            lines.append(f"operation {row.id} ({row.kind}) is at step {row.step}: {note.waiting if note else ''}")
        for row in state.running():
            planned = leadership.plan_of(row.id)
            if planned is not None:
                lines += [
                    f"operation {row.id} ({row.kind}) was refused: {r.reason}; {r.remedy}"
                    for r in planned.refusals
                    if r.subject.split()[-1] == str(request.shard)
                ]
        return pb.ExplainShardReply(lines=lines)

    async def GetCluster(self, request: pb.GetClusterRequest, context: Context) -> pb.Cluster:  # noqa: N802, ARG002
        """Return the nodes, and who controls them."""
        leadership = await self._leadership(context)
        state, led = leadership.state, leadership.observed().leaders()
        return pb.Cluster(
            name=state.map.cluster,
            map_version=state.map.version,
            manager=self._host.manager,
            epoch=leadership.epoch,
            shards=len(state.map.shards),
            operations_running=len(state.running()),
            nodes=[
                pb.Node(
                    id=row.id,
                    address=row.address,
                    region=row.region,
                    zone=row.zone,
                    state=str(row.state),
                    since_ms=row.since_ms,
                    silent_because=leadership.silent_because(row.id),
                    replicas=sum(row.id in shard.replicas for shard in state.map.shards),
                    leaders=sum(leader.node == row.id for leader in led.values()),
                )
                for _, row in sorted(state.nodes.items())
                if row.state is not NodeState.REMOVED
            ],
        )

    async def GetSettings(  # noqa: N802
        self,
        request: pb.GetSettingsRequest,  # noqa: ARG002
        context: Context,
    ) -> pb.Settings:
        """Return the settings."""
        leadership = await self._leadership(context)
        return settings_message(leadership.state.settings)

    async def ChangeSettings(self, request: pb.ChangeSettingsRequest, context: Context) -> pb.Settings:  # noqa: N802
        """Change settings; return them as they are then."""
        leadership = await self._leadership(context, request)
        try:
            after = await leadership.change_settings(
                dict(request.values), plan_only=request.plan_only, if_version=request.if_version
            )
        except (Refused, Deposed, ShoalError) as error:
            await _abort(context, error)
        return settings_message(after)

    async def _leadership(self, context: Context, request: Message | None = None) -> Leadership:
        """Return the controller, once the fields of a request have been checked; else end the call."""
        if request is not None:
            try:
                check_fields(request)
            except Refused as error:
                await _abort(context, error)
        leadership = self._host.leadership
        if leadership is None:
            leader, address = await self._host.leader_hint()
            if address and leader != self._host.manager:
                context.set_trailing_metadata(((LEADER_METADATA, address),))
                message = f"manager {self._host.manager} stands by; {leader} at {address} runs the controller"
            else:
                message = f"manager {self._host.manager} does not run the controller, and knows none that does yet"
            await context.abort(grpc.StatusCode.UNAVAILABLE, message)
        return leadership

    async def _operation(self, leadership: Leadership, number: int, context: Context) -> pb.Operation:
        row = leadership.state.operations.get(number)
        if row is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no operation {number}; `shoal operations` lists them"
            )
        return operation_message(row, leadership.state, leadership.notes.get(number), leadership.paces.of(number))


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, Refused):
        await context.abort(_STATUS[error.why], str(error))
    maybe = "; whether it has begun is not known: see `shoal operations`"
    lost = isinstance(error, ShoalError) and error.maybe_applied
    code = grpc.StatusCode.UNKNOWN if lost else grpc.StatusCode.UNAVAILABLE
    await context.abort(code, f"{error}{maybe if lost else ''}")


async def _tell(context: Context, failure: ShoalError) -> NoReturn:
    """End a call that has to give way."""
    await context.abort(status_code(failure), str(failure))


async def serve(
    host: ControllerHost, address: str, certificates: Certificates | None = None, *, clients_required: bool = False
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """Start the server; return it and the servicer of its health.

    Args:
        certificates: of the process; None: connections are plain.
        clients_required: whether operators need a certificate, too.

    Raises:
        OSError: nothing can listen at `address`.
    """
    places = CallPlaces(_tell, asyncio.get_running_loop().time)
    server = grpc.aio.server(
        options=server_options(CALLERS_MAX), interceptors=(places,), maximum_concurrent_rpcs=calls_max(CALLS_MAX)
    )
    pb_grpc.add_AdminServicer_to_server(AdminService(host), server)  # type: ignore[no-untyped-call]
    healthy: Any = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        open_port(server, address, certificates, clients_required=clients_required)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await tell_health(healthy, ready=False)
    await server.start()
    places.begin()
    return server, healthy


async def tell_health(healthy: health.aio.HealthServicer, *, ready: bool) -> None:
    """Have the health service say whether the manager is ready; its calls are answered either way."""
    answer = health_pb2.HealthCheckResponse
    for service in ("", SERVICE):
        await healthy.set(service, answer.SERVING if ready else answer.NOT_SERVING)
