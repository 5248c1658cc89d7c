"""Which replicas are right: decided where it is certain, and nowhere else."""

from __future__ import annotations

import itertools

import pytest
from shoal_server.node.verdicts import Copy, judge
from shoal_server.raft.messages import Membership
from shoal_server.shard.commands import DigestCursor

COPIES = {letter: Copy(letter.encode(), None) for letter in "ABC"}


def judged(voters: str, followers: str = "", silent: str = "") -> tuple[str, tuple[str, ...]]:
    """Judge replicas v0, v1, ... and f0, f1, ... by the letters of their copies; return the right one and who is wrong."""
    names = [f"v{place}" for place in range(len(voters + silent))], [f"f{place}" for place in range(len(followers))]
    reports = {name: COPIES[letter] for name, letter in zip(names[0] + names[1], voters + followers, strict=False)}
    if silent:
        reports = {name: COPIES[letter] for name, letter in zip(names[0], voters, strict=False)} | {
            name: COPIES[letter] for name, letter in zip(names[1], followers, strict=True)
        }
    verdict = judge(reports, Membership(1, tuple(names[0]), tuple(names[1])))
    return "" if verdict.right is None else verdict.right.digest.decode(), verdict.wrong


@pytest.mark.parametrize(
    ("voters", "followers", "silent", "right", "wrong"),
    [
        ("AAA", "", "", "A", ()),
        ("AAB", "", "", "A", ("v2",)),
        ("BAA", "", "", "A", ("v0",)),
        ("ABC", "", "", "", ()),
        ("AB", "", "", "", ()),
        # One voter is silent: two of three are still most voters, one is not.
        ("AA", "", "-", "A", ()),
        ("AB", "", "-", "", ()),
        ("AAB", "", "--", "", ()),
        ("AAAB", "", "-", "A", ("v3",)),
        # Followers are judged by the voters,
        ("AAA", "B", "", "A", ("f0",)),
        ("AAB", "AB", "", "A", ("v2", "f1")),
        # however many they are,
        ("AAB", "BBB", "", "A", ("v2", "f0", "f1", "f2")),
        # but the only voter is not believed alone.
        ("A", "B", "", "", ()),
        ("A", "BB", "", "", ()),
        ("A", "", "", "A", ()),
        ("A", "AB", "", "A", ("f1",)),
    ],
)
def test_a_copy_is_right_if_most_voters_have_it_and_none_has_it_alone(
    voters: str, followers: str, silent: str, right: str, wrong: tuple[str, ...]
) -> None:
    assert judged(voters, followers, silent) == (right, wrong)


def test_two_partial_views_of_the_same_replicas_never_have_two_right_copies() -> None:
    names = tuple(f"v{place}" for place in range(5))
    membership = Membership(1, names)
    for letters in itertools.product("AB", repeat=5):
        copies = {name: COPIES[letter] for name, letter in zip(names, letters, strict=True)}
        rights = {
            judge({name: copies[name] for name in chosen}, membership).right
            for size in range(6)
            for chosen in itertools.combinations(names, size)
        }
        assert len(rights - {None}) <= 1


@pytest.mark.parametrize(
    ("voters", "copied", "right", "wrong"),
    [
        # v2 is a copy of whoever led: most voters have its rows of their own all the same, or have not.
        ("AAB", "v2", "A", ("v2",)),
        ("AAAB", "v2", "", ()),
        ("AAAAB", "v3", "A", ("v4",)),
        ("ABA", "v2", "", ()),
        ("BAA", "v1 v2", "", ()),
        ("AAA", "v0 v1 v2", "", ()),
    ],
)
def test_a_copy_of_another_replica_says_nothing_of_its_own(
    voters: str, copied: str, right: str, wrong: tuple[str, ...]
) -> None:
    names = tuple(f"v{place}" for place in range(len(voters)))
    reports = {name: COPIES[letter] for name, letter in zip(names, voters, strict=True)}
    verdict = judge(reports, Membership(1, names), copied.split())
    assert ("" if verdict.right is None else verdict.right.digest.decode(), verdict.wrong) == (right, wrong)
    assert verdict.undecided == (right == "" and len(set(voters)) > 1)


def test_where_rows_end_is_part_of_a_copy() -> None:
    reports = {"v0": Copy(b"A", None), "v1": Copy(b"A", None), "v2": Copy(b"A", DigestCursor(2, b"k"))}
    assert judge(reports, Membership(1, ("v0", "v1", "v2"))).wrong == ("v2",)


def test_who_is_no_member_does_not_count() -> None:
    reports = {"v0": COPIES["A"], "v1": COPIES["A"], "v2": COPIES["A"], "gone": COPIES["B"]}
    verdict = judge(reports, Membership(1, ("v0", "v1", "v2")))
    assert (verdict.copies, verdict.wrong, verdict.undecided) == ((("v0", "v1", "v2"),), (), False)


def test_copies_are_told_apart_those_of_most_nodes_first() -> None:
    reports = {"v0": COPIES["B"], "v1": COPIES["A"], "v2": COPIES["A"], "v3": COPIES["C"]}
    verdict = judge(reports, Membership(1, ("v0", "v1", "v2", "v3")))
    assert verdict.copies == (("v1", "v2"), ("v0",), ("v3",))
    assert verdict.undecided
