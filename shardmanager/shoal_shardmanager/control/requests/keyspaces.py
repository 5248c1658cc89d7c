"""Requests about keyspaces: create, alter, drop."""

from __future__ import annotations

import re

from msgspec.structs import replace
from shoal.bounds import (
    MAX_BYTES,
    MAX_FOLLOWERS,
    MAX_MICROSHARDS,
    MAX_MS,
    MAX_QUOTA_RATE,
    MAX_SHARD,
    MAX_SHARDS,
    MAX_TTL_MS,
    MAX_VOTERS,
)
from shoal.shardmap import Keyspace, MicroshardRange, Shard

from shoal_shardmanager import placement
from shoal_shardmanager.control.placement_input import SILENT, placement_keyspace, placement_settings, placement_state
from shoal_shardmanager.control.requests.common import accept, known_keyspace, listed
from shoal_shardmanager.control.requests.model import Accepted, KeyspaceRequest, Refused, Situation, Why
from shoal_shardmanager.control.rows import (
    AlterKeyspace,
    CreateKeyspace,
    DropKeyspace,
    NodeState,
    PolicyRow,
    Step,
)
from shoal_shardmanager.control.state import ClusterState, ForgetPolicy

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
DELIMITER_BYTES_MAX = 16


def create_keyspace(request: KeyspaceRequest, situation: Situation) -> Accepted:
    state = situation.state
    if NAME.fullmatch(request.name) is None:
        raise Refused(
            Why.WRONG,
            f"{request.name!r} cannot be a keyspace's name: 1 to 63 letters, digits and '_.-', the first no sign",
        )
    if any(keyspace.name == request.name for keyspace in state.map.keyspaces):
        raise Refused(Why.CONFLICT, f"there is a keyspace {request.name!r} already; `shoal keyspace alter` changes it")
    microshards = 1024 if request.microshards is None else request.microshards
    shards = min(8, microshards) if request.shards is None else request.shards
    delimiter = b"/" if request.delimiter is None else request.delimiter
    _bounded("microshards", microshards, 1, MAX_MICROSHARDS)
    _bounded("shards", shards, 1, microshards)
    if len(delimiter) > DELIMITER_BYTES_MAX:
        raise Refused(Why.WRONG, f"a delimiter has at most {DELIMITER_BYTES_MAX} bytes")
    first = state.counters.next_shard
    if len(state.map.shards) + shards > MAX_SHARDS or first + shards - 1 > MAX_SHARD:
        raise Refused(
            Why.REFUSED,
            f"a cluster has at most {MAX_SHARDS} shards, with numbers up to {MAX_SHARD}: there are "
            f"{len(state.map.shards)}, and the next number is {first}",
        )
    number = state.counters.next_keyspace
    policy = _policy(PolicyRow(number, 3), request, state)
    keyspace = Keyspace(
        number,
        request.name,
        microshards,
        delimiter,
        _staleness(request.max_staleness_ms, 5_000),
        _ttl(request.default_ttl_ms, 0),
    )
    keyspace = _with_quotas(keyspace, request)
    ids = tuple(range(first, first + shards))
    _check_nodes_to_found_on(policy, situation)
    placed = _placed(keyspace, policy, ids, situation)
    shard_map = state.map
    after = replace(
        shard_map,
        version=shard_map.version + 1,
        keyspaces=(*shard_map.keyspaces, keyspace),
        shards=(*shard_map.shards, *placed),
    )
    counters = replace(state.counters, next_keyspace=number + 1, next_shard=first + shards)
    work = CreateKeyspace(number, request.name, ids)
    steps = tuple(
        f"shard {shard.id}: microshards {shard.ranges[0].first} to {shard.ranges[0].end - 1} on "
        f"{' '.join((*shard.voters, *(f'({node})' for node in shard.followers)))}"
        for shard in placed
    )
    return accept(situation, work, Step.FOUND, after, policy, steps=steps, version=after.version, counters=counters)


