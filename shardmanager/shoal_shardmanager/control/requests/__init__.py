"""What operators may ask for: each request is checked whole, and either becomes rows to write or is refused with the reason.

Pure. The steps that a request would take are those that `--plan` shows; nothing is decided differently for a preview.
"""

from shoal_shardmanager.control.requests.cancelling import cancel
from shoal_shardmanager.control.requests.checking import check
from shoal_shardmanager.control.requests.model import (
    Accepted,
    Alter,
    Create,
    DropRequest,
    KeyspaceRequest,
    MergeRequest,
    MoveMicroshardsRequest,
    OperatorRequest,
    Refused,
    RestartRequest,
    SettleRequest,
    Situation,
    SplitRequest,
    Unsettled,
    Why,
)
from shoal_shardmanager.control.requests.repeating import begun_by, named
from shoal_shardmanager.control.requests.tuning import SETTINGS, Setting, with_settings

__all__ = [
    "SETTINGS",
    "Accepted",
    "Alter",
    "Create",
    "DropRequest",
    "KeyspaceRequest",
    "MergeRequest",
    "MoveMicroshardsRequest",
    "OperatorRequest",
    "Refused",
    "RestartRequest",
    "Setting",
    "SettleRequest",
    "Situation",
    "SplitRequest",
    "Unsettled",
    "Why",
    "begun_by",
    "cancel",
    "check",
    "named",
    "with_settings",
]
