"""Which shards' replicas splits have begun on a node since its process began, and of which parents.

All replicas of a node apply into one batch, which nobody can read before it is written. So what a split needs to know of
the splits beside it is known here, and not looked for in the engine alone.
"""

from __future__ import annotations

from shoal_server.storage.engine import Engine
from shoal_server.storage.replica_rows import stored_parent


class ShardBegunTwice(Exception):
    """A split is to begin a shard that the node has, and that is not this parent's: nothing of either is touched."""


class Beginnings:
    """See the module's first lines. One for all replicas of a node."""

    __slots__ = ("_parents",)

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def parent_of(self, shard: int, engine: Engine) -> int | None:
        """Return which shard the node's replica of `shard` was split off, 0 where it was founded; None: there is none.

        Raises:
            Damaged: what is stored of it cannot be read.
        """
        parent = self._parents.get(shard)
        return stored_parent(engine, shard) if parent is None else parent

    def begin(self, shard: int, parent: int) -> None:
        """A split of `parent` begins `shard` in the batch that is being put together."""
        self._parents[shard] = parent

    def forget(self, shard: int) -> None:
        """What a split began is not written after all, or is deleted."""
        self._parents.pop(shard, None)
