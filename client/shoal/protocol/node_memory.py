"""What a node holds in memory for others, as it says of itself."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shoal.bounds import Count, Word

MAX_ACCOUNTS = 32


class MemoryUse(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an account of its memory holds and may hold (bytes), and how often there was no room in it.

    `account` names what the memory is for: `answers`, `entries` and so on.
    """

    account: Word
    used_bytes: Count
    bound_bytes: Count
    refused: Count


MemoryUses: TypeAlias = Annotated[tuple[MemoryUse, ...], Meta(max_length=MAX_ACCOUNTS)]
