"""The shard map of an embedded database: one node, and one shard a keyspace; keyspaces are made by naming them."""

from __future__ import annotations

import re

from msgspec.structs import replace
from shoal.embedded_url import EMBEDDED_ADDRESS
from shoal.errors import InvalidArgument
from shoal.shardmap import Keyspace, MicroshardRange, NodeAddress, Shard, ShardMap

CLUSTER = "embedded"
NODE = "n1"
DEFAULT_MICROSHARDS = 1
"""Microshards are what moves between shards; here nothing does, and a scan of one has nothing to merge."""
MAX_MICROSHARDS = 65536
DELIMITER = b"/"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def with_keyspace(
    shard_map: ShardMap | None, name: str, microshards: int | None, delimiter: bytes | None = None
) -> ShardMap:
    """Return `shard_map` itself where it has keyspace `name`, else one that has it; None stands for a new database.

    Args:
        microshards: of the keyspace; None leaves what is there as it is.
        delimiter: likewise.

    Raises:
        InvalidArgument: the keyspace cannot be made so, or is there with another number of microshards or delimiter.
    """
    if shard_map is None:
        shard_map = ShardMap(0, CLUSTER, (NodeAddress(NODE, EMBEDDED_ADDRESS),), (), ())
    found = next((keyspace for keyspace in shard_map.keyspaces if keyspace.name == name), None)
    if found is not None:
        if microshards not in (None, found.microshards):
            raise InvalidArgument(
                f"keyspace {name!r} was made with {found.microshards} microshards, which cannot be changed to "
                f"{microshards}: leave `microshards` out of the URL, or name another keyspace"
            )
        if delimiter not in (None, found.delimiter):
            raise InvalidArgument(
                f"keyspace {name!r} was made with the delimiter {found.delimiter!r}, which cannot be changed to "
                f"{delimiter!r}: leave `delimiter` out of the URL, or name another keyspace"
            )
        return shard_map
    count = DEFAULT_MICROSHARDS if microshards is None else microshards
    if NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"{name!r} cannot be a keyspace's name: 1 to 63 letters, digits and '_.-', the first no sign"
        )
    if count > MAX_MICROSHARDS:
        raise InvalidArgument(f"a keyspace has at most {MAX_MICROSHARDS} microshards, not {count}")
    number = max((keyspace.id for keyspace in shard_map.keyspaces), default=0) + 1
    shard = max((shard.id for shard in shard_map.shards), default=0) + 1
    return replace(
        shard_map,
        version=shard_map.version + 1,
        keyspaces=(*shard_map.keyspaces, Keyspace(number, name, count, DELIMITER if delimiter is None else delimiter)),
        shards=(*shard_map.shards, Shard(shard, number, (MicroshardRange(0, count),), (NODE,))),
    )
