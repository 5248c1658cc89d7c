"""The API's server: listens at a node's `admin` address, on a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from enum import Enum
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from shoal.errors import Unavailable

from shoal_server.api.batch import BatchService
from shoal_server.api.calls import dialogue, feed, tell, unary
from shoal_server.api.front.front import Front
from shoal_server.api.gateway import CLIENTS_MAX, Gateway
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.paging import ScanService
from shoal_server.api.service import DataService
from shoal_server.api.transact import TransactService
from shoal_server.certificates import Certificates
from shoal_server.config import NodeConfig
from shoal_server.grpc_places import STREAMS_MAX, CallPlaces, calls_max, server_options
from shoal_server.node.memory import MemoryBudget
from shoal_server.node.settings import Limits
from shoal_server.observe.api_counters import ApiCounters
from shoal_server.observe.refusal_log import RefusalLog

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from shoal_server.api.tracing import ApiTracing

SERVICE = pb.DESCRIPTOR.services_by_name["Shoal"].full_name
CALLS_MAX = 1024
"""The most calls of the data API at once, besides streams. Further ones are told RESOURCE_EXHAUSTED."""
CALLS_OF_CONNECTION = 128
"""So many at once, which HTTP/2 tells callers: gRPC's clients wait with further ones, or open another connection."""
ENVELOPE_BYTES = 1 << 20
"""What a largest message may have besides the largest batch of keys and values."""
PINGS_APART_MS = 4_000
"""Callers may ask for a sign of life so often; documented is 5 s, so that one that comes early is none too many. If gRPC is not
told, it cuts off who asks more often than every five minutes, and 10 to 30 seconds are usual."""
KEEPALIVE_MS = 30_000
"""After so long without a sign of life a caller is asked for one: streams of machines that are gone are not kept."""


class _State(Enum):
    STARTING = "is starting"
    SERVING = "serves"
    STOPPING = "is stopping"


