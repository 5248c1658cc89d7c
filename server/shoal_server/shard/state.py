"""What the parts of a shard's state machine share: its applied state, and what they keep in memory beside it.

`state` is replaced, never changed, so whoever has it may keep it. While a turn's entries are applied its parts are replaced
one command after the other (what it serves, what moves, what was split off); its position, which is that of the last entry,
once at the end. Where applying fails, the state of before is put back, and what is beside it made anew.
"""

from __future__ import annotations

from shoal.shardmap import Keyspace, Shard

from shoal_server.shard.expiry import ExpiryIndex
from shoal_server.shard.traffic import Traffic
from shoal_server.storage.applied_state import AppliedState
from shoal_server.storage.engine import Engine
from shoal_server.storage.layout import data_prefix


class ShardState:
    """See the module's first lines.

    Invariant: between two batches of entries `prefixes` and `expiry` are of the microshards of `state`, and of no others.

    Attributes:
        shard, keyspace: as the newest shard map has them.
        prefixes: by microshard that is served here, what its data keys begin with.
        expiry: which of their rows expire when.
        traffic: what was read and written, and which microshards have changed.
    """

    expiry: ExpiryIndex

    def __init__(self, shard: Shard, keyspace: Keyspace, state: AppliedState) -> None:
        """`serve` follows."""
        self.shard = shard
        self.keyspace = keyspace
        self.traffic = Traffic()
        self.state = state
        self.prefixes: dict[int, bytes] = {}

    def serve(self, engine: Engine) -> None:
        """Serve the microshards of `state`, whose rows are those on disk."""
        keyspace = self.keyspace.id
        generations = self.state.generations(self.state.ranges)
        self.prefixes = {
            microshard: data_prefix(keyspace, microshard, generation) for microshard, generation in generations.items()
        }
        self.expiry = ExpiryIndex(engine, keyspace, generations)
