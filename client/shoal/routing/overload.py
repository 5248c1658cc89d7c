"""What a node says of having too much for a connection."""

from __future__ import annotations

from typing import NamedTuple

from shoal.priorities import known_reason
from shoal.protocol.messages import Refused


class Overload(NamedTuple):
    """Of what there is too much, as an `OverloadReason`; "": that is not known, or not why. And when to come again.

    `retry_after`: seconds from then, at the earliest; 0.0: the node has not said.
    """

    reason: str = ""
    retry_after: float = 0.0


NO_OVERLOAD = Overload()


def overload_of(refused: Refused) -> Overload:
    """Return what a refusal says."""
    return Overload(known_reason(refused.reason), refused.retry_after_ms / 1000)
