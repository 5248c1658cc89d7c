"""The bytes on disk are pinned: a change of any of these is a new format."""

from __future__ import annotations

import pytest
from shoal.protocol.checksum import checksum
from shoal.protocol.comparison import Divergence
from shoal.protocol.migration import EndedMigration, MigrationCursor, MigrationEnd
from shoal.shardmap import MicroshardRange
from shoal_server.raft.messages import HardState, Membership, sealed
from shoal_server.storage.applied_state import (
    AppliedState,
    Incoming,
    Outgoing,
    Placement,
    applied_state_row,
    encode_compared_state,
)
from shoal_server.storage.engine import Damaged, StorageFailed
from shoal_server.storage.journal import CHANGED, CLEARED, journal_prefix, journal_start, journal_suffix
from shoal_server.storage.layout import (
    LogStart,
    data_prefix,
    decode_entry,
    encode_entry,
    encode_hard_state,
    encode_log_start,
    expiry_prefix,
    expiry_suffix,
    hard_state_key,
    is_visible,
    log_key,
    prefix_end,
    row_expiry,
    row_seq,
    row_value,
    split_expiry_suffix,
    split_rows,
    value_header,
)
from shoal_server.storage.session_rows import (
    SessionOwner,
    encode_session,
    encode_session_slot,
    session_key,
    session_slot_key,
)
from shoal_server.storage.twice import COPIES


def test_keys_are_pinned() -> None:
    assert data_prefix(1, 2, 3).hex() == "000000010000000200000003"
    assert log_key(7, 258).hex() == "000000070000000000000102"
    session = bytes(range(16))
    assert session_key(1, 2, session).hex() == "000000000000000100000002" + session.hex() + "0000"
    assert session_slot_key(1, 2, session, 65).hex() == "000000000000000100000002" + session.hex() + "0002"
    assert expiry_prefix(1, 2, 3).hex() == "800000010000000200000003"
    assert expiry_suffix(258, b"k").hex() == "0000000000000102" + "6b"


def test_values_are_pinned() -> None:
    assert value_header(258).hex() == "100000000000000102"
    assert value_header(258, 515).hex() == "110000000000000102" + "0000000000000203"
    assert encode_session(SessionOwner(b"owner", True), 3).hex() == "01" + "01" + "0000000000000003" + b"owner".hex()
    assert encode_session_slot(1, 2, 3).hex() == "01" + "01" + "000000000000000100000000000000020000000000000003"
    assert encode_session_slot(1, 2, 3, b"r").hex() == encode_session_slot(1, 2, 3).hex() + "72"
    assert encode_session_slot(1, 2, 3, None).hex() == "01" + "00" + "000000000000000100000000000000020000000000000003"
    assert encode_entry(sealed(7, 3, 9, 1, b"p")).hex() == "010000000000000003018664540e70"
    assert encode_hard_state(HardState(4, "n1")).hex() == "9204a26e31"
    assert (COPIES + hard_state_key(258)).hex() == "000000006800000102", "where its other copy is"
    assert encode_log_start(LogStart(5, 6)).hex() == "93050601"
    state = AppliedState(1, 2, 3, 4, Membership(1, ("n1",), ()), 0, 6, (MicroshardRange(0, 2),))
    known = "010203049301" + "91a26e31" + "90" + "00" + "06" + "91920002" + "01"
    known += "c0c0" + "90" + "90" + "90" + "0000" + "a0"
    assert applied_state_row(state)[4:].hex() == "dc0012" + known + "c0"
    # The generation is the node's own; and no field is compared that an older version does not know.
    assert encode_compared_state(state).hex() == "dc0011" + known.replace("01020304", "01020300", 1)
    assert state.seq == 4, "the base plus the index"


