"""Connections that say nothing, or stop in the middle of a word, at every port that a node has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from shoal.protocol.frames import encode_frame
from shoal.protocol.messages import Hello
from shoal.protocol.version import NEWEST, OLDEST

from shoal_chaos.attackers.base import Assault, Attack, Family, Needs
from shoal_chaos.attackers.wire import Wire, dial, most_leading

SILENT = 2_000
IDLE_CLIENTS = 4_094
FEW_DESCRIPTORS_CLIENTS = 1_100
HALF_FRAMES = 40
HALF_FRAME_BYTES = 15 * 1024 * 1024
TLS_CONNECTIONS = 100
STREAMS = 1_040
STREAMS_OF_A_CHANNEL = 65
SLOW_HEADS = 40
HEAD_SECONDS = 0.5
OPENED_AT_ONCE = 50
LOOK_SECONDS = 0.2

HELLO = encode_frame([Hello("client", OLDEST, NEWEST)])

Opening = Callable[[Assault, str], Awaitable[Wire]]


@asynccontextmanager
async def _opened(assault: Assault, address: str, wanted: int, opening: Opening) -> AsyncIterator[list[Wire]]:
    """Open so many connections, as far as the node lets us; close them in the end."""
    found: list[Wire] = []

    async def one() -> None:
        try:
            found.append(await opening(assault, address))
        except (OSError, TimeoutError) as error:
            assault.deeds.refused_connections += 1
            assault.deeds.remember(type(error).__name__, str(error))

    try:
        while len(found) + assault.deeds.refused_connections < wanted and assault.left:
            await asyncio.gather(*(one() for _ in range(min(OPENED_AT_ONCE, wanted - len(found)))))
        yield found
    finally:
        await asyncio.gather(*(connection.close() for connection in found))


async def _hold(assault: Assault, connections: list[Wire]) -> None:
    """Keep connections open until the time is up, and see which the node ends."""
    watching = [asyncio.create_task(connection.read_answers()) for connection in connections]
    await asyncio.sleep(assault.left)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


async def _silent(assault: Assault, address: str) -> Wire:
    return await dial(assault, address)


async def _half_a_greeting(assault: Assault, address: str) -> Wire:
    connection = await dial(assault, address)
    await connection.send(HELLO[:-5])
    return connection


async def _greeted(assault: Assault, address: str) -> Wire:
    connection = await dial(assault, address)
    await connection.greet()
    return connection


def _idle(connections: int, opening: Opening) -> Callable[[Assault], Awaitable[None]]:
    async def run(assault: Assault) -> None:
        target = await most_leading(assault)
        async with _opened(assault, target.address, connections, opening) as found:
            await _hold(assault, found)

    return run


async def _half_frames(assault: Assault) -> None:
    target = await most_leading(assault)
    # The length of a frame and a part of its body: what is missing never comes.
    half = (HALF_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(4 + HALF_FRAME_BYTES - 1)
    async with _opened(assault, target.address, HALF_FRAMES, _greeted) as found:
        sending = [asyncio.create_task(connection.send(half)) for connection in found]
        await _hold(assault, found)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def _idle_streams(assault: Assault) -> None:
    import grpc  # loads for half a second; other attackers do without
    from shoal_server.api.generated import shoal_pb2_grpc

    address = assault.ground.grpc[0]
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(STREAMS // STREAMS_OF_A_CHANNEL):
            options = [("grpc.use_local_subchannel_pool", 1)]
            opened = grpc.aio.insecure_channel(address, options=options)
            channel = await stack.enter_async_context(opened)
            assault.deeds.connections += 1
            stub = shoal_pb2_grpc.ShoalStub(channel)  # type: ignore[no-untyped-call]
            streams += [stub.Batch() for _ in range(STREAMS_OF_A_CHANNEL)]
        assault.deeds.requests += len(streams)
        await asyncio.sleep(assault.left)
        for stream in streams:
            if stream.done():
                assault.deeds.note(str((await stream.code()).name).lower(), str(await stream.details()))
            stream.cancel()


async def _slow_head(assault: Assault, address: str) -> None:
    """Send the head of a request, a line at a time, and never its end; then do so again."""
    while assault.left:
        try:
            connection = await dial(assault, address)
        except (OSError, TimeoutError) as error:
            assault.deeds.remember(type(error).__name__, str(error))
            await asyncio.sleep(HEAD_SECONDS)
            continue
        try:
            await connection.send(b"GET /metrics HTTP/1.1\r\n")
            reading = asyncio.create_task(_until_over(connection))
            while assault.left and not connection.over:
                await connection.send(b"X-Slow: yes\r\n")
                await asyncio.sleep(HEAD_SECONDS)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        finally:
            await connection.close()


async def _until_over(connection: Wire) -> None:
    while not connection.over:
        await connection.read_some(4096)


async def _slow_heads(assault: Assault) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(SLOW_HEADS):
            group.create_task(_slow_head(assault, assault.ground.pages[0]))


ATTACKS = (
    Attack(
        "silent-connections",
        Family.IDLE_CONNECTIONS,
        f"{SILENT:,} connections that say nothing",
        _idle(SILENT, _silent),
    ),
    Attack(
        "half-greetings",
        Family.IDLE_CONNECTIONS,
        f"{SILENT:,} connections that say half a Hello",
        _idle(SILENT, _half_a_greeting),
    ),
    Attack(
        "half-frames",
        Family.IDLE_CONNECTIONS,
        f"{HALF_FRAMES} clients that send 15 MiB of a frame and not the rest",
        _half_frames,
    ),
    Attack(
        "idle-clients",
        Family.IDLE_CONNECTIONS,
        f"{IDLE_CLIENTS:,} clients that say hello and then nothing",
        _idle(IDLE_CLIENTS, _greeted),
        seconds_least=20.0,
    ),
    Attack(
        "idle-clients-few-descriptors",
        Family.IDLE_CONNECTIONS,
        f"{FEW_DESCRIPTORS_CLIENTS:,} of them, at nodes that may open 1,024 files",
        _idle(FEW_DESCRIPTORS_CLIENTS, _greeted),
        needs=Needs.FEW_DESCRIPTORS,
    ),
    Attack(
        "idle-tls",
        Family.IDLE_CONNECTIONS,
        f"{TLS_CONNECTIONS} connections to a TLS port that say nothing",
        _idle(TLS_CONNECTIONS, _silent),
        needs=Needs.TLS,
    ),
    Attack(
        "idle-streams",
        Family.IDLE_CONNECTIONS,
        f"{STREAMS:,} gRPC streams that say nothing",
        _idle_streams,
        needs=Needs.GRPC,
    ),
    Attack(
        "slow-heads",
        Family.IDLE_CONNECTIONS,
        f"{SLOW_HEADS} HTTP requests whose heads never end",
        _slow_heads,
        needs=Needs.PAGES,
    ),
)
