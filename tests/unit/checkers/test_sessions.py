"""The checker of session guarantees, on histories whose verdict is known and on those of a model."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from shoal_chaos.checkers.sessions import SessionEvent, find_violations


def write(seq: int, invoked: int, completed: int | None, key: bytes = b"k", session: str = "s") -> SessionEvent:
    return SessionEvent(session, key, "write", seq, invoked, completed)


def read(
    seq: int, shard_seq: int, invoked: int, completed: int | None = None, key: bytes = b"k", session: str = "s"
) -> SessionEvent:
    return SessionEvent(session, key, "read", seq, invoked, invoked + 1 if completed is None else completed, shard_seq)


def guarantees(history: list[SessionEvent]) -> list[str]:
    return [violation.guarantee for violation in find_violations(history)]


def test_an_empty_history_and_reads_of_nothing_are_fine() -> None:
    assert find_violations([]) == []
    assert find_violations([read(0, 0, 0), read(0, 0, 5)]) == []


def test_a_session_sees_its_own_write() -> None:
    assert guarantees([write(5, 0, 10), read(5, 5, 11)]) == []
    assert guarantees([write(5, 0, 10), read(4, 5, 11)]) == ["read your writes"]
    assert guarantees([write(5, 0, 10), read(4, 4, 11)]) == ["read your writes"]


def test_a_replica_must_have_applied_the_writes_of_other_keys_too() -> None:
    assert guarantees([write(5, 0, 10), read(1, 5, 11, key=b"other")]) == []
    assert guarantees([write(5, 0, 10), read(1, 4, 11, key=b"other")]) == ["read your writes"]


def test_what_another_session_wrote_binds_nobody_else() -> None:
    assert guarantees([write(5, 0, 10, session="a"), read(1, 1, 11, session="b")]) == []


def test_what_another_shard_numbers_is_not_compared() -> None:
    assert guarantees([write(5, 0, 10), replace(read(1, 1, 11), shard=2)]) == []


def test_a_read_invoked_before_the_write_completed_may_miss_it() -> None:
    assert guarantees([write(5, 0, 10), read(4, 4, 10)]) == []


def test_a_write_without_outcome_and_a_read_without_answer_bind_nothing() -> None:
    unanswered = replace(read(9, 9, 2), completed=None)
    assert guarantees([write(0, 0, 1), write(5, 0, None), unanswered, read(0, 0, 11)]) == []


def test_a_key_that_is_absent_may_have_been_deleted() -> None:
    assert guarantees([write(5, 0, 10), read(0, 6, 11)]) == []
    assert guarantees([write(5, 0, 10), read(0, 4, 11)]) == ["read your writes"]


def test_reads_do_not_go_back() -> None:
    assert guarantees([read(5, 6, 0), read(5, 6, 10), read(7, 7, 20)]) == []
    assert guarantees([read(5, 6, 0), read(4, 6, 10)]) == ["monotonic reads"]
    assert guarantees([read(5, 6, 0), read(5, 5, 10)]) == ["monotonic reads"]
    assert guarantees([read(5, 6, 0, 10), read(4, 4, 10)]) == []


def test_a_deleted_value_does_not_come_back_but_a_new_one_may_follow() -> None:
    assert guarantees([read(5, 5, 0), read(0, 6, 10), read(5, 7, 20)]) == ["monotonic reads"]
    assert guarantees([read(5, 5, 0), read(0, 6, 10), read(0, 6, 20), read(0, 6, 30), read(7, 7, 40)]) == []


def test_the_sentence_names_both_calls() -> None:
    (violation,) = find_violations([write(5, 0, 10), read(4, 4, 11)])
    assert violation.earlier.seq == 5
    assert violation.sentence == (
        "Session s on shard 0: its write 5 of b'k' completed at 10 ns, but its read of b'k' invoked at 11 ns "
        "was answered from a replica at 4, which is before 5."
    )


def modelled(seed: int) -> list[SessionEvent]:
    """Return what sessions record that call one after another and see states as new as their last, or newer."""
    random = Random(seed)
    states: list[dict[bytes, int]] = [{}]
    knows: dict[str, int] = {}
    history: list[SessionEvent] = []
    for number in range(60):
        key, session = random.choice([b"a", b"b"]), random.choice(["one", "two"])
        began, ended = number * 10, number * 10 + 9
        if random.random() < 0.5:
            state = dict(states[-1])
            seq = len(states)
            if random.random() < 0.3:
                state.pop(key, None)
            else:
                state[key] = seq
            states.append(state)
            knows[session] = seq
            history.append(write(seq, began, ended, key, session))
        else:
            at = random.randint(knows.get(session, 0), len(states) - 1)
            knows[session] = at
            history.append(read(states[at].get(key, 0), at, began, ended, key, session))
    random.shuffle(history)
    return history


@given(st.integers(0, 10_000))
def test_histories_of_a_model_pass_and_a_replica_that_is_behind_is_found(seed: int) -> None:
    history = modelled(seed)
    assert find_violations(history) == []
    newest = max((event for event in history if event.kind == "write"), key=lambda event: event.seq)
    behind = read(0, newest.seq - 1, 1000, key=newest.key, session=newest.session)
    old = read(newest.seq - 1, newest.seq, 1000, key=newest.key, session=newest.session)
    assert "read your writes" in guarantees([*history, behind])
    assert newest.seq == 1 or "read your writes" in guarantees([*history, old])


def test_a_replica_of_which_only_bounds_are_known_is_judged_by_the_upper_one() -> None:
    def bounded(most: int) -> SessionEvent:
        return SessionEvent("s", b"other", "read", 0, 2, 3, shard_seq=0, shard_seq_most=most)

    assert guarantees([write(7, 0, 1), bounded(6)]) == ["read your writes"]
    assert guarantees([write(7, 0, 1), bounded(7)]) == []
    # What it had at least is what later reads must reach.
    assert guarantees([bounded(9), read(0, 3, 4)]) == []
