"""The request to settle what was begun on a shard without the managers: by hand, or under managers that were lost.

The shards' logs decide what a shard has, so the map follows them. A migration before the seal is undone, since nobody
knows whether it was wanted; from the seal on it can only be finished. Where none is under way, the map gives each microshard
to the shard that has it by what its leader says now; which migrations brought it there, and through which shards, is no
matter. What a split has made is taken into the map. Nothing here says anything about a shard that an operation is on.
"""

from __future__ import annotations

from msgspec.structs import replace
from shoal.map_changes import with_migrated
from shoal.protocol.migration import MigrationEnd, MigrationStatus
from shoal.shardmap import Ranges, Shard, microshards_in, ranges_of, without_ranges

from shoal_shardmanager.control.holdings import described_ranges
from shoal_shardmanager.control.observed import Leading
from shoal_shardmanager.control.requests.common import (
    accept,
    check_idle,
    known_leader,
    known_shard,
    listed,
)
from shoal_shardmanager.control.requests.model import Accepted, Refused, SettleRequest, Situation, Why
from shoal_shardmanager.control.rows import FollowLogs, MoveMicroshards, SplitShard, Step

_UNDO = "it was begun without the shard manager"


def settle(request: SettleRequest, situation: Situation) -> Accepted:
    shard = known_shard(situation.state, request.shard)
    check_idle(situation.state, shard.id)
    replica = known_leader(situation, shard.id).replica
    if replica.outgoing is not None:
        return _migration(shard.id, replica.outgoing.other, replica.outgoing, situation)
    if replica.incoming is not None:
        return _migration(replica.incoming.other, shard.id, replica.incoming, situation)
    missing, beyond = without_ranges(shard.ranges, replica.ranges), without_ranges(replica.ranges, shard.ranges)
    if not missing and not beyond:
        raise Refused(
            Why.NOT_FOUND,
            f"there is nothing to settle: shard {shard.id} takes part in no migration, and has by its log what the map "
            "gives it",
        )
    return _following(shard, missing, beyond, situation)


# -- a migration that one of its shards is in


def _migration(source_id: int, target_id: int, stray: MigrationStatus, situation: Situation) -> Accepted:
    source, target = known_shard(situation.state, source_id), known_shard(situation.state, target_id)
    for shard in (source, target):
        check_idle(situation.state, shard.id)
    leading_source, leading_target = known_leader(situation, source.id), known_leader(situation, target.id)
    number = stray.migration
    work = MoveMicroshards(source.id, target.id, stray.ranges, number)
    outgoing = leading_source.replica.outgoing
    sealed = outgoing is not None and outgoing.migration == number and outgoing.sealed
    if not sealed and leading_source.ended(number) is not MigrationEnd.FORGOTTEN:
        return _undoing(work, situation)
    if not _can_be_finished(number, leading_target, sealed=sealed):
        raise Refused(
            Why.REFUSED,
            f"shard {source.id} has parted with microshards {described_ranges(stray.ranges)}, and shard {target.id} can get "
            "them no more: no step gives them back; keep both shards as they are, and report it",
        )
    steps = (
        f"what shard {target.id} lacks of microshards {described_ranges(stray.ranges)} is copied from shard {source.id}, and "
        f"shard {target.id} serves them",
        "every node hears of it",
        f"shard {source.id} deletes their rows",
    )
    return accept(situation, work, Step.SEAL, steps=steps)


def _can_be_finished(number: int, leading_target: Leading, *, sealed: bool) -> bool:
    """Say whether the target has the microshards, or can get what it lacks of them."""
    incoming = leading_target.replica.incoming
    begun = incoming is not None and incoming.migration == number
    return (begun and sealed) or leading_target.ended(number) is MigrationEnd.ADOPTED


def _undoing(work: MoveMicroshards, situation: Situation) -> Accepted:
    steps = (
        f"shard {work.source} gives migration {work.migration} up: it still has microshards {described_ranges(work.ranges)}",
        f"shard {work.target} gives it up, and deletes what was copied",
    )
    accepted = accept(situation, work, Step.UNDO, steps=steps)
    row = replace(accepted.operation, undo=_UNDO)
    changes = tuple(row if change is accepted.operation else change for change in accepted.changes)
    return Accepted(row, changes, steps)


# -- a shard that is done with what the map does not know of


