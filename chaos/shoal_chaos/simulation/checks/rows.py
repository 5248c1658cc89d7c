"""What must hold of the rows on nodes' disks: replicas that have applied the same have the same, and each is some replica's."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from shoal_server.storage.engine import Damaged
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import (
    DATA_PREFIX_BYTES,
    applied_state_key,
    data_prefix,
    expiry_prefix,
    prefix_end,
    sessions_prefix,
    split_off_key,
)

from shoal_chaos.simulation.cluster.node import SimulatedNode
from shoal_chaos.simulation.invariants import Invariants, Violation


def compare_rows(nodes: Iterable[SimulatedNode], invariants: Invariants) -> None:
    """Compare the rows of replicas that have applied the same entries.

    Raises:
        Violation: they are not the same, or a replica has failed in a run where none may.
    """
    for node in nodes:
        for shard, replica in node.replicas.items():
            if replica.failure is not None and not invariants.replicas_may_fail:
                raise Violation(f"the replica of shard {shard} on {node.name} has failed: {replica.failure}")
        for shard, (index, value) in _hashes(node).items():
            invariants.check_state(node.name, shard, index, value)


def _hashes(node: SimulatedNode) -> dict[int, tuple[int, int]]:
    """Return, by shard, the applied index and a hash of the state as applied, all but where its rows lie.

    A replica that has applied nothing is left out: it may be empty, and then has what a shard map said.
    """
    hashes: dict[int, tuple[int, int]] = {}
    engine = node.engine
    for shard, replica in node.replicas.items():
        state = replica.machine.state
        if not state.index or replica.failure is not None:
            continue
        value = crc32(repr(state.shared).encode())
        prefixes = [
            make(replica.keyspace.id, microshard, generation)
            for microshard, generation in state.generations(state.stored_ranges).items()
            for make in (data_prefix, expiry_prefix)
        ]
        try:
            for prefix in (*prefixes, journal_prefix(shard, state.generation)):
                for key, row in engine.scan(engine.data, prefix, prefix_end(prefix)):
                    value = crc32(row, crc32(key[len(prefix) :], value))
        except Damaged:
            # It does not know yet.
            continue
        hashes[shard] = (state.index, value)
    return hashes


def stray_rows(node: SimulatedNode) -> list[str]:
    """Return what the prefixes of rows are, in hex, that no replica of a running node would miss, or remove when it goes."""
    known: set[bytes] = set()
    for shard, replica in node.replicas.items():
        state, keyspace = replica.machine.state, replica.keyspace.id
        known.update((applied_state_key(shard), split_off_key(shard)))
        known.update((sessions_prefix(shard, state.generation), journal_prefix(shard, state.generation)))
        for microshard, generation in state.generations(state.stored_ranges).items():
            known.update(make(keyspace, microshard, generation) for make in (data_prefix, expiry_prefix))
    rows = node.engine.scan(node.engine.data, b"", b"\xff" * DATA_PREFIX_BYTES)
    return sorted({key[:DATA_PREFIX_BYTES].hex() for key, _ in rows if key[:DATA_PREFIX_BYTES] not in known})
