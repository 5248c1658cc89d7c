"""Migrations between two shards whose replicas may lie on one node: no change is lost, no step is taken twice."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from shoal.keys import microshard_of
from shoal.protocol.messages import (
    Atomic,
    Delete,
    DeleteRange,
    Increment,
    Operation,
    Put,
    SeqEquals,
    Touch,
)
from shoal.protocol.migration import MigrationCursor, MigrationEnd, MovedRow
from shoal.shardmap import MicroshardRange, Ranges, Shard, microshards_in, one_microshard, ranges_of
from shoal_server.shard.commands import (
    AdoptCommand,
    BeginIncomingCommand,
    BeginOutgoingCommand,
    CancelCommand,
    Command,
    ForgetCommand,
    PurgeCommand,
    SealCommand,
    SplitCommand,
    StoreMovedCommand,
)
from shoal_server.shard.moving import MovingPage
from shoal_server.shard.sessions import CommandVerdict
from shoal_server.storage.engine import Engine
from shoal_server.storage.journal import journal_prefix
from shoal_server.storage.layout import prefix_end
from shoal_server.storage.replica_rows import drop_replica

SOURCE, TARGET = 1, 2
MIGRATION = 7
MOVING = (MicroshardRange(0, 3),)
AT_SOURCE = (MicroshardRange(0, 4),)
VERSION = 9


class Pair:
    """A source with the microshards from 0 and a target with those from 4, on one engine."""

    def __init__(self, engine: Engine, make_replica: Callable[..., Any]) -> None:
        self.engine = engine
        self.source = make_replica(engine, SOURCE, 0, 4)
        self.target = make_replica(engine, TARGET, 4, 8)
        self.keys = _keys_by_microshard()

    def restart(self) -> None:
        self.source, self.target = self.source.restarted(), self.target.restarted()

    # -- steps; each returns why it was refused, or ""

    def step(self, replica: Any, *commands: Command) -> str:
        [outcomes] = replica.apply(replica.commands(*commands))
        assert all((outcome.verdict is CommandVerdict.REFUSED) == bool(outcome.reason) for outcome in outcomes)
        return str(outcomes[-1].reason)

    def take(self, migration: int = MIGRATION, ranges: tuple[MicroshardRange, ...] = MOVING) -> str:
        return self.step(self.target, BeginIncomingCommand(migration, SOURCE, ranges))

    def give(self, migration: int = MIGRATION, ranges: tuple[MicroshardRange, ...] = MOVING) -> str:
        return self.step(self.source, BeginOutgoingCommand(migration, TARGET, ranges))

    def confirm(self, cursor: MigrationCursor | None = None) -> str:
        """Tell the source how far the target has come."""
        give = BeginOutgoingCommand(
            MIGRATION, TARGET, self.source.machine.state.outgoing.ranges, cursor or self.incoming.cursor
        )
        return self.step(self.source, give)

    def journalled(self) -> int:
        """Return how many rows the source's journal has."""
        prefix = journal_prefix(SOURCE, self.source.machine.state.generation)
        return sum(1 for _ in self.engine.scan(self.engine.data, prefix, prefix_end(prefix)))

    def seal(self) -> str:
        return self.step(self.source, SealCommand(MIGRATION, VERSION))

    def adopt(self) -> str:
        return self.step(self.target, AdoptCommand(MIGRATION, VERSION))

    def forget(self) -> str:
        return self.step(self.source, ForgetCommand(MIGRATION))

    def cancel(self, replica: Any, migration: int = MIGRATION) -> str:
        return self.step(replica, CancelCommand(migration))

    @property
    def incoming(self) -> Any:
        return self.target.machine.state.incoming

    def read(self, cursor: MigrationCursor | None = None, max_bytes: int = 1 << 20) -> MovingPage:
        machine = self.source.machine
        page: MovingPage = machine.read_moving(cursor or self.incoming.cursor, machine.state.outgoing, max_bytes)
        return page

    def store(self, page: MovingPage, number: int | None = None, behind: MigrationCursor | None = None) -> str:
        number = self.incoming.number if number is None else number
        command = StoreMovedCommand(MIGRATION, number, page.cleared, page.rows, page.cursor, behind)
        return self.step(self.target, command)

    def copy(self, max_bytes: int = 1 << 20) -> int:
        """Copy until nothing follows; return how many pages that took."""
        for pages in range(1, 10_000):
            page = self.read(max_bytes=max_bytes)
            assert self.store(page) == ""
            if page.done:
                return pages
        raise AssertionError("it never ends")

    def begin(self) -> None:
        assert self.take() == ""
        assert self.give() == ""

    def finish(self) -> None:
        self.copy()
        assert self.seal() == ""
        self.copy()
        assert self.adopt() == ""
        assert self.forget() == ""

    # -- what is there

    def source_rows(self) -> dict[bytes, tuple[bytes | None, int, int]]:
        return _rows(self.source, self.keys)

    def target_rows(self) -> dict[bytes, tuple[bytes | None, int, int]]:
        return _rows(self.target, self.keys)


