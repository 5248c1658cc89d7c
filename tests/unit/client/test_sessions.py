"""What a session has seen: never forgotten, whatever becomes of the shards, and small enough to hand on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partialmethod
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal import tokens
from shoal.errors import InvalidArgument
from shoal.scan_plans import Cursor
from shoal.sessions import ASK_LEADER, MAX_SPANS, SessionToken, SessionVector, Span, merge_token, to_token
from shoal.shardmap import MicroshardRange

MICROSHARDS = 24


@st.composite
def shard_ranges(draw: st.DrawFn) -> tuple[MicroshardRange, ...]:
    """The microshards of some shard: one to three ranges, in order and disjoint."""
    edges = sorted(draw(st.sets(st.integers(0, MICROSHARDS), min_size=2, max_size=6)))
    edges = edges[: len(edges) // 2 * 2]
    return tuple(MicroshardRange(*edges[at : at + 2]) for at in range(0, len(edges), 2))


notes = st.lists(st.tuples(shard_ranges(), st.integers(1, 1000)), max_size=30)


def noted(given_notes: Sequence[tuple[tuple[MicroshardRange, ...], int]]) -> tuple[SessionVector, list[int]]:
    """The vector, and what it has to say of each microshard at least."""
    vector, seqs = SessionVector(), [0] * MICROSHARDS
    for ranges, seq in given_notes:
        vector.note(ranges, seq)
        for span in ranges:
            for microshard in range(span.first, span.end):
                seqs[microshard] = max(seqs[microshard], seq)
    return vector, seqs


def needed(seqs: list[int], ranges: tuple[MicroshardRange, ...]) -> int:
    return max(seqs[microshard] for span in ranges for microshard in range(span.first, span.end))


@given(notes, shard_ranges())
def test_a_read_is_never_behind_what_was_seen_of_any_microshard_of_the_shard(
    given_notes: list[tuple[tuple[MicroshardRange, ...], int]], ranges: tuple[MicroshardRange, ...]
) -> None:
    vector, seqs = noted(given_notes)
    assert vector.floor(ranges) >= needed(seqs, ranges)
    for at in range(MICROSHARDS):
        assert vector.floor((MicroshardRange(at, at + 1),)) == seqs[at], (
            "no more than needed is asked of one microshard"
        )


@given(notes, notes, shard_ranges(), st.integers(1, 6))
def test_tokens_carry_every_mark_even_where_they_have_to_leave_some_out(
    some: list[tuple[tuple[MicroshardRange, ...], int]],
    others: list[tuple[tuple[MicroshardRange, ...], int]],
    ranges: tuple[MicroshardRange, ...],
    most: int,
) -> None:
    first, first_seqs = noted(some)
    second, second_seqs = noted(others)
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(SessionVector, "bounded", partialmethod(SessionVector.bounded, most))
        merged = SessionVector()
        for vector in (first, second):
            merge_token(merged, to_token(vector, "c", "k"), "c", "k")
        again = SessionVector()
        merge_token(again, to_token(merged, "c", "k"), "c", "k")
    seqs = [max(pair) for pair in zip(first_seqs, second_seqs, strict=True)]
    for vector in (merged, again):
        assert vector.floor(ranges) >= needed(seqs, ranges)


@given(notes)
def test_spans_are_disjoint_in_order_and_as_few_as_can_be(
    given_notes: list[tuple[tuple[MicroshardRange, ...], int]],
) -> None:
    vector, seqs = noted(given_notes)
    spans = vector.spans()
    flat = [0] * MICROSHARDS
    for before, after in pairwise(spans):
        assert before.end < after.first or (before.end == after.first and before.seq != after.seq)
    for span in spans:
        flat[span.first : span.end] = [span.seq] * (span.end - span.first)
    assert flat == seqs


def test_spans_stay_few_while_shards_come_and_go() -> None:
    vector = SessionVector()
    for seq in range(1, 2000):
        vector.note((MicroshardRange(seq % 50, 50 + seq % 7),), seq)
    assert len(vector._seqs) <= 130
    assert vector.floor((MicroshardRange(49, 50),)) == 1999


def test_a_token_has_at_most_so_many_ranges_and_the_leader_is_asked_for_the_rest() -> None:
    vector = SessionVector()
    for at in range(2 * MAX_SPANS):
        vector.note((MicroshardRange(2 * at, 2 * at + 1),), at + 1)
    token = to_token(vector, "c", "k")
    assert len(token) < 8000
    found = tokens.decode("token", token, SessionToken)
    assert (len(found.spans), found.missing) == (MAX_SPANS, True)
    other = SessionVector()
    merge_token(other, token, "c", "k")
    for at in range(2 * MAX_SPANS):
        floor = other.floor((MicroshardRange(2 * at, 2 * at + 1),))
        assert floor in (at + 1, ASK_LEADER)
    assert vector.floor((MicroshardRange(4 * MAX_SPANS, 4 * MAX_SPANS + 1),)) == 0


def test_a_token_of_few_shards_is_short() -> None:
    vector = SessionVector()
    for shard in range(8):
        vector.note((MicroshardRange(shard * 128, shard * 128 + 128),), 1_000_000 + shard)
    assert len(to_token(vector, "demo", "default")) < 200


@pytest.mark.parametrize("text", ["", "x", "§", "AAAA", "AAAAAAAAAAAA", "not a token at all", "a" * 1000])
def test_garbage_is_no_token(text: str) -> None:
    with pytest.raises(InvalidArgument):
        merge_token(SessionVector(), text, "c", "k")


@given(st.binary(max_size=60))
def test_bytes_that_pass_the_alphabet_are_still_no_token(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        merge_token(SessionVector(), data.hex(), "c", "k")


def test_a_token_that_was_cut_or_is_of_something_else_is_refused() -> None:
    token = to_token(SessionVector(), "c", "k")
    for wrong in (token[:-2], token + "AAAA", tokens.encode(Cursor("k", b"", b"", b"", 1, False, False))):
        with pytest.raises(InvalidArgument):
            merge_token(SessionVector(), wrong, "c", "k")
    with pytest.raises(InvalidArgument, match="keyspace 'k'"):
        merge_token(SessionVector(), token, "c", "other")
    with pytest.raises(InvalidArgument, match="of the cluster c;"):
        merge_token(SessionVector(), token, "other", "k")
    assert merge_token(SessionVector(), token, "", "k") == "c"


def test_a_client_without_a_session_has_no_token() -> None:
    with pytest.raises(InvalidArgument, match="session"):
        to_token(None, "c", "k")
    with pytest.raises(InvalidArgument, match="session"):
        merge_token(None, "", "c", "k")


def test_spans_of_a_damaged_token_do_not_reach_the_session() -> None:
    spans = (Span(0, 4, 7),)
    token = tokens.encode(SessionToken("c", "k", False, spans))
    vector = SessionVector()
    merge_token(vector, token, "c", "k")
    assert vector.spans() == list(spans)
