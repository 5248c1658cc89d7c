"""Group commit: one thread that syncs the engine, so that the event loop never waits for the disk.

At most one sync is under way; everything written before it begins is covered by it, whichever groups it is for. What is
asked for meanwhile is covered by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread

from shoal_server.storage.engine import Engine, StorageFailed

STOP_SECONDS = 10.0


@dataclass(slots=True)
class SyncDone:
    """The end of a sync: everything up to `ticket` is on disk, unless there is a `failure`."""

    ticket: int
    failure: StorageFailed | None


class Writer:
    """Syncs on request, in a thread of its own."""

    def __init__(self, engine: Engine, notify: Callable[[SyncDone], None]) -> None:
        """
        Args:
            notify: called in the writer's thread after each sync; after a failure it is not called again.
        """
        self._engine = engine
        self._notify = notify
        self._condition = Condition()
        self._wanted = 0
        self._done = 0
        self._stopping = False
        self._began: float | None = None
        self._thread = Thread(target=self._run, name="shoal-writer", daemon=True)
        self._thread.start()

    def request(self, ticket: int) -> None:
        """Ask that everything written so far, which is what `ticket` stands for, gets on disk."""
        with self._condition:
            self._wanted = ticket
            self._condition.notify()

    def stalled_for(self) -> float:
        """Return for how many seconds the sync under way has been going on, 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def stop(self) -> None:
        """Sync what was asked for and end the thread.

        Raises:
            StorageFailed: the sync under way does not end.
        """
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            raise StorageFailed(f"a sync has not ended for {self.stalled_for():.0f} seconds")

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._wanted <= self._done and not self._stopping:
                    self._condition.wait()
                if self._wanted <= self._done:
                    return
                ticket = self._wanted
            self._began = time.monotonic()
            try:
                self._engine.sync()
            except StorageFailed as error:
                self._notify(SyncDone(self._done, error))
                return
            finally:
                self._began = None
            self._done = ticket
            self._notify(SyncDone(ticket, None))