def _keys_by_microshard() -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {microshard: [] for microshard in range(8)}
    for number in range(200):
        key = b"key-%d" % number
        found[microshard_of(key, b"/", 8)].append(key)
    return found


def _rows(replica: Any, keys: dict[int, list[bytes]]) -> dict[bytes, tuple[bytes | None, int, int]]:
    """Values, seqs and expiries of what moves, as a reader of this replica sees them."""
    here = [key for microshard in microshards_in(MOVING) for key in keys[microshard]]
    return {key: entry for key in here if (entry := replica.entry(key))[0] is not None}


@pytest.fixture
def pair(engine: Engine, make_replica: Callable[..., Any]) -> Pair:
    return Pair(engine, make_replica)


def test_rows_arrive_with_their_seqs_and_expiries(pair: Pair) -> None:
    one, other, third = pair.keys[0][0], pair.keys[1][0], pair.keys[3][0]
    pair.source.write(Put(one, b"1"), Put(other, b"2", ttl_ms=5000), Put(third, b"stays"))
    before = pair.source_rows()
    pair.begin()
    pair.finish()
    assert pair.target_rows() == before
    assert before[other][2] == pair.source.now + 5000
    assert pair.source.get(third) == b"stays"
    assert pair.target.machine.state.ranges == (MicroshardRange(0, 3), MicroshardRange(4, 8))
    assert pair.source.machine.state.ranges == (MicroshardRange(3, 4),)


def test_what_changes_during_the_copy_arrives_as_it_is_last(pair: Pair) -> None:
    [a, b, c, d], e = pair.keys[0][:4], pair.keys[2][0]
    pair.source.write(Put(a, b"1"), Put(b, b"1"), Put(c, b"1"), Put(d, b"8"))
    pair.begin()
    pair.copy()
    pair.source.write(Put(a, b"2"), Delete(b))
    pair.source.write(Touch(c, 9000), Increment(d, 4))
    pair.copy()
    pair.source.write(Put(a, b"3"))
    pair.source.write(Atomic([SeqEquals(e, 0)], [Put(e, b"new"), Delete(c)]))
    before = pair.source_rows()
    pair.finish()
    assert pair.target_rows() == before
    assert {key: row[0] for key, row in before.items()} == {a: b"3", d: b"12", e: b"new"}


def test_the_journal_keeps_what_the_target_has_not_confirmed_and_no_more(pair: Pair) -> None:
    a, b, c = pair.keys[0][:3]
    pair.source.write(Put(a, b"1"))
    pair.begin()
    pair.source.write(Put(b, b"1"), Put(c, b"1"))
    assert pair.confirm() == ""
    assert pair.journalled() == 2, "the scan is not over, so all of it may be needed"
    assert pair.store(pair.read()) == ""
    pair.source.write(Put(a, b"2"), Put(b, b"2"), Delete(c))
    assert pair.store(pair.read(max_bytes=1)) == ""
    assert (pair.confirm(), pair.journalled()) == ("", 2), "one of three is stored"
    assert (pair.confirm(), pair.journalled()) == ("", 2), "to confirm twice does nothing"
    pair.copy()
    assert (pair.confirm(), pair.journalled()) == ("", 0)
    pair.source.write(Put(c, b"3"))
    beyond = MigrationCursor(mark=1 << 40, scanned=True)
    assert "nobody has read up to index" in pair.confirm(beyond)
    assert pair.journalled() == 1
    pair.restart()
    before = pair.source_rows()
    pair.finish()
    assert pair.target_rows() == before
    assert {key: row[0] for key, row in before.items()} == {a: b"2", b: b"2", c: b"3"}


