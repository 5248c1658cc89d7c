"""The priority of a call, which its caller names in the metadata, and the nodes go by."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from shoal.errors import InvalidArgument
from shoal.priorities import Priority

PRIORITY_METADATA = "shoal-priority"
SHOWN = 64
"""Characters of what was said that an error quotes."""

PRIORITY: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)
"""Of the call that a task belongs to."""


def priority_of(metadata: Sequence[tuple[str, str | bytes]]) -> Priority:
    """Return the priority that came with a call: interactive, where none did.

    Raises:
        InvalidArgument: there is none of that name, or several were named.
    """
    named = [value for key, value in metadata if key == PRIORITY_METADATA]
    if not named:
        return Priority.INTERACTIVE
    words = ", ".join(Priority)
    if len(named) > 1:
        raise InvalidArgument(f"{PRIORITY_METADATA} comes once with a call, not {len(named)} times: one of {words}")
    try:
        return Priority(named[0])  # type: ignore[arg-type]  # bytes are no word of it, either
    except ValueError:
        raise InvalidArgument(f"{PRIORITY_METADATA} is one of {words}, not {named[0][:SHOWN]!r}") from None