def _check_nodes_to_found_on(policy: PolicyRow, situation: Situation) -> None:
    """Refuse to found shards on nodes that could not open them: those are silent, or take no writes."""
    active = [row.id for _, row in sorted(situation.state.nodes.items()) if row.state is NodeState.ACTIVE]
    unfit = {
        node: SILENT if status is None else status.not_writable
        for node in active
        if (status := situation.observed.fresh(node)) is None or status.not_writable
    }
    needed, able = policy.voters + policy.followers, len(active) - len(unfit)
    if able < needed:
        reasons = listed([f"{node}: {reason}" for node, reason in unfit.items()])
        raise Refused(
            Why.REFUSED,
            f"its replicas need {needed} nodes that answer and take writes, and {able} do ({reasons}): mend these, add "
            "nodes, or ask for fewer replicas",
        )


def _placed(keyspace: Keyspace, policy: PolicyRow, ids: tuple[int, ...], situation: Situation) -> list[Shard]:
    known = placement_state(situation.state, situation.observed, situation.loads)
    wanted = [placement.NewShard(shard, keyspace.id) for shard in ids]
    with_new = placement.State(known.nodes, (*known.keyspaces, placement_keyspace(policy, keyspace.name)), known.shards)
    first = placement.initial(with_new, placement_settings(situation.state.settings), wanted)
    if first.refusals:
        refusal = first.refusals[0]
        raise Refused(Why.REFUSED, f"{refusal.subject}: {refusal.reason}: {refusal.remedy}, or ask for fewer replicas")
    count = len(ids)
    return [
        Shard(
            shard.id,
            keyspace.id,
            (MicroshardRange(keyspace.microshards * part // count, keyspace.microshards * (part + 1) // count),),
            shard.voters,
            shard.followers,
            founders=shard.voters,
            founding_followers=shard.followers,
        )
        for part, shard in enumerate(first.shards)
    ]


def alter_keyspace(request: KeyspaceRequest, situation: Situation) -> Accepted:
    state = situation.state
    keyspace = known_keyspace(state, request.name)
    if request.microshards is not None or request.delimiter is not None:
        raise Refused(
            Why.WRONG,
            "microshards and delimiter say where each key is, and are fixed: create another keyspace, and copy",
        )
    if request.shards is not None:
        raise Refused(Why.WRONG, "the number of shards of a keyspace cannot be set once it is there")
    policy = _policy(state.policies[keyspace.id], request, state)
    settings = replace(
        _with_quotas(keyspace, request),
        max_staleness_ms=_staleness(request.max_staleness_ms, keyspace.max_staleness_ms),
        default_ttl_ms=_ttl(request.default_ttl_ms, keyspace.default_ttl_ms),
    )
    if policy == state.policies[keyspace.id] and settings == keyspace:
        raise Refused(Why.CONFLICT, f"keyspace {request.name!r} is so already")
    shard_map = state.map
    after = replace(
        shard_map,
        version=shard_map.version + 1,
        keyspaces=tuple(settings if known.id == keyspace.id else known for known in shard_map.keyspaces),
    )
    steps = [f"every node hears of the settings of {request.name!r}"]
    before = state.policies[keyspace.id]
    if (policy.voters, policy.followers) != (before.voters, before.followers):
        steps.append(f"then `shoal rebalance` gives each shard {policy.voters} voters and {policy.followers} followers")
    work = AlterKeyspace(keyspace.id, request.name)
    return accept(situation, work, Step.SPREAD, after, policy, steps=tuple(steps), version=after.version)


def drop_keyspace(name: str, situation: Situation) -> Accepted:
    state = situation.state
    keyspace = known_keyspace(state, name)
    ids = tuple(shard.id for shard in state.map.shards if shard.keyspace == keyspace.id)
    busy = [row.id for row in state.running() if not set(row.shards).isdisjoint(ids)]
    if busy:
        raise Refused(
            Why.REFUSED, f"operation {busy[0]} works on shards of {name!r}: wait for it, or `shoal cancel {busy[0]}`"
        )
    shard_map = state.map
    after = replace(
        shard_map,
        version=shard_map.version + 1,
        keyspaces=tuple(known for known in shard_map.keyspaces if known.id != keyspace.id),
        shards=tuple(shard for shard in shard_map.shards if shard.keyspace != keyspace.id),
    )
    counters = replace(state.counters, dropped=state.counters.dropped + ids)
    steps = (f"every node forgets keyspace {name!r}", f"the replicas of its {len(ids)} shards are deleted for ever")
    return accept(
        situation,
        DropKeyspace(keyspace.id, name, ids),
        Step.SPREAD,
        after,
        ForgetPolicy(keyspace.id),
        steps=steps,
        version=after.version,
        counters=counters,
    )


def _policy(base: PolicyRow, request: KeyspaceRequest, state: ClusterState) -> PolicyRow:
    policy = PolicyRow(
        base.keyspace,
        base.voters if request.voters is None else request.voters,
        base.followers if request.followers is None else request.followers,
        base.required if request.required is None else request.required,
        base.leader_regions if request.leader_regions is None else request.leader_regions,
        base.follower_regions if request.follower_regions is None else request.follower_regions,
    )
    _bounded("voters", policy.voters, 1, MAX_VOTERS)
    _bounded("followers", policy.followers, 0, MAX_FOLLOWERS)
    if policy.voters % 2 == 0:
        raise Refused(
            Why.WRONG, f"{policy.voters} voters bear no more failures than {policy.voters - 1}: ask for an odd number"
        )
    replicas = policy.voters + policy.followers
    nodes = [row for row in state.nodes.values() if row.state is NodeState.ACTIVE]
    if replicas > len(nodes):
        raise Refused(
            Why.REFUSED,
            f"{policy.voters} voters and {policy.followers} followers need {replicas} nodes, and {len(nodes)} are "
            "active: add nodes, or ask for fewer replicas",
        )
    regions = {row.region for row in nodes}
    for region in (*policy.required, *policy.leader_regions, *policy.follower_regions):
        if region not in regions:
            raise Refused(
                Why.NOT_FOUND, f"no active node is in region {region!r}; regions are {listed(sorted(regions))}"
            )
    for region, count in policy.required.items():
        _bounded(f"replicas required in region {region!r}", count, 0, replicas)
    if sum(policy.required.values()) > replicas:
        raise Refused(Why.WRONG, f"the regions require {sum(policy.required.values())} replicas, of {replicas} in all")
    return policy


def _with_quotas(keyspace: Keyspace, request: KeyspaceRequest) -> Keyspace:
    """Return the keyspace with the quotas that are asked for; those that are not named stay."""
    asked = {"reads_per_second": request.reads_per_second, "writes_per_second": request.writes_per_second}
    for name, value in asked.items():
        if value is not None:
            _bounded(name, value, 0, MAX_QUOTA_RATE)
    if request.max_bytes is not None:
        _bounded("max_bytes", request.max_bytes, 0, MAX_BYTES)
    return replace(
        keyspace,
        reads_per_second=_or_known(request.reads_per_second, keyspace.reads_per_second),
        writes_per_second=_or_known(request.writes_per_second, keyspace.writes_per_second),
        max_bytes=_or_known(request.max_bytes, keyspace.max_bytes),
    )


def _or_known(asked: int | None, known: int) -> int:
    return known if asked is None else asked


def _staleness(asked: int | None, known: int) -> int:
    if asked is not None and asked <= 0:
        raise Refused(Why.WRONG, "the staleness bound must be more than 0")
    return known if asked is None else _at_most("max_staleness_ms", asked, MAX_MS)


def _ttl(asked: int | None, known: int) -> int:
    if asked is not None and asked < 0:
        raise Refused(Why.WRONG, "a default TTL is 0 (rows never expire) or more")
    return known if asked is None else _at_most("default_ttl_ms", asked, MAX_TTL_MS)


def _at_most(name: str, value: int, most: int) -> int:
    """More than it goes into no map that nodes could read."""
    if value > most:
        raise Refused(Why.WRONG, f"{name}: at most {most}, a hundred years, not {value}")
    return value


def _bounded(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise Refused(Why.WRONG, f"{name}: from {low} to {high}, not {value}")
