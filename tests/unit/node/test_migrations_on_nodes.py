"""Migrations through the nodes: what a driver and clients are told at each moment, maps, snapshots, and bad requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from shoal.errors import ErrorCode
from shoal.map_changes import with_members
from shoal.protocol.frames import encode_operations
from shoal.protocol.messages import (
    Answer,
    Done,
    DropReplica,
    Failure,
    GetShardMap,
    GetStatus,
    Increment,
    InstallShardMap,
    OpenSession,
    Put,
    Read,
    ReplicaStatus,
    Request,
    Rows,
    Scan,
    ScanPage,
    SessionOpened,
    ShardMapReply,
    SplitShard,
    StatusReply,
    TransferLeader,
    Write,
    Written,
)
from shoal.protocol.migration import (
    AdoptMicroshards,
    BeginIncoming,
    BeginOutgoing,
    CancelMigration,
    ForgetMoved,
    MigrationCursor,
    MigrationEnd,
    MovingRows,
    ReadMoving,
    SealMicroshards,
    StoreMoved,
)
from shoal.shardmap import Keyspace, MicroshardRange, Shard
from shoal_server.node.disk_health import DiskState
from shoal_server.node.known_numbers import KnownNumbers
from shoal_server.node.settings import NodeSettings
from shoal_server.storage.dropped_replicas import DroppedReplica, put_dropped
from shoal_server.storage.layout import data_prefix, prefix_end
from shoal_server.storage.replica_failure import FailureKind, ReplicaFailure

SOURCE, TARGET = 1, 2
NODES = ("n1", "n2", "n3")
MIGRATION = 7
VERSION = 9
KEYSPACE = Keyspace(1, "default", 4, b"/")
SHARDS = (Shard(SOURCE, 1, (MicroshardRange(0, 2),), NODES), Shard(TARGET, 1, (MicroshardRange(2, 4),), NODES[::-1]))
MOVING = (MicroshardRange(0, 1),)
RETRY_MS = 5
MOVED = next(key for number in range(100) if KEYSPACE.microshard_of(key := b"moved-%d/" % number) == 0)
STAYS = next(key for number in range(100) if KEYSPACE.microshard_of(key := b"stays-%d" % number) == 1)
OWN = next(key for number in range(100) if KEYSPACE.microshard_of(key := b"own-%d" % number) == 2)


class TwoShards:
    """Three nodes with a source and a target, a client of both, and a driver. Every node has a replica of each."""

    def __init__(self, make_nodes: Any, settings: NodeSettings | None = None) -> None:
        self.nodes = make_nodes(settings, SHARDS)
        self.sessions: dict[int, bytes] = {}
        self.numbers: dict[int, int] = {}
        for shard in (SOURCE, TARGET):
            self.nodes.until(lambda shard=shard: self.leading(shard) != "")

    def leading(self, shard: int) -> str:
        """The node that leads a shard under a lease, "" for none."""
        for name, node in self.nodes.nodes.items():
            if node.replicas[shard].group.read_index(self.nodes.now) is not None:
                return str(name)
        return ""

    def replica(self, shard: int, node: str = "") -> Any:
        return self.nodes.nodes[node or self.leading(shard)].replicas[shard]

    def ask(self, shard: int, make: Callable[[int], Request], node: str = "") -> Answer:
        answer: Answer = self.nodes.ask_and_wait(node or self.leading(shard), make)
        return answer

    # -- a client

    def write_request(
        self, shard: int, *operations: Any, number: int = 0, fast: bool = False
    ) -> Callable[[int], Request]:
        if shard not in self.sessions:
            opened = self.ask(shard, lambda request: OpenSession(request, shard))
            assert isinstance(opened, SessionOpened)
            self.sessions[shard] = opened.session
        if not number:
            number = self.numbers[shard] = self.numbers.get(shard, 0) + 1
        session, body = self.sessions[shard], encode_operations(list(operations))
        return lambda request: Write(request, shard, 1, session, number, 1000, body, fast)

    def write(self, shard: int, *operations: Any, number: int = 0) -> Answer:
        return self.ask(shard, self.write_request(shard, *operations, number=number))

    def read(self, shard: int, key: bytes) -> Answer:
        return self.ask(shard, lambda request: Read(request, shard, 1, 1000, [key]))

    def value(self, shard: int, key: bytes) -> bytes | None:
        rows = self.read(shard, key)
        assert isinstance(rows, Rows)
        return rows.values[0]

    # -- a driver

    def status(self, shard: int) -> ReplicaStatus:
        answer = self.ask(shard, GetStatus)
        assert isinstance(answer, StatusReply)
        return next(replica for replica in answer.replicas if replica.shard == shard)

    def take(self) -> Answer:
        return self.ask(TARGET, lambda request: BeginIncoming(request, TARGET, MIGRATION, SOURCE, MOVING))

    def give(self) -> Answer:
        return self.ask(SOURCE, lambda request: BeginOutgoing(request, SOURCE, MIGRATION, TARGET, MOVING))

    def read_moving(self, cursor: MigrationCursor, max_bytes: int = 1 << 20) -> Answer:
        return self.ask(SOURCE, lambda request: ReadMoving(request, SOURCE, MIGRATION, cursor, max_bytes))

    def seal(self) -> Answer:
        return self.ask(SOURCE, lambda request: SealMicroshards(request, SOURCE, MIGRATION, VERSION))

    def adopt(self) -> Answer:
        return self.ask(TARGET, lambda request: AdoptMicroshards(request, TARGET, MIGRATION, VERSION))

    def forget(self) -> Answer:
        return self.ask(SOURCE, lambda request: ForgetMoved(request, SOURCE, MIGRATION))

    def cancel(self, shard: int) -> Answer:
        return self.ask(shard, lambda request: CancelMigration(request, shard, MIGRATION))

    def store(self, number: int, page: MovingRows, node: str = "") -> Answer:
        def make(request: int) -> Request:
            return StoreMoved(request, TARGET, MIGRATION, number, page.cleared, page.rows, page.cursor)

        return self.ask(TARGET, make, node)

    def copy(self, max_bytes: int = 1 << 20) -> None:
        """As a driver does that knows nothing but what the target says."""
        while True:
            incoming = self.status(TARGET).incoming
            assert incoming is not None
            page = self.read_moving(incoming.cursor, max_bytes)
            assert isinstance(page, MovingRows)
            assert isinstance(self.store(incoming.number, page), Done)
            if page.done:
                return

    def begin(self) -> None:
        assert isinstance(self.take(), Done)
        assert isinstance(self.give(), Done)

    def hand_over(self) -> None:
        self.copy()
        assert isinstance(self.seal(), Done)
        self.copy()
        assert isinstance(self.adopt(), Done)


@pytest.fixture
def two(make_nodes: Any) -> TwoShards:
    return TwoShards(make_nodes)


def refusal(answer: Answer) -> Failure:
    assert isinstance(answer, Failure)
    return answer


def test_a_client_is_told_where_to_go_from_the_seal_on_and_to_try_again_until_it_is_adopted(two: TwoShards) -> None:
    assert isinstance(two.write(SOURCE, Put(MOVED, b"1"), Put(STAYS, b"2")), Written)
    two.begin()
    two.copy()
    assert two.value(SOURCE, MOVED) == b"1", "until the seal the source has it"
    assert isinstance(two.seal(), Done)

    for refused in (refusal(two.write(SOURCE, Put(MOVED, b"x"))), refusal(two.read(SOURCE, MOVED))):
        assert (refused.code, refused.map_version, refused.maybe_applied) == (ErrorCode.WRONG_SHARD, VERSION, False)
    assert two.value(SOURCE, STAYS) == b"2"
    answer = two.ask(SOURCE, GetShardMap)
    assert isinstance(answer, ShardMapReply)
    assert [shard.ranges for shard in answer.shard_map.shards] == [
        (MicroshardRange(1, 2),),
        (MicroshardRange(0, 1), MicroshardRange(2, 4)),
    ]
    whole = answer.shard_map.shards[1].ranges
    scan = Scan(0, TARGET, 1, 1000, whole, b"", b"", False, False, 10)
    not_yet = [
        two.write(TARGET, Put(MOVED, b"x")),
        two.read(TARGET, MOVED),
        two.ask(TARGET, lambda request: msgspec.structs.replace(scan, request=request)),
    ]
    for refused in map(refusal, not_yet):
        assert (refused.code, refused.retry_after_ms, refused.maybe_applied) == (ErrorCode.UNAVAILABLE, RETRY_MS, False)
        assert refused.route is not None
        assert refused.route.leader == two.leading(TARGET), "nobody else has it either"

    two.copy()
    assert isinstance(two.adopt(), Done)
    assert two.value(TARGET, MOVED) == b"1"
    assert isinstance(two.write(TARGET, Put(MOVED, b"3")), Written)
    page = two.ask(TARGET, lambda request: msgspec.structs.replace(scan, request=request))
    assert isinstance(page, ScanPage)
    assert page.keys == [MOVED]


def test_all_nodes_of_both_shards_route_by_the_new_map_without_a_manager(two: TwoShards) -> None:
    two.begin()
    two.hand_over()
    two.nodes.until(lambda: all(node.routes.map.version == VERSION for node in two.nodes.nodes.values()))
    assert all(node.map_is_derived for node in two.nodes.nodes.values())
    assert {node.routes.shard_table(1)[0] for node in two.nodes.nodes.values()} == {TARGET}


def test_a_write_in_the_same_turn_behind_the_seal_learns_of_the_map_that_follows(two: TwoShards) -> None:
    two.write(SOURCE, Put(MOVED, b"1"))
    two.begin()
    two.copy()
    leader = two.leading(SOURCE)
    two.nodes.ask(leader, lambda request: SealMicroshards(request, SOURCE, MIGRATION, VERSION))
    two.nodes.step()
    late = two.nodes.ask(leader, two.write_request(SOURCE, Put(MOVED, b"late")))
    refused = refusal(two.nodes.answer(late))
    assert (refused.code, refused.map_version, refused.maybe_applied) == (ErrorCode.WRONG_SHARD, VERSION, False)
    two.copy()
    two.adopt()
    assert two.value(TARGET, MOVED) == b"1"


def test_a_repeated_write_that_was_done_before_the_seal_is_answered_as_before(two: TwoShards) -> None:
    first = two.write(SOURCE, Increment(MOVED, 5), number=1)
    two.begin()
    two.hand_over()
    again = two.write(SOURCE, Increment(MOVED, 5), number=1)
    assert isinstance(first, Written)
    assert isinstance(again, Written)
    assert (again.seq, again.results) == (first.seq, first.results)
    assert refusal(two.write(SOURCE, Increment(MOVED, 5), number=2)).code == ErrorCode.WRONG_SHARD
    assert two.value(TARGET, MOVED) == b"5"


def test_fast_writes_behind_an_adoption_wait_for_it_and_name_the_seq_that_they_get(two: TwoShards) -> None:
    for _ in range(40):
        two.write(SOURCE, Put(MOVED, b"1"))
    two.write(TARGET, Put(OWN, b"1"))
    two.begin()
    two.copy()
    two.seal()
    two.copy()
    leader = two.leading(TARGET)
    adopted = two.nodes.ask(leader, lambda request: AdoptMicroshards(request, TARGET, MIGRATION, VERSION))
    two.nodes.step()
    fast = two.nodes.ask(leader, two.write_request(TARGET, Put(OWN, b"fast"), fast=True))
    two.nodes.step()
    assert fast not in two.nodes.answers, "its seq is not known before the adoption is applied"
    assert isinstance(two.nodes.answer(adopted), Done)
    written, found = two.nodes.answer(fast), two.read(TARGET, OWN)
    assert isinstance(found, Rows)
    assert written.seq == found.seqs[0]
    again = two.nodes.answer(two.nodes.ask(leader, two.write_request(TARGET, Put(OWN, b"2"), fast=True)))
    found = two.read(TARGET, OWN)
    assert isinstance(found, Rows)
    assert again.seq == found.seqs[0] > two.replica(SOURCE).machine.state.seq - 2


def test_a_driver_that_takes_over_learns_all_from_the_status(two: TwoShards) -> None:
    two.write(SOURCE, Put(MOVED, b"1"))
    two.begin()
    two.copy()
    giving, taking = two.status(SOURCE), two.status(TARGET)
    assert giving.outgoing is not None
    assert taking.incoming is not None
    assert (giving.outgoing.migration, giving.outgoing.other, giving.outgoing.ranges) == (MIGRATION, TARGET, MOVING)
    assert (taking.incoming.migration, taking.incoming.other, taking.incoming.ranges) == (MIGRATION, SOURCE, MOVING)
    assert (giving.outgoing.sealed, giving.ranges) == (False, SHARDS[0].ranges)
    assert (taking.incoming.rows, taking.incoming.number > 1, taking.ranges) == (1, True, SHARDS[1].ranges)
    two.seal()
    sealed = two.status(SOURCE)
    assert sealed.outgoing is not None
    assert (sealed.outgoing.sealed, sealed.ranges) == (True, (MicroshardRange(1, 2),))
    two.copy()
    two.adopt()
    two.forget()
    ends = [two.status(shard).migrations_ended[-1] for shard in (SOURCE, TARGET)]
    assert [(each.migration, each.end) for each in ends] == [
        (MIGRATION, MigrationEnd.FORGOTTEN),
        (MIGRATION, MigrationEnd.ADOPTED),
    ]
    assert two.status(SOURCE).outgoing is None
    assert two.status(TARGET).incoming is None


def test_leaders_of_both_shards_may_change_at_every_step(two: TwoShards) -> None:
    """The journal is the same on every replica, so any of them may be read from where another one stopped."""

    def pass_on(shard: int) -> None:
        leader = two.leading(shard)
        target = NODES[(NODES.index(leader) + 1) % 3]
        done = two.ask(shard, lambda request: TransferLeader(request, shard, target, 2000))
        assert isinstance(done, Done)
        two.nodes.until(lambda: two.leading(shard) == target)

    two.write(SOURCE, *[Put(MOVED + b"%d" % number, b"1") for number in range(20)])
    two.take()
    pass_on(TARGET)
    two.give()
    for number in range(6):
        incoming = two.status(TARGET).incoming
        assert incoming is not None
        page = two.read_moving(incoming.cursor, max_bytes=30)
        assert isinstance(page, MovingRows)
        two.write(SOURCE, Put(MOVED + b"%d" % number, b"2"), Put(MOVED + b"%d" % (19 - number), b"3"))
        pass_on(SOURCE)
        two.store(incoming.number, page)
        pass_on(TARGET)
    expected = [two.value(SOURCE, MOVED + b"%d" % number) for number in range(20)]
    two.hand_over()
    assert [two.value(TARGET, MOVED + b"%d" % number) for number in range(20)] == expected


@pytest.mark.parametrize("behind", [SOURCE, TARGET])
def test_a_snapshot_in_the_middle_brings_along_all_that_the_migration_is_at(make_nodes: Any, behind: int) -> None:
    two = TwoShards(make_nodes, NodeSettings(log_retain_bytes=300, log_checkpoint_bytes=100, snapshot_chunk_bytes=50))
    two.write(SOURCE, *[Put(MOVED + b"%d" % number, b"1", ttl_ms=60_000) for number in range(10)])
    late = next(name for name in NODES if name not in (two.leading(SOURCE), two.leading(TARGET)))
    generation = two.replica(behind, late).machine.state.generation
    two.nodes.isolate(late)
    two.begin()
    two.copy(max_bytes=30)
    for number in range(20):
        two.write(SOURCE, Put(MOVED + b"%d" % (number % 10), b"%d" % number))
        two.write(TARGET, Put(OWN, b"%d" % number))
    two.nodes.heal()
    two.nodes.until(lambda: two.replica(behind, late).machine.state.generation > generation, 10_000)
    done = two.ask(behind, lambda request: TransferLeader(request, behind, late, 5000))
    assert isinstance(done, Done)
    two.nodes.until(lambda: two.leading(behind) == late)
    expected = [two.value(SOURCE, MOVED + b"%d" % number) for number in range(10)]
    two.hand_over()
    assert [two.value(TARGET, MOVED + b"%d" % number) for number in range(10)] == expected


def test_what_was_forgotten_too_early_is_not_left_out_in_silence(two: TwoShards) -> None:
    """Whoever drives it says how far the target is; the source cannot know, but remembers what it was told."""
    two.write(SOURCE, Put(MOVED, b"1"))
    two.begin()
    two.copy()
    incoming = two.status(TARGET).incoming
    assert incoming is not None
    two.write(SOURCE, Put(MOVED, b"2"))
    ahead = two.read_moving(incoming.cursor)
    assert isinstance(ahead, MovingRows)
    assert [row for _, _, row in ahead.rows] != []

    def confirm(request: int) -> Request:
        return BeginOutgoing(request, SOURCE, MIGRATION, TARGET, MOVING, ahead.cursor)

    assert isinstance(two.ask(SOURCE, confirm), Done)
    assert "has forgotten it" in refusal(two.read_moving(incoming.cursor)).message
    assert isinstance(two.read_moving(ahead.cursor), MovingRows)
    assert isinstance(two.cancel(SOURCE), Done)
    assert two.value(SOURCE, MOVED) == b"2"


def drop_source(two: TwoShards, node: str) -> None:
    """Have `node` drop its replica of the source, by a shard map that has none there."""
    without_source(two, node)
    assert isinstance(two.nodes.ask_and_wait(node, lambda request: DropReplica(request, SOURCE)), Done)


def without_source(two: TwoShards, node: str) -> None:
    """Give `node` a shard map that has no replica of the source there."""
    shard_map = two.nodes.nodes[node].routes.map
    without = tuple(
        with_members(shard, tuple(voter for voter in shard.voters if voter != node), (), shard.membership_version + 1)
        if shard.id == SOURCE
        else shard
        for shard in shard_map.shards
    )
    later = msgspec.structs.replace(shard_map, version=VERSION + 1, shards=without)
    assert isinstance(two.nodes.ask_and_wait(node, lambda request: InstallShardMap(request, later)), Done)


def test_a_replica_of_a_shard_that_is_to_be_empty_and_is_not_is_kept(two: TwoShards) -> None:
    two.write(SOURCE, Put(MOVED, b"1"))
    node = next(name for name in NODES if name != two.leading(SOURCE))
    without_source(two, node)
    applied = two.replica(SOURCE, node).machine.state.index

    def drop(empty_at: int) -> Answer:
        answer: Answer = two.nodes.ask_and_wait(node, lambda request: DropReplica(request, SOURCE, empty_at))
        return answer

    for empty_at in (0, applied):
        said = refusal(drop(empty_at)).message
        assert f"is to be empty since entry {empty_at} of its log" in said
        assert said.endswith("has microshards: it is kept")
    assert two.replica(SOURCE, node).machine.state.ranges == two.replica(SOURCE).machine.state.ranges
    # It only has not yet heard of what left the shard since.
    assert isinstance(drop(applied + 100), Done)


def test_dropping_a_replica_of_one_shard_leaves_the_rows_of_the_other(two: TwoShards) -> None:
    two.write(SOURCE, Put(MOVED, b"1"))
    two.begin()
    two.hand_over()
    node = next(name for name in NODES if name != two.leading(SOURCE))
    drop_source(two, node)
    machine = two.replica(TARGET, node).machine
    two.nodes.until(lambda: 0 in machine.prefixes)
    assert machine.read([MOVED], [0], two.nodes.wall_ms)[0] == [b"1"]


def test_a_map_gives_no_replica_what_its_log_does_not(two: TwoShards) -> None:
    node = two.leading(TARGET)
    wrong = tuple(
        msgspec.structs.replace(shard, ranges=ranges, founding_ranges=shard.ranges)
        for shard, ranges in zip(SHARDS, ((), (MicroshardRange(0, 4),)), strict=True)
    )
    shard_map = msgspec.structs.replace(two.nodes.nodes[node].routes.map, version=2, shards=wrong)
    assert isinstance(two.nodes.ask_and_wait(node, lambda request: InstallShardMap(request, shard_map)), Done)
    assert refusal(two.read(TARGET, MOVED)).code == ErrorCode.WRONG_SHARD
    assert refusal(two.write(TARGET, Put(MOVED, b"x"))).code == ErrorCode.WRONG_SHARD


def test_no_shard_is_founded_with_microshards_that_another_one_has(two: TwoShards) -> None:
    node = NODES[0]
    shards = (
        msgspec.structs.replace(SHARDS[0], ranges=(MicroshardRange(0, 1),), founding_ranges=SHARDS[0].ranges),
        SHARDS[1],
        Shard(3, 1, (MicroshardRange(1, 2),), (node,)),
    )
    shard_map = msgspec.structs.replace(two.nodes.nodes[node].routes.map, version=2, shards=shards)
    refused = refusal(two.nodes.ask_and_wait(node, lambda request: InstallShardMap(request, shard_map, [3])))
    assert refused.code == ErrorCode.INVALID_ARGUMENT
    assert "cannot be founded with microshards that shard 1 has" in refused.message
    assert two.nodes.nodes[node].routes.map.version == 1


def test_a_shard_in_a_migration_is_not_split(two: TwoShards) -> None:
    two.begin()
    leader = two.replica(SOURCE)
    voters = leader.group.membership.voters
    child = Shard(3, 1, (MicroshardRange(1, 2),), voters)
    refused = refusal(two.ask(SOURCE, lambda request: SplitShard(request, SOURCE, child, VERSION)))
    assert refused.code == ErrorCode.INVALID_ARGUMENT
    assert "try again when that is over" in refused.message


def test_steps_are_for_leaders(two: TwoShards) -> None:
    follower = next(name for name in NODES if name != two.leading(SOURCE))
    give = BeginOutgoing(0, SOURCE, MIGRATION, TARGET, MOVING)
    moving = ReadMoving(0, SOURCE, MIGRATION, MigrationCursor(), 100)
    for step in (give, moving):
        refused = refusal(
            two.nodes.ask_and_wait(follower, lambda request, step=step: msgspec.structs.replace(step, request=request))
        )
        assert refused.code == ErrorCode.NOT_LEADER
        assert refused.route is not None
        assert refused.route.leader == two.leading(SOURCE)


def test_what_cannot_be_done_is_refused_with_the_reason(two: TwoShards) -> None:
    def reason(answer: Answer) -> str:
        refused = refusal(answer)
        assert refused.code == ErrorCode.INVALID_ARGUMENT
        return refused.message

    assert "has nothing to give away as migration 7" in reason(two.read_moving(MigrationCursor()))
    assert "was never begun" in reason(two.seal())
    two.begin()
    assert "has nothing to give away" in reason(two.read_moving(MigrationCursor(mark=1 << 40, scanned=True)))
    assert "has not yet all" in reason(two.adopt())
    assert "seal it first" in reason(two.forget())
    assert isinstance(two.cancel(SOURCE), Done)
    assert isinstance(two.cancel(TARGET), Done)
    assert "has ended on shard 2: cancelled" in reason(two.take())


def test_nothing_begins_with_a_shard_that_is_not_there_or_under_no_number(two: TwoShards) -> None:
    """Nobody could end it: there is no other side to ask, and no number that an order could name."""
    give, take = (
        BeginOutgoing(0, SOURCE, MIGRATION, 999, MOVING),
        BeginIncoming(0, TARGET, MIGRATION, 998, MOVING),
    )
    for shard, step, other in ((SOURCE, give, 999), (TARGET, take, 998)):
        refused = refusal(two.ask(shard, lambda request, step=step: msgspec.structs.replace(step, request=request)))
        # It may be new, and the map with it on its way here: whoever drives the migration asks again.
        assert refused.code == ErrorCode.UNAVAILABLE
        assert f"no shard {other}" in refused.message
    unnumbered = BeginOutgoing(0, SOURCE, 0, TARGET, MOVING)
    refused = refusal(two.ask(SOURCE, lambda request: msgspec.structs.replace(unnumbered, request=request)))
    assert refused.code == ErrorCode.INVALID_ARGUMENT
    assert "migration" in refused.message
    assert two.nodes.nodes[two.leading(SOURCE)].replicas[SOURCE].machine.state.outgoing is None


def test_rows_that_move_count_where_they_are_and_only_there(two: TwoShards) -> None:
    two.write(SOURCE, Put(MOVED, b"1"), Put(STAYS, b"2"))
    two.nodes.pass_time(6000)
    assert (two.status(SOURCE).keys, two.status(TARGET).keys) == (2, 0)
    two.begin()
    two.hand_over()
    source, target = two.status(SOURCE), two.status(TARGET)
    assert (source.keys, source.counted) == (1, True), "what has gone does not count from the first moment on"
    assert (target.keys, target.counted) == (0, False), "what has come is not counted yet, and that is said"
    two.nodes.pass_time(6000)
    target = two.status(TARGET)
    assert (target.keys, target.counted) == (1, True)


def test_a_cursor_of_other_microshards_reads_nothing(two: TwoShards) -> None:
    two.begin()
    other = MigrationCursor(ranges=(MicroshardRange(0, 2),))
    assert "has nothing to give away" in refusal(two.read_moving(other)).message


def test_a_full_disk_takes_no_rows(two: TwoShards) -> None:
    two.begin()
    page = two.read_moving(MigrationCursor())
    assert isinstance(page, MovingRows)
    leader = two.leading(TARGET)
    two.nodes.nodes[leader].set_disk(DiskState(not_writable="the disk is full"), two.nodes.now)
    refused = refusal(two.store(1, page, leader))
    assert refused.code == ErrorCode.UNAVAILABLE
    assert "the disk is full" in refused.message


# -- rows whose removal a crash undoes


def moved_rows(two: TwoShards, node: str) -> dict[bytes, bytes]:
    """The rows of the microshard that moves which lie where the source has them on `node`."""
    [generation] = two.replica(SOURCE, node).stored_state.generations(MOVING).values()
    prefix = data_prefix(KEYSPACE.id, 0, generation)
    return dict(two.nodes.engines[node].tables["data"].scan(prefix, prefix_end(prefix)))


def forgotten(two: TwoShards) -> tuple[str, dict[bytes, bytes]]:
    """Migrate, and return a follower of the source and the rows that it removed, which no flush has followed."""
    assert isinstance(two.write(SOURCE, Put(MOVED, b"1"), Put(STAYS, b"2")), Written)
    two.begin()
    two.hand_over()
    follower = next(name for name in NODES if name != two.leading(SOURCE))
    two.nodes.pass_time(1000)
    rows = moved_rows(two, follower)
    assert rows
    assert isinstance(two.forget(), Done)
    two.nodes.until(lambda: not moved_rows(two, follower))
    return follower, rows


def undo(two: TwoShards, node: str, rows: dict[bytes, bytes]) -> None:
    """Bring rows back, as a crash does when their removal has not come to the disk, and what is stored next has."""
    for key, row in rows.items():
        two.nodes.engines[node].tables["data"].put(key, row)


def stored(two: TwoShards, node: str, rows: dict[bytes, bytes]) -> set[bytes]:
    return rows.keys() & two.nodes.engines[node].tables["data"].rows.keys()


def test_a_snapshot_removes_what_an_entry_removed_that_a_crash_would_not_bring_back(two: TwoShards) -> None:
    follower, rows = forgotten(two)
    undo(two, follower, rows)
    replica = two.replica(SOURCE, follower)
    failure = ReplicaFailure(FailureKind.DAMAGED, "a row cannot be read", replica.machine.state.index)
    two.nodes.nodes[follower].failing.fail(replica, failure, two.nodes.now)
    two.nodes.until(lambda: replica.failure is None)
    assert not stored(two, follower, rows)
    assert replica.machine.microshards.cleared == []


def test_a_replica_that_is_dropped_leaves_nothing_that_an_entry_removed(two: TwoShards) -> None:
    follower, rows = forgotten(two)
    undo(two, follower, rows)
    drop_source(two, follower)
    assert not stored(two, follower, rows)


def test_rows_of_nobody_are_not_those_whose_removal_may_be_applied_once_more(two: TwoShards) -> None:
    follower, rows = forgotten(two)
    undo(two, follower, rows)
    node = two.nodes.nodes[follower]
    node._ticks._stray_rows._left[TARGET] = KEYSPACE.id
    node._ticks._stray_rows.tick(two.nodes.now)
    assert stored(two, follower, rows) == rows.keys()


def test_what_is_on_disk_is_removed_only_once(two: TwoShards) -> None:
    follower, _ = forgotten(two)
    node, microshards = two.nodes.nodes[follower], two.replica(SOURCE, follower).machine.microshards
    [cleared] = microshards.cleared
    microshards.flushed(cleared.index - 1)
    assert microshards.cleared == [cleared]
    node._flushes.wanted = True
    two.nodes.until(lambda: microshards.cleared == [])


def test_a_copy_that_is_cancelled_is_removed_once_more_with_its_replica(two: TwoShards) -> None:
    assert isinstance(two.write(SOURCE, Put(MOVED, b"1")), Written)
    two.begin()
    two.copy()
    replica = two.replica(TARGET)
    copied = replica.stored_state.generations(MOVING)
    assert isinstance(two.cancel(TARGET), Done)
    assert replica.cleared_rows == [copied]


def test_a_node_says_the_highest_numbers_that_it_knows_of_or_remembers(two: TwoShards) -> None:
    def said(node: str) -> tuple[int, int]:
        answer = two.nodes.ask_and_wait(node, GetStatus)
        assert isinstance(answer, StatusReply)
        return answer.newest_shard, answer.newest_migration

    assert {said(node) for node in NODES} == {(max(SOURCE, TARGET), 0)}
    two.begin()
    assert said(two.leading(SOURCE)) == (max(SOURCE, TARGET), MIGRATION)
    two.hand_over()
    node = next(name for name in NODES if name != two.leading(SOURCE))
    drop_source(two, node)
    assert said(node) == (max(SOURCE, TARGET), MIGRATION)

    # The next life of the process knows what is on disk.
    engine = two.nodes.nodes[node].engine
    batch = engine.batch()
    put_dropped(batch, engine, 77, DroppedReplica(1, "", 0))
    engine.write(batch)
    assert KnownNumbers(two.nodes.nodes[node].replica_set, engine).take() == (77, MIGRATION)
