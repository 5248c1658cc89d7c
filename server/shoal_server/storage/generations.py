"""Generations: numbers that keep rows apart which are of one microshard and lie on one node.

A replica's rows lie under a generation, those of a snapshot that is being staged under another, and those of microshards
that come from another shard under a third: that shard's replica may be on this very node. So the node gives each number
once, and whoever removes rows removes those under the generations it was given, and nobody else's.

That a number was given is in the write-ahead log before any row lies under it, and a flush of rows syncs that log first
(see engine.py): what is on disk under a generation is never taken for somebody else's after a crash.
"""

from __future__ import annotations

from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import GENERATION_ROW, LAST_GENERATION, NO_GENERATION, load_number

_BYTES = 4


def load_generation(engine: Engine) -> int | None:
    """Return the generation that was returned last, None where none was.

    Raises:
        Damaged: it cannot be read.
    """
    return load_number(engine, GENERATION_ROW, _BYTES)


def next_generation(engine: Engine) -> int:
    """Return a generation that was never returned before on this node."""
    last = load_generation(engine)
    generation = NO_GENERATION + 1 if last is None else last + 1
    if generation >= LAST_GENERATION:
        raise OverflowError(
            "the node has given all its generations: have its replicas moved, and begin with an empty folder"
        )
    batch = engine.batch()
    batch.put(GENERATION_ROW, generation.to_bytes(_BYTES, "big"), engine.meta)
    engine.write(batch)
    return generation
