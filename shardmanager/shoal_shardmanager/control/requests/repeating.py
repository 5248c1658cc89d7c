"""Requests that come twice: whoever got no answer sends a request again, and it must not be begun again."""

from __future__ import annotations

from msgspec.structs import replace

from shoal_shardmanager.control.requests.model import Accepted, Refused, Why
from shoal_shardmanager.control.state import ClusterState

ID_CHARACTERS_MAX = 64


def begun_by(request_id: str, state: ClusterState) -> Accepted | None:
    """Return the operation that this request began when it came before; None: it has not come, or has no id.

    Raises:
        Refused: that cannot be the id of a request.
    """
    if len(request_id) > ID_CHARACTERS_MAX:
        raise Refused(
            Why.WRONG, f"the id of a request has at most {ID_CHARACTERS_MAX} characters, this one has {len(request_id)}"
        )
    if not request_id:
        return None
    row = next((row for row in state.operations.values() if row.request_id == request_id), None)
    if row is None:
        return None
    return Accepted(row, (), (), (f"operation {row.id} was begun when this request came before",))


def named(accepted: Accepted, request_id: str) -> Accepted:
    """Return the same, where the operation remembers the id of its request."""
    row = replace(accepted.operation, request_id=request_id)
    changes = tuple(row if change is accepted.operation else change for change in accepted.changes)
    return Accepted(row, changes, accepted.steps, accepted.notes, accepted.bytes)
