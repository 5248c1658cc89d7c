"""An attacker as a process of its own, at the lowest priority: it shares the machine with what it attacks."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType

import msgspec

from shoal_chaos.attackers.base import Attack, Deeds, Ground

READY, GO = b"ready\n", b"go\n"
PREPARE_SECONDS = 120.0
END_SECONDS = 60.0
"""How much longer than it should an attack may last, before its process is killed."""


class AttackerFailed(Exception):
    """The attacker's process has not come to its end as it should; the message has what it said."""


class AttackerProcess:
    """The process of one attack, for an `async with` block: it has prepared at its beginning, and is gone at its end."""

    def __init__(self, attack: Attack, ground: Ground) -> None:
        self._attack = attack
        self._ground = ground
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> AttackerProcess:
        """Start it, and wait until all is prepared.

        Raises:
            AttackerFailed: it has ended, or takes too long.
        """
        ground = msgspec.json.encode(self._ground).decode()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal_chaos.attackers", self._attack.name, ground,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            said = await self._line(PREPARE_SECONDS)
            if said != READY:
                raise AttackerFailed(f"{self._attack.name} could not be prepared: {said.decode().strip()}")
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    def go(self) -> None:
        """Let it attack, for as long as its ground says."""
        _, stdin = self._pipes()
        stdin.write(GO)

    def end(self) -> None:
        """Have it end now, and say what it has done."""
        _, stdin = self._pipes()
        stdin.close()

    async def deeds(self) -> Deeds:
        """Wait until it is over; return what was done.

        Raises:
            AttackerFailed: it has ended otherwise, or takes too long.
        """
        said = await self._line(self._ground.seconds + END_SECONDS)
        try:
            return msgspec.json.decode(said, type=Deeds)
        except msgspec.MsgspecError as error:
            raise AttackerFailed(f"{self._attack.name} has ended in the middle: {said.decode().strip()}") from error

    async def kill(self) -> None:
        """End it, whatever it does; its connections end with it."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()

    def _pipes(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        process = self._process
        if process is None or process.stdout is None or process.stdin is None:
            raise AttackerFailed(f"{self._attack.name} does not run")
        return process.stdout, process.stdin

    async def _line(self, seconds: float) -> bytes:
        stdout, _ = self._pipes()
        try:
            async with asyncio.timeout(seconds):
                return await stdout.readline()
        except TimeoutError as error:
            raise AttackerFailed(f"{self._attack.name} has said nothing for {seconds:g} s") from error
