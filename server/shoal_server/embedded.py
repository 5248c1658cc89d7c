"""A database in the application's own process: one node without peers or ports, behind the client's `embedded://` URLs.

The node is the same as a server's, and so is what it stores. It has one shard a keyspace, and is its only voter, so it
leads from its first turn on. The client (shoal/transport/embedded.py) loads this module by name and calls `open_database`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom
from secrets import token_hex
from threading import Event, Lock

from msgspec.structs import replace
from shoal.errors import Closed, Internal, InvalidArgument, Unavailable
from shoal.protocol.messages import ONE_PARTITION_FEATURE, Answer, Request, Welcome
from shoal.protocol.version import NEWEST
from shoal.shardmap import ShardMap

from shoal_server.embedded_map import CLUSTER, NODE, with_keyspace
from shoal_server.node.core import Node
from shoal_server.node.disk_health import DiskState
from shoal_server.node.settings import NodeIdentity, NodeSettings
from shoal_server.process.driver import NodeDriver, monotonic_ns, welcome_of
from shoal_server.raft.config import Timing
from shoal_server.shard.merging import PIECE_US
from shoal_server.storage.engine import DataFolderInUse, DataFolderRefused, Engine, StorageFailed
from shoal_server.storage.folder import DataFolder, open_data_folder
from shoal_server.storage.memory import MemoryEngine
from shoal_server.storage.node_rows import CLUSTER_ID_BYTES, begin_epoch, load_shard_map, save_shard_map
from shoal_server.storage.rewriting import write_anew
from shoal_server.storage.rocks import RocksEngine

log = logging.getLogger("shoal.embedded")
"""Not the nodes' structured log: an application's output is its own."""

MIB = 1 << 20
BLOCK_CACHE_BYTES = 16 * MIB
WRITE_BUFFER_BYTES = 16 * MIB
DISK_RESERVE_BYTES = 64 * MIB
"""With less room on the disk writes are turned away: RocksDB takes none any more once one of them has failed."""
DISK_CHECK_SECONDS = 0.25
EXIT_SECONDS = 10.0
INCARNATION_IN_MEMORY = "memory"

WHOLE_US = 60_000_000
"""More work than any page is."""
TIMING = Timing(heartbeat_interval_ns=1_000_000_000, support_ns=3_000_000_000, election_spread_ns=1)
"""Nobody gets heartbeats, but an idle node wakes up as often as it would send them."""

_open_databases: set[EmbeddedDatabase] = set()


def open_database(
    loop: asyncio.AbstractEventLoop,
    folder: str,
    keyspace: str,
    microshards: int | None,
    delimiter: bytes | None = None,
) -> EmbeddedDatabase:
    """Open the database in `folder`, or make it; "" is one that keeps nothing. It belongs to `loop`, which it blocks so long.

    Args:
        keyspace: made where the database has none of that name.
        microshards: of a keyspace that is made; of one that is there, what it must have, or None for any.
        delimiter: likewise; a keyspace that is made has "/" where none is named.

    Raises:
        Unavailable: the folder is in use, by the process that is named, or the disk failed.
        InvalidArgument: the folder is somebody else's, or the keyspace not as it is asked for.
    """
    if not folder:
        return _start(loop, None, MemoryEngine(), keyspace, microshards, delimiter)
    try:
        held = open_data_folder(Path(folder), CLUSTER, NODE)
    except DataFolderInUse as error:
        raise Unavailable(f"{error}: a folder is opened once at a time; close the other client first") from error
    except DataFolderRefused as error:
        raise InvalidArgument(str(error)) from error
    try:
        engine = RocksEngine(held.database, block_cache_bytes=BLOCK_CACHE_BYTES, write_buffer_bytes=WRITE_BUFFER_BYTES)
        try:
            write_anew(engine, NODE)
            return _start(loop, held, engine, keyspace, microshards, delimiter)
        except BaseException:
            engine.close()
            raise
    except StorageFailed as error:
        held.close()
        raise Unavailable(f"the embedded database cannot be opened: {error}") from error
    except BaseException:
        held.close()
        raise


def _start(
    loop: asyncio.AbstractEventLoop,
    folder: DataFolder | None,
    engine: Engine,
    keyspace: str,
    microshards: int | None,
    delimiter: bytes | None,
) -> EmbeddedDatabase:
    stored = load_shard_map(engine)
    shard_map = with_keyspace(stored, keyspace, microshards, delimiter)
    if not shard_map.cluster_id:
        shard_map = replace(shard_map, cluster_id=token_hex(CLUSTER_ID_BYTES))
    if shard_map is not stored:
        save_shard_map(engine, shard_map)
    # A keyspace that is wanted with one microshard is one shard in a cluster, too, and stays one.
    features = () if microshards == 1 else (ONE_PARTITION_FEATURE,)
    return EmbeddedDatabase(loop, folder, engine, shard_map, features)


class EmbeddedDatabase:
    """An open database; it stays open until it is closed, or the interpreter ends.

    Every method but `close` belongs to the thread of its loop. There is one client at a time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        folder: DataFolder | None,
        engine: Engine,
        shard_map: ShardMap,
        features: tuple[str, ...],
    ) -> None:
        self._loop = loop
        self._features = features
        self._folder = folder
        self._engine = engine
        self._process = os.getpid()
        self._closing = Lock()
        self._closed = False
        self._client = 0
        self._answered: Callable[[list[Answer]], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._disk_check_at = 0.0
        incarnation = INCARNATION_IN_MEMORY if folder is None else folder.incarnation
        identity = NodeIdentity(CLUSTER, NODE, incarnation, begin_epoch(engine, time.time()), version("shoal"))
        # A node that restarts lets the promises run out that it may have given others. This one has nobody to promise
        # anything to, so as far as it is concerned it began that long ago.
        began = monotonic_ns() - TIMING.support_ns
        # A reader of an engine in memory has all of it copied when that changes: there, no page is read in pieces.
        settings = NodeSettings(timing=TIMING, page_piece_us=PIECE_US if folder is not None else WHOLE_US)
        self._node = Node(identity, shard_map, engine, settings, SystemRandom(), began)
        self._driver = NodeDriver(
            self._node,
            engine,
            loop,
            to_peers=lambda _: None,
            to_clients=self._answer,
            failed=self._on_failure,
            map_changed=lambda: None,
        )
        _open_databases.add(self)
        # The election: whatever a client asks for, it asks a leader.
        self._driver.turn()

    def attach(self, answered: Callable[[list[Answer]], None], lost: Callable[[str], None]) -> Welcome:
        """Begin a connection, in place of the last one; return its greeting.

        Args:
            answered: called with the answers of each turn.
            lost: called where the database has failed since.

        Raises:
            Unavailable: the database has failed.
        """
        if self._driver.failure:
            raise Unavailable(self._failure_message())
        if self._closed:
            raise Closed("the embedded database was closed, since the interpreter is ending: nothing is done any more")
        self.detach()
        self._client += 1
        self._answered = answered
        self._lost = lost
        return welcome_of(self._node, NEWEST, self._features)

    def detach(self) -> None:
        """End the connection: what was asked for on it is done all the same, and answered to nobody."""
        if self._answered is not None:
            self._node.client_gone(self._client)
            self._answered = self._lost = None

    def receive(self, requests: list[Request]) -> None:
        """Take requests of the client that is attached."""
        if isinstance(self._engine, RocksEngine) and self._loop.time() >= self._disk_check_at:
            self._look_at_disk(self._engine)
        self._node.receive_client(self._client, requests)
        self._driver.schedule_turn()

    def stop(self) -> None:
        """Serve nobody any more. `close` follows."""
        self.detach()
        self._driver.stop()

    def close(self) -> None:
        """Bring everything to the disk and let others open the folder. After `stop`; takes a while, in any thread.

        Closing twice does nothing more. A database that has failed keeps its folder for as long as the process lives:
        what the operating system shows of its files may not be what is on the disk.

        Raises:
            Internal: the disk failed. What was acknowledged is on it all the same.
        """
        with self._closing:
            if self._closed or self._driver.failure:
                return
            self._closed = True
            try:
                self._driver.close()
            except StorageFailed as error:
                raise Internal(f"the embedded database was not closed in good order: {error}") from error
            finally:
                if self._folder is not None:
                    self._folder.close()
                _open_databases.discard(self)

    def close_at_exit(self) -> None:
        """Close what the application left open: in the loop's thread where that still runs, else in this one."""
        if os.getpid() != self._process:
            # A forked child has the files open, but neither the threads nor the right.
            return
        if not self._loop.is_running():
            self._end()
            return
        ended = Event()

        def end() -> None:
            try:
                self._end()
            finally:
                ended.set()

        self._loop.call_soon_threadsafe(end)
        ended.wait(EXIT_SECONDS)

    # -- underneath

    def _end(self) -> None:
        lost = self._lost
        self.stop()
        try:
            self.close()
        except Internal as error:
            log.error("%s", error)
        if lost is not None and self._loop.is_running():
            lost("the interpreter is ending")

    def _answer(self, to_clients: dict[int, list[Answer]]) -> None:
        answers = to_clients.get(self._client)
        if answers is not None and self._answered is not None:
            self._answered(answers)

    def _on_failure(self, reason: str, error: Exception | None) -> None:  # noqa: ARG002 - it is the driver's `failure`
        message = self._failure_message()
        log.critical("%s", message, exc_info=error)
        lost = self._lost
        self.detach()
        if lost is not None:
            lost(message)

    def _failure_message(self) -> str:
        return (
            f"the embedded database has failed ({self._driver.failure}): restart the process once the cause is removed"
        )

    def _look_at_disk(self, engine: RocksEngine) -> None:
        self._disk_check_at = self._loop.time() + DISK_CHECK_SECONDS
        free = engine.free_bytes()
        reason = (
            f"the disk has {free} bytes free, less than the reserve of {DISK_RESERVE_BYTES}: make room"
            if free < DISK_RESERVE_BYTES
            else ""
        )
        self._node.set_disk(DiskState(free_bytes=free, not_writable=reason), monotonic_ns())


@atexit.register
def _close_all() -> None:
    for database in list(_open_databases):
        database.close_at_exit()
