"""Reads and writes the managers' rows; every write is on condition that this manager still runs the controller."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import shoal
from shoal.protocol.frames import Decoder
from shoal.protocol.messages import AtomicOperation
from shoal.shardmap import ShardMap
from shoal_server.process.joining import JoinRequest

from shoal_shardmanager.control.rows import (
    COUNTERS_KEY,
    JOINS,
    LEADER_KEY,
    MAP_KEY,
    NODES,
    OPERATIONS,
    POLICIES,
    SETTINGS_KEY,
    CountersRow,
    LeaderRow,
    NodeRow,
    OperationRow,
    PolicyRow,
    SettingsRow,
    decode_row,
    encode_row,
    node_key,
    operation_key,
    policy_key,
)
from shoal_shardmanager.control.state import ClusterState, ForgetOperation, ForgetPolicy, RowChange

_join_decoder: Decoder[JoinRequest] = Decoder(JoinRequest)


class Deposed(Exception):
    """Another manager runs the controller now."""


class Store:
    """The rows, as one manager sees them while it runs the controller."""

    def __init__(self, client: shoal.AsyncClient, manager: str) -> None:
        self._client = client
        self._manager = manager
        self._fence = b""

    async def take_over(self) -> int:
        """Become the one who may write; return the epoch.

        Raises:
            Deposed: another manager took over at the same moment.
        """
        entry = await self._client.get_entry(LEADER_KEY)
        before = None if entry is None else decode_row(LEADER_KEY, entry.value, LeaderRow)
        row = LeaderRow(self._manager, 1 if before is None else before.epoch + 1)
        encoded = encode_row(row)
        condition = shoal.key_absent(LEADER_KEY) if entry is None else shoal.value_equals(LEADER_KEY, entry.value)
        try:
            await self._client.write([shoal.put(LEADER_KEY, encoded)], when=[condition])
        except shoal.ConditionFailed as error:
            raise Deposed("another manager took over first") from error
        self._fence = encoded
        return row.epoch

    async def leader(self) -> LeaderRow | None:
        """Return who runs the controller."""
        data = await self._client.get(LEADER_KEY)
        return None if data is None else decode_row(LEADER_KEY, data, LeaderRow)

    async def check(self) -> None:
        """Check that this manager still runs the controller.

        Raises:
            Deposed: it does not.
        """
        if await self._client.get(LEADER_KEY) != self._fence:
            raise Deposed("another manager has taken over")

    async def load(self) -> ClusterState | None:
        """Return the state; None: there is none yet.

        Raises:
            UnreadableRow: a row is of another version.
        """
        rows = {key.decode(): value async for key, value in self._client.scan()}
        data = rows.get(MAP_KEY)
        if data is None:
            return None
        nodes = [decode_row(key, value, NodeRow) for key, value in rows.items() if key.startswith(NODES)]
        policies = [decode_row(key, value, PolicyRow) for key, value in rows.items() if key.startswith(POLICIES)]
        operations = [decode_row(key, value, OperationRow) for key, value in rows.items() if key.startswith(OPERATIONS)]
        return ClusterState(
            map=decode_row(MAP_KEY, data, ShardMap),
            nodes={row.id: row for row in nodes},
            policies={row.keyspace: row for row in policies},
            operations={row.id: row for row in operations},
            counters=decode_row(COUNTERS_KEY, rows[COUNTERS_KEY], CountersRow),
            settings=decode_row(SETTINGS_KEY, rows[SETTINGS_KEY], SettingsRow),
        )

    async def write(self, changes: Iterable[RowChange]) -> None:
        """Write rows, all of them or none.

        Raises:
            Deposed: this manager no longer runs the controller; nothing was written.
        """
        # Of several rows under one key the last counts: the steps of one decision build on each other.
        operations: dict[str, AtomicOperation] = {}
        for change in changes:
            key, operation = _as_operation(change)
            operations[key] = operation
        try:
            await self._client.write(list(operations.values()), when=[shoal.value_equals(LEADER_KEY, self._fence)])
        except shoal.ConditionFailed as error:
            raise Deposed("another manager has taken over") from error

    async def joins(self) -> list[tuple[str, JoinRequest | None]]:
        """Return the keys of what nodes ask that want to join, and what they ask; None: it cannot be read."""
        found: list[tuple[str, JoinRequest | None]] = []
        async for key, value in self._client.scan(JOINS):
            try:
                request = _join_decoder.decode(value)
            except msgspec.MsgspecError:
                request = None
            found.append((key.decode("utf-8", "replace"), request))
        return found

    async def forget_join(self, key: str) -> None:
        """Delete a request to join that has been dealt with."""
        await self._client.delete(key)


def _as_operation(change: RowChange) -> tuple[str, AtomicOperation]:
    match change:
        case ShardMap():
            key = MAP_KEY
        case NodeRow():
            key = node_key(change.id)
        case PolicyRow():
            key = policy_key(change.keyspace)
        case OperationRow():
            key = operation_key(change.id)
        case CountersRow():
            key = COUNTERS_KEY
        case SettingsRow():
            key = SETTINGS_KEY
        case ForgetOperation():
            key = operation_key(change.id)
            return key, shoal.delete(key)
        case ForgetPolicy():
            key = policy_key(change.keyspace)
            return key, shoal.delete(key)
    return key, shoal.put(key, encode_row(change))
