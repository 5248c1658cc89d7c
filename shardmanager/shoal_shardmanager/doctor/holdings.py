"""The doctor's rules about what shards have by their own logs: microshards nobody serves, migrations nobody drives."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.shardmap import microshards_in

from shoal_shardmanager.doctor.evidence import Evidence, Finding, Severity


def unserved_microshards(evidence: Evidence) -> Iterator[Finding]:
    """Shards that do not have what the newest map says, and whoever else has it.

    While microshards are handed over that is so for milliseconds; the survey was repeated until it was not, or for longer.
    """
    shards = evidence.survey.shard_map.shards
    known = {shard.id for shard in shards}
    unknown = [
        replica
        for report in evidence.survey.nodes
        if report.status is not None
        for replica in report.status.replicas
        if replica.shard not in known and replica.role == "leader"
    ]
    for shard in shards:
        leader = evidence.survey.leader(shard.id)
        missing = evidence.survey.unserved(shard)
        if leader is None or not missing:
            continue
        holders = [other.shard for other in unknown if not set(missing).isdisjoint(microshards_in(other.ranges))]
        others = ", ".join(map(str, holders[:5]))
        where = f"; shard {others} has some of them, which the map does not name" if holders else ""
        handed_over = leader.replica.outgoing is not None or leader.replica.incoming is not None
        yield Finding(
            Severity.CRITICAL,
            "microshards_unserved",
            f"the map gives shard {shard.id} {len(missing)} microshards (the first is {missing[0]}) that it does not have by "
            f"its log: their keys can be neither read nor written{where}",
            _handed_over(shard.id, evidence) if handed_over else _done_past(shard.id),
            shard=shard.id,
        )


def _done_past(shard: int) -> str:
    return (
        "if a split or a move is under way, it is over within seconds; else it was made without the shard manager, whose "
        f"map has replaced the nodes': `shoal settle {shard}` has the map follow the shards, which keep their rows"
    )


def _handed_over(shard: int, evidence: Evidence) -> str:
    if evidence.control.operations:
        return "they are being handed over, which takes milliseconds: see in `shoal operations` what that waits for"
    return f"they were being handed over, and no operation does it: `shoal settle {shard}` finishes that"


def stray_migrations(evidence: Evidence) -> Iterator[Finding]:
    """Migrations that no operation of the managers drives."""
    if not evidence.control.asked or not evidence.control.manager or evidence.control.operations:
        return
    for shard in evidence.survey.shard_map.shards:
        leader = evidence.survey.leader(shard.id)
        if leader is not None and (leader.replica.outgoing or leader.replica.incoming):
            yield Finding(
                Severity.WARNING,
                "migration_without_operation",
                f"shard {shard.id} takes part in a migration that no operation of the shard manager is about: it can be "
                f"neither split, merged nor moved from meanwhile",
                "if an operation has just begun or ended, look again; else it was begun without the shard manager: "
                f"`shoal settle {shard.id}` undoes it, or finishes it where the microshards have changed hands already",
                shard=shard.id,
            )
