"""Refuses blocking clients for the length of a run: each has a thread with a real event loop, on the real network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn
from unittest.mock import patch

from shoal_chaos.application_simulation.errors import NotSimulated
from shoal_chaos.application_simulation.process_loop import ProcessLoop

CALL = "shoal.transport.portal.Portal.call"
"""Whatever a blocking client does passes through here, `close` alone does not."""


@contextmanager
def no_blocking_clients() -> Iterator[None]:
    """Refuse their calls, those of clients that were made before as well, in every thread of the process."""
    with patch(CALL, _refuse):
        yield


def _refuse(*_: object, **__: object) -> NoReturn:
    refusal = NotSimulated(
        "a blocking shoal.Client talks to a real cluster from a thread of its own, which no simulation reaches: "
        "nothing was sent; use `async with sim.client() as db` instead, which is a shoal.AsyncClient of the simulated cluster"
    )
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise refusal from None
    if isinstance(loop, ProcessLoop):
        loop.end_run(refusal)
    raise refusal
