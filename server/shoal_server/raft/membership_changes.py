"""Whether a leader may propose a change of membership now: one step at a time, and none that its group could not commit."""

from __future__ import annotations

from shoal_server.raft.config import RaftConfig
from shoal_server.raft.leader import Leader
from shoal_server.raft.log import Log
from shoal_server.raft.membership import ChangeKind, MembershipChange, MembershipHistory, MembershipRefused, changed
from shoal_server.raft.messages import Membership
from shoal_server.raft.quorum import quorum_size


def next_membership(
    leader: Leader,
    node: str,
    log: Log,
    history: MembershipHistory,
    change: MembershipChange,
    config: RaftConfig,
    now: int,
) -> Membership:
    """Return the membership that the change makes of the present one, which `leader`, on `node`, may propose.

    Raises:
        MembershipRefused: not now, or not at all; the message says why and what would work.
    """
    if log.commit_index < leader.first_index:
        raise MembershipRefused("the leader has not committed an entry of its own term yet: try again in a moment")
    if history.current_index > log.commit_index:
        raise MembershipRefused("the change before is not committed yet: one at a time, try again in a moment")
    if leader.transfer is not None:
        raise MembershipRefused("leadership is on its way to another node: ask that one")
    if change.node == node and change.kind != ChangeKind.PROMOTE:
        raise MembershipRefused(f"{node!r} leads the group: transfer leadership first")
    if change.kind == ChangeKind.PROMOTE:
        progress = leader.progress.get(change.node)
        # Under load a learner is never level with the leader; what is on its way to it delays nobody
        # (Raft dissertation, section 4.2.1: the last round of catching up has to be short, not empty).
        caught_up = max(1, log.commit_index - config.promotable_lag_entries)
        if progress is not None and progress.match < caught_up:
            raise MembershipRefused(
                f"{change.node!r} has the log up to {progress.match} of {log.commit_index}: let it catch up first"
            )
    membership = changed(history.current, change)
    if set(membership.voters) != set(history.current.voters):
        alive = leader.supporters(membership.voters, now)
        if len(alive) < quorum_size(len(membership.voters)):
            down = ", ".join(sorted(set(membership.voters) - set(alive)))
            raise MembershipRefused(
                f"of the voters that would be left ({', '.join(membership.voters)}) too few answer for anything to be "
                f"committed, this change with it: bring {down} back, or remove those that are gone for good first"
            )
    return membership
