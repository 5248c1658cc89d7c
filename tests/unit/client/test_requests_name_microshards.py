"""No request reads or changes rows without saying which: single keys, or the microshards that it is about."""

from __future__ import annotations

from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from shoal.protocol import messages
from shoal.protocol.checksums import ReadChecksum
from shoal.protocol.hot_keys import GetHotKeys
from shoal.protocol.migration import MigrationStep, ReadMoving
from shoal.protocol.quotas import SetQuotaShares
from shoal.shardmap import Ranges

NAMES_KEYS = {"key", "keys", "operations"}
ABOUT_NO_ROWS = {
    messages.OpenSession,
    messages.GetShardMap,
    messages.GetStatus,
    messages.TransferLeader,
    messages.Ping,
    messages.InstallShardMap,
    messages.ChangeMembership,
    messages.DropReplica,
    messages.SetLogLevel,
    messages.SkipEntry,
    messages.SplitShard,
    SetQuotaShares,
    GetHotKeys,
}
"""`SplitShard` moves no row, and says in the child which microshards go."""
STEPS = set(get_args(MigrationStep)) | {ReadMoving}
"""Of a migration, which has one set of microshards from its first step on."""


def members(union: object) -> set[type]:
    if get_origin(union) in (Union, UnionType):
        return set().union(*(members(each) for each in get_args(union)))
    assert isinstance(union, type)
    return {union}


PARTS = members(messages.Request) | members(messages.Operation) | members(messages.Condition)


@pytest.mark.parametrize("kind", sorted(PARTS - ABOUT_NO_ROWS - STEPS, key=lambda kind: kind.__name__))
def test_whatever_is_about_rows_says_which(kind: type[msgspec.Struct]) -> None:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    if "ranges" in fields:
        assert get_type_hints(kind, include_extras=True)["ranges"] == Ranges
        assert fields["ranges"].required, "who leaves it out would ask for whatever the shard has"
    else:
        assert NAMES_KEYS & fields.keys() or kind is messages.Atomic, "say keys, or ranges, or list it as about no rows"


def test_readers_of_many_rows_are_among_them() -> None:
    ranged = {kind for kind in PARTS if "ranges" in {field.name for field in msgspec.structs.fields(kind)}}
    assert ranged >= {
        messages.Scan,
        messages.ReadPage,
        messages.DeleteRange,
        messages.RangeUnchanged,
        ReadChecksum,
    }
