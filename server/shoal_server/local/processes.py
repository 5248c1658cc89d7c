"""Node processes on this machine: started in the background, recorded in files, recognised again, and ended.

A record names a process by its id, its start time and its command: an id alone may by now belong to somebody else's
process, which must not be signalled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import psutil

from shoal_server.local.layout import ClusterFolder

STOP_PATIENCE_SECONDS = 10.0
KILL_PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.05
START_TIME_TOLERANCE_SECONDS = 2.0
"""Two readings of one process's start time differ when the machine's clock was set in between."""

LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_TAIL_BYTES = 4096


class ProcessRecord(msgspec.Struct, frozen=True):
    """What a process file says: which node, which process, started when (seconds since 1970)."""

    node: str
    pid: int
    started: float


class NodeHandle(Protocol):
    """A node's process, ours or found again."""

    node: str
    pid: int

    def ended(self) -> bool:
        """Whether the process is gone."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the process is gone."""
        ...


class ChildNode:
    """A node that this process has started."""

    def __init__(self, node: str, process: subprocess.Popen[bytes]) -> None:
        self.node = node
        self.pid = process.pid
        self._process = process

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        return self._process.poll()

    def ended(self) -> bool:
        return self.exit_code() is not None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


class FoundNode:
    """A node that another process has started, found by its record."""

    def __init__(self, node: str, process: psutil.Process) -> None:
        self.node = node
        self.pid = process.pid
        self._process = process

    def ended(self) -> bool:
        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def signal(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except psutil.NoSuchProcess:
            return


def start_node(
    folder: ClusterFolder,
    node: str,
    command: Sequence[str],
    working_directory: Path,
    environment: Mapping[str, str] | None = None,
) -> ChildNode:
    """Start `command` for `node` in a session of its own, with its output in the node's log file, and record it.

    Args:
        environment: variables that are added to those of this process.
    """
    log = folder.log_file(node)
    log.parent.mkdir(parents=True, exist_ok=True)
    # Before the process is there: a node that could not be recorded would be one that nobody ends.
    folder.process_file(node).parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".old"))
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=working_directory,
            env={**os.environ, **(environment or {})},
            # A Ctrl-C on the terminal is for whoever started the nodes, who then ends them in order.
            start_new_session=True,
        )
    record = ProcessRecord(node, process.pid, psutil.Process(process.pid).create_time())
    folder.process_file(node).write_bytes(msgspec.json.encode(record))
    return ChildNode(node, process)


def find_nodes(folder: ClusterFolder) -> list[FoundNode]:
    """Return the recorded nodes that still run; remove the records of those that do not."""
    found: list[FoundNode] = []
    for path in folder.process_files():
        node = _find(path)
        if node is None:
            path.unlink(missing_ok=True)
        else:
            found.append(node)
    return found


def _find(path: Path) -> FoundNode | None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=ProcessRecord)
        process = psutil.Process(record.pid)
        same_start = abs(process.create_time() - record.started) <= START_TIME_TOLERANCE_SECONDS
        same_command = record.node in process.cmdline()
    except (msgspec.MsgspecError, psutil.Error):
        return None
    handle = FoundNode(record.node, process)
    return handle if same_start and same_command and not handle.ended() else None


async def stop_nodes(
    handles: Iterable[NodeHandle],
    *,
    patience_seconds: float = STOP_PATIENCE_SECONDS,
    hurry: asyncio.Event | None = None,
) -> list[str]:
    """End processes: SIGTERM to all, and SIGKILL to those that are still there after `patience_seconds`.

    Args:
        hurry: set by the caller to cut the patience short.

    Returns:
        The nodes that had to be killed.
    """
    left = [handle for handle in handles if not handle.ended()]
    for handle in left:
        handle.signal(signal.SIGTERM)
    left = await _wait(left, patience_seconds, hurry)
    killed = [handle.node for handle in left]
    for handle in left:
        handle.signal(signal.SIGKILL)
    await _wait(left, KILL_PATIENCE_SECONDS, None)
    return killed


async def _wait(
    handles: Sequence[NodeHandle], patience_seconds: float, hurry: asyncio.Event | None
) -> list[NodeHandle]:
    deadline = asyncio.get_running_loop().time() + patience_seconds
    left = [handle for handle in handles if not handle.ended()]
    while left and asyncio.get_running_loop().time() < deadline and not (hurry is not None and hurry.is_set()):
        await asyncio.sleep(POLL_SECONDS)
        left = [handle for handle in left if not handle.ended()]
    return left


def log_tail(path: Path, lines: int) -> list[str]:
    """Return the last `lines` lines of a log file."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
