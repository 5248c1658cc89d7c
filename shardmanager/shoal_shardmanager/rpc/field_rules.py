"""What the fields of the control RPC's requests may be: each has a rule, checked before anything else is done with it.

What makes sense only as things are (that there is such a shard, that a keyspace's settings agree with each other) is for
`requests` to see. Decision 21 has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import Message
from shoal.bounds import (
    MAX_BYTES,
    MAX_FOLLOWERS,
    MAX_MICROSHARDS,
    MAX_MS,
    MAX_NAME,
    MAX_NODES,
    MAX_PLACE,
    MAX_QUOTA_RATE,
    MAX_REPLICAS,
    MAX_SHARD,
    MAX_TTL_MS,
    MAX_VERSION,
    MAX_VOTERS,
    MAX_WORD,
)

from shoal_shardmanager.control.requests import Refused, Why
from shoal_shardmanager.control.requests.keyspaces import DELIMITER_BYTES_MAX
from shoal_shardmanager.control.requests.repeating import ID_CHARACTERS_MAX


@dataclass(frozen=True, slots=True)
class Number:
    """A number within a range."""

    least: int
    most: int

    def problem(self, value: int) -> str:
        return "" if self.least <= value <= self.most else f"from {self.least} to {self.most}, not {value}"


@dataclass(frozen=True, slots=True)
class Text:
    """So many characters, or bytes, at most."""

    most: int

    def problem(self, value: str | bytes) -> str:
        if len(value) <= self.most:
            return ""
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"at most {self.most} {unit}, not {len(value)}"


@dataclass(frozen=True, slots=True)
class Many:
    """So many elements at most. `each` is the rule for them, None where they are messages; `key` that for a map's keys."""

    most: int
    each: Number | Text | None = None
    key: Text | None = None

    def problem(self, value: Any) -> str:
        if len(value) > self.most:
            return f"at most {self.most} elements, not {len(value)}"
        for element in value:
            found = ""
            if self.key is not None:
                found = self.key.problem(element)
                if not found and self.each is not None:
                    found = self.each.problem(value[element])
            elif self.each is not None:
                found = self.each.problem(element)
            if found:
                return f"each has {found}" if isinstance(self.each, Text) else f"each is {found}"
        return ""


Rule: TypeAlias = Number | Text | Many

_SHARD = Number(0, MAX_SHARD)
_NODE = Text(MAX_NAME)
_VERSION = Number(0, MAX_VERSION)
_QUOTA_RATE = Number(0, MAX_QUOTA_RATE)
_PLACES = Many(MAX_REPLICAS, Text(MAX_PLACE))

RULES: dict[tuple[str, str], Rule] = {
    ("StartRequest", "if_version"): _VERSION,
    ("StartRequest", "request_id"): Text(ID_CHARACTERS_MAX),
    ("Move", "shard"): _SHARD,
    ("Move", "source"): _NODE,
    ("Move", "target"): _NODE,
    ("TransferLeader", "shard"): _SHARD,
    ("TransferLeader", "target"): _NODE,
    ("Failover", "node"): _NODE,
    ("Drain", "node"): _NODE,
    ("Undrain", "node"): _NODE,
    ("RemoveNode", "node"): _NODE,
    ("DropKeyspace", "name"): Text(MAX_NAME),
    ("Split", "shard"): _SHARD,
    ("Split", "at"): Number(0, MAX_MICROSHARDS - 1),
    ("MicroshardRange", "first"): Number(0, MAX_MICROSHARDS - 1),
    ("MicroshardRange", "end"): Number(1, MAX_MICROSHARDS),
    ("MoveMicroshards", "source"): _SHARD,
    ("MoveMicroshards", "target"): _SHARD,
    ("MoveMicroshards", "ranges"): Many(MAX_MICROSHARDS),
    ("Merge", "target"): _SHARD,
    ("Merge", "source"): _SHARD,
    ("Settle", "shard"): _SHARD,
    ("RollingRestart", "nodes"): Many(MAX_NODES, _NODE),
    ("KeyspaceSettings", "name"): Text(MAX_NAME),
    ("KeyspaceSettings", "microshards"): Number(1, MAX_MICROSHARDS),
    ("KeyspaceSettings", "shards"): Number(1, MAX_MICROSHARDS),
    ("KeyspaceSettings", "delimiter"): Text(DELIMITER_BYTES_MAX),
    ("KeyspaceSettings", "voters"): Number(1, MAX_VOTERS),
    ("KeyspaceSettings", "followers"): Number(0, MAX_FOLLOWERS),
    ("KeyspaceSettings", "max_staleness_ms"): Number(1, MAX_MS),
    ("KeyspaceSettings", "default_ttl_ms"): Number(0, MAX_TTL_MS),
    ("KeyspaceSettings", "required_regions"): Many(
        MAX_REPLICAS, Number(0, MAX_VOTERS + MAX_FOLLOWERS), Text(MAX_PLACE)
    ),
    ("KeyspaceSettings", "leader_regions"): _PLACES,
    ("KeyspaceSettings", "follower_regions"): _PLACES,
    ("KeyspaceSettings", "reads_per_second"): _QUOTA_RATE,
    ("KeyspaceSettings", "writes_per_second"): _QUOTA_RATE,
    ("KeyspaceSettings", "max_bytes"): Number(0, MAX_BYTES),
    ("GetOperationRequest", "id"): _VERSION,
    ("ExplainShardRequest", "shard"): _SHARD,
    ("ChangeSettingsRequest", "values"): Many(MAX_WORD, Text(MAX_WORD), Text(MAX_WORD)),
    ("ChangeSettingsRequest", "if_version"): _VERSION,
}
"""By message and field. Those that are not here are switches, or messages."""


def check_fields(message: Message) -> None:
    """Check what is set of a request, and of the messages in it.

    Raises:
        Refused: a field breaks its rule; the message names it, and says what would be right.
    """
    kind = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        rule = RULES.get((kind, field.name))
        problem = "" if rule is None else rule.problem(value)
        if problem:
            raise Refused(Why.WRONG, f"{kind}.{field.name}: {problem}; nothing was done")
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            check_fields(inner)
