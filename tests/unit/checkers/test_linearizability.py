"""The checker of registers, on histories whose verdict is known."""

from __future__ import annotations

from random import Random

from shoal_chaos.checkers.linearizability import NEVER, Found, RegisterOperation, find_violation


def write(value: str, began: float, ended: float = NEVER) -> RegisterOperation:
    return RegisterOperation("w", True, value.encode(), began, ended)


def read(value: str | None, began: float, ended: float) -> RegisterOperation:
    return RegisterOperation("r", False, None if value is None else value.encode(), began, ended)


def exchange(expected: str | None, value: str, began: float, ended: float = NEVER) -> RegisterOperation:
    found = Found(None if expected is None else expected.encode())
    return RegisterOperation("x", True, value.encode(), began, ended, found)


def refusal(expected: str | None, began: float, ended: float) -> RegisterOperation:
    found = Found(None if expected is None else expected.encode(), equal=False)
    return RegisterOperation("x", False, None, began, ended, found)


def test_an_empty_history_and_a_read_of_nothing_are_fine() -> None:
    assert find_violation([]) is None
    assert find_violation([read(None, 0, 1)]) is None


def test_a_read_after_a_write_sees_it() -> None:
    assert find_violation([write("a", 0, 1), read("a", 2, 3)]) is None
    assert find_violation([write("a", 0, 1), read(None, 2, 3)]) is not None


def test_a_read_during_a_write_may_see_either() -> None:
    for seen in ("a", "b"):
        assert find_violation([write("a", 0, 1), write("b", 2, 5), read(seen, 3, 4)]) is None


def test_once_a_new_value_was_read_the_old_one_is_gone() -> None:
    history = [write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)]
    assert find_violation(history) is not None
    assert find_violation([*history[:2], read("a", 3, 4), read("b", 5, 6)]) is None


def test_a_write_without_an_answer_may_take_effect_late_or_never() -> None:
    assert find_violation([write("a", 0, 1), write("b", 2), read("a", 3, 4), read("b", 8, 9)]) is None
    assert find_violation([write("a", 0, 1), write("b", 2), read("a", 8, 9)]) is None
    assert find_violation([write("a", 0, 1), write("b", 2), read("b", 3, 4), read("a", 8, 9)]) is not None


def test_a_write_that_took_effect_twice_is_found() -> None:
    history = [write("a", 0, 6), read("a", 1, 2), write("b", 3, 4), read("a", 7, 8)]
    assert find_violation(history) is not None


def test_a_read_of_what_nobody_wrote_is_found() -> None:
    assert find_violation([write("a", 0, 1), read("z", 2, 3)]) is not None


def test_the_violation_is_cut_to_where_it_first_shows() -> None:
    history = [write("a", 0, 1), read(None, 2, 3)] + [write(f"later{n}", 10 + n, 10.5 + n) for n in range(50)]
    violation = find_violation(history)
    assert violation is not None
    assert len(violation) == 2


def test_histories_of_a_real_register_pass_and_with_one_stale_read_fail() -> None:
    for seed in range(30):
        random = Random(seed)
        history: list[RegisterOperation] = []
        value: str | None = None
        for number in range(200):
            moment = float(number)
            began, ended = moment - random.uniform(0, 3), moment + random.uniform(0, 3)
            if random.random() < 0.5:
                value = f"v{number}"
                history.append(write(value, began, ended))
            else:
                history.append(read(value, began, ended))
        assert find_violation(history) is None
        assert find_violation([*history, write("last", 300, 301), read("v0", 302, 303)]) is not None


def test_an_exchange_is_done_only_on_the_value_it_expects() -> None:
    assert find_violation([exchange(None, "a", 0, 1), exchange("a", "b", 2, 3), read("b", 4, 5)]) is None
    assert find_violation([write("a", 0, 1), exchange("z", "b", 2, 3)]) is not None


def test_two_exchanges_of_one_value_cannot_both_be_done() -> None:
    assert find_violation([write("a", 0, 1), exchange("a", "b", 2, 9), exchange("a", "c", 2, 9)]) is not None
    assert find_violation([write("a", 0, 1), exchange("a", "b", 2, 9), refusal("a", 2, 9)]) is None


def test_an_exchange_is_refused_only_on_another_value() -> None:
    assert find_violation([write("a", 0, 1), refusal("a", 2, 3)]) is not None
    assert find_violation([write("a", 0, 1), refusal("z", 2, 3), refusal(None, 2, 3)]) is None


def test_an_exchange_without_an_answer_may_be_done_where_it_fits_or_never() -> None:
    history = [write("a", 0, 1), exchange("a", "b", 2)]
    assert find_violation([*history, read("a", 3, 4)]) is None
    assert find_violation([*history, read("b", 3, 4)]) is None
    assert find_violation([write("a", 0, 1), exchange("z", "b", 2), read("b", 3, 4)]) is not None
