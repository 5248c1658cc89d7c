"""Floods of calls whose deadlines have passed before anybody can have done them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from shoal.protocol.messages import Read

from shoal_chaos.attackers.base import Assault, Attack, Family
from shoal_chaos.attackers.wire import Wire, most_leading, wire

CALLERS = 200
SHORTEST_SECONDS, LONGEST_SECONDS = 1e-6, 5e-3
BURST = 6_000
BURST_SECONDS = 2.0
EXPIRED_READS = 4_000
EXPIRED_KEYS = 2
FRAME_SECONDS = 0.5


async def _calls(assault: Assault) -> None:
    random = assault.random
    async with assault.client() as db:
        await assault.many(
            CALLERS,
            lambda: db.increment(
                f"tiny-{random.randrange(CALLERS)}", timeout=random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)
            ),
        )


async def _bursts(assault: Assault) -> None:
    async with assault.client() as db:
        while assault.left:
            await asyncio.gather(
                *(
                    assault.call(lambda number=number: db.increment(f"tiny-{number}", timeout=BURST_SECONDS))  # type: ignore[misc]
                    for number in range(BURST)
                )
            )


async def _expired_reads(assault: Assault) -> None:
    """What a program sends that does not look at its own clock: the node alone can see that nobody waits any more."""
    target = await most_leading(assault)
    shard, keys = next(iter(target.by_shard(b"tiny-%d" % number for number in range(CALLERS)).items()))
    async with wire(assault, target.address) as connection, asyncio.TaskGroup() as group:
        if await connection.greet() is None:
            return
        reading = group.create_task(connection.read_answers())
        requests = [Read(number, shard, target.keyspace.id, 1, keys[:EXPIRED_KEYS]) for number in range(EXPIRED_READS)]
        await _each_while(assault, connection, requests)
        reading.cancel()


async def _each_while(assault: Assault, connection: Wire, requests: Sequence[Read]) -> None:
    while assault.left and not connection.over:
        await connection.ask(requests)
        await asyncio.sleep(FRAME_SECONDS)


ATTACKS = (
    Attack(
        "tiny-deadlines",
        Family.TINY_DEADLINES,
        f"{CALLERS} callers that write with timeouts of 1 microsecond to {1000 * LONGEST_SECONDS:g} ms",
        _calls,
    ),
    Attack(
        "bursts",
        Family.TINY_DEADLINES,
        f"{BURST:,} writes at once, again and again, with a timeout of {BURST_SECONDS:g} s",
        _bursts,
    ),
    Attack(
        "expired-reads",
        Family.TINY_DEADLINES,
        f"frames of {EXPIRED_READS:,} reads of {EXPIRED_KEYS} keys that may take 1 ms",
        _expired_reads,
    ),
)
