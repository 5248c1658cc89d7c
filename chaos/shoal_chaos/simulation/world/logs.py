"""How loud simulated nodes are: they log as real ones do, and mostly nobody reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def logging_from(level: int) -> Iterator[None]:
    """Log events of this severity (of `logging`) and worse meanwhile, in the whole process; afterwards as before."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    try:
        yield
    finally:
        structlog.configure(**before)
