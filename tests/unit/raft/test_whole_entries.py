"""Entries are what was proposed, wherever they come from: a damaged one gets into no log, and none is applied."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from shoal_server.raft.membership import encode_membership
from shoal_server.raft.messages import AppendEntries, Entry, EntryKind, Membership, first_damaged, sealed
from shoal_server.raft.ready import BadMessage

from .harness import Harness, follow

GROUP = 1
WHOLE = sealed(GROUP, 2, 1, EntryKind.COMMAND, b"payload")

DAMAGED: list[Entry] = [
    replace(WHOLE, payload=b"payloae"),
    replace(WHOLE, payload=b"payloa"),
    replace(WHOLE, kind=EntryKind.EMPTY),
    replace(WHOLE, term=1),
    replace(WHOLE, checksum=WHOLE.checksum ^ 1),
    sealed(GROUP + 1, 2, 1, EntryKind.COMMAND, b"payload"),
]


@pytest.mark.parametrize("entry", DAMAGED, ids=repr)
def test_a_damaged_entry_is_told_from_the_whole_one(entry: Entry) -> None:
    assert first_damaged(GROUP, [WHOLE]) is None
    assert first_damaged(GROUP, [WHOLE, entry]) is entry


@pytest.mark.parametrize("entry", DAMAGED, ids=repr)
def test_an_append_with_a_damaged_entry_changes_nothing_and_the_next_is_taken(entry: Entry) -> None:
    harness = Harness()
    harness.support("n2")
    before = harness.group.term
    with pytest.raises(BadMessage, match="shard 1"):
        harness.group.step("n2", AppendEntries(GROUP, 2, 0, 0, 0, [entry], 1), harness.now)
    assert (harness.group.term, harness.group.log.last_index, harness.group.leader) == (before, 0, "")
    follow(harness, "n2", 2, [WHOLE])
    assert harness.group.log.last_index == 1


OUT_OF_PLACE: list[list[Entry]] = [
    [sealed(GROUP, 2, 2, EntryKind.COMMAND, b"")],
    [sealed(GROUP, 2, 1, EntryKind.COMMAND, b""), sealed(GROUP, 2, 3, EntryKind.COMMAND, b"")],
    [sealed(GROUP, 2, 1, EntryKind.COMMAND, b""), sealed(GROUP, 1, 2, EntryKind.COMMAND, b"")],
    [sealed(GROUP, 9, 1, EntryKind.COMMAND, b"")],
    [sealed(GROUP, 2, 1, EntryKind.MEMBERSHIP, b"\xc1")],
    [sealed(GROUP, 2, 1, EntryKind.MEMBERSHIP, encode_membership(Membership(2, ())))],
    [sealed(GROUP, 2, 1, EntryKind.MEMBERSHIP, encode_membership(Membership(2, ("n1", "n1"))))],
]


@pytest.mark.parametrize("entries", OUT_OF_PLACE, ids=repr)
def test_whole_entries_that_no_leader_sends_are_refused(entries: list[Entry]) -> None:
    harness = Harness()
    with pytest.raises(BadMessage, match="shard 1"):
        harness.group.step("n2", AppendEntries(GROUP, 2, 0, 0, 0, entries, 1), harness.now)
    assert harness.group.log.last_index == 0


class Stored:
    """What is on disk: the entries as they were."""

    def __init__(self, entries: list[Entry]) -> None:
        self.kept = list(entries)
        self.reads = 0

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        self.reads += 1
        return self.kept[first - 1 : end - 1]

    def term(self, index: int) -> int:
        return self.kept[index - 1].term


def test_an_entry_that_memory_has_changed_is_applied_as_it_is_stored(monkeypatch: Any) -> None:
    harness = Harness()
    entries = [sealed(GROUP, 2, index, EntryKind.COMMAND, b"%d" % index) for index in (1, 2)]
    follow(harness, "n2", 2, entries)
    log = harness.group.log
    monkeypatch.setattr(log, "_reader", Stored(entries))
    harness.group.step("n2", AppendEntries(GROUP, 2, 2, 2, 2, [], 1), harness.now)
    assert log._cached[1] == entries[1]
    log._cached[1] = replace(entries[1], payload=b"other")
    assert harness.group.committed() == entries
    assert log._reader.reads == 1  # type: ignore[attr-defined]
