"""The process of one attacker: `python -m shoal_chaos.attackers NAME GROUND`, with the ground as JSON.

It prepares, says so on stdout, attacks when stdin says so, and prints what it has done as a line of JSON: after the time that
the ground has for it, or when stdin ends.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time

import msgspec
from shoal import ShoalError

from shoal_chaos.attackers.base import Assault, Attack, Ground
from shoal_chaos.attackers.catalogue import BY_NAME
from shoal_chaos.attackers.detours import DetouringLoop
from shoal_chaos.attackers.process import GO, READY

NICENESS = 19
CLOSING_SECONDS = 3.0
"""What an attack may take for its end: then it is cancelled."""
FIRST_ANSWER_SECONDS = 40.0
"""What is its due is waited for, when it is told to end before anything was answered: longer than its calls wait themselves."""
LOOK_SECONDS = 0.05


async def attack(chosen: Attack, ground: Ground) -> None:
    """Prepare, wait for the word, attack, and say what was done."""
    assault = Assault(ground)
    await chosen.prepare(assault)
    _say(READY)
    if await _said() != GO:
        return
    assault.begin()
    began = time.process_time()
    attacking = asyncio.create_task(_bounded(chosen, assault))
    told_to_end = asyncio.create_task(_said())
    await asyncio.wait([attacking, told_to_end], return_when=asyncio.FIRST_COMPLETED)
    if chosen.valid:
        await _first_answer(assault, attacking)
    for task in (attacking, told_to_end):
        task.cancel()
    await asyncio.wait([attacking, told_to_end])
    if not attacking.cancelled():
        attacking.result()
    assault.deeds.cpu_seconds = round(time.process_time() - began, 3)
    _say(msgspec.json.encode(assault.deeds) + b"\n")


async def _first_answer(assault: Assault, attacking: asyncio.Task[None]) -> None:
    """Wait until any call is over: one that is as long as the attack was to last is no longer than it may be."""
    until = time.monotonic() + FIRST_ANSWER_SECONDS
    while time.monotonic() < until:
        if assault.deeds.answered or assault.deeds.failed or attacking.done():
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _bounded(chosen: Attack, assault: Assault) -> None:
    try:
        async with asyncio.timeout(assault.ground.seconds + CLOSING_SECONDS):
            await chosen.run(assault)
    except* TimeoutError:
        assault.deeds.remember("cut short", "calls, or the end of connections, took longer than the attack was to last")
    except* (OSError, ShoalError) as group:
        # The node would have none of it: also that is for others to judge.
        assault.deeds.remember("ended", str(group.exceptions[0]))


async def _said() -> bytes:
    """Return what stdin says next; b"": it has ended."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), heard.set)
    try:
        await heard.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return os.read(sys.stdin.fileno(), len(GO))


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def main(name: str, ground: str) -> None:
    """Run the attack of a name."""
    os.nice(NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=DetouringLoop) as runner:
        runner.run(attack(BY_NAME[name], msgspec.json.decode(ground, type=Ground)))


if __name__ == "__main__":
    main(*sys.argv[1:])
