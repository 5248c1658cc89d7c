"""The process of one attacker: `python -m shoal_chaos.attackers NAME GROUND`, with the ground as JSON.

It prepares, says so on stdout, attacks when stdin says so, and prints what it has done as a line of JSON.
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


async def attack(chosen: Attack, ground: Ground) -> None:
    """Prepare, wait for the word, attack, and say what was done."""
    assault = Assault(ground)
    await chosen.prepare(assault)
    _say(READY)
    if await asyncio.to_thread(sys.stdin.buffer.readline) != GO:
        return
    assault.begin()
    began = time.process_time()
    try:
        async with asyncio.timeout(ground.seconds + CLOSING_SECONDS):
            await chosen.run(assault)
    except* TimeoutError:
        assault.deeds.remember("cut short", "calls, or the end of connections, took longer than the attack was to last")
    except* (OSError, ShoalError) as group:
        # The node would have none of it: also that is for others to judge.
        assault.deeds.remember("ended", str(group.exceptions[0]))
    assault.deeds.cpu_seconds = round(time.process_time() - began, 3)
    _say(msgspec.json.encode(assault.deeds) + b"\n")


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
