"""The bytes on disk are pinned: a change of any of these is a new format."""

from __future__ import annotations

import pytest
from shoal_server.raft.messages import Entry, HardState, Membership
from shoal_server.storage.engine import DataFolderRefused, StorageFailed
from shoal_server.storage.layout import (
    AppliedState,
    LogStart,
    check_format,
    data_prefix,
    decode_entry,
    encode_applied_state,
    encode_entry,
    encode_hard_state,
    encode_log_start,
    encode_session_slot,
    log_key,
    prefix_end,
    session_slot_key,
    value_header,
    values_and_seqs,
)


def test_keys_are_pinned() -> None:
    assert data_prefix(1, 2, 3).hex() == "000000010000000200000003"
    assert log_key(7, 258).hex() == "000000070000000000000102"
    assert session_slot_key(1, 2, 3, 65).hex() == "00000000000000010000000200000000000000030001"


def test_values_are_pinned() -> None:
    assert value_header(258).hex() == "100000000000000102"
    assert values_and_seqs([value_header(5) + b"v", None, value_header(6)]) == ([b"v", None, b""], [5, 0, 6])
    assert encode_session_slot(1, 2, 3).hex() == "01000000000000000100000000000000020000000000000003"
    assert encode_entry(Entry(3, 9, 1, b"p")).hex() == "0100000000000000030170"
    assert encode_hard_state(HardState(4, "n1")).hex() == "9204a26e31"
    assert encode_log_start(LogStart(5, 6)).hex() == "93050601"
    state = AppliedState(1, 2, 3, 4, 5, Membership(1, ("n1",), ()), 0)
    assert encode_applied_state(state).hex() == "9801020304059301" + "91a26e31" + "90" + "00" + "01"


def test_an_entry_comes_back_as_it_was() -> None:
    entry = Entry(3, 9, 1, b"payload")
    assert decode_entry(log_key(1, 9), encode_entry(entry)) == entry


@pytest.mark.parametrize("row", [b"", b"\x01\x00", b"\x02" + bytes(9)])
def test_a_damaged_or_newer_entry_is_an_error(row: bytes) -> None:
    with pytest.raises(StorageFailed, match="damaged or of a newer format"):
        decode_entry(log_key(1, 9), row)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(DataFolderRefused, match="newer Shoal"):
        check_format(2, "the row")


def test_the_end_of_a_prefix_is_the_first_key_behind_it() -> None:
    assert prefix_end(b"ab") == b"ac"
    assert prefix_end(b"a\xff") == b"b"
