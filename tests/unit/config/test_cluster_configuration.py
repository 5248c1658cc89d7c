"""cluster.yaml: what is right is read with its units, what is wrong is said with its line and the nearest right name."""

from __future__ import annotations

from pathlib import Path

import pytest
from shoal_server.config import ClusterConfig, ConfigError, load_config, parse_config

GOOD = """\
cluster: demo
nodes:
  - {id: n1, zone: a, address: 127.0.0.1:7400, data: ./data/n1}
  - {id: n2, zone: b, address: 127.0.0.1:7401, data: ./data/n2}
  - {id: n3, zone: c, address: 127.0.0.1:7402, data: /elsewhere/n3}
keyspaces:
  default: {microshards: 64, shards: 4}
"""


def parse(text: str, **environment: str) -> ClusterConfig:
    return parse_config(text, environment, name="cluster.yaml", folder=Path("/etc/shoal"))


def problems(text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environment)
    return caught.value.problems


def test_defaults_fill_in_and_folders_are_relative_to_the_file() -> None:
    config = parse(GOOD)
    assert config.keyspaces["default"].voters == 3
    assert config.keyspaces["default"].delimiter == "/"
    assert config.timing.support_ns == 1_000_000_000
    assert config.limits.max_value_bytes == 1 << 20
    assert [str(node.data) for node in config.nodes] == ["/etc/shoal/data/n1", "/etc/shoal/data/n2", "/elsewhere/n3"]


def test_durations_and_sizes_have_units() -> None:
    config = parse(GOOD + "timing: {support: 1500ms}\nstorage: {block_cache: 8MiB}\n")
    assert config.timing.support_ns == 1_500_000_000
    assert config.storage.block_cache_bytes == 8 << 20


def test_the_environment_overrides_scalars() -> None:
    config = parse(
        GOOD,
        SHOAL_CLUSTER="other",
        SHOAL_TIMING_SUPPORT="2s",
        SHOAL_KEYSPACES_DEFAULT_SHARDS="8",
        SHOAL_LIMITS_MAX_VALUE="2MiB",
        SHOAL_URL="shoal://x",
        HOME="/root",
    )
    assert config.cluster == "other"
    assert config.timing.support_ns == 2_000_000_000
    assert config.keyspaces["default"].shards == 8
    assert config.limits.max_value_bytes == 2 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("address: 127.0.0.1:7401", "adress: 127.0.0.1:7401"),
         "cluster.yaml:4: nodes[1].adress: unknown setting; did you mean 'address'?"),
        (GOOD + "timming: {}\n", "cluster.yaml:8: timming: unknown setting; did you mean 'timing'?"),
        (GOOD.replace("id: n2", "id: n1"), "cluster.yaml:4: nodes[1].id: id 'n1' is already that of nodes[0].id"),
        (GOOD.replace("7401", "7400"),
         "cluster.yaml:4: nodes[1].address: address '127.0.0.1:7400' is already that of nodes[0].address"),
        (GOOD.replace("data/n2", "data/n1"),
         "cluster.yaml:4: nodes[1].data: data folder 'data/n1' is already that of nodes[0].data"),
        (GOOD.replace("microshards: 64", "voters: 5"),
         "cluster.yaml:7: keyspaces.default: 5 voters and 0 followers need 5 nodes, there are 3: "
         "add nodes or ask for fewer replicas"),
        (GOOD.replace("shards: 4", "shards: 65"),
         "cluster.yaml:7: keyspaces.default: 65 shards cannot share 64 microshards: ask for fewer shards"),
        (GOOD.replace("127.0.0.1:7401", "localhost"),
         "cluster.yaml:4: nodes[1].address: 'localhost' is not an address: write host:port, such as 127.0.0.1:7400"),
        (GOOD + "timing: {support: 5}\n",
         "cluster.yaml:8: timing.support: 5 is not a duration: write a number and ns, us, ms, s, m or h, "
         "such as 150ms or 5s"),
        (GOOD + "timing: {support: 200ms}\n",
         "cluster.yaml:8: timing: support must outlast three heartbeat intervals, or one lost heartbeat costs a leader"),
        (GOOD + "limits: {max_key: many}\n",
         "cluster.yaml:8: limits.max_key: 'many' is not a size: write a number and B, KiB, MiB or GiB, such as 64MiB"),
        (GOOD.replace("cluster: demo\n", ""), "cluster.yaml:1: cluster: missing; it must be set"),
        (GOOD + "cluster: again\n", "cluster.yaml:8: cluster: set twice"),
        ("nodes: [", "cluster.yaml:1: this is not YAML: expected the node content, but found '<stream end>'"),
        ("- a\n", "cluster.yaml:1: the file must hold settings, beginning with `cluster: NAME`"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place_and_what_would_be_right(text: str, expected: str) -> None:
    assert expected in problems(text)


def test_all_mistakes_are_said_at_once() -> None:
    text = GOOD.replace("zone: b", "zonne: b").replace("127.0.0.1:7402", "nowhere") + "storage: {cache: 1}\n"
    lines = [problem.split(":")[1] for problem in problems(text)]
    assert lines == ["4", "5", "8"]


def test_a_variable_that_names_no_setting_is_an_error() -> None:
    assert problems(GOOD, SHOAL_TIMING_SUPORT="1s") == [
        "SHOAL_TIMING_SUPORT: no setting has this name; did you mean 'SHOAL_TIMING_SUPPORT'?"
    ]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml", {})


def test_the_shipped_example_is_right() -> None:
    root = Path(__file__).parents[3]
    assert load_config(root / "cluster.yaml", {}).cluster == "demo"
