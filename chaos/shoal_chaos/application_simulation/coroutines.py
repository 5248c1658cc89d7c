"""Checks that what a test hands over to be run is a coroutine function, or something that returns a coroutine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

WANTED = "a coroutine function, `async def application(sim): ...`, or something that returns a coroutine"


def check_coroutine_function(function: object) -> None:
    """Check what can be known before it is called.

    Raises:
        TypeError: it cannot be called, or is a generator function.
    """
    if inspect.iscoroutine(function):
        function.close()  # so that nobody is told, too, that it was never awaited
        raise TypeError(
            f"a simulation calls the application itself: give it `{function.__name__}` without the brackets"
        )
    if not callable(function):
        raise TypeError(f"a simulation runs {WANTED}, not {function!r}")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"a simulation runs {WANTED}; {_name(function)} has a `yield`, which makes a generator of it")


def begun(function: Callable[[], Coroutine[Any, Any, Any]]) -> Coroutine[Any, Any, Any]:
    """Return the coroutine of a call, nothing of which has run yet if it is a coroutine function's.

    Raises:
        TypeError: it returns none.
        Exception: what a function that is none has raised, with a note that says so.
    """
    check_coroutine_function(function)
    try:
        made: object = function()
    except Exception as error:
        if not inspect.iscoroutinefunction(function):
            error.add_note(f"{_name(function)} is a plain function, so its call runs it. A simulation runs {WANTED}.")
        raise
    if not asyncio.iscoroutine(made):
        raise TypeError(
            f"a simulation runs {WANTED}; {_name(function)} is a plain function, and returned {made!r}: "
            f"should it be `async def`?"
        )
    return made


def _name(function: object) -> str:
    """Return what a function is called, if anything."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return getattr(function, "__qualname__", None) or repr(function)