def _following(shard: Shard, missing: Ranges, beyond: Ranges, situation: Situation) -> Accepted:
    """Have the map give microshards to the shards that have them, however they came there: through others, or in several."""
    lacking, spare = set(microshards_in(missing)), set(microshards_in(beyond))
    state, observed = situation.state, situation.observed
    moves: list[tuple[int, int, set[int]]] = []
    for other in state.map.shards:
        if other.keyspace != shard.keyspace or other.id == shard.id:
            continue
        theirs = spare.intersection(microshards_in(other.ranges))
        holder = known_leader(situation, other.id) if theirs else observed.leader(other.id)
        held: set[int] = set() if holder is None else set(microshards_in(holder.replica.ranges))
        if twice := theirs & held:
            raise Refused(
                Why.REFUSED,
                f"shards {shard.id} and {other.id} both have microshards {described_ranges(ranges_of(twice))} by their logs: "
                "keep both as they are, and report it",
            )
        found = [(shard.id, other.id, lacking & held), (other.id, shard.id, theirs)]
        if holder is None or not any(microshards for _, _, microshards in found):
            continue
        check_idle(state, other.id)
        if holder.replica.outgoing or holder.replica.incoming:
            raise Refused(
                Why.REFUSED,
                f"shard {other.id}, which is to settle with shard {shard.id}, takes part in a migration: "
                f"`shoal settle {other.id}` first",
            )
        lacking -= held
        moves += [move for move in found if move[2]]
    if not moves:
        return _split_off(shard, missing, situation)
    version = state.next_map_version(observed.newest_map())
    shard_map = state.map
    for source, target, microshards in moves:
        shard_map = with_migrated(shard_map, source, target, ranges_of(microshards), version)
    steps = [
        f"microshards {described_ranges(ranges_of(microshards))} are shard {target}'s in the map, no longer shard {source}'s"
        for source, target, microshards in moves
    ]
    shards = {number for source, target, _ in moves for number in (source, target)}
    work = FollowLogs(tuple(sorted(shards)), sum(len(microshards) for _, _, microshards in moves))
    return accept(
        situation, work, Step.SPREAD, shard_map, steps=(*steps, "every node hears of it"), version=shard_map.version
    )


def _split_off(shard: Shard, missing: Ranges, situation: Situation) -> Accepted:
    """Take a shard into the map that has what this one lacks, and that the map does not name."""
    problem = (
        f"shard {shard.id} lacks microshards {described_ranges(missing)} by its log, and no leader that the managers "
        "hear of has them from it: `shoal doctor` says whom they do not hear"
    )
    for child, holder in sorted(situation.observed.leaders().items()):
        held = set(microshards_in(holder.replica.ranges)) & set(microshards_in(missing))
        if not held or situation.state.shard(child) is not None:
            continue
        parent, unknown = _parent_of(child, held, situation)
        if parent is not None and parent.keyspace == shard.keyspace:
            check_idle(situation.state, parent.id)
            return _new_shard(parent, child, held, holder, situation)
        problem = unknown or problem
    raise Refused(Why.REFUSED, problem)


def _parent_of(child: int, held: set[int], situation: Situation) -> tuple[Shard | None, str]:
    """Return the shard that `child` was split off, or None and why the map cannot name it.

    That need not be the shard which lacks the microshards: they may have been given on before. And a voter that missed the
    split opens no replica of the child for as long as its replica of the parent on the map seems yet to make it.
    """
    child_has = f"shard {child}, which the map does not name, has microshards {described_ranges(ranges_of(held))}"
    parents = sorted(situation.observed.parents(child))
    if not parents:
        return None, f"{child_has}, and no shard that the managers hear of says to have split it off: keep it as it is"
    if len(parents) > 1:
        return (
            None,
            f"{child_has}, and shards {listed(parents)} each have split one of that number off: keep all as they are",
        )
    parent = situation.state.shard(parents[0])
    if parent is None:
        return None, (
            f"{child_has}, and was split off shard {parents[0]}, which the map does not name either: settle the shard first "
            "that the map gives the microshards of that one"
        )
    return parent, ""


def _new_shard(parent: Shard, child: int, held: set[int], holder: Leading, situation: Situation) -> Accepted:
    ranges, counters = ranges_of(held), situation.state.counters
    members = set(known_leader(situation, parent.id).members)
    reported = [
        replica
        for node in situation.observed.reports
        if (replica := situation.observed.replica(node, child)) is not None
    ]
    # Two shards may have been split off under one number: every replica that has anything has to be the same one's.
    alike = all(
        (set(replica.voters + replica.followers), set(microshards_in(replica.ranges))) == (members, held)
        for replica in (holder.replica, *reported)
        if replica.ranges
    )
    if child in counters.dropped or not alike:
        raise Refused(
            Why.REFUSED,
            f"shard {child}, which the map does not name, has microshards {described_ranges(ranges)} of shard {parent.id}, but "
            "one of its replicas has others, or other members, or it was dropped: it is not, or not everywhere, what was "
            "split off",
        )
    steps = (
        f"shard {child}, with microshards {described_ranges(ranges)}, comes into the map as split off shard {parent.id}",
        "every node hears of it",
    )
    work = SplitShard(parent.id, child, ranges)
    grown = replace(counters, next_shard=max(counters.next_shard, child + 1))
    return accept(situation, work, Step.SPLIT, steps=steps, counters=grown)
