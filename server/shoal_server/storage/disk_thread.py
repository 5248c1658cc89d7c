"""A thread for one kind of waiting on the disk, so that the event loop never does: syncs (group commit), or flushes.

At most one piece of work is under way; everything written before it begins is covered by it, whichever groups it is
for. What is asked for meanwhile is covered by the next one.

To be woken by another thread costs an event loop more than a quick disk takes. So where work was quick lately, whoever asks
may wait for its end, for `PATIENCE_NS` at the most, however long the disk then takes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread

from shoal_server.storage.engine import StorageFailed

STOP_SECONDS = 10.0
DURATIONS_KEPT = 4096
PATIENCE_NS = 1_000_000
QUICK_NS = 400_000
"""Work is quick that took less in the mean."""
MEAN_OF = 16


@dataclass(slots=True)
class DiskWorkDone:
    """The end of a sync or a flush: everything up to `ticket` is on disk, unless there is a `failure`."""

    ticket: int
    failure: StorageFailed | None


class DiskThread:
    """Does its work on request, in a thread of its own."""

    def __init__(self, name: str, work: Callable[[], None], notify: Callable[[DiskWorkDone], None]) -> None:
        """
        Args:
            work: puts on disk what was written before; raises `StorageFailed`.
            notify: called in this thread after each piece of work; after a failure it is not called again.
        """
        self._name = name
        self._work = work
        self._notify = notify
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._done = 0
        self._began: float | None = None
        self._mean_ns = QUICK_NS
        self._lock = Lock()
        self._requested = 0
        self._awaited = 0
        self._ended = Semaphore(0)
        self._end: DiskWorkDone | None = None
        self._durations_ns: deque[int] = deque(maxlen=DURATIONS_KEPT)
        self._thread = Thread(target=self._run, name=f"shoal-{name}", daemon=True)
        self._thread.start()

    def request(self, ticket: int) -> None:
        """Ask that everything written so far, which is what `ticket` stands for, gets on disk."""
        self._requested = ticket
        self._requests.put(ticket)

    def request_and_wait(self, ticket: int) -> DiskWorkDone | None:
        """Ask for the same, and wait for a moment where that is likely to be enough.

        Returns its end, which is then not notified; None: it will be.
        """
        if self._mean_ns >= QUICK_NS or self._done != self._requested:
            self.request(ticket)
            return None
        self._awaited = ticket
        self.request(ticket)
        if not self._ended.acquire(timeout=PATIENCE_NS / 1e9):
            with self._lock:
                self._awaited = 0
                if self._end is None:
                    return None
            # It has ended since.
            self._ended.acquire()
        end, self._end, self._awaited = self._end, None, 0
        return end

    def stalled_for(self) -> float:
        """Return for how many seconds the work under way has been going on, 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def take_durations(self) -> list[int]:
        """Return how long each piece of work took that has ended since the last time (ns); of very many the last."""
        durations = self._durations_ns
        return [durations.popleft() for _ in range(len(durations))]

    def stop(self) -> None:
        """Do what was asked for and end the thread.

        Raises:
            StorageFailed: the work under way does not end.
        """
        self._requests.put(None)
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            raise StorageFailed(f"a {self._name} has not ended for {self.stalled_for():.0f} seconds")

    def _run(self) -> None:
        requests = self._requests
        while True:
            ticket = requests.get()
            while ticket is not None and not requests.empty():
                newer = requests.get()
                if newer is None:
                    requests.put(None)
                    break
                ticket = newer
            if ticket is None:
                return
            began = self._began = time.monotonic()
            failure = None
            try:
                self._work()
            except StorageFailed as error:
                failure = error
            else:
                duration = int((time.monotonic() - began) * 1e9)
                self._durations_ns.append(duration)
                self._mean_ns += (duration - self._mean_ns) // MEAN_OF
                self._done = ticket
            finally:
                self._began = None
            self._tell(DiskWorkDone(self._done, failure), ticket)
            if failure is not None:
                return

    def _tell(self, end: DiskWorkDone, ticket: int) -> None:
        with self._lock:
            if self._awaited == ticket:
                self._end = end
                self._ended.release()
                return
        self._notify(end)
