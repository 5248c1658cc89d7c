"""Tokens come back from anywhere: what no session and no scan would have made is refused, and costs nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shoal import tokens
from shoal.bounds import MAX_BOUND
from shoal.errors import InvalidArgument
from shoal.scan_plans import Cursor
from shoal.sessions import MAX_SPANS, SessionToken, Span


def session(*spans: Span) -> SessionToken:
    return SessionToken("demo/1", "default", False, spans)


def cursor(**fields: Any) -> Cursor:
    return msgspec.structs.replace(Cursor("default", b"", b"", b"", -1, False, False), **fields)


@pytest.mark.parametrize(
    "token",
    [
        session(*(Span(number, number + 1, 1) for number in range(MAX_SPANS + 1))),
        session(Span(-1, 1, 1)),
        session(Span(0, 1 << 40, 1)),
        session(Span(0, 1, -1)),
        session(Span(0, 1, 1 << 63)),
        msgspec.structs.replace(session(), keyspace="x" * 64),
        cursor(limit=-2),
        cursor(prefix=bytes(MAX_BOUND + 1)),
    ],
)
def test_a_token_beyond_its_bounds_is_none(token: SessionToken | Cursor) -> None:
    with pytest.raises(InvalidArgument, match="this is no token"):
        tokens.decode("token", tokens.encode(token), type(token))


def test_the_longest_tokens_there_are_can_be_read() -> None:
    longest = session(*(Span(2 * number, 2 * number + 1, (1 << 62) + number) for number in range(MAX_SPANS)))
    assert tokens.decode("token", tokens.encode(longest), SessionToken) == longest
    key = b"\xff" * MAX_BOUND
    place = cursor(prefix=key, start=key, end=key, limit=(1 << 63) - 1)
    assert tokens.decode("token", tokens.encode(place), Cursor) == place


def test_a_token_longer_than_any_is_refused_unread() -> None:
    with pytest.raises(InvalidArgument, match="at most 524288 characters, not 9000000"):
        tokens.decode("token", "A" * 9_000_000, Cursor)
