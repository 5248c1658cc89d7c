"""What binds a replica to promises that were made on its node: its term and vote, and that those may be forgotten."""

from __future__ import annotations

from shoal_server.raft.messages import HardState
from shoal_server.storage.decoding import NotARow
from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import decode_hard_state, encode_hard_state
from shoal_server.storage.meta_rows import MetaKind
from shoal_server.storage.twice import TwiceStored

EVERY_SHARD = 0
"""In place of a shard (see `put_forgotten`): nobody knows which ones."""
_FORGOTTEN = b"\x01"
FORGOTTEN_PROMISES = (
    "what replicas of this shard had promised here cannot be read any more: this one neither votes nor takes entries; "
    "put one on another node in its place"
)
"""Why a replica has failed that has forgotten, and what to do about it."""


def _decode_forgotten(_: bytes, row: bytes) -> bool:
    if row != _FORGOTTEN:
        raise NotARow(f"it is {row.hex()}")
    return True


HARD_STATES = TwiceStored(MetaKind.HARD_STATE, encode_hard_state, decode_hard_state)
FORGOTTEN = TwiceStored(MetaKind.FORGOTTEN, lambda _: _FORGOTTEN, _decode_forgotten)


def put_hard_state(batch: Batch, engine: Engine, group: int, state: HardState) -> None:
    """Store the newest term and the vote in it."""
    HARD_STATES.put(batch, engine, group, state)


def load_hard_state(engine: Engine, group: int) -> HardState:
    """Return the newest term and the vote in it."""
    return HARD_STATES.load(engine, group) or HardState(0, "")


def put_forgotten(batch: Batch, engine: Engine, shard: int) -> None:
    """Store that replicas of a shard here have made promises which nobody can read any more; `EVERY_SHARD`: of any shard.

    It stays for good: no replica of the shard on this node is known ever to be free again.
    """
    FORGOTTEN.put(batch, engine, shard, True)


def has_forgotten(engine: Engine, shard: int) -> bool:
    """Say whether nobody knows what replicas of a shard have promised here."""
    return FORGOTTEN.is_there(engine, shard)
