"""The gRPC API's batch stream: operations a second of one caller, on a three-node cluster of this machine.

Every workload is run `--rounds` times; the table has the medians. What one operation takes is the time from its message's
start to its answer.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
import msgspec
import typer
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from records import Record, machine
from rich.console import Console
from rich.table import Table
from rivals import processes
from shoal_chaos.probes.quantiles import quantile
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.api.generated import shoal_pb2_grpc as pb_grpc
from shoal_server.local.layout import free_ports, generated_config

KEYS = 20_000
VALUE = b"x" * 100
READY_SECONDS = 30.0
SERVICE = pb.DESCRIPTOR.services_by_name["Shoal"].full_name


class Figures(msgspec.Struct):
    """What a workload came to."""

    per_second: float
    latency_ms_p50: float
    latency_ms_p99: float
    caller_cpu: float


def key(number: int) -> bytes:
    return b"key-%012d" % (number % KEYS)


def get(number: int) -> pb.BatchOperation:
    return pb.BatchOperation(id=number, get=key(number))


def put(number: int) -> pb.BatchOperation:
    return pb.BatchOperation(id=number, put=pb.Put(key=key(number), value=VALUE))


def mixed(number: int) -> pb.BatchOperation:
    return put(number) if number % 2 else get(number)


WORKLOADS: dict[str, Callable[[int], pb.BatchOperation]] = {"get": get, "put": put, "half and half": mixed}


class Caller:
    """One batch stream, with so many messages under way."""

    def __init__(self, stub: Any, operation: Callable[[int], pb.BatchOperation], size: int, in_flight: int) -> None:
        self._call = stub.Batch()
        self._operation = operation
        self._size = size
        self._places = asyncio.Semaphore(in_flight)
        self._begun: deque[float] = deque()
        self._answered = 0
        self._latencies: list[float] = []

    async def run(self, seconds: float) -> Figures:
        """Send for so long; return what was answered of it."""
        reading = asyncio.create_task(self._read())
        began, cpu_before = time.monotonic(), time.process_time()
        messages = 0
        while time.monotonic() < began + seconds:
            await self._places.acquire()
            first = messages * self._size
            operations = [self._operation(number) for number in range(first, first + self._size)]
            self._begun.append(time.monotonic())
            await self._call.write(pb.BatchRequest(operations=operations))
            messages += 1
        await self._call.done_writing()
        await reading
        took = time.monotonic() - began
        if self._answered != messages * self._size:
            raise RuntimeError(f"{messages * self._size} operations were asked for and {self._answered} answered")
        milliseconds = [1000 * latency for latency in self._latencies]
        return Figures(
            self._answered / took,
            quantile(milliseconds, 0.5),
            quantile(milliseconds, 0.99),
            (time.process_time() - cpu_before) / took,
        )

    async def _read(self) -> None:
        open_results = 0
        async for answer in self._call:
            failed = next((result.error for result in answer.results if result.HasField("error")), None)
            if failed is not None:
                raise RuntimeError(f"an operation failed: {failed.message}")
            self._answered += len(answer.results)
            open_results += len(answer.results)
            while open_results >= self._size:
                open_results -= self._size
                self._latencies.append(time.monotonic() - self._begun.popleft())
                self._places.release()


async def measure(
    address: str, size: int, in_flight: int, seconds: float, rounds: int
) -> Iterator[tuple[str, Figures]]:
    """Return the medians of each workload."""
    found: dict[str, list[Figures]] = {name: [] for name in WORKLOADS}
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        async for state in health.Watch(
            health_pb2.HealthCheckRequest(service=SERVICE), wait_for_ready=True, timeout=READY_SECONDS
        ):
            if state.status == health_pb2.HealthCheckResponse.SERVING:
                break
        stub = pb_grpc.ShoalStub(channel)  # type: ignore[no-untyped-call]
        for first in range(0, KEYS, 1000):
            rows = [pb.Row(key=key(number), value=VALUE) for number in range(first, first + 1000)]
            await stub.PutMany(pb.PutManyRequest(rows=rows), timeout=READY_SECONDS)
        for _ in range(rounds):
            for name, operation in WORKLOADS.items():
                found[name].append(await Caller(stub, operation, size, in_flight).run(seconds))
    return ((name, median(figures)) for name, figures in found.items())


def median(figures: Sequence[Figures]) -> Figures:
    return Figures(
        *(statistics.median(getattr(each, field) for each in figures) for field in Figures.__struct_fields__)
    )


def main(
    operations: Annotated[int, typer.Option(help="Operations a message.")] = 2000,
    in_flight: Annotated[int, typer.Option(help="Messages under way at once.")] = 8,
    seconds: float = 4.0,
    rounds: int = 3,
    shards: int = 8,
    keep: Annotated[bool, typer.Option(help="Write the results to bench/results/.")] = True,
) -> None:
    """Start three nodes and measure the stream of one of them."""
    record = Record("grpc-stream", Console(stderr=True))
    with tempfile.TemporaryDirectory(prefix="shoal-grpc-") as name:
        folder = Path(name)
        ports = free_ports(6)
        config = folder / "cluster.yaml"
        text = generated_config(3, ports[:3], admin_ports=ports[3:]).replace("shards: 8", f"shards: {shards}")
        config.write_text(text)
        commands = [
            [sys.executable, "-m", "shoal.cli", "node", "--config", str(config), "--id", f"n{n}"] for n in (1, 2, 3)
        ]
        with processes(commands, folder):
            found = dict(uvloop.run(measure(f"127.0.0.1:{ports[3]}", operations, in_flight, seconds, rounds)))
    table = Table("operations", "a second", "p50 (ms)", "p99 (ms)", "caller's cores")
    for name, figures in found.items():
        table.add_row(
            name,
            f"{figures.per_second:,.0f}",
            f"{figures.latency_ms_p50:.1f}",
            f"{figures.latency_ms_p99:.1f}",
            f"{figures.caller_cpu:.2f}",
        )
    record.print(
        f"One batch stream, {operations} operations a message, {in_flight} messages under way; {shards} shards,"
    )
    record.print(f"three nodes, values of {len(VALUE)} bytes; {machine()}")
    record.print(table)
    if keep:
        record.keep({name: msgspec.to_builtins(figures) for name, figures in found.items()})


if __name__ == "__main__":
    typer.run(main)
