"""A node's descriptors, shared out before it begins."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal_server.places import UNFINISHED_MAX, reserved_places
from shoal_server.process.descriptors import (
    CLIENTS_MIN,
    LINGERING,
    OF_CALLER,
    OF_PEER,
    OWN,
    PAGES,
    PEERS_MIN,
    TABLES_MAX,
    TABLES_MIN,
    TooFewDescriptors,
    enough_for,
    raise_limit,
    share_out,
)
from shoal_server.secure_listener import SAYING_MAX


def test_with_enough_of_them_everybody_has_what_is_asked_for():
    found = share_out(1 << 20, 4096, 2, tls=True, api=True)
    assert (found.clients, found.unfinished, found.tables, found.callers) == (4096, UNFINISHED_MAX, TABLES_MAX, 1024)


def test_with_the_usual_1024_clients_get_what_is_left():
    found = share_out(1024, 4096, 2, tls=False, api=True)
    assert 300 < found.clients < 600
    assert found.tables == 128
    assert enough_for(4096, 2, tls=False, api=True) == 8192


def test_too_few_are_refused_with_how_many_would_do():
    with pytest.raises(TooFewDescriptors, match=r"may open 256 .* needs (\d+) at the least.*ulimit -n") as refused:
        share_out(256, 4096, 2, tls=False, api=False)
    least = int(str(refused.value).split("needs ")[1].split()[0])
    assert share_out(least, 4096, 2, tls=False, api=False).clients >= CLIENTS_MIN


def test_a_node_that_wants_few_clients_needs_no_more():
    assert share_out(1024, 4, 2, tls=False, api=False).clients == 4


@given(st.integers(1, 1 << 20), st.integers(1, 1_000_000), st.integers(0, 200), st.booleans(), st.booleans())
def test_all_parts_together_are_never_more_than_there_are(limit: int, clients: int, peers: int, tls: bool, api: bool):
    try:
        found = share_out(limit, clients, peers, tls=tls, api=api)
    except TooFewDescriptors:
        assert limit < 5000
        return
    assert found.clients <= clients
    assert found.tables >= TABLES_MIN
    dialled = max(PEERS_MIN, peers)
    handshakes = 2 * (found.unfinished + SAYING_MAX + min(UNFINISHED_MAX, found.callers) + SAYING_MAX) if tls else 0
    together = (
        OWN
        + PAGES
        + found.tables
        + OF_CALLER * found.callers
        + found.ways * (peers + 1)
        + handshakes
        + found.connections
        + dialled
    )
    places = found.unfinished + found.clients + reserved_places(found.clients) + (OF_PEER - 1) * dialled
    assert found.connections == places + LINGERING, "whoever has no place can be told to go"
    assert together <= limit


def test_the_soft_limit_is_raised_to_the_hard_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
        assert raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