class ApiServer:
    """The server of one node. Implements `calls.Gate`.

    It listens from `start` on, and turns calls away until `serve`. `stop` lets open calls end first. These three are for the
    node's event loop; everything else happens on the server's own.
    """

    def __init__(
        self,
        listen: str,
        node: NodeConfig,
        limits: Limits,
        certificates: Certificates | None = None,
        spans: TracerProvider | None = None,
        callers: int = 1024,
        memory: MemoryBudget | None = None,
        ways: int = CLIENTS_MAX,
        knows: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            listen: the address to listen at.
            callers: how many connections there may be.
            node: whose API this is; the cluster is found where it listens itself.
            limits: of sizes, that the cluster has.
            certificates: of the process; None: connections are plain.
            spans: makes those of traced calls; None: nothing is traced.
            memory: the node's, of which messages have an account; None: there is none, and the smallest one is taken.
            ways: clients by which calls are done; each is connected to every node.
            knows: as `Gateway` has it; called on the server's own thread.
        """
        self.stopping = asyncio.Event()
        self.counters = ApiCounters(CALLS_MAX, STREAMS_MAX)
        self.tracing = None if spans is None else _traced_by(spans)
        self._listen = listen
        self._node = node.id
        self._limits = limits
        self._state = _State.STARTING
        self._ready = True
        if certificates is None:
            self._gateway = Gateway(node.listens_at, node.region, spans=spans, ways=ways, knows=knows)
        else:  # a certificate is for the address by which others know the node
            self._gateway = Gateway(node.address, node.region, certificates.dialling, spans, ways, knows)
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._loop = uvloop.new_event_loop()
        self._message_most = limits.max_batch_bytes + ENVELOPE_BYTES
        self._front = Front(
            listen,
            certificates,
            MemoryBudget(0) if memory is None else memory,
            message_most=self._message_most,
            callers=callers,
            refused=RefusalLog(node.id).take,
            make_room=lambda: self._places.make_room(),
            loop=self._loop,
        )
        self._places = CallPlaces(
            tell, self._loop.time, lambda context: self._front.caller(context.invocation_metadata())
        )
        self._doing: set[Future[None]] = set()
        self._thread = threading.Thread(target=self._run, name="shoal-api", daemon=True)

    def check(self) -> None:
        """
        Raises:
            Unavailable: the node does not serve calls yet, or any more.
        """
        if self._state is not _State.SERVING:
            raise Unavailable(f"node {self._node} {self._state.value}, and did nothing: try again, or ask another node")

    async def start(self) -> None:
        """Listen; calls are turned away, and the health service says so.

        Raises:
            OSError: nothing can listen at the address.
        """
        self._thread.start()
        try:
            await self._there(self._start())
        except OSError:
            await self._end_thread()
            raise

    def serve(self) -> None:
        """Answer calls from now on. Said again, or after `stop`, it changes nothing."""
        if self._state is _State.STARTING:
            self._soon(self._serve())

    def tell_ready(self, ready: bool) -> None:
        """Have the health service say whether the node is ready, once it serves; calls are answered either way.

        Until it is told otherwise, it takes a node that serves for ready.
        """
        if ready != self._ready:
            self._ready = ready
            self._soon(self._tell_state())

    async def stop(self, patience_seconds: float) -> None:
        """Take no further calls, give open ones so long to end, and end the server."""
        await self._there(self._stop(patience_seconds))
        await self._end_thread()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the server's own thread do something, and keep it until it is done: the loop alone does not."""
        doing = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._doing.add(doing)
        doing.add_done_callback(self._doing.discard)

    # -- on the server's own thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _start(self) -> None:
        server = grpc.aio.server(
            options=(
                *server_options(),
                ("grpc.max_concurrent_streams", CALLS_OF_CONNECTION),
                ("grpc.max_receive_message_length", self._message_most),
                ("grpc.max_send_message_length", self._message_most),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", PINGS_APART_MS),
            ),
            interceptors=(self._places,),
            maximum_concurrent_rpcs=calls_max(CALLS_MAX),
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        await self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        server.add_insecure_port(f"unix:{self._front.path}")
        await server.start()
        self._server = server
        self._places.begin()
        try:
            await self._front.start()
        except OSError as error:
            await server.stop(0.0)
            self._places.stop()
            await self._front.close()
            raise OSError(f"cannot listen on {self._listen}: {error}") from error

    async def _serve(self) -> None:
        if self._state is _State.STARTING:
            self._state = _State.SERVING
            await self._tell_state()

    async def _stop(self, patience_seconds: float) -> None:
        assert self._server is not None, "what was started is stopped"
        self._state = _State.STOPPING
        self.stopping.set()
        await self._front.close_door()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(patience_seconds)
        await self._gateway.close()
        self._places.stop()
        await self._front.close()

    async def _tell_state(self) -> None:
        if self._state is _State.SERVING:
            answer = health_pb2.HealthCheckResponse
            await self._tell_health(answer.SERVING if self._ready else answer.NOT_SERVING)

    async def _tell_health(self, status: int) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something on the server's loop, from the node's."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handler of every method of the service."""
        data = DataService(self._gateway, self._limits.max_batch_bytes)
        scans = ScanService(self._gateway)
        batches = BatchService(self._gateway, self._limits)
        transactions = TransactService(self._gateway, self._limits.max_batch_bytes)
        return {
            "Get": unary(self, pb.GetRequest, data.get),
            "Exists": unary(self, pb.ExistsRequest, data.exists),
            "Ttl": unary(self, pb.TtlRequest, data.ttl),
            "Put": unary(self, pb.PutRequest, data.put),
            "Delete": unary(self, pb.DeleteRequest, data.delete),
            "Touch": unary(self, pb.TouchRequest, data.touch),
            "Increment": unary(self, pb.IncrementRequest, data.increment),
            "PutIfAbsent": unary(self, pb.PutIfAbsentRequest, data.put_if_absent),
            "CompareAndSet": unary(self, pb.CompareAndSetRequest, data.compare_and_set),
            "Write": unary(self, pb.WriteRequest, data.write),
            "GetMany": unary(self, pb.GetManyRequest, data.get_many),
            "PutMany": unary(self, pb.PutManyRequest, data.put_many),
            "DeleteMany": unary(self, pb.DeleteManyRequest, data.delete_many),
            "DeletePrefix": unary(self, pb.DeletePrefixRequest, data.delete_prefix),
            "DeleteRange": unary(self, pb.DeleteRangeRequest, data.delete_range),
            "Scan": feed(self, pb.ScanRequest, scans.scan),
            "Batch": dialogue(self, pb.BatchRequest, batches.batch),
            "Transact": dialogue(self, pb.TransactRequest, transactions.transact),
        }


def _traced_by(spans: TracerProvider) -> ApiTracing:
    from shoal_server.api.tracing import ApiTracing  # loads OpenTelemetry, which other nodes do without

    return ApiTracing(spans, SERVICE)
