"""What operators may ask for: each order is checked whole, and either becomes rows to write or is refused with the reason.

Pure. The steps that an order would take are those that `--plan` shows; nothing is decided differently for a preview.
"""

from shoal_shardmanager.control.orders.cancelling import cancel
from shoal_shardmanager.control.orders.checking import check
from shoal_shardmanager.control.orders.model import (
    Accepted,
    Alter,
    Create,
    DropOrder,
    Facts,
    KeyspaceOrder,
    MergeOrder,
    MoveMicroshardsOrder,
    Order,
    Refused,
    RestartOrder,
    SettleOrder,
    SplitOrder,
    Unsettled,
    Why,
)
from shoal_shardmanager.control.orders.repeating import begun_by, named
from shoal_shardmanager.control.orders.tuning import SETTINGS, Setting, with_settings

__all__ = [
    "SETTINGS",
    "Accepted",
    "Alter",
    "Create",
    "DropOrder",
    "Facts",
    "KeyspaceOrder",
    "MergeOrder",
    "MoveMicroshardsOrder",
    "Order",
    "Refused",
    "RestartOrder",
    "Setting",
    "SettleOrder",
    "SplitOrder",
    "Unsettled",
    "Why",
    "begun_by",
    "cancel",
    "check",
    "named",
    "with_settings",
]
