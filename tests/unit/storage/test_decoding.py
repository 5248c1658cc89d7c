"""Rows are decoded in one way, and what is no row is damage, whatever the decoder says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import shoal_server.storage
from hypothesis import given
from hypothesis import strategies as st
from shoal_server.raft.messages import Membership
from shoal_server.storage.applied_state import AppliedState, applied_state_row, load_applied_state
from shoal_server.storage.engine import Damaged
from shoal_server.storage.layout import applied_state_key, split_rows, value_header, whole_row
from shoal_server.storage.memory import MemoryEngine

DECODES = re.compile(r"msgpack\.(Decoder\(|decode\()|_decoder\.decode\(row\)")
WITHIN_THE_SEAM = {"decoding.py": 2, "layout.py": 2, "session_rows.py": 1, "node_rows.py": 1}
"""How often each module of the storage decodes by itself: within `decoded`, but for the shard map, which is the node's."""
STATE = AppliedState(5, 1, 0, 3, Membership(1, ("n1", "n2", "n3")), 0)


def test_no_module_decodes_rows_by_itself() -> None:
    folder = Path(shoal_server.storage.__file__).parent
    found = {path.name: len(DECODES.findall(path.read_text())) for path in folder.glob("*.py")}
    assert {name: count for name, count in found.items() if count} == WITHIN_THE_SEAM


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_bit_of_an_applied_state_changes_unseen(at: int, bit: int) -> None:
    engine, row = MemoryEngine(), applied_state_row(STATE)
    batch = engine.batch()
    batch.put(applied_state_key(1), row, engine.data)
    engine.write(batch)
    assert load_applied_state(engine, 1) == STATE
    at %= len(row)
    batch = engine.batch()
    batch.put(applied_state_key(1), row[:at] + bytes((row[at] ^ 1 << bit,)) + row[at + 1 :], engine.data)
    engine.write(batch)
    with pytest.raises(Damaged, match=applied_state_key(1).hex()):
        load_applied_state(engine, 1)


@given(st.binary(max_size=20))
def test_a_user_row_is_read_whole_or_is_damaged(row: bytes) -> None:
    try:
        assert whole_row(b"key", row) == row
    except Damaged as error:
        assert error.family == "data"
        assert b"key".hex() in str(error)
        with pytest.raises(Damaged):
            split_rows([b"key"], [row], 0)
    else:
        split_rows([b"key"], [row], 0)


def test_the_last_seq_and_the_last_expiry_are_whole() -> None:
    for row in (value_header(1 << 62), value_header(1 << 62, 1 << 52)):
        assert whole_row(b"key", row) == row
