"""What calls return: immutable structs that say which sequence number they were served at."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Durability: TypeAlias = Literal["quorum"]
"""How safe a write was when it was acknowledged: "quorum" is on disk at a majority of the shard's voters."""


class WriteResult(msgspec.Struct, frozen=True, gc=False):
    """A write that was done, at sequence number `seq` of its shard."""

    seq: int
    durability: Durability = "quorum"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A value, the sequence number it was written at, and the node that served it."""

    value: bytes
    seq: int
    served_by: str
