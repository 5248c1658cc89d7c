"""What managers and nodes say to each other of keyspaces' quotas: shares, what was asked for, and who is full."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shoal.bounds import MAX_KEYSPACES, Count, CountOrNone, Epoch, KeyspaceId, Millionths, RequestNumber


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """As in `shoal.protocol.messages`, which this module may not import."""


class QuotaShare(_Message, frozen=True):
    """What a node may use of a keyspace's quotas. `full`: the keyspace has as many bytes as it may, or more."""

    keyspace: KeyspaceId
    reads: Millionths
    writes: Millionths
    full: bool = False


QuotaShares: TypeAlias = Annotated[tuple[QuotaShare, ...], Meta(max_length=MAX_KEYSPACES)]


class SetQuotaShares(_Message, frozen=True, tag=35):
    """Take these shares; those of keyspaces that are not named stay. Answered by `Done`. From the shard manager.

    `epoch`: of the manager's leadership, `number`: of its messages; what is older than what a node has taken is refused.
    """

    request: RequestNumber
    epoch: Epoch
    number: Count
    shares: QuotaShares


class QuotaUse(_Message, frozen=True):
    """How a node stands with the quotas of a keyspace.

    Args:
        reads, writes: its shares. full: it has been told that the keyspace is.
        asked_reads, asked_writes: what clients have asked for since the process began or the quota is there, refused or not.
        refused: requests that it has refused; `refused_ms`: how long ago the last one, -1: none.
    """

    keyspace: KeyspaceId
    reads: Millionths
    writes: Millionths
    full: bool
    asked_reads: Count
    asked_writes: Count
    refused: Count
    refused_ms: CountOrNone = -1


QuotaUses: TypeAlias = Annotated[tuple[QuotaUse, ...], Meta(max_length=MAX_KEYSPACES)]
