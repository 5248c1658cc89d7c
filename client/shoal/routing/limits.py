"""The sizes that the nodes accept."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.protocol.messages import MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Welcome
from shoal.routing.shard_queue import BATCH_BYTES


@dataclass(slots=True)
class NodeLimits:
    """Bytes: the least that any node has announced, and the defaults as long as none has.

    `batch_bytes` is the most that the operations of one batch have, unless a single one is larger.
    """

    max_key_bytes: int = MAX_KEY_BYTES
    max_value_bytes: int = MAX_VALUE_BYTES
    max_batch_bytes: int = MAX_BATCH_BYTES
    batch_bytes: int = BATCH_BYTES

    def adopt(self, welcome: Welcome, *, first: bool) -> None:
        """Take what a node announces; `first`: nobody did before."""
        if first:
            self.max_key_bytes = welcome.max_key_bytes
            self.max_value_bytes = welcome.max_value_bytes
            self.max_batch_bytes = welcome.max_batch_bytes
        else:
            self.max_key_bytes = min(self.max_key_bytes, welcome.max_key_bytes)
            self.max_value_bytes = min(self.max_value_bytes, welcome.max_value_bytes)
            self.max_batch_bytes = min(self.max_batch_bytes, welcome.max_batch_bytes)
        self.batch_bytes = min(BATCH_BYTES, self.max_batch_bytes)
