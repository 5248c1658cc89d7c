"""The blocking client's way into asyncio: an event loop on a thread of its own, with uvloop where that is installed.

A signal handler or a finalizer may come between any two steps of a caller, and call here itself. So no caller ever has a
lock that the thread, or another caller, could wait for: which is why the futures of `concurrent.futures` are not used.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - loops need it, and when the interpreter is ending it can no more be loaded
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar, cast

from shoal.errors import Closed, InvalidArgument
from shoal.transport.forks import follow_forks, leave_alone
from shoal.transport.standard_streams import keep_standard_streams

T = TypeVar("T")

LastWords = Callable[[], Coroutine[Any, Any, None]]


def _new_event_loop() -> asyncio.AbstractEventLoop:
    keep_standard_streams()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Call(Generic[T]):
    """A coroutine function whose end somebody waits for on another thread. `told`: how it ended is known."""

    __slots__ = ("_answered", "_begin", "_error", "_result", "_task", "told")

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._begin = begin
        self._task: asyncio.Task[T] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self.told = False
        self._answered = threading.Lock()
        self._answered.acquire()

    def wait(self) -> T:
        """Return what the function does, or raise what it does.

        Raises:
            Closed: the loop ended before.
        """
        self._answered.acquire()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return cast(T, self._result)

    def refuse(self) -> None:
        """Say that the loop has ended, unless there is an answer."""
        if not self.told:
            self._tell(_closed())

    # -- on the loop's thread

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the function."""
        try:
            self._task = loop.create_task(self._begin())
        except Exception as error:  # its arguments may be wrong
            self._tell(error)
            return
        self._task.add_done_callback(self._finished)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self._task is not None:
            self._task.cancel()

    def _finished(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self._tell(_closed())
        elif (error := task.exception()) is not None:
            self._tell(error)
        else:
            self._result = task.result()
            self._tell(None)

    def _tell(self, error: BaseException | None) -> None:
        self.told = True
        self._error = error
        try:
            self._answered.release()
        except RuntimeError:
            return  # the loop's last words and the caller have found its end at the same time


class _LoopThread:
    """An event loop on a thread, until it is stopped.

    `waiting`: calls that somebody may wait for; nobody waits for ever, since those that the loop has not come to are told
    at its end, and whoever adds one after that sees `ended`.
    """

    def __init__(self) -> None:
        self.loop = _new_event_loop()
        self.waiting: set[_Call[Any]] = set()
        self.ended = False
        self._thread = threading.Thread(target=self._main, name="shoal-client", daemon=True)

    def start(self) -> None:
        """Begin to run.

        Raises:
            RuntimeError: no thread can be made.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    @property
    def is_this_one(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.get_ident() == self._thread.ident

    def run(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function; wait for its end, whatever becomes of the loop. An interrupted caller cancels it.

        Raises:
            Closed: the loop has ended.
        """
        call = _Call(begin)
        self.waiting.add(call)
        try:
            if not self._have(call.begin, self.loop) or self.ended:
                call.refuse()
            return call.wait()
        finally:
            self.waiting.discard(call)
            if not call.told:
                self._have(call.cancel)

    def _have(self, function: Callable[..., None], *args: object) -> bool:
        """Have the loop call a function; return whether there is a loop."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def stop(self, last: LastWords) -> None:
        """Run `last` and end, some time soon; for callers that cannot wait."""
        self._have(self._stop_after, last)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _stop_after(self, last: LastWords) -> None:
        self.loop.create_task(last()).add_done_callback(self._last_words_said)

    def _last_words_said(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()
        self.loop.stop()

    def _main(self) -> None:
        loop = self.loop
        try:
            loop.run_forever()
            loop.run_until_complete(_cancel_others())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            self.ended = True
            loop.close()
            for call in list(self.waiting):
                call.refuse()


class Portal:
    """Runs coroutines on the thread's loop for callers on any other thread. The thread begins with the first call.

    In a forked child, where there is no such thread, the next call begins another. A portal that nobody refers to any more
    closes itself, and warns.
    """

    def __init__(self, last: LastWords) -> None:
        """
        Args:
            last: what runs on the loop before it ends.
        """
        self._last = last
        self._closed = False
        self._threads: dict[None, _LoopThread] = {}
        follow_forks(self)

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object, **kwargs: object) -> T:
        """Run a coroutine function to its end; an interrupted caller cancels it.

        Raises:
            Closed: the portal is closed, or the interpreter is ending.
            InvalidArgument: the caller is on the thread itself, which cannot wait for itself.
        """
        thread = self._thread()
        if thread.is_this_one:
            raise InvalidArgument(
                "a blocking call on the client's own thread, by a finalizer or a callback that runs there, can never be "
                "answered: call it elsewhere"
            )
        return thread.run(partial(function, *args, **kwargs))

    def run(self, function: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Run a plain function on the loop's thread; errors as of `call`."""

        async def there() -> T:
            return function(*args, **kwargs)

        return self.call(there)

    def close(self) -> None:
        """Run what is to run last, then end the thread. Closing twice does nothing more.

        On the client's own thread, and at the end of the interpreter, it does not wait.
        """
        if self._closed:
            return
        self._closed = True
        thread = self._threads.get(None)
        if thread is None or sys.is_finalizing():
            return
        if thread.is_this_one:
            thread.stop(self._last)
            return
        try:
            thread.run(self._last)
        finally:
            thread.stop(_nothing)
            thread.join()

    def forked(self) -> None:
        """In a child: leave the parent's thread and loop to the parent."""
        leave_alone(self._threads)
        self._threads = {}

    def __del__(self) -> None:
        if self._closed or sys.is_finalizing():
            return
        self._closed = True
        thread = self._threads.get(None)
        if thread is not None:
            warnings.warn(
                "unclosed shoal.Client: close it, or use it by `with`", ResourceWarning, stacklevel=2, source=self
            )
            thread.stop(self._last)

    def _thread(self) -> _LoopThread:
        if self._closed:
            raise _closed()
        if sys.is_finalizing():
            # The other threads stand still by now: nobody would answer.
            raise Closed("the interpreter is ending: nothing is sent any more")
        thread = self._threads.get(None)
        if thread is not None:
            return thread
        made = _LoopThread()
        made.start()
        thread = self._threads.setdefault(None, made)
        if thread is not made:
            made.stop(_nothing)
        return thread


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _nothing() -> None:
    """The last words of a thread that nobody used, or whose last words were said."""


def _closed() -> Closed:
    return Closed("the client is closed; make a new one")
