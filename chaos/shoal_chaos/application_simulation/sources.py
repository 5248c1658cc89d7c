"""Time and chance of the process itself, taken over for the length of a run, so that the client's come from the seed."""

from __future__ import annotations

import random as global_random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from unittest.mock import patch

TAKEN_OVER = {
    "shoal.transport.driver.Random": "random",
    "shoal.transactions.Random": "random",
    "shoal.transactions.monotonic": "monotonic",
    "shoal.aio.time": "unix",
}
"""What the client's asyncio shell asks of the process by these names, besides its event loop."""


@contextmanager
def simulated_sources(random: Random, monotonic: Callable[[], float], unix: Callable[[], float]) -> Iterator[None]:
    """Give the client, and whoever uses the functions of the module `random`, these sources.

    Args:
        random: each that asks for a source of chance gets its own, derived from this one.
        monotonic, unix: seconds of the simulated clocks.
    """
    sources: dict[str, Callable[[], object]] = {
        "random": lambda: Random(random.getrandbits(64)),
        "monotonic": monotonic,
        "unix": unix,
    }
    state = global_random.getstate()
    with ExitStack() as stack:
        for name, source in TAKEN_OVER.items():
            stack.enter_context(patch(name, sources[source]))
        global_random.seed(random.getrandbits(64))
        try:
            yield
        finally:
            global_random.setstate(state)
