"""Orders that come twice: whoever got no answer sends an order again, and it must not be begun again."""

from __future__ import annotations

from msgspec.structs import replace

from shoal_shardmanager.control.orders.model import Accepted, Refused, Why
from shoal_shardmanager.control.state import ClusterState

ID_CHARACTERS_MAX = 64


def begun_by(order_id: str, state: ClusterState) -> Accepted | None:
    """Return the operation that this order began when it came before; None: it has not come, or has no id.

    Raises:
        Refused: that cannot be the id of an order.
    """
    if len(order_id) > ID_CHARACTERS_MAX:
        raise Refused(
            Why.WRONG, f"the id of an order has at most {ID_CHARACTERS_MAX} characters, this one has {len(order_id)}"
        )
    if not order_id:
        return None
    row = next((row for row in state.operations.values() if row.order_id == order_id), None)
    if row is None:
        return None
    return Accepted(row, (), (), (f"operation {row.id} was begun when this order came before",))


def named(accepted: Accepted, order_id: str) -> Accepted:
    """Return the same, where the operation remembers the id of its order."""
    row = replace(accepted.operation, order_id=order_id)
    changes = tuple(row if change is accepted.operation else change for change in accepted.changes)
    return Accepted(row, changes, accepted.steps, accepted.notes, accepted.bytes)
