"""A process that runs `shoal` commands one after another, so that none of them has to start Python.

Where a command's effect on a cluster is measured on the machine that the cluster runs on, half a second of starting an
interpreter and loading modules for each would be most of what is seen. Run as a module, it is that process: it reads
orders from stdin and writes what became of them to stdout, each a length and MessagePack.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from shoal_chaos.clusters.commands import ORDER_SECONDS

COMMAND = (sys.executable, "-m", "shoal_chaos.workloads.terminal")
LENGTH = struct.Struct("<I")
LOW_PRIORITY = 19
"""Its niceness: an operator's commands run elsewhere, so it is no part of what is measured."""


class Order(msgspec.Struct, frozen=True, array_like=True):
    """A command without `shoal`, and variables beside those of the process."""

    arguments: list[str]
    environment: dict[str, str]


class CommandOutcome(msgspec.Struct, frozen=True, array_like=True):
    """A command's exit code, and what it printed."""

    code: int
    out: bytes
    error: bytes


class Terminal:
    """Such a process. Commands run in the order in which they are given."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()

    async def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
        """Run `shoal ...`; return its exit code and what it printed, on stdout and on stderr.

        Raises:
            TimeoutError: it has not ended in time, and the process was killed.
        """
        async with self._busy:
            process = self._process = self._process or await asyncio.create_subprocess_exec(
                "nice", "-n", str(LOW_PRIORITY), *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            assert process.stdin is not None
            assert process.stdout is not None
            body = msgspec.msgpack.encode(Order(list(arguments), dict(environment)))
            try:
                async with asyncio.timeout(ORDER_SECONDS):
                    process.stdin.write(LENGTH.pack(len(body)) + body)
                    (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                    outcome = msgspec.msgpack.decode(await process.stdout.readexactly(size), type=CommandOutcome)
            except BaseException:
                process.kill()
                await self._ended()
                raise
            return outcome.code, outcome.out, outcome.error

    async def close(self) -> None:
        """End the process, once the command that it runs is over."""
        async with self._busy:
            if self._process is not None:
                assert self._process.stdin is not None
                self._process.stdin.close()
                await self._ended()

    async def _ended(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        await process.wait()


def serve(orders: BinaryIO, outcomes: BinaryIO) -> None:
    """Run the commands that come, until there are no more."""
    while header := orders.read(LENGTH.size):
        (size,) = LENGTH.unpack(header)
        order = msgspec.msgpack.decode(orders.read(size), type=Order)
        body = msgspec.msgpack.encode(_run(order))
        outcomes.write(LENGTH.pack(len(body)) + body)
        outcomes.flush()


def _run(order: Order) -> CommandOutcome:
    from shoal.cli.main import app

    os.environ.update(order.environment)
    printed, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code: str | int | None = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            app(order.arguments)
        except SystemExit as ended:
            code = ended.code
    assert isinstance(printed.buffer, io.BytesIO)
    assert isinstance(said.buffer, io.BytesIO)
    return CommandOutcome(
        code if isinstance(code, int) else int(code is not None), printed.buffer.getvalue(), said.buffer.getvalue()
    )


def main() -> None:
    """Serve stdin and stdout; what commands' own processes print goes nowhere."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as outcomes, Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        serve(sys.stdin.buffer, outcomes)


if __name__ == "__main__":
    main()
