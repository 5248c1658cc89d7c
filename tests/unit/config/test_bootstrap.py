"""The first shard map: every microshard owned once, replicas apart, leaders even."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from shoal.shardmap import Routes
from shoal_server.bootstrap import initial_shard_map
from shoal_server.config import ClusterConfig, parse_config


def config(zones: list[str], microshards: int, shards: int, voters: int, followers: int) -> ClusterConfig:
    nodes = "\n".join(
        f"  - {{id: n{number}, region: r, zone: z{zone}, address: '127.0.0.1:{7000 + number}', data: d{number}}}"
        for number, zone in enumerate(zones)
    )
    settings = f"{{microshards: {microshards}, shards: {shards}, voters: {voters}, followers: {followers}}}"
    text = f"cluster: c\nnodes:\n{nodes}\nkeyspaces:\n  one: {settings}\n  two: {settings}\n"
    return parse_config(text, {}, name="c", folder=Path())


@given(
    st.lists(st.sampled_from("abc"), min_size=4, max_size=9),
    st.integers(1, 64),
    st.integers(1, 24),
    st.sampled_from([1, 3]),
    st.integers(0, 1),
)
def test_any_cluster_gets_a_sound_map(
    zones: list[str], microshards: int, shards: int, voters: int, followers: int
) -> None:
    cluster = config(zones, microshards, min(shards, microshards), voters, followers)
    shard_map = initial_shard_map(cluster)
    assert shard_map == initial_shard_map(cluster), "every node must compute the same"
    Routes(shard_map)  # raises unless every microshard has exactly one shard
    for shard in shard_map.shards:
        assert (len(shard.voters), len(shard.followers)) == (voters, followers)
        assert len(set(shard.replicas)) == len(shard.replicas)
        zone_of = {node.id: node.zone for node in cluster.nodes}
        used = {zone_of[node] for node in shard.replicas}
        assert len(used) == min(len(shard.replicas), len(set(zones))), "as many zones as there are"
    leaders = Counter({node.id: 0 for node in cluster.nodes})
    leaders.update(shard.voters[0] for shard in shard_map.shards)
    assert max(leaders.values()) - min(leaders.values()) <= 1
    sizes = [sum(span.end - span.first for span in shard.ranges) for shard in shard_map.shards]
    assert max(sizes) - min(sizes) <= 1
