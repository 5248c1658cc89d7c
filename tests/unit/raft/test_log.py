"""The log against a plain list of entries: same answers, whatever is in memory and whatever is only stored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from shoal_server.invariants import InvariantViolated
from shoal_server.raft.log import Log
from shoal_server.raft.messages import Entry, EntryKind, sealed


class Stored:
    """What the caller keeps of a log."""

    def __init__(self) -> None:
        self.rows: dict[int, Entry] = {}

    def term(self, index: int) -> int:
        return self.rows[index].term

    def entries(self, first: int, end: int, max_bytes: int) -> list[Entry]:
        found: list[Entry] = []
        size = 0
        for index in range(first, end):
            size += len(self.rows[index].payload)
            if size > max_bytes and found:
                break
            found.append(self.rows[index])
        return found

    def append(self, entries: list[Entry]) -> None:
        for index in [index for index in self.rows if index >= entries[0].index]:
            del self.rows[index]
        self.rows.update((entry.index, entry) for entry in entries)


def entry(index: int, term: int, payload: bytes = b"x") -> Entry:
    return sealed(1, term, index, EntryKind.COMMAND, payload)


def new_log(stored: Any = None, last: int = 0, applied: int = 0) -> Log:
    return Log(stored or Stored(), truncated_index=0, truncated_term=0, last_index=last, applied_index=applied)


class LogAgainstList(RuleBasedStateMachine):
    """`model[i]` is the entry at index `i + 1`, also where the log has cut it off."""

    def __init__(self) -> None:
        super().__init__()
        self.stored = Stored()
        self.log = new_log(self.stored)
        self.model: list[Entry] = []

    def hand_over(self) -> None:
        if self.log.has_unhanded:
            self.stored.append(self.log.take_unhanded())

    @rule(payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=4), newer=st.booleans())
    def append(self, payloads: list[bytes], newer: bool) -> None:
        term = max(self.log.last_term, 1) + newer
        entries = [entry(index, term, payload) for index, payload in enumerate(payloads, len(self.model) + 1)]
        self.log.append(entries)
        self.model.extend(entries)

    @rule()
    def store(self) -> None:
        self.hand_over()

    @rule()
    def sync(self) -> None:
        self.hand_over()
        if self.model:
            self.log.persisted(len(self.model), self.model[-1].term)

    @rule(share=st.floats(0, 1))
    def commit(self, share: float) -> None:
        self.log.commit_index += int(share * (self.log.last_index - self.log.commit_index))

    @rule(share=st.floats(0, 1))
    def apply(self, share: float) -> None:
        log = self.log
        log.applied(log.applied_index + int(share * (log.commit_index - log.applied_index)))

    @precondition(lambda self: self.log.last_index > self.log.commit_index)
    @rule(share=st.floats(0, 1))
    def replace_the_end(self, share: float) -> None:
        log = self.log
        index = log.commit_index + 1 + int(share * (log.last_index - log.commit_index - 1))
        term = log.last_term + 1
        log.truncate_from(index)
        del self.model[index - 1 :]
        self.model.append(entry(index, term))
        log.append([self.model[-1]])

    @rule(max_bytes=st.integers(0, 200), unapplied=st.booleans())
    def shrink(self, max_bytes: int, unapplied: bool) -> None:
        self.hand_over()
        self.log.shrink(max_bytes, unapplied=unapplied)

    @rule(share=st.floats(0, 1))
    def compact(self, share: float) -> None:
        self.hand_over()
        bound = min(self.log.applied_index, self.log.persisted_index)
        self.log.compact(int(share * bound))

    @rule(count=st.integers(1, 5), max_bytes=st.integers(0, 100), share=st.floats(0, 1))
    def read(self, count: int, max_bytes: int, share: float) -> None:
        log = self.log
        if log.last_index == log.truncated_index:
            return
        first = log.first_index + int(share * (log.last_index - log.first_index))
        end = min(first + count, log.last_index + 1)
        found = log.entries(first, end, max_bytes)
        assert found == self.model[first - 1 : first - 1 + len(found)]
        assert found
        assert len(found) == 1 or sum(len(each.payload) for each in found) <= max_bytes

    @invariant()
    def positions_and_terms_agree(self) -> None:
        log = self.log
        assert log.last_index == len(self.model)
        assert log.truncated_index <= log.applied_index <= log.commit_index <= log.last_index
        assert log.persisted_index <= log.last_index
        for index in range(max(log.truncated_index, 1), log.last_index + 1):
            assert log.term(index) == self.model[index - 1].term
        assert log.last_term == (self.model[-1].term if self.model else 0)


TestLogAgainstList = LogAgainstList.TestCase


def test_the_report_of_a_sync_does_not_count_for_an_entry_that_was_replaced_meanwhile() -> None:
    log = new_log()
    log.append([entry(1, 1), entry(2, 1)])
    log.take_unhanded()
    log.truncate_from(2)
    log.append([entry(2, 2)])
    log.take_unhanded()
    assert not log.persisted(2, 1)
    assert log.persisted_index == 0
    assert log.persisted(2, 2)


def test_entries_that_replace_others_are_handed_out_again() -> None:
    log = new_log()
    log.append([entry(1, 1), entry(2, 1), entry(3, 1)])
    log.take_unhanded()
    log.truncate_from(2)
    log.append([entry(2, 2)])
    assert log.take_unhanded() == [entry(2, 2)]


def test_a_committed_entry_is_never_dropped() -> None:
    log = new_log()
    log.append([entry(1, 1)])
    log.commit_index = 1
    with pytest.raises(InvariantViolated, match="committed entry is never dropped"):
        log.truncate_from(1)


def test_a_gap_and_a_falling_term_are_refused() -> None:
    log = new_log()
    log.append([entry(1, 2)])
    with pytest.raises(InvariantViolated, match="without a gap"):
        log.append([entry(3, 2)])
    with pytest.raises(InvariantViolated, match="never fall"):
        log.append([entry(2, 1)])


def test_what_is_not_yet_stored_is_not_cut_off() -> None:
    log = new_log()
    log.append([entry(1, 1)])
    log.commit_index = 1
    log.applied(1)
    with pytest.raises(InvariantViolated, match="applied and stored"):
        log.compact(1)


def test_a_snapshot_restarts_the_log_behind_it() -> None:
    log = new_log()
    log.append([entry(1, 1), entry(2, 1)])
    log.restart(9, 3)
    assert (log.first_index, log.last_index, log.last_term, log.commit_index, log.applied_index) == (10, 9, 3, 9, 9)
    assert log.matches(9, 3)
    assert not log.has_unhanded
    log.append([entry(10, 3)])
    assert log.entries(10, 11, 0) == [entry(10, 3)]


def test_the_search_for_the_beginning_of_a_term_stops_at_its_floor() -> None:
    stored = Stored()
    stored.append([entry(index, 1) for index in range(1, 6)] + [entry(index, 2) for index in range(6, 11)])
    log = new_log(stored, last=10)
    assert log.first_index_of_term(10, 1) == 6
    assert log.first_index_of_term(10, 8) == 8
    assert log.last_index_up_to_term(10, 1) == 5
