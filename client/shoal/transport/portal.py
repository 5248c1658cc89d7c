"""The blocking client's way into asyncio: an event loop on a thread of its own, with uvloop where that is installed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from shoal.errors import Closed

T = TypeVar("T")


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Portal:
    """Runs coroutines on the thread's loop for callers on any other thread.

    A forked child has no such thread: its calls are refused instead of waiting for ever.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._main, name="shoal-client", daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object, **kwargs: object) -> T:
        """Run a coroutine function to its end; an interrupted caller cancels it.

        Raises:
            Closed: the portal is closed, or belongs to the process that this one was forked from.
        """
        if os.getpid() != self._process:
            raise Closed("this client was made before the process forked; make a new one in the child")
        with self._lock:
            if self._closed:
                raise Closed("the client is closed; make a new one")
            future: Future[T] = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def run(self, function: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Run a plain function on the loop's thread; errors as of `call`."""

        async def there() -> T:
            return function(*args, **kwargs)

        return self.call(there)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last`, then end the thread. Closing twice does nothing more; in a forked child nothing at all."""
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            future = asyncio.run_coroutine_threadsafe(last(), self._loop)
        future.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _main(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()
