"""Which of the replicas that made a digest of the same rows have the right ones. Pure.

A copy is right if more than half of all voters have it of their own, and no replica has it alone. Silent voters count among
all, so two partial views never have two right copies. Who got its rows by a snapshot since all replicas were last found to be
the same does not have them of its own: it says what the leader of then said, however many were made of that one. Followers have
no voice for the same reason, but that the only voter is not believed against them. Where no copy is right nobody knows which
one is, and none may be replaced by another: an operator has to look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shoal_server.raft.messages import Membership
from shoal_server.shard.commands import DigestCursor


class Copy(NamedTuple):
    """What a replica has of a slice: the digest of it, and where its rows end."""

    digest: bytes
    next: DigestCursor | None


@dataclass(frozen=True, slots=True)
class CopyVerdict:
    """What reports come to.

    Args:
        copies: the nodes by the copy that they have, those of most nodes first.
        right: the right copy, None where nobody knows.
        wrong: the nodes that have another than the right one.
    """

    copies: tuple[tuple[str, ...], ...]
    right: Copy | None
    wrong: tuple[str, ...]

    @property
    def undecided(self) -> bool:
        """Whether replicas differ, and nobody knows which are right."""
        return len(self.copies) > 1 and self.right is None


def judge(reports: Mapping[str, Copy], membership: Membership, copied: Collection[str] = ()) -> CopyVerdict:
    """Judge what members of a group have reported of one slice at one index.

    Args:
        membership: the group's at that index; who is not in it does not count.
        copied: nodes whose rows came by a snapshot since all replicas were found to be the same.
    """
    members = membership.voters + membership.learners
    nodes_by_copy: dict[Copy, list[str]] = {}
    for node in members:
        if node in reports:
            nodes_by_copy.setdefault(reports[node], []).append(node)
    alone = 1 if len(nodes_by_copy) > 1 else 0
    right = next(
        (
            copy
            for copy, nodes in nodes_by_copy.items()
            if 2 * sum(voter in nodes and voter not in copied for voter in membership.voters) > len(membership.voters)
            and len(nodes) > alone
        ),
        None,
    )
    by_size = sorted(nodes_by_copy.values(), key=len, reverse=True)
    wrong = [] if right is None else [node for copy, nodes in nodes_by_copy.items() if copy != right for node in nodes]
    return CopyVerdict(tuple(map(tuple, by_size)), right, tuple(wrong))
