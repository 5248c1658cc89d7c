"""The `shoal` command, run as a process, as operators do."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psutil
from shoal.cli.failures import ExitCode

COMMAND = (sys.executable, "-m", "shoal.cli")
ORDER_SECONDS = 120.0

LOW_PRIORITY = 5
"""Of the command line's processes, as niceness: they share the processors with what is measured, and are no part of it."""


CommandRunner = Callable[[Sequence[str], Mapping[str, str]], Awaitable[tuple[int, bytes, bytes]]]
"""Runs `shoal ...` with variables; returns its exit code and what it printed, on stdout and on stderr."""


class RequestFailed(Exception):
    """A command ended with another exit code than that of success; the message has its last line."""


async def run_command(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Run `shoal ...`; return its exit code and what it printed, on stdout and on stderr.

    Args:
        environment: variables beside those of this process.

    Raises:
        TimeoutError: it has not ended in time, and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    psutil.Process(process.pid).nice(LOW_PRIORITY)
    try:
        async with asyncio.timeout(ORDER_SECONDS):
            out, error = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, out, error


async def command_output(
    arguments: Sequence[str], environment: Mapping[str, str], runner: CommandRunner = run_command
) -> bytes:
    """Run `shoal ...`; return what it printed on stdout.

    Raises:
        RequestFailed: it did not end well.
        TimeoutError: it did not end.
    """
    code, out, error = await runner(arguments, environment)
    if code != ExitCode.DONE:
        raise RequestFailed(f"`shoal {' '.join(arguments)}` ended with {code}: {error.decode().strip()}")
    return out
