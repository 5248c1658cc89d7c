"""The command line's side of the control RPC: finds the manager that runs the controller, and turns errors into exits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import grpc
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.tls import TlsFiles

from shoal_shardmanager.rpc.generated import admin_pb2 as pb
from shoal_shardmanager.rpc.generated import admin_pb2_grpc as pb_grpc
from shoal_shardmanager.rpc.names import LEADER_METADATA, MANAGERS_VARIABLE
from shoal_shardmanager.rpc.secure import credentials, explained, is_hopeless

T = TypeVar("T")

FIND_SECONDS = 0.25
"""The pause before all managers are asked once more."""

_EXITS = {
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.FAILED,
    grpc.StatusCode.ABORTED: ExitCode.CONFLICT,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.DEADLINE,
    grpc.StatusCode.UNKNOWN: ExitCode.OUTCOME_UNKNOWN,
}


_NOT_ANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
"""After these, a request may have been begun or not; sent again with its id, it is begun once."""


class ManagersClient:
    """Calls whichever manager runs the controller; looks for it again when it has changed."""

    def __init__(self, addresses: Sequence[str], timeout_seconds: float, tls: TlsFiles | None = None) -> None:
        """Connect to nothing yet.

        Args:
            timeout_seconds: what a call may take in all, with the search for the manager.
            tls: None: connections are plain.

        Raises:
            CommandFailed: a file of `tls` cannot be read.
        """
        self._credentials = None if tls is None else credentials(tls)
        self._addresses = tuple(addresses)
        self._timeout_seconds = timeout_seconds
        self._channels: dict[str, Any] = {}
        self._best = self._addresses[0]

    def close(self) -> None:
        """Close all connections."""
        for channel in self._channels.values():
            channel.close()

    def start(self, request: pb.StartRequest) -> pb.StartReply:
        """Begin a request, or ask for its plan; sent again where no answer comes, it is begun once."""
        if not request.request_id:
            request.request_id = uuid4().hex
        reply: pb.StartReply = self._call(lambda stub, seconds: stub.Start(request, timeout=seconds), _NOT_ANSWERED)
        return reply

    def operation(self, number: int) -> pb.Operation:
        """Return an operation."""
        request = pb.GetOperationRequest(id=number)
        reply: pb.Operation = self._call(lambda stub, seconds: stub.GetOperation(request, timeout=seconds))
        return reply

    def operations(self, *, running_only: bool) -> list[pb.Operation]:
        """Return all operations, the newest first."""
        request = pb.ListOperationsRequest(running_only=running_only)
        reply = self._call(lambda stub, seconds: stub.ListOperations(request, timeout=seconds))
        return list(reply.operations)

    def cancel(self, number: int) -> pb.Operation:
        """Cancel an operation."""
        request = pb.GetOperationRequest(id=number)
        reply: pb.Operation = self._call(lambda stub, seconds: stub.CancelOperation(request, timeout=seconds))
        return reply

    def explain(self, shard: int) -> list[str]:
        """Return why a shard is where it is."""
        request = pb.ExplainShardRequest(shard=shard)
        reply = self._call(lambda stub, seconds: stub.ExplainShard(request, timeout=seconds))
        return list(reply.lines)

    def cluster(self) -> pb.Cluster:
        """Return the nodes, and who controls them."""
        reply: pb.Cluster = self._call(lambda stub, seconds: stub.GetCluster(pb.GetClusterRequest(), timeout=seconds))
        return reply

    def settings(self) -> pb.Settings:
        """Return the settings."""
        request = pb.GetSettingsRequest()
        reply: pb.Settings = self._call(lambda stub, seconds: stub.GetSettings(request, timeout=seconds))
        return reply

    def change_settings(self, request: pb.ChangeSettingsRequest) -> pb.Settings:
        """Change settings; return them as they are then."""
        reply: pb.Settings = self._call(lambda stub, seconds: stub.ChangeSettings(request, timeout=seconds))
        return reply

    def watch(self, number: int) -> Iterator[pb.Operation]:
        """Yield an operation as it goes on, until it has ended, across changes of the manager."""
        request = pb.GetOperationRequest(id=number)
        while True:
            now = self.operation(number)
            yield now
            if now.state != "running":
                return
            try:
                for now in self._stub(self._best).WatchOperation(request):
                    yield now
                    if now.state != "running":
                        return
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self._failed(error) from error

    def _stub(self, address: str) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            if self._credentials is None:
                channel = grpc.insecure_channel(address)
            else:
                channel = grpc.secure_channel(address, self._credentials)
            self._channels[address] = channel
        return pb_grpc.AdminStub(channel)  # type: ignore[no-untyped-call]

    def _call(
        self, call: Callable[[Any, float], T], again: Collection[grpc.StatusCode] = (grpc.StatusCode.UNAVAILABLE,)
    ) -> T:
        """Ask the manager that answered last, then where it points to, then all in turn, until the time is over.

        Args:
            again: errors after which others are asked.
        """
        deadline = time.monotonic() + self._timeout_seconds
        queue = [self._best, *(address for address in self._addresses if address != self._best)]
        asked: set[str] = set()
        hopeless: set[str] = set()
        while True:
            if not queue:
                time.sleep(FIND_SECONDS)
                queue, asked = list(self._addresses), set()
            address = queue.pop(0)
            left = deadline - time.monotonic()
            if address in asked and left > 0:
                continue
            asked.add(address)
            try:
                answer = call(self._stub(address), max(left, 0.001))
            except grpc.RpcError as error:
                leader = _leader_of(error)
                if is_hopeless(error):
                    hopeless.add(address)
                over = time.monotonic() + FIND_SECONDS >= deadline or hopeless.issuperset(self._addresses)
                if error.code() not in again or over:
                    raise self._failed(error) from error
                if leader:
                    queue.insert(0, leader)
                continue
            self._best = address
            return answer

    def _failed(self, error: grpc.RpcError) -> CommandFailed:
        code = error.code()
        details = error.details() or str(code)
        if code is grpc.StatusCode.UNAVAILABLE and "manager" not in details:
            why = explained(details, secure=self._credentials is not None)
            details = f"no manager answers; `--managers` or {MANAGERS_VARIABLE} says where they are: {why}"
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            details = (
                f"no answer from {', '.join(self._addresses)} within {self._timeout_seconds:g} s; where a request was given, "
                "`shoal operations` says whether it has begun"
            )
        elif code is grpc.StatusCode.UNIMPLEMENTED:  # a node's gRPC port, most likely
            details = (
                f"who answers at {', '.join(self._addresses)} does not know this call: `--managers` or {MANAGERS_VARIABLE} "
                "are the `admin:` addresses of shard managers"
            )
        return CommandFailed(details, _EXITS.get(code, ExitCode.FAILED))


def _leader_of(error: grpc.RpcError) -> str:
    metadata = dict(error.trailing_metadata() or ())
    return str(metadata.get(LEADER_METADATA, ""))
