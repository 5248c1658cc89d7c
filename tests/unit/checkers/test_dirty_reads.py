"""Reads of what was aborted, of what its writer wrote over, and of what nobody wrote."""

from __future__ import annotations

from shoal_chaos.checkers.dirty_reads import ReadValue, WrittenValue, find_violations

X = b"x"
WRITTEN = {
    X: [
        WrittenValue(1, b"middle", False, "committed"),
        WrittenValue(1, b"last", True, "committed"),
        WrittenValue(2, b"aborted", True, "aborted"),
        WrittenValue(3, b"unknown", True, "unknown"),
    ]
}


def found(value: bytes) -> list[str]:
    return [dirty.anomaly for dirty in find_violations(WRITTEN, [ReadValue(9, X, value)])]


def test_what_was_or_may_have_been_committed_may_be_read() -> None:
    assert found(b"last") == found(b"unknown") == []


def test_each_dirty_read_is_called_by_its_name() -> None:
    assert found(b"aborted") == ["G1a"]
    assert found(b"middle") == ["G1b"]
    assert found(b"?") == ["garbage"]


def test_a_value_is_of_its_key() -> None:
    assert [dirty.anomaly for dirty in find_violations(WRITTEN, [ReadValue(9, b"y", b"last")])] == ["garbage"]
