"""What a node says of having too much for a connection."""

from __future__ import annotations

from typing import NamedTuple

from shoal.priorities import OverloadReason, known_reason
from shoal.protocol.messages import Refused


class Overload(NamedTuple):
    """Of what there is too much, as an `OverloadReason`: of connections, where the node has not said. And when to come again.

    `retry_after`: seconds from then, at the earliest; None: the node has not said.
    """

    reason: str = OverloadReason.CONNECTION.value
    retry_after: float | None = None


NO_OVERLOAD = Overload()


def overload_of(refused: Refused) -> Overload:
    """Return what a refusal says."""
    reason = known_reason(refused.reason) or OverloadReason.CONNECTION.value
    return Overload(reason, refused.retry_after_ms / 1000 or None)
