"""What a forked child does with what its parent had: leave it alone, and begin anew.

A child has the memory and the open files of its parent, but of its threads only the one that forked. So the event loops,
sockets and databases there belong to the parent: to use one, to close one in good order, or even to free its memory may end
the child or disturb the parent.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Protocol
from weakref import WeakValueDictionary


class ForkFollower(Protocol):
    """Something that has what a child must not use."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there, wherever in the object's methods the fork found it."""
        ...


_followers: WeakValueDictionary[int, ForkFollower] = WeakValueDictionary()


def follow_forks(follower: ForkFollower) -> None:
    """Have `follower.forked` called in every child, for as long as it lives."""
    _followers[id(follower)] = follower


def leave_alone(thing: object) -> None:
    """Keep `thing`, and all that it refers to, until the process is gone, whatever becomes of the interpreter before."""
    if sys.implementation.name == "cpython":
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    else:
        _kept.append(thing)


def end_without_last_rites() -> None:
    """Let the process end, after the interpreter, without what its C libraries want to do then.

    RocksDB would wait for threads that a child does not have, and crash. Only where the C library can be told; elsewhere
    children have to end by `os._exit`, as those of `multiprocessing` do.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "on_exit"):
        # What is registered last comes first; it gets the exit code, which is all that `_exit` wants.
        library.on_exit(library._exit, None)


_kept: list[object] = []


def _after_fork() -> None:
    for follower in [each() for each in _followers.valuerefs()]:
        if follower is not None:
            follower.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
