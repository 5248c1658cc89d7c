"""A group's stored log: what is missing is an error, what conflicts is replaced, what is cut off stays away."""

from __future__ import annotations

import pytest
from shoal_server.raft.messages import Entry, HardState, sealed
from shoal_server.storage.engine import Engine, StorageFailed
from shoal_server.storage.log_store import GroupLogStore

ALL = 1 << 30


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [sealed(1, term, index, 1, b"%d-%d" % (term, index)) for index in range(first, last + 1)]


def store_with(engine: Engine, stored: list[Entry], group: int = 1) -> GroupLogStore:
    store = GroupLogStore(engine, group)
    store.load_last_index()
    batch = engine.batch()
    store.append(batch, stored)
    engine.write(batch)
    return store


def test_a_new_group_has_nothing(engine: Engine) -> None:
    store = GroupLogStore(engine, 1)
    stored = store.load_ends()
    assert (stored.hard_state, stored.start.index, store.load_last_index()) == (HardState(0, ""), 0, 0)


def test_what_is_stored_is_found_by_the_next_process_and_groups_are_apart(engine: Engine) -> None:
    store = store_with(engine, entries(1, 5))
    store_with(engine, entries(1, 9), group=2)
    batch = engine.batch()
    store.save_hard_state(batch, HardState(3, "n2"))
    engine.write(batch)
    store = GroupLogStore(engine, 1)
    assert (store.load_ends().hard_state, store.load_last_index()) == (HardState(3, "n2"), 5)
    assert GroupLogStore(engine, 1).entries(2, 5, ALL) == entries(2, 4)


def test_a_conflicting_tail_is_replaced_whole(engine: Engine) -> None:
    store = store_with(engine, entries(1, 9))
    batch = engine.batch()
    store.append(batch, entries(4, 6, term=2))
    engine.write(batch)
    assert GroupLogStore(engine, 1).load_last_index() == 6
    assert store.entries(3, 7, ALL) == entries(3, 3) + entries(4, 6, term=2)
    assert store.term(4) == 2


def test_a_read_is_bounded_but_never_empty(engine: Engine) -> None:
    store = store_with(engine, entries(1, 9))
    assert store.entries(1, 10, 0) == entries(1, 1)
    assert store.entries(1, 10, 7) == entries(1, 2)


def test_an_entry_that_should_be_there_and_is_not_is_an_error(engine: Engine) -> None:
    store = store_with(engine, entries(1, 3) + entries(5, 6))
    for first, end in ((4, 7), (2, 6), (6, 9)):
        with pytest.raises(StorageFailed, match="missing from the log"):
            store.entries(first, end, ALL)
    with pytest.raises(StorageFailed, match="entry 4 of shard 1 is missing"):
        store.term(4)


def test_a_truncated_log_begins_behind_the_cut(engine: Engine) -> None:
    store = store_with(engine, entries(1, 9))
    batch = engine.batch()
    store.truncate(batch, 4, 1)
    engine.write(batch)
    again = GroupLogStore(engine, 1)
    loaded = again.load_ends()
    assert (loaded.start.index, loaded.start.term, again.load_last_index()) == (4, 1, 9)
    with pytest.raises(StorageFailed):
        store.term(4)


def test_a_log_begun_anew_behind_a_snapshot_is_empty(engine: Engine) -> None:
    store = store_with(engine, entries(1, 9))
    batch = engine.batch()
    store.restart(batch, 20, 3)
    engine.write(batch)
    store = GroupLogStore(engine, 1)
    loaded = store.load_ends()
    assert (loaded.start.index, loaded.start.term, store.load_last_index()) == (20, 3, 20)
