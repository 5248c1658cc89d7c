"""Network namespaces of our own: their names, the tools that make them, who is in them, and what killed runs left behind."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from shoal_chaos.clusters.possible import NotPossibleHere

FOLDER = Path("/var/run/netns")
"""Where `ip netns` keeps names."""

PREFIX = "shoal-chaos"
NAME = re.compile(rf"{PREFIX}-(?P<pid>\d+)-(?P<started>\d+)-(?P<end>[\w.-]+)")
TOOLS = ("ip", "tc")
TOOL_SECONDS = 10.0
CLONE_NEWNET = 0x40000000


class NamespacesMissing(NotPossibleHere):
    """There are no namespaces with packet filters on this machine; the message says why."""


class ToolFailed(Exception):
    """`ip` or `tc` did not do what it was asked; the message has the command and the reason."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that has made a namespace: its id alone may by now be another's, with the time of its start it is not."""

    pid: int
    started: int
    """In the kernel's ticks since the machine was started."""

    @classmethod
    def this_process(cls) -> Self:
        pid = os.getpid()
        started = _start_of(pid)
        if started is None:
            raise NamespacesMissing("namespaces need /proc, in which this process is not to be found")
        return cls(pid, started)

    def lives(self) -> bool:
        """Whether that process still runs."""
        return _start_of(self.pid) == self.started

    def namespace(self, end: str) -> str:
        """Return the name of its namespace for an end of links."""
        return f"{PREFIX}-{self.pid}-{self.started}-{end}"


def _start_of(pid: int) -> int | None:
    """Return when a process was started; None: it is gone, or has ended and is not yet waited for."""
    try:
        # The second field is the command in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], int(fields[19])
    return None if state in "ZX" else started


def owner_of(name: str) -> Owner | None:
    """Return who has made the namespace of this name; None: it is none of ours."""
    found = NAME.fullmatch(name)
    return Owner(int(found["pid"]), int(found["started"])) if found else None


def leftovers(names: Iterable[str], lives: Callable[[Owner], bool] = Owner.lives) -> list[str]:
    """Return those of these namespaces that a run has made which is over."""
    owners = {name: owner_of(name) for name in names}
    return sorted(name for name, owner in owners.items() if owner is not None and not lives(owner))


def names() -> list[str]:
    """Return all namespaces that have a name on this machine."""
    return sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []


def remove_leftovers() -> list[str]:
    """End what still runs in namespaces of killed runs, and remove them; return their names."""
    found = leftovers(names())
    for name in found:
        try:
            for pid in use("ip", "netns", "pids", name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            use("ip", "netns", "delete", name)
        except ToolFailed:
            if name in names():  # Else another run that starts now was quicker.
                raise
    return found


def require_tools() -> None:
    """
    Raises:
        NamespacesMissing: this is no Linux, we are not root, or there is no iproute2.
    """
    if sys.platform != "linux":
        raise NamespacesMissing(f"packet filters in network namespaces need Linux, and this is {sys.platform}")
    if os.geteuid() != 0:
        raise NamespacesMissing("packet filters in network namespaces need root")
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        raise NamespacesMissing(
            f"packet filters in network namespaces need `{'` and `'.join(absent)}` (Debian: iproute2)"
        )


def use(*command: str, lines: Sequence[str] = ()) -> str:
    """Run `ip` or `tc`; return what it printed.

    Args:
        lines: further commands for one that reads them (`-batch -`).

    Raises:
        ToolFailed: it did not end well.
    """
    given = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
    if done.returncode:
        reason = done.stderr.splitlines()[:1] or [f"it ended with {done.returncode}"]
        raise ToolFailed(f"`{' '.join(command)}`: {reason[0]}")
    return done.stdout


def inside(name: str) -> tuple[str, ...]:
    """Return what a command is begun with to be run in a namespace; it keeps its process id."""
    return ("ip", "netns", "exec", name)


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Let this thread, and all that it starts, open their sockets in a namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(FOLDER / name, os.O_RDONLY)
        try:
            _set_namespace(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _set_namespace(home)
    finally:
        os.close(home)


def _set_namespace(file: int) -> None:
    """What `os.setns` does, from Python 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(file, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