@pytest.mark.parametrize("ranges", [one_microshard(0), AT_SOURCE])
def test_range_deletes_are_followed_and_so_are_writes_behind_them(pair: Pair, ranges: Ranges) -> None:
    a, b, c = pair.keys[0][:3]
    pair.source.write(*[Put(key, b"old") for key in (a, b, c)])
    pair.begin()
    pair.copy()
    pair.source.write(DeleteRange(ranges, b"", b""), Put(b, b"new"))
    pair.source.write(Put(c, b"newer"))
    before = pair.source_rows()
    pair.finish()
    assert pair.target_rows() == before
    assert {key: row[0] for key, row in before.items()} == {b: b"new", c: b"newer"}


@pytest.mark.parametrize(
    "ranges",
    [
        [(b"", b""), (b"", b"key-2")],
        [(b"", b"key-2"), (b"", b"")],
        [(b"key-1", b"key-9"), (b"key-1", b"key-2"), (b"key-2", b"key-9"), (b"", b"key-3")],
        [(b"", b"key-2"), (b"key-2", b"")],
        [(b"key-9", b""), (b"", b"key-1")],
    ],
)
def test_every_range_that_one_entry_deletes_is_followed(pair: Pair, ranges: list[tuple[bytes, bytes]]) -> None:
    moving = [key for microshard in microshards_in(MOVING) for key in pair.keys[microshard]]
    pair.source.write(*[Put(key, b"1") for key in moving])
    pair.begin()
    pair.copy()
    pair.source.write(*[DeleteRange(AT_SOURCE, start, end) for start, end in ranges])
    before = pair.source_rows()
    pair.finish()
    assert pair.target_rows() == before
    assert len(before) < len(moving)


def test_a_key_that_is_cleared_after_it_was_sent_is_not_left_behind(pair: Pair) -> None:
    a, b = pair.keys[0][:2]
    pair.begin()
    pair.copy()
    pair.source.write(Put(a, b"1"))
    first = pair.read(max_bytes=1)
    pair.source.write(DeleteRange(one_microshard(0), b"", b""))
    pair.source.write(Put(b, b"2"))
    assert pair.store(first) == ""
    before = pair.source_rows()
    pair.finish()
    assert pair.target_rows() == before
    assert list(before) == [b]


