"""What a node has refused lately since there was too much of something, as it says of itself."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shoal.bounds import Count, KeyspaceId, Word

MAX_SHED_KINDS = 16


class ShedRequests(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Requests that were refused as overloaded within the last ten to twenty seconds.

    `reason` is an `OverloadReason`, `priority` a `Priority`; `keyspace` 0: they were about none.
    """

    reason: Word
    priority: Word
    keyspace: KeyspaceId
    count: Count


Shed: TypeAlias = Annotated[tuple[ShedRequests, ...], Meta(max_length=MAX_SHED_KINDS)]
