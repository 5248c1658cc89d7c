"""Who gets a place, and who gives way."""

from __future__ import annotations

from shoal_server.places import IDLE_SECONDS, NEWCOMER_IDLE_SECONDS, IdleGoes, OldestGoes


def test_among_those_who_have_not_greeted_the_oldest_gives_way():
    unfinished: OldestGoes[int] = OldestGoes(4)
    assert [unfinished.arrive(number, f"10.0.0.{number}") for number in range(4)] == [None] * 4
    assert unfinished.arrive(4, "10.0.0.4") == 0
    assert unfinished.arrive(5, "10.0.0.5") == 1
    assert len(unfinished) == 4


def test_one_that_has_greeted_gives_way_to_nobody():
    unfinished: OldestGoes[int] = OldestGoes(4)
    for number in range(4):
        unfinished.arrive(number, f"10.0.0.{number}")
    unfinished.leave(0)
    assert unfinished.arrive(4, "10.0.0.4") is None
    assert unfinished.arrive(5, "10.0.0.5") == 1


def test_an_address_with_half_of_all_places_takes_only_its_own():
    unfinished: OldestGoes[str] = OldestGoes(8)
    assert unfinished.arrive("a", "10.0.0.1") is None
    assert [unfinished.arrive(f"b{number}", "10.0.0.2") for number in range(6)] == [None] * 4 + ["b0", "b1"]
    assert unfinished.arrive("c", "10.0.0.3") is None


def test_where_many_addresses_come_the_one_with_most_gives_way():
    unfinished: OldestGoes[str] = OldestGoes(8)
    unfinished.arrive("first", "10.0.0.9")
    for number in range(3):
        unfinished.arrive(f"many{number}", "10.0.0.1")
    for number in range(4):
        unfinished.arrive(f"one{number}", f"10.0.1.{number}")
    assert unfinished.arrive("next", "10.0.0.8") == "many0"


def test_who_left_and_never_came_is_left_alone():
    unfinished: OldestGoes[int] = OldestGoes(2)
    unfinished.leave(7)
    unfinished.arrive(1, "10.0.0.1")
    unfinished.leave(1)
    unfinished.leave(1)
    assert len(unfinished) == 0


def full(most: int = 4, address: str = "") -> IdleGoes[int]:
    places: IdleGoes[int] = IdleGoes(most, lambda _: True, reserved=8)
    for number in range(most):
        assert places.arrive(number, address or f"10.0.0.{number}") == ("", None)
    return places


def test_a_full_node_says_what_is_too_much_and_what_would_be_right():
    places = full()
    problem, victim = places.arrive(9, "10.0.0.9")
    assert victim is None
    assert "4 clients are connected, the most this node takes" in problem
    assert "limits.max_clients" in problem
    assert len(places) == 4
    places.known = frozenset({"10.1.0.1"})
    for number in range(10, 18):
        assert places.arrive(number, "10.1.0.1") == ("", None)
    problem, _ = places.arrive(18, "10.1.0.1")
    assert "12 clients are connected, the most this node takes (4, and 8 from the cluster's own machines)" in problem


def test_who_has_never_asked_gives_way_first_and_then_the_longest_idle():
    places = full()
    places.set_idle(
        [
            (0, IDLE_SECONDS + 5, True),
            (1, NEWCOMER_IDLE_SECONDS + 1, False),
            (2, IDLE_SECONDS + 50, True),
            (3, IDLE_SECONDS - 1, True),
        ]
    )
    assert [places.arrive(number, "10.0.1.1")[1] for number in (10, 11, 12)] == [1, 2, 0]
    problem, victim = places.arrive(13, "10.0.1.1")
    assert problem
    assert victim is None


def test_one_that_asks_again_in_time_keeps_its_place():
    busy = {1}
    places: IdleGoes[int] = IdleGoes(2, lambda client: client not in busy)
    places.arrive(1, "10.0.0.1")
    places.arrive(2, "10.0.0.2")
    places.set_idle([(1, 99.0, True), (2, 50.0, True)])
    assert places.arrive(3, "10.0.0.3") == ("", 2)


def test_no_address_has_all_places():
    places: IdleGoes[int] = IdleGoes(16, lambda _: True)
    refused = [bool(places.arrive(number, "10.0.0.1")[0]) for number in range(14)]
    assert refused == [False] * 12 + [True] * 2
    assert "of this address 12 clients" in places.arrive(20, "10.0.0.1")[0]
    assert places.arrive(21, "10.0.0.2") == ("", None)


def test_an_address_with_its_share_gives_way_to_itself_alone():
    places: IdleGoes[int] = IdleGoes(16, lambda _: True)
    for number in range(12):
        places.arrive(number, "10.0.0.1")
    places.arrive(50, "10.0.0.2")
    places.set_idle([(50, 99.0, False), (7, 5.0, False)])
    assert places.arrive(12, "10.0.0.1") == ("", 7)
    assert places.arrive(13, "10.0.0.1")[0]
    # Whom that one passed over may still have to go for somebody else.
    for number in range(20, 23):
        assert places.arrive(number, f"10.0.1.{number}") == ("", None)
    assert places.arrive(30, "10.0.2.1") == ("", 50)


def test_machines_of_the_cluster_find_a_place_where_others_do_not():
    places = full()
    places.known = frozenset({"10.0.9.9"})
    assert places.arrive(8, "10.0.8.8")[0]
    assert places.arrive(9, "10.0.9.9") == ("", None)


def test_a_place_that_was_left_is_free():
    places = full()
    places.leave(2)
    assert places.arrive(9, "10.0.0.9") == ("", None)
    places.leave(77)
    assert len(places) == 4