def test_rows_purged_at_the_source_are_gone_at_the_target(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1", ttl_ms=1000))
    pair.begin()
    pair.copy()
    pair.source.now += 2000
    assert pair.source.purge() == 1
    pair.finish()
    assert key not in pair.target.stored_keys()


def test_rows_that_came_expire_and_are_purged(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1", ttl_ms=1000))
    pair.begin()
    pair.finish()
    assert pair.source.machine.expiry.due(pair.source.now + 5000, 100) == [], "the source has nothing to do with it"
    pair.target.now += 999
    pair.target.purge()
    assert pair.target.get(key) == b"1"
    pair.target.now += 1
    assert pair.target.purge() == 1
    assert pair.target.stored_keys() == []


def test_a_purge_behind_the_seal_does_nothing(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1", ttl_ms=1000))
    pair.begin()
    pair.copy()
    pair.source.now += 2000
    due = pair.source.machine.expiry.due(pair.source.now, 100)
    assert pair.seal() == ""
    assert pair.step(pair.source, PurgeCommand(due)) == ""
    page = pair.read()
    assert (page.rows, page.done, page.cursor.complete) == ([], True, True)


def test_seqs_go_on_rising_in_every_microshard_of_the_target(pair: Pair) -> None:
    moved, own = pair.keys[0][0], pair.keys[5][0]
    for _ in range(50):
        pair.source.write(Put(moved, b"1"))
    pair.target.write(Put(own, b"1"))
    before = pair.target.entry(own)[1]
    pair.begin()
    pair.finish()
    position = pair.source.machine.state.seq - 1  # the last step of the source, behind the seal, was to forget
    pair.target.write(Put(moved, b"2"), Put(own, b"2"))
    assert pair.target.entry(moved)[1] > position
    assert pair.target.entry(own)[1] > before
    assert pair.target.machine.state.seq == pair.target.entry(own)[1]


def test_seqs_of_a_target_that_is_ahead_stay_as_they_are(pair: Pair) -> None:
    own = pair.keys[5][0]
    pair.begin()
    for _ in range(100):
        pair.target.write(Put(own, b"1"))
    base = pair.target.machine.state.seq_base
    pair.finish()
    assert pair.target.machine.state.seq_base == base == 0


def test_writes_behind_the_seal_are_not_here_and_repetitions_of_earlier_ones_are_known(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.open_session()
    done = pair.source.write_command(Increment(key, 5))
    [[first]] = pair.source.apply(pair.source.commands(done))
    late = pair.source.write_command(Increment(key, 1))
    pair.begin()
    pair.copy()
    [[sealed, refused], [again]] = pair.source.apply(
        pair.source.commands(SealCommand(MIGRATION, VERSION), late), pair.source.commands(done)
    )
    assert sealed.verdict is CommandVerdict.NEW
    assert refused.verdict is CommandVerdict.NOT_HERE
    assert (again.verdict, again.seq, again.results) == (CommandVerdict.DUPLICATE, first.seq, first.results)
    pair.copy()
    pair.adopt()
    assert pair.target.get(key) == b"5"


def test_what_stands_before_the_seal_in_its_entry_is_not_lost(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.open_session()
    pair.begin()
    pair.copy()
    write = pair.source.write_command(Put(key, b"last"))
    assert pair.step(pair.source, write, SealCommand(MIGRATION, VERSION)) == ""
    pair.copy()
    assert pair.adopt() == ""
    assert pair.target.get(key) == b"last"


def test_what_stands_behind_the_beginning_in_its_entry_is_not_lost(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.open_session()
    pair.take()
    write = pair.source.write_command(Put(key, b"first"))
    assert pair.step(pair.source, BeginOutgoingCommand(MIGRATION, TARGET, MOVING), write) == ""
    pair.finish()
    assert pair.target.get(key) == b"first"


def test_each_step_may_be_repeated(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1"))
    for _ in range(2):
        pair.begin()
    page = pair.read()
    assert pair.store(page, 1) == ""
    rows = pair.incoming.rows
    assert pair.store(page, 1) == ""
    assert (pair.incoming.number, pair.incoming.rows) == (2, rows), "the second time did nothing"
    pair.copy()
    assert pair.seal() == pair.seal() == ""
    pair.copy()
    assert pair.adopt() == pair.adopt() == ""
    assert pair.forget() == pair.forget() == ""
    assert pair.take() == pair.give() == pair.seal() == ""
    assert pair.store(page, 99) == "", "a page that is late is there already"
    assert pair.target.get(key) == b"1"
    assert pair.incoming is None
    assert pair.source.machine.state.outgoing is None


def test_a_page_that_is_not_the_next_one_is_refused(pair: Pair) -> None:
    pair.begin()
    assert "page 2 is not the next one, which is 1" in pair.store(pair.read(), 2)
    assert pair.incoming.number == 1


def test_a_page_that_does_not_follow_what_is_stored_is_refused(pair: Pair) -> None:
    """Two drivers read from one place, and not the same: where the second one's page ended, the target never was."""
    pair.source.write(*[Put(key, b"1") for key in pair.keys[0][:3]])
    pair.begin()
    short, longer = pair.read(max_bytes=1), pair.read()
    begun = pair.incoming.cursor
    assert pair.store(short, behind=begun) == ""
    assert pair.store(longer, 1, behind=begun) == "", "it is taken for the same page, sent again"
    assert "not read from where" in pair.store(pair.read(longer.cursor), 2, behind=longer.cursor)
    assert pair.store(pair.read(short.cursor), 2, behind=short.cursor) == ""
    pair.finish()
    assert len(pair.target_rows()) == 3


def test_nothing_is_adopted_before_all_of_it_is_there(pair: Pair) -> None:
    pair.source.write(*[Put(key, b"1") for key in pair.keys[0]])
    pair.begin()
    assert "has not yet all" in pair.adopt()
    pair.copy()
    assert "has not yet all" in pair.adopt(), "the source is not sealed"
    pair.source.write(Put(pair.keys[1][0], b"1"), Put(pair.keys[1][1], b"1"))
    pair.seal()
    assert pair.store(pair.read(max_bytes=1)) == ""
    assert "has not yet all" in pair.adopt(), "a part of the last round is missing"
    pair.copy()
    assert pair.adopt() == ""


def test_before_the_seal_both_sides_can_give_it_up_and_nothing_is_left(pair: Pair) -> None:
    pair.source.write(*[Put(key, b"1", ttl_ms=1000) for key in pair.keys[0]])
    stored = pair.source.stored()
    pair.begin()
    pair.copy()
    pair.source.write(Put(pair.keys[0][0], b"2"))
    assert pair.cancel(pair.source) == pair.cancel(pair.target) == ""
    assert pair.cancel(pair.source) == pair.cancel(pair.target) == ""
    data = {key: row for key, row in pair.source.stored().items() if key[:4] != b"\0\0\0\0"}
    assert data.keys() <= stored.keys(), "no copy, no index of it, no journal"
    assert pair.source.get(pair.keys[0][0]) == b"2"
    assert "ended" in pair.take()
    assert "ended" in pair.give()
    assert "ended" in pair.seal()
    assert "ended" in pair.adopt()


def test_after_the_seal_it_must_go_forward(pair: Pair) -> None:
    pair.begin()
    pair.copy()
    pair.seal()
    assert "must go forward" in pair.cancel(pair.source)
    pair.copy()
    assert "must go forward" in pair.cancel(pair.target)
    assert pair.adopt() == ""


def test_what_was_cancelled_before_it_began_never_begins(pair: Pair) -> None:
    assert pair.cancel(pair.source) == pair.cancel(pair.target) == ""
    assert "cancelled" in pair.take()
    assert "cancelled" in pair.give()


def test_a_shard_is_in_one_migration_at_a_time_and_is_not_split_meanwhile(pair: Pair) -> None:
    pair.begin()
    assert "one migration at a time" in pair.take(8, (MicroshardRange(3, 4),))
    assert "one migration at a time" in pair.give(8, (MicroshardRange(3, 4),))
    assert "begun with another shard" in pair.give(MIGRATION, (MicroshardRange(0, 1),))
    child = Shard(3, 1, (MicroshardRange(1, 2),), ("n1",))
    assert "when that is over" in pair.step(pair.source, SplitCommand(child, VERSION))
    child = Shard(3, 1, (MicroshardRange(5, 6),), ("n1",))
    assert "when that is over" in pair.step(pair.target, SplitCommand(child, VERSION))
    pair.finish()
    assert pair.step(pair.target, SplitCommand(child, VERSION)) == ""


def test_microshards_that_are_not_there_or_there_already_are_refused(pair: Pair) -> None:
    assert "has not all" in pair.give(MIGRATION, (MicroshardRange(3, 5),))
    assert "has some of the microshards already" in pair.take(MIGRATION, (MicroshardRange(3, 5),))
    assert "must be some of the keyspace's 8" in pair.take(MIGRATION, (MicroshardRange(3, 9),))
    assert "must be some of the keyspace's 8" in pair.take(MIGRATION, ())
    assert "never begun" in pair.seal()
    assert "never begun" in pair.adopt()
    assert "never begun" in pair.forget()


def test_rows_of_other_microshards_are_refused(pair: Pair) -> None:
    pair.begin()
    row: MovedRow = (5, b"k", b"row")
    page = MovingPage(MigrationCursor(ranges=MOVING), [], [row])
    assert "is not about" in pair.store(page)


def test_a_target_takes_no_page_of_other_microshards_than_it_expects(pair: Pair) -> None:
    """Else it would serve what the source was never asked for, or lack what it has parted with."""
    assert pair.take(ranges=(MicroshardRange(0, 3),)) == ""
    assert pair.give(ranges=(MicroshardRange(0, 2),)) == ""
    for _ in range(2):
        assert "is of other microshards than shard 2 is to get" in pair.store(pair.read())
        assert pair.seal() == ""
    assert "has not yet all" in pair.adopt()


def test_a_shard_can_give_everything_away_and_take_it_back(pair: Pair) -> None:
    everything = (MicroshardRange(0, 4),)
    key = pair.keys[3][0]
    pair.source.write(Put(key, b"1"))
    assert pair.take(ranges=everything) == pair.give(ranges=everything) == ""
    pair.finish()
    assert pair.source.machine.state.ranges == ()
    assert pair.source.scan() == []
    assert pair.target.get(key) == b"1"
    pair.source, pair.target = pair.target, pair.source
    assert pair.step(pair.target, BeginIncomingCommand(8, TARGET, everything)) == ""
    assert pair.step(pair.source, BeginOutgoingCommand(8, SOURCE, everything)) == ""
    page = pair.read()
    assert pair.step(pair.target, StoreMovedCommand(8, 1, page.cleared, page.rows, page.cursor)) == ""
    assert pair.step(pair.source, SealCommand(8, VERSION)) == ""
    page = pair.read()
    assert pair.step(pair.target, StoreMovedCommand(8, 2, page.cleared, page.rows, page.cursor)) == ""
    assert pair.step(pair.target, AdoptCommand(8, VERSION)) == pair.step(pair.source, ForgetCommand(8)) == ""
    assert pair.target.get(key) == b"1"
    assert pair.target.entry(key)[1] < pair.target.machine.state.seq


def test_two_replicas_on_one_node_never_touch_each_others_rows(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1"))
    pair.begin()
    pair.copy()
    batch = pair.engine.batch()
    drop_replica(batch, pair.engine, pair.target.shard, pair.target.machine.state, ())
    pair.engine.write(batch)
    assert pair.source.get(key) == b"1", "the target's copy went, the source's rows stayed"


def test_dropping_the_source_leaves_what_the_target_has(pair: Pair) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1"), Put(pair.keys[3][0], b"2"))
    pair.begin()
    pair.copy()
    pair.seal()
    pair.copy()
    pair.adopt()
    batch = pair.engine.batch()
    drop_replica(batch, pair.engine, pair.source.shard, pair.source.machine.state, ())
    pair.engine.write(batch)
    assert pair.target.get(key) == b"1"
    prefixes = pair.target.machine.prefixes.values()
    left = [stored for stored in pair.target.stored() if stored[4:8] != TARGET.to_bytes(4, "big")]
    assert all(stored[:12] in prefixes for stored in left), "nothing of the source is left"


def test_a_split_takes_along_where_rows_that_came_lie(pair: Pair, make_replica: Callable[..., Any]) -> None:
    key = pair.keys[0][0]
    pair.source.write(Put(key, b"1"))
    pair.begin()
    pair.finish()
    child = Shard(3, 1, (MicroshardRange(0, 1),), ("n1",))
    assert pair.step(pair.target, SplitCommand(child, VERSION)) == ""
    born = make_replica(pair.engine, 3, 0, 1)
    assert born.get(key) == b"1"
    assert set(pair.target.machine.state.children) == {3}


def test_a_restart_at_any_moment_goes_on_where_it_was(pair: Pair) -> None:
    pair.source.write(*[Put(key, b"1", ttl_ms=60_000) for key in pair.keys[0]])
    pair.restart()
    pair.begin()
    pair.restart()
    assert pair.store(pair.read(max_bytes=50)) == ""
    pair.restart()
    pair.copy(max_bytes=50)
    pair.source.write(Put(pair.keys[1][0], b"2"), Delete(pair.keys[0][0]))
    pair.restart()
    before = pair.source_rows()
    assert pair.seal() == ""
    pair.restart()
    pair.copy(max_bytes=1)
    pair.restart()
    assert pair.adopt() == ""
    pair.restart()
    assert pair.target_rows() == before
    assert pair.forget() == ""
    pair.restart()
    assert pair.target_rows() == before
    assert [each.end for each in pair.source.machine.state.ended] == [MigrationEnd.FORGOTTEN]
    assert [each.end for each in pair.target.machine.state.ended] == [MigrationEnd.ADOPTED]


def test_a_migration_costs_nothing_where_none_is(pair: Pair) -> None:
    pair.source.write(Put(pair.keys[0][0], b"1"))
    assert not pair.source.machine.microshards.journals
    pair.begin()
    assert pair.source.machine.microshards.journals
    pair.finish()
    assert not pair.source.machine.microshards.journals


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_written_while_pages_are_read_the_target_ends_up_with_it(
    engine: Engine, make_replica: Callable[..., Any], seed: int
) -> None:
    """The driver's pages are cut anywhere, and other replicas of the source cut their batches elsewhere."""
    random = Random(seed)
    pair = Pair(engine, make_replica)
    keys = [key for microshard in range(4) for key in pair.keys[microshard][:3]]
    pair.source.open_session()

    def some_range() -> DeleteRange:
        # Few starts and ends, so that ranges of one entry begin or end together, overlap or touch.
        start, end = sorted(random.sample([b"", random.choice(keys), b"key-1", b"key-2"], 2))
        return DeleteRange(random.choice([*map(one_microshard, range(3)), AT_SOURCE]), start, random.choice([end, b""]))

    def some_operation() -> Operation:
        key, other = random.choice(keys), random.choice(keys)
        return random.choice(
            [
                Put(key, b"%d" % random.randrange(100)),
                Put(key, b"7", ttl_ms=random.choice([1, 50, 100_000])),
                Delete(key),
                Touch(key, random.choice([5, 100_000])),
                Increment(key, 3),
                Atomic([], [Put(key, b"1"), Increment(other, 1)]),
            ]
        )

    def write() -> None:
        entries = []
        for _ in range(random.randint(1, 3)):
            make = random.choice([some_range, some_operation, some_operation])
            operations = [make() for _ in range(random.choice([1, 1, 3]))]
            entries.append(pair.source.commands(pair.source.write_command(*operations)))
        pair.source.apply(*entries)
        pair.source.now += random.choice([0, 10])
        if random.random() < 0.3:
            pair.source.purge()

    for _ in range(10):
        write()
    assert pair.take(ranges=ranges_of([0, 2])) == pair.give(ranges=ranges_of([0, 2])) == ""
    for _ in range(random.randint(1, 60)):
        if random.random() < 0.5:
            write()
        page = pair.read(max_bytes=random.choice([1, 30, 1000]))
        if random.random() < 0.5:
            write()
        assert pair.store(page) == ""
        if random.random() < 0.3:
            assert pair.confirm() == ""
        if random.random() < 0.2:
            pair.restart()
    if random.random() < 0.5:
        pair.source.write(*[Put(key, b"1") for key in keys])
        pair.copy()
        pair.source.write(*[some_range() for _ in range(3)])
    expected = {key: pair.source.entry(key) for key in keys}
    assert pair.seal() == ""
    pair.copy(max_bytes=random.choice([1, 1000]))
    assert pair.adopt() == ""
    pair.target.now = pair.source.now
    for microshard in (0, 2):
        for key in pair.keys[microshard]:
            assert pair.target.entry(key) == expected.get(key, (None, 0, 0))