def test_the_state_of_migrations_is_pinned() -> None:
    span = (MicroshardRange(0, 2),)
    state = AppliedState(
        *(1, 2, 3, 4, Membership(1, ("n1",), ()), 0, 6, span),
        outgoing=Outgoing(7, 8, span, sealed=True),
        incoming=Incoming(9, 10, span, 11, MigrationCursor(12, True, b"a", 13, True), 14, 15),
        ended=(EndedMigration(16, MigrationEnd.ADOPTED),),
        placements=(Placement(0, 1, 17),),
        children=(18,),
        compared_index=19,
        copied_index=20,
        divergence=Divergence(1, 0, 2, "w", (("n",),)),
    )
    outgoing = "95" + "07" + "08" + "91920002" + "c3" + "c400"
    incoming = "97" + "09" + "0a" + "91920002" + "0b" + "96" + "0cc3c401610dc390" + "0e" + "0f"
    rest = "91921003" + "9193000111" + "9112" + "1314" + "a0" + "95010002a1779191a16e"
    row = applied_state_row(state)
    assert row.hex().endswith("01" + outgoing + incoming + rest)
    assert row[:4] == checksum(row[4:]).to_bytes(4, "big")


def test_the_journal_is_in_order_of_entries_and_each_of_them_clears_before_it_writes() -> None:
    assert journal_prefix(1, 2).hex() == "800000000000000100000002"
    assert journal_suffix(258, CHANGED, 3, b"k").hex() == "0000000000000102" + "01" + "00000003" + "6b"
    written = [
        journal_suffix(8, CHANGED, 5, b"k"),
        journal_suffix(9, CLEARED, 6, b"z"),
        journal_suffix(9, CHANGED, 5, b""),
    ]
    assert sorted(written) == written
    assert journal_start(8) > written[0], "behind entry 8 comes what later ones have changed"
    assert journal_start(8) <= written[1]


@pytest.mark.parametrize("value", [b"", b"v"])
@pytest.mark.parametrize("expiry", [0, 1, 1 << 62])
def test_a_row_says_its_seq_its_expiry_and_its_value(expiry: int, value: bytes) -> None:
    row = value_header(5, expiry) + value
    assert (row_seq(row), row_expiry(row), row_value(row)) == (5, expiry, value)


def test_a_row_is_visible_until_the_millisecond_of_its_expiry() -> None:
    row = value_header(5, 1000) + b"v"
    assert [is_visible(row, now) for now in (0, 999, 1000, 1001)] == [True, True, False, False]
    assert is_visible(value_header(5), 1 << 62)
    assert not is_visible(None, 0)


def test_rows_are_split_into_values_seqs_and_expiries() -> None:
    plain, expiring = value_header(5) + b"v", value_header(6, 1000) + b"w"
    assert split_rows([b"k"] * 3, [plain, None, value_header(7)], 0) == ([b"v", None, b""], [5, 0, 7], [])
    assert split_rows([b"k"] * 3, [plain, None, expiring], 999) == ([b"v", None, b"w"], [5, 0, 6], [0, 0, 1000])
    assert split_rows([b"k"] * 2, [plain, expiring], 1000) == ([b"v", None], [5, 0], [0, 0])


def test_the_expiry_index_is_in_the_order_of_expiries_and_comes_back_as_it_was() -> None:
    assert expiry_suffix(255, b"\xff") < expiry_suffix(256) < expiry_suffix(256, b"\x00") < expiry_suffix(257)
    assert split_expiry_suffix(expiry_suffix(256, b"key")) == (256, b"key")


def test_an_entry_comes_back_as_it_was() -> None:
    entry = sealed(1, 3, 9, 1, b"payload")
    assert decode_entry(log_key(1, 9), encode_entry(entry)) == entry


def test_an_entry_with_any_bit_flipped_or_in_anothers_place_is_damaged() -> None:
    key, row = log_key(1, 9), encode_entry(sealed(1, 3, 9, 1, b"payload"))
    for bit in range(8 * len(row)):
        flipped = bytearray(row)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            decode_entry(key, bytes(flipped))
    for other in (log_key(2, 9), log_key(1, 10)):
        with pytest.raises(Damaged, match="not what was proposed"):
            decode_entry(other, row)


@pytest.mark.parametrize("row", [b"", b"\x01\x00", b"\x02" + bytes(9)])
def test_a_damaged_or_newer_entry_is_an_error(row: bytes) -> None:
    with pytest.raises(StorageFailed, match="damaged or of a newer format"):
        decode_entry(log_key(1, 9), row)


def test_the_end_of_a_prefix_is_the_first_key_behind_it() -> None:
    assert prefix_end(b"ab") == b"ac"
    assert prefix_end(b"a\xff") == b"b"
