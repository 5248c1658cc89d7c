"""One replica of a shard on either engine: entries go in as a leader would have written them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import Operation, OperationResult
from shoal.shardmap import Keyspace, MicroshardRange, Ranges, Shard
from shoal_server.raft.messages import EntryKind, Membership, sealed
from shoal_server.shard.commands import (
    COMMANDS_VERSION,
    Command,
    Commands,
    OpenSessionCommand,
    PurgeCommand,
    WriteCommand,
    encode_commands,
    named_keys,
)
from shoal_server.shard.machine import CommandOutcome, Prepared, ShardStateMachine
from shoal_server.shard.sessions import CommandVerdict
from shoal_server.storage.applied_state import AppliedState, load_applied_state
from shoal_server.storage.engine import Batch, Engine
from shoal_server.storage.layout import expiry_prefix, prefix_end
from shoal_server.storage.rocks import RocksEngine
from shoal_server.storage.session_rows import SessionOwner
from shoal_server.storage.watched import WatchedEngine

MIB = 1 << 20
START_MS = 1_700_000_000_000
FIRST_GENERATION = 1000
"""Above those that a test has the engine give: a replica keeps its own, however often it is restarted."""
KEYSPACE = Keyspace(1, "default", 8, b"/")
SOMEBODY = SessionOwner(b"somebody's token", proven=False)


def session_id(shard: int, number: int) -> bytes:
    """An id for a session of a shard; in earnest they are drawn."""
    return ((shard << 40) + number).to_bytes(16, "big")


class ReplicaOfAShard:
    """A state machine and its engine. `now` is the clock of whoever leads, in Unix milliseconds."""

    def __init__(self, engine: Engine, shard: int = 1, first: int = 0, end: int = 8) -> None:
        self.engine = engine
        self.shard = Shard(shard, 1, (MicroshardRange(first, end),), ("n1",))
        state = load_applied_state(engine, shard) or AppliedState(
            index=0,
            term=0,
            seq_base=0,
            generation=FIRST_GENERATION + shard,
            membership=Membership(1, ("n1",), ()),
            membership_index=0,
            ranges=self.shard.ranges,
        )
        self.machine = ShardStateMachine(self.shard, KEYSPACE, engine, state)
        self.now = START_MS
        self.default_ttl = 0
        self.opened = 0
        self.session = session_id(shard, 1)
        self.number = 0

    def restarted(self) -> ReplicaOfAShard:
        """The replica in a new process, on what the engine has."""
        first, end = self.shard.ranges[0].first, self.shard.ranges[0].end
        replica = ReplicaOfAShard(self.engine, self.shard.id, first, end)
        replica.now, replica.number, replica.default_ttl = self.now, self.number, self.default_ttl
        replica.opened = self.opened
        return replica

    # -- entries

    def commands(self, *commands: Command) -> Commands:
        return Commands(COMMANDS_VERSION, self.now, self.default_ttl, list(commands))

    def opening(self, capacity: int = 100, owner: SessionOwner = SOMEBODY) -> OpenSessionCommand:
        """The opening of a new session; the first one's id is what `session` is at first."""
        self.opened += 1
        return OpenSessionCommand(session_id(self.shard.id, self.opened), owner, capacity)

    def write_command(self, *operations: Operation, number: int | None = None, identity: bytes = b"") -> WriteCommand:
        if number is None:
            self.number += 1
            number = self.number
        microshards = [KEYSPACE.microshard_of(key) for key in named_keys(list(operations))]
        return WriteCommand(self.session, number, microshards, encode_operations(list(operations)), identity)

    def apply(self, *entries: Commands, batch: Batch | None = None) -> list[list[CommandOutcome]]:
        """Apply entries in one turn, decoded from the log; into `batch`, if given, which is then not written."""
        state = self.machine.state
        logged = [
            sealed(1, 1, state.index + place, EntryKind.COMMAND, encode_commands(entry))
            for place, entry in enumerate(entries, 1)
        ]
        into = self.engine.batch() if batch is None else batch
        outcomes = self.machine.apply(logged, into, {})
        if batch is None:
            self.engine.write_unlogged(into)
        return [outcomes for _, outcomes in outcomes]

    def open_session(self, capacity: int = 100, owner: SessionOwner = SOMEBODY) -> bytes:
        opening = self.opening(capacity, owner)
        [[outcome]] = self.apply(self.commands(opening))
        assert outcome.verdict is CommandVerdict.NEW
        return opening.session

    def write(self, *operations: Operation) -> list[OperationResult]:
        """Apply a new write alone in its entry; return its results."""
        if self.session not in self.machine.sessions:
            self.open_session()
        [[outcome]] = self.apply(self.commands(self.write_command(*operations)))
        assert outcome.verdict is CommandVerdict.NEW
        return outcome.results

    def purge(self, limit: int = 1000, *, ahead_ms: int = 0) -> int:
        """Do as a leader does that finds rows due now; return how many index rows it wanted removed.

        Args:
            ahead_ms: by how much its time was ahead when it looked, of what the entry says.
        """
        looked_at = self.machine.now(self.now) + ahead_ms
        if self.machine.expiry.due_at > looked_at:
            return 0
        rows = self.machine.expiry.due(looked_at, limit)
        if rows:
            commands = self.commands(PurgeCommand(rows))
            index = self.machine.state.index + 1
            batch = self.engine.batch()
            entry = sealed(1, 1, index, EntryKind.COMMAND, encode_commands(commands))
            self.machine.apply([entry], batch, {index: Prepared(1, commands, [None])})
            self.engine.write_unlogged(batch)
        return len(rows)

    # -- what is there

    def get(self, key: bytes) -> bytes | None:
        return self.entry(key)[0]

    def entry(self, key: bytes) -> tuple[bytes | None, int, int]:
        """Return a key's value, seq and expiry as a reader sees them."""
        machine = self.machine
        values, seqs, expiries = machine.read([key], machine.route([key]) or [], machine.now(self.now))
        return values[0], seqs[0], expiries[0] if expiries else 0

    def pages(
        self,
        start: bytes = b"",
        end: bytes = b"",
        *,
        ranges: Ranges = (),
        reverse: bool = False,
        keys_only: bool = False,
        max_rows: int = 1000,
        max_bytes: int = MIB,
    ) -> list[list[tuple[bytes, bytes]]]:
        """Scan page by page as a client does; the rows of each page, with empty values where only keys were asked for.

        Args:
            ranges: microshards; none: all that the shard has.
        """
        pages: list[list[tuple[bytes, bytes]]] = []
        while True:
            page = self.machine.pages.begin_scan(
                ranges or self.machine.state.ranges,
                start,
                end,
                reverse=reverse,
                keys_only=keys_only,
                max_rows=max_rows,
                max_bytes=max_bytes,
                now=self.machine.now(self.now),
            ).whole()
            values = [b""] * len(page.keys) if keys_only else page.values
            pages.append(list(zip(page.keys, values, strict=True)))
            if page.resume is None:
                return pages
            if reverse:
                end = page.resume
            else:
                start = page.resume

    def scan(self, start: bytes = b"", end: bytes = b"", *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        return [row for page in self.pages(start, end, reverse=reverse) for row in page]

    def stored(self) -> dict[bytes, bytes]:
        """Every row of the data family, expired or not, sessions and applied state included."""
        return dict(self.engine.scan(self.engine.data, b"", b"\xff"))

    def stored_keys(self) -> list[bytes]:
        """The user keys that are physically there."""
        return sorted(
            key[len(prefix) :]
            for prefix in self.machine.prefixes.values()
            for key, _ in self.engine.scan(self.engine.data, prefix, prefix_end(prefix))
        )

    def index_rows(self) -> int:
        """How many rows the expiry index has."""
        state = self.machine.state
        prefixes = [expiry_prefix(1, *lies) for lies in state.generations(state.ranges).items()]
        return sum(1 for prefix in prefixes for _ in self.engine.scan(self.engine.data, prefix, prefix_end(prefix)))


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    opened: Engine
    if request.param == "memory":
        opened = WatchedEngine()
    else:
        (tmp_path / "database").mkdir()
        opened = RocksEngine(tmp_path / "database", block_cache_bytes=MIB, write_buffer_bytes=MIB)
    yield opened
    opened.close()


@pytest.fixture
def replica(engine: Engine) -> ReplicaOfAShard:
    """The only replica of a new shard with all 8 microshards."""
    return ReplicaOfAShard(engine)


@pytest.fixture(scope="session")
def make_replica() -> Callable[..., ReplicaOfAShard]:
    """The class of replicas: call it with an engine, and with a shard and its microshards where it is not the only one."""
    return ReplicaOfAShard
