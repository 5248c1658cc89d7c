"""A row of one replica changes, vanishes or appears while its node is down, and no file shows any damage."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import ClassVar

from shoal import AsyncClient
from shoal.options import parse_url
from shoal.shardmap import Routes
from shoal_server.invariants import invariant
from shoal_server.storage.applied_state import load_applied_state
from shoal_server.storage.folder import DATABASE_FOLDER
from shoal_server.storage.layout import data_prefix, value_header
from shoal_server.storage.rocks import RocksEngine

from shoal_chaos.clusters.faulty_cluster import FaultyCluster
from shoal_chaos.nemeses.base import Nemesis
from shoal_chaos.nemeses.choosing import Who, choose

ROWS = 64
PUT_SECONDS = 10.0
FOUND_SECONDS = 90.0
"""Replicas are compared in the background, at rest and under load, within less."""
LOOK_SECONDS = 0.2
MEMORY_BYTES = 1 << 20

FOUND = b'"kind": "diverged"'
REBUILT = b'"event": "snapshot_adopted"'


class RowChange(StrEnum):
    """What becomes of a row."""

    VALUE = "has another value"
    GONE = "is gone"
    NEW = "is there, and nobody wrote it"


class ChangedRow(Nemesis):
    """One node is stopped, a row in its database is changed, and it is started again.

    The replicas' own comparison has to find that the replica differs, and to have it rebuilt: the heal waits for that. No
    other replica may be found to differ.
    """

    name: ClassVar[str] = "changed-row"

    def __init__(self, who: Who = Who.ANY) -> None:
        self._who = who
        self._node = ""
        self._words = ""
        self._changed = False
        self._log_lengths: dict[str, int] = {}

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        run = f"changed-{random.getrandbits(32):x}"
        keys = [f"{run}-{number}".encode() for number in range(ROWS)]
        async with AsyncClient(cluster.url, timeout=PUT_SECONDS) as db:
            await db.put_many(dict.fromkeys(keys, b"as it was"))
        (self._node,) = await choose(cluster, self._who, random)
        change = random.choice(list(RowChange))
        key = f"{run}-new".encode() if change is RowChange.NEW else random.choice(keys)
        routes = Routes((await cluster.survey()).shard_map)
        keyspace = routes.keyspaces_by_name[parse_url(cluster.url).keyspace]
        shard = routes.shard_of(keyspace, key)
        cluster.excuse([self._node])
        # In good order, so that nothing of its log is applied again, and with it what was changed.
        await cluster.processes.end(self._node, signal.SIGTERM)
        self._log_lengths = {name: _log(cluster, name).stat().st_size for name in cluster.nodes}
        database = cluster.root / self._node / DATABASE_FOLDER
        microshard = keyspace.microshard_of(key)
        self._changed = await asyncio.to_thread(_change, database, keyspace.id, shard, microshard, key, change)
        cluster.restart([self._node])
        await cluster.decided(self._node)
        self._words = f"{key.decode()} of shard {shard} at {self._node}"
        return f"{self._words} {change}" if self._changed else f"nothing is changed: {self._words} was not there yet"

    async def heal(self, cluster: FaultyCluster) -> None:
        cluster.restart([self._node] * bool(self._node))
        if not self._changed:
            return
        try:
            async with asyncio.timeout(FOUND_SECONDS):
                for event in (FOUND, REBUILT):
                    while event not in self._said(cluster, self._node):  # noqa: ASYNC110 - nobody tells when
                        await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            cluster.broken.append(
                f"{FOUND_SECONDS:g} s after it was changed, nobody has found and rebuilt {self._words}"
            )
        for name in cluster.nodes:
            if name != self._node and FOUND in self._said(cluster, name):
                cluster.broken.append(f"a replica of {name} is said to differ, and that of {self._node} does")

    def _said(self, cluster: FaultyCluster, name: str) -> bytes:
        with _log(cluster, name).open("rb") as log:
            log.seek(self._log_lengths[name])
            return log.read()


def _log(cluster: FaultyCluster, name: str) -> Path:
    return cluster.processes.folder.log_file(name)


def _change(database: Path, keyspace: int, shard: int, microshard: int, key: bytes, change: RowChange) -> bool:
    """RowChange a row of a replica whose node is down, past its log; return whether it had what there is to change."""
    engine = RocksEngine(database, block_cache_bytes=MEMORY_BYTES, write_buffer_bytes=MEMORY_BYTES)
    try:
        state = load_applied_state(engine, shard)
        invariant(state is not None, "every node has a replica of the shard")
        assert state is not None
        stored = data_prefix(keyspace, microshard, state.generations(state.ranges)[microshard]) + key
        row = engine.get(engine.data, stored)
        if (row is None) is not (change is RowChange.NEW):
            return False
        batch = engine.batch()
        match change:
            case RowChange.VALUE:
                batch.put(stored, (row or b"")[:-1] + b"?", engine.data)
            case RowChange.GONE:
                batch.delete(stored, engine.data)
            case RowChange.NEW:
                batch.put(stored, value_header(1) + b"by nobody", engine.data)
        engine.write(batch)
        return True
    finally:
        engine.close()
