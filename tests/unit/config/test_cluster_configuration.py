"""cluster.yaml: what is right is read with its units, what is wrong is said with its line and the nearest right name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from shoal.bounds import MAX_MS, MAX_TTL_MS
from shoal.map_rules import refuse_map
from shoal.shardmap import ShardMap
from shoal_server.bootstrap import empty_shard_map, initial_shard_map
from shoal_server.config import ClusterConfig, ConfigError, load_config, parse_config
from shoal_server.config.schema import (
    KeyspaceConfig,
    LimitsConfig,
    ObserveConfig,
    Section,
    StorageConfig,
    TimingConfig,
)
from shoal_server.node.settings import memory_of_process, settings_from_config

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


def test_tls_is_off_and_its_files_are_relative_to_the_file() -> None:
    assert not parse(GOOD).tls.on
    tls = parse(GOOD + "tls: {certificate: tls/n.crt, key: /keys/n.key, authorities: ca.pem, clients: required}\n").tls
    assert tls.on
    assert [str(path) for path in (tls.certificate, tls.key, tls.authorities)] == [
        "/etc/shoal/tls/n.crt",
        "/keys/n.key",
        "/etc/shoal/ca.pem",
    ]
    assert tls.clients == "required"


def test_variables_alone_switch_tls_on() -> None:
    files = {"SHOAL_TLS_CERTIFICATE": "n.crt", "SHOAL_TLS_KEY": "n.key", "SHOAL_TLS_AUTHORITIES": "ca.pem"}
    assert parse(GOOD, **files).tls.on


def test_what_the_command_line_reads_is_no_setting() -> None:
    mine = {"SHOAL_CAFILE": "ca.pem", "SHOAL_CERTFILE": "me.crt", "SHOAL_KEYFILE": "me.key"}
    assert not parse(GOOD, **mine).tls.on


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{certificate: n.crt}", "tls: TLS needs certificate, key and authorities: add key and authorities"),
        ("{clients: required}", "tls: clients have certificates only over TLS: add certificate, key and authorities"),
        ("{clients: some}", "tls.clients: Input should be 'none' or 'required', not 'some'"),
        ("{certificat: n.crt}", "tls.certificat: unknown setting; did you mean 'certificate'?"),
    ],
)
def test_half_of_tls_is_a_mistake(section: str, expected: str) -> None:
    (problem,) = problems(GOOD + f"tls: {section}\n")
    assert problem.startswith(f"cluster.yaml:8: {expected}")


def test_durations_and_sizes_have_units() -> None:
    config = parse(GOOD + "timing: {support: 1500ms}\nstorage: {block_cache: 8MiB}\n")
    assert config.timing.support_ns == 1_500_000_000
    assert config.storage.block_cache_bytes == 8 << 20


@pytest.mark.parametrize("written", ["true", '"true"', "True", "yes"])
def test_a_switch_is_true_or_false(written: str) -> None:
    assert not parse(GOOD).observe.tracing
    assert parse(GOOD + f"observe: {{tracing: {written}}}\n").observe.tracing
    assert not parse(GOOD + "observe: {tracing: true}\n", SHOAL_OBSERVE_TRACING="false").observe.tracing


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
         "cluster.yaml:8: limits.max_key: 'many' is not a size: write a number and B, KiB, MiB, GiB or TiB, such as 64MiB"),
        (GOOD.replace("cluster: demo\n", ""),
         "cluster.yaml:1: cluster: missing; it must be set, such as `cluster: demo`"),
        (GOOD.replace("address: 127.0.0.1:7401, ", ""),
         "cluster.yaml:4: nodes[1].address: missing; it must be set, such as `address: 127.0.0.1:7400`"),
        (GOOD + "cluster: again\n", "cluster.yaml:8: cluster: set twice, before in line 1: remove one of them"),
        (GOOD + "timing:\n  support: 2s\n  support: 3s\n",
         "cluster.yaml:10: timing.support: set twice, before in line 9: remove one of them"),
        (GOOD.replace("id: n2", "id: 2"), "cluster.yaml:4: nodes[1].id: must be text, not 2: put it in quotes"),
        (GOOD.replace("zone: b", "zone: no"), "cluster.yaml:4: nodes[1].zone: must be text, not false: put it in quotes"),
        (GOOD.replace("shards: 4", "shards: yes"),
         "cluster.yaml:7: keyspaces.default.shards: true is not a whole number: write one such as 8"),
        (GOOD.replace("shards: 4", "voters: 2"),
         "cluster.yaml:7: keyspaces.default: 2 voters bear no more failures than 1: ask for an odd number"),
        (GOOD.replace("  default", "  so so"),
         "cluster.yaml:7: keyspaces.so so: must be a name of 1 to 63 letters, digits, `_`, `.` and `-`, "
         "beginning with a letter or a digit, not 'so so'"),
        (GOOD + "limits: {max_key: 1MiB}\n", "cluster.yaml:8: limits.max_key: must be at most 64KiB, not '1MiB'"),
        (GOOD + "limits: {max_clients: 0}\n", "cluster.yaml:8: limits.max_clients: must be at least 1, not 0"),
        (GOOD + "timing: {support: 0s}\n", "cluster.yaml:8: timing.support: must be at least 1ms, not '0s'"),
        (GOOD + "timing: {sync_stall: 9000h}\n", "cluster.yaml:8: timing.sync_stall: must be at most 1h, not '9000h'"),
        (GOOD.replace("shards: 4", "default_ttl: 2000000h"),
         "cluster.yaml:7: keyspaces.default.default_ttl: must be at most 876000h, not '2000000h'"),
        (GOOD + "storage: {log_retain: 999999999GiB}\n",
         "cluster.yaml:8: storage.log_retain: must be at most 1TiB, not '999999999GiB'"),
        (GOOD.replace("zone: b", f"zone: {'b' * 256}"),
         f"cluster.yaml:4: nodes[1].zone: must have at most 255 characters, not '{'b' * 80}'..."),
        (GOOD.replace("127.0.0.1:7401", "h" * 300 + ":7401"),
         f"cluster.yaml:4: nodes[1].address: '{'h' * 80}'... is not an address: write host:port, such as 127.0.0.1:7400"),
        (GOOD + "managers:\n" + "".join(f"  - {{id: m{n}, address: m:{7400 + n}, data: m{n}}}\n" for n in range(9)),
         "cluster.yaml:8: managers: has 9 entries, and may have at most 7"),
        (GOOD + "  wide: {microshards: 65536, shards: 32765}\n",
         "cluster.yaml:6: keyspaces: they have 32769 shards, and a cluster has at most 32768: ask for fewer"),
        (GOOD + "observe: {tracing: otlp}\n",
         "cluster.yaml:8: observe.tracing: 'otlp' is not a switch: write true or false"),
        (GOOD + "timing: {clock_drift_permille: 500}\n",
         "cluster.yaml:8: timing.clock_drift_permille: must be less than 500, not 500"),
        (GOOD + f"timing: {{support: {'9' * 19}h}}\n",
         f"cluster.yaml:8: timing.support: '{'9' * 19}h' is too much: no setting goes beyond 9223372036854775807"),
        (GOOD + f"storage: {{block_cache: 0x{'f' * 5000}}}\n",
         "cluster.yaml:8: storage.block_cache: so large a number is too much: "
         "no setting goes beyond 9223372036854775807"),
        (GOOD + f"storage: {{block_cache: {'9' * 5000}}}\n",
         f"cluster.yaml:8: storage.block_cache: '{'9' * 80}'... cannot be read as int: write one, or text in quotes"),
        (GOOD + "storage: {block_cache: !!python/tuple 8MiB}\n",
         "cluster.yaml:8: storage.block_cache: no setting is of type '!!python/tuple': write the value alone"),
        (GOOD + "storage: {block_cache: !a%0Ab 8MiB}\n",
         "cluster.yaml:8: storage.block_cache: no setting is of type '!a\\nb': write the value alone"),
        (GOOD + "? [a, b]\n: 1\n", "cluster.yaml:8: the file: a name in it is not plain text"),
        (GOOD + 'storage: {"\\ud800": 1}\n', "cluster.yaml:8: storage: a name in it is not plain text"),
        (GOOD + "timing: {support: &loop [*loop]}\n",
         "cluster.yaml:8: timing.support: a list is not a duration: write a number and ns, us, ms, s, m or h, "
         "such as 150ms or 5s"),
        ("nodes: [",
         "cluster.yaml:1: this is not YAML: while parsing a flow node, "
         "expected the node content, but found '<stream end>'"),
        (GOOD + "---\na: 1\n",
         "cluster.yaml:8: this is not YAML: expected a single document in the stream, but found another document"),
        (GOOD + "timing: \x01\n",
         "cluster.yaml:8: this is not YAML: special characters are not allowed: U+0001"),
        (GOOD + 'timing: "\\U00110000"\n',
         "cluster.yaml:8: this is not YAML: chr() arg not in range(0x110000)"),
        (GOOD + "timing: " + "[" * 5000, "cluster.yaml:8: too many brackets or levels inside each other"),
        ("- a\n", "cluster.yaml:1: the file must hold settings, beginning with `cluster: demo`"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place_and_what_would_be_right(text: str, expected: str) -> None:
    assert expected in problems(text)


def test_all_mistakes_are_said_at_once() -> None:
    text = GOOD.replace("zone: b", "zonne: b").replace("127.0.0.1:7402", "nowhere") + "storage: {cache: 1}\n"
    lines = [problem.split(":")[1] for problem in problems(text)]
    assert lines == ["4", "5", "8"]


def test_mistakes_of_all_kinds_in_file_and_environment_are_said_at_once() -> None:
    text = """\
cluster: demo
nodes:
  - {id: n1, address: nowhere, data: ./d}
  - {id: n1, address: 127.0.0.1:7401, data: d}
  - n3
keyspaces:
  default: {voters: 5, max_staleness: 5}
  other: {voters: 2}
timing:
  support: 1ms
  sync_stall: long
  support: 2ms
limits: []
storage:
"""
    assert problems(
        text,
        SHOAL_LIMITS_MAX_KEY="[",
        SHOAL_STORAGE_BLOCK_CASHE="1MiB",
        SHOAL_KEYSPACES_OTHER_SHARDS="2000",
    ) == [
        "cluster.yaml:3: nodes[0].address: 'nowhere' is not an address: write host:port, such as 127.0.0.1:7400",
        "cluster.yaml:4: nodes[1].id: id 'n1' is already that of nodes[0].id",
        "cluster.yaml:4: nodes[1].data: data folder 'd' is already that of nodes[0].data",
        "cluster.yaml:5: nodes[2]: must hold settings, each as `name: value`, not 'n3'",
        "cluster.yaml:7: keyspaces.default.max_staleness: 5 is not a duration: "
        "write a number and ns, us, ms, s, m or h, such as 150ms or 5s",
        "cluster.yaml:7: keyspaces.default: 5 voters and 0 followers need 5 nodes, there are 3: "
        "add nodes or ask for fewer replicas",
        "cluster.yaml:8: keyspaces.other: 2 voters bear no more failures than 1: ask for an odd number",
        "cluster.yaml:11: timing.sync_stall: 'long' is not a duration: "
        "write a number and ns, us, ms, s, m or h, such as 150ms or 5s",
        "cluster.yaml:12: timing.support: set twice, before in line 10: remove one of them",
        "cluster.yaml:12: timing: support must outlast three heartbeat intervals, or one lost heartbeat costs a leader",
        "cluster.yaml:13: limits: must hold settings, each as `name: value`, not a list",
        "SHOAL_KEYSPACES_OTHER_SHARDS: keyspaces.other: 2000 shards cannot share 1024 microshards: "
        "ask for fewer shards",
        "SHOAL_LIMITS_MAX_KEY: limits.max_key: '[' is not a size: write a number and B, KiB, MiB, GiB or TiB, such as 64MiB",
        "SHOAL_STORAGE_BLOCK_CASHE: no setting has this name; did you mean 'SHOAL_STORAGE_BLOCK_CACHE'?",
    ]


def test_a_wrong_setting_is_not_also_said_to_contradict_another() -> None:
    assert problems(GOOD + "timing: {support: long, heartbeat_interval: 10s}\n") == [
        "cluster.yaml:8: timing.support: 'long' is not a duration: "
        "write a number and ns, us, ms, s, m or h, such as 150ms or 5s"
    ]


# -- sections that are empty, or are no sections


def with_section(section: str, written: str) -> str:
    """Return the good configuration with a section that holds something else."""
    document = {name: value for name, value in yaml.safe_load(GOOD).items() if name != section}
    return f"{section}: {written}\n{yaml.safe_dump(document)}"


def test_an_empty_optional_section_means_its_defaults() -> None:
    config = parse(GOOD + "timing:\n  # support: 2s\nlimits:\nstorage: {}\nmanagers:\n")
    assert (config.timing, config.limits, config.storage) == (TimingConfig(), LimitsConfig(), StorageConfig())
    assert config.managers == ()


def test_a_keyspace_with_nothing_in_it_has_defaults() -> None:
    assert parse(with_section("keyspaces", "{default: }")).keyspaces == {"default": KeyspaceConfig()}


@pytest.mark.parametrize("written", ["", "[]", "{}"])
@pytest.mark.parametrize("environment", [{}, {"SHOAL_KEYSPACES_DEFAULT_SHARDS": "4"}], ids=["file", "variable"])
def test_an_empty_required_section_is_one_clear_error(written: str, environment: dict[str, str]) -> None:
    if written != "{}":
        assert problems(with_section("nodes", written), **environment) == [
            "cluster.yaml:1: nodes: empty; it needs at least one entry, such as "
            "`- {id: n1, address: 127.0.0.1:7400, data: ./data/n1}`"
        ]
    if written != "[]":
        assert problems(with_section("keyspaces", written), **environment) == [
            "cluster.yaml:1: keyspaces: empty; it needs at least one entry, such as `default: {shards: 8}`"
        ]


@pytest.mark.parametrize("text", ["", "# cluster: demo\n", "---\n", "~", "{}"])
def test_an_empty_file_is_told_all_that_it_needs(text: str) -> None:
    assert [problem.split(";")[0] for problem in problems(text)] == [
        "cluster.yaml:1: cluster: missing",
        "cluster.yaml:1: nodes: missing",
        "cluster.yaml:1: keyspaces: missing",
    ]


@pytest.mark.parametrize(("written", "called"), [("[]", "a list"), ("[{}]", "a list"), ("x", "'x'"), ("3", "3")])
@pytest.mark.parametrize("section", ["timing", "limits", "storage", "keyspaces", "keyspaces: {default"])
def test_a_section_that_is_no_mapping_is_one_clear_error(section: str, written: str, called: str) -> None:
    nested = section == "keyspaces: {default"
    text = with_section("keyspaces", f"{{default: {written}}}") if nested else with_section(section, written)
    name = "keyspaces.default" if nested else section
    expected = f"cluster.yaml:1: {name}: must hold settings, each as `name: value`, not {called}"
    assert problems(text) == [expected]
    assert problems(text, SHOAL_TIMING_SUPPORT="2s", SHOAL_LIMITS_MAX_KEY="1KiB", SHOAL_STORAGE_LOG_RETAIN="1MiB") == [
        expected
    ]
    if section != "keyspaces":
        assert problems(text, SHOAL_KEYSPACES_DEFAULT_SHARDS="2") == [expected]


@pytest.mark.parametrize(
    ("written", "called"), [("{}", "a mapping"), ("{id: n1}", "a mapping"), ("x", "'x'"), ("3", "3")]
)
@pytest.mark.parametrize("section", ["nodes", "managers"])
def test_a_section_that_is_no_list_is_one_clear_error(section: str, written: str, called: str) -> None:
    assert problems(with_section(section, written)) == [
        f"cluster.yaml:1: {section}: must be a list, with entries such as "
        f"`- {{id: n1, address: 127.0.0.1:7400, data: ./data/n1}}`, not {called}"
    ]


@pytest.mark.parametrize("written", ["", "[]", "x", "3"])
@pytest.mark.parametrize("section", ["cluster", "nodes", "managers", "keyspaces", "timing", "limits", "storage"])
def test_no_section_whatever_is_in_it_costs_the_complaints_about_others(section: str, written: str) -> None:
    said = problems(with_section(section, written) + "storrage: 1\n", SHOAL_LIMITS_MAX_KEYS="1")
    assert any(problem.endswith(": storrage: unknown setting; did you mean 'storage'?") for problem in said)
    assert "SHOAL_LIMITS_MAX_KEYS: no setting has this name; did you mean 'SHOAL_LIMITS_MAX_KEY'?" in said


# -- the environment


def test_a_variable_that_names_no_setting_is_an_error() -> None:
    assert problems(GOOD, SHOAL_TIMING_SUPORT="1s") == [
        "SHOAL_TIMING_SUPORT: no setting has this name; did you mean 'SHOAL_TIMING_SUPPORT'?"
    ]


def test_a_variable_sets_what_an_empty_section_leaves_out() -> None:
    assert parse(GOOD + "timing:\n", SHOAL_TIMING_SUPPORT="2s").timing.support_ns == 2_000_000_000


def test_a_variable_overrides_a_wrong_value_in_the_file() -> None:
    assert parse(GOOD + "timing: {support: long}\n", SHOAL_TIMING_SUPPORT="2s").timing.support_ns == 2_000_000_000


def test_a_variable_that_overrides_what_is_no_value_is_checked_itself() -> None:
    assert problems(GOOD + "timing: {support: !!int x}\n", SHOAL_TIMING_SUPPORT="long") == [
        "cluster.yaml:8: timing.support: 'x' cannot be read as int: write one, or text in quotes",
        "SHOAL_TIMING_SUPPORT: timing.support: 'long' is not a duration: "
        "write a number and ns, us, ms, s, m or h, such as 150ms or 5s",
    ]


@pytest.mark.parametrize("value", ["7", "no", "null", "2024-01-01", "1e3", "0x10"])
def test_the_value_of_a_variable_is_text_whatever_yaml_would_make_of_it(value: str) -> None:
    assert parse(GOOD, SHOAL_CLUSTER=value).cluster == value


@pytest.mark.parametrize("value", [":", "[", "", "'", "{", "*", "!!int x", "\t"])
def test_a_variable_can_hold_what_is_no_yaml(value: str) -> None:
    assert parse(GOOD, SHOAL_KEYSPACES_DEFAULT_DELIMITER=value).keyspaces["default"].delimiter == value


@pytest.mark.parametrize("value", ["", "[", "{a: b", "*x", "[8]", "many", "8.5", "true", "\udcff", "!!int x"])
def test_a_wrong_value_of_a_variable_is_said_with_its_name(value: str) -> None:
    assert problems(GOOD, SHOAL_KEYSPACES_DEFAULT_SHARDS=value) == [
        f"SHOAL_KEYSPACES_DEFAULT_SHARDS: keyspaces.default.shards: {value!r} is not a whole number: "
        "write one such as 8"
    ]


def test_variables_that_contradict_each_other_are_both_named() -> None:
    assert problems(GOOD, SHOAL_TIMING_SUPPORT="1s", SHOAL_TIMING_HEARTBEAT_INTERVAL="1s") == [
        "SHOAL_TIMING_HEARTBEAT_INTERVAL and SHOAL_TIMING_SUPPORT: timing: "
        "support must outlast three heartbeat intervals, or one lost heartbeat costs a leader"
    ]


def test_a_variable_that_could_mean_two_keyspaces_is_an_error() -> None:
    assert problems(with_section("keyspaces", "{a-b: , a.b: }"), SHOAL_KEYSPACES_A_B_SHARDS="4") == [
        "SHOAL_KEYSPACES_A_B_SHARDS: could be keyspaces.a-b.shards or keyspaces.a.b.shards: set them in cluster.yaml"
    ]


# -- whatever there may be

NAMES = ["cluster", "nodes", "managers", "keyspaces", "timing", "limits", "storage", "default"]
NAMES += ["id", "address", "data", "shards", "voters", "support", "max_key", "block_cache"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.dates(),
    st.datetimes(timezones=st.timezones()),
    st.binary(max_size=8),
    st.sampled_from(["n1", "127.0.0.1:7400", "5s", "9" * 400 + "h", "64MiB"]),
)
STRUCTURES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), SCALARS), inside, max_size=6),
    ),
    max_leaves=20,
)
VARIABLES = st.dictionaries(
    st.one_of(
        st.text().map("SHOAL_".__add__),
        st.sampled_from(
            [
                "SHOAL_CLUSTER",
                "SHOAL_TIMING_SUPPORT",
                "SHOAL_LIMITS_MAX_KEY",
                "SHOAL_LIMITS_MAX_CLIENTS",
                "SHOAL_KEYSPACES_DEFAULT_SHARDS",
                "SHOAL_KEYSPACES_DEFAULT_DELIMITER",
            ]
        ),
    ),
    st.one_of(st.text(), st.text(st.characters(categories=["Cs"]), max_size=3), st.integers().map(str)),
    max_size=4,
)


def assert_is_read_or_refused_in_whole_lines(text: str, environment: dict[str, str]) -> None:
    try:
        parse_config(text, environment, name="cluster.yaml", folder=Path())
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.isprintable()
            assert problem.startswith(("cluster.yaml:", "SHOAL_", "'SHOAL_", '"SHOAL_'))
            problem.encode()


@given(STRUCTURES, VARIABLES)
def test_any_document_is_read_or_refused(document: object, environment: dict[str, str]) -> None:
    assert_is_read_or_refused_in_whole_lines(yaml.dump(document, allow_unicode=True), environment)


@given(st.dictionaries(st.sampled_from(NAMES), STRUCTURES, max_size=3), VARIABLES)
def test_a_good_document_with_anything_in_its_sections_is_read_or_refused(
    sections: dict[str, object], environment: dict[str, str]
) -> None:
    assert_is_read_or_refused_in_whole_lines(yaml.dump(yaml.safe_load(GOOD) | sections), environment)


@given(st.one_of(st.text(), st.text("ab01:-[]{}&*!?|>'\"%@#,.=~<\\ \t\n")), VARIABLES)
def test_any_text_is_read_or_refused(text: str, environment: dict[str, str]) -> None:
    assert_is_read_or_refused_in_whole_lines(text, environment)
    assert_is_read_or_refused_in_whole_lines(GOOD + "timing: " + text, environment)


# -- numbers


def numeric_settings() -> dict[str, FieldInfo]:
    """Return the fields of all settings that are numbers, by section and name."""
    sections: dict[str, type[Section]] = {kind.__name__: kind for kind in Section.__subclasses__()}
    return {
        f"{section}.{field.alias or name}": field
        for section, model in sections.items()
        for name, field in model.model_fields.items()
        if is_numeric(field.annotation)
    }


def is_numeric(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(is_numeric, get_args(annotation)))


def bounds_of(field: FieldInfo) -> tuple[Any, Any]:
    low = next((each for each in field.metadata if isinstance(each, Ge | Gt)), None)
    high = next((each for each in field.metadata if isinstance(each, Le | Lt)), None)
    return low, high


def test_every_number_of_a_configuration_has_a_least_and_a_most() -> None:
    found = numeric_settings()
    assert {"TimingConfig.support", "KeyspaceConfig.default_ttl", "StorageConfig.disk_reserve"} <= set(found)
    assert [name for name, field in found.items() if None in bounds_of(field)] == []


def test_every_text_and_list_of_a_configuration_has_a_bound() -> None:
    models = list(Section.__subclasses__())
    unbounded = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if field.annotation is str or get_origin(field.annotation) in (tuple, dict)
        if not any(
            isinstance(each, MaxLen | BeforeValidator) or getattr(each, "pattern", "") for each in field.metadata
        )
    ]
    assert unbounded == []


EDGES = [
    *(f"{number}{unit}" for number in (0, 1, 2, 59, 60, 3600, 876_000, 10**9) for unit in ("ns", "ms", "s", "m", "h")),
    *(f"{number}{unit}" for number in (0, 1, 64, 1023, 1 << 20, 10**10) for unit in ("", "KiB", "MiB", "GiB")),
    *(str((1 << bits) + off) for bits in (16, 20, 31, 32, 50, 62, 63, 64) for off in (-1, 0, 1)),
    *map(str, range(-1, 18)),
]
SETTINGS = {
    "timing": TimingConfig, "limits": LimitsConfig, "storage": StorageConfig, "observe": ObserveConfig,
}  # fmt: skip
NUMBERS = [
    *(
        f"SHOAL_{section}_{field.alias or name}".upper()
        for section, model in SETTINGS.items()
        for name, field in model.model_fields.items()
        if field.annotation is int
    ),
    *(f"SHOAL_KEYSPACES_DEFAULT_{name}".upper() for name in ("microshards", "voters", "followers")),
    *(f"SHOAL_KEYSPACES_DEFAULT_{name}".upper() for name in ("max_staleness", "default_ttl")),
    *(f"SHOAL_KEYSPACES_DEFAULT_{name}".upper() for name in ("reads_per_second", "writes_per_second", "max_bytes")),
]


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(NUMBERS), st.sampled_from(EDGES), min_size=1, max_size=3))
def test_whatever_numbers_are_accepted_nodes_can_begin_with_them(environment: dict[str, str]) -> None:
    try:
        config = parse(GOOD, **environment)
    except ConfigError as error:
        assert any(variable in str(error) for variable in environment)
        return
    first = initial_shard_map(config)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=ShardMap) == first
    assert refuse_map(first, empty_shard_map(config, "n1")) == ""
    begun = settings_from_config(config, 8)
    assert begun.timing.lease_ns >= 0
    struct.pack(">7q", begun.timing.support_ns * 10, begun.timing.heartbeat_interval_ns * 10, begun.sync_stall_ns * 10,
                begun.limits.client_output_bytes, begun.log_retain_bytes * 4, begun.sessions_per_shard,
                config.observe.slow_request_ns * 10)  # fmt: skip


def test_a_keyspace_begins_with_its_quotas() -> None:
    quotas = "reads_per_second: 1000, writes_per_second: 10, max_bytes: 2GiB"
    [keyspace] = initial_shard_map(parse(GOOD.replace("shards: 4", f"shards: 4, {quotas}"))).keyspaces
    assert (keyspace.reads_per_second, keyspace.writes_per_second, keyspace.max_bytes) == (1000, 10, 2 << 30)
    [keyspace] = initial_shard_map(parse(GOOD)).keyspaces
    assert (keyspace.reads_per_second, keyspace.writes_per_second, keyspace.max_bytes) == (0, 0, 0)
    [problem] = problems(GOOD, SHOAL_KEYSPACES_DEFAULT_MAX_BYTES="0")
    assert problem.endswith("must be at least 1B, not '0'")


@pytest.mark.parametrize(
    ("variable", "most"),
    [("MAX_STALENESS", f"{MAX_MS // 3_600_000}h"), ("DEFAULT_TTL", f"{MAX_TTL_MS // 3_600_000}h")],
)
def test_the_longest_times_of_a_keyspace_are_those_that_fit_into_a_map(variable: str, most: str) -> None:
    config = parse(GOOD, **{f"SHOAL_KEYSPACES_DEFAULT_{variable}": most})
    first = initial_shard_map(config)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=ShardMap) == first
    longer = f"{int(most[:-1]) + 1}h"
    [problem] = problems(GOOD, **{f"SHOAL_KEYSPACES_DEFAULT_{variable}": longer})
    assert problem.endswith(f"must be at most {most}, not '{longer}'")


# -- files


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml", {})


def test_the_shipped_example_is_right() -> None:
    root = Path(__file__).parents[3]
    assert load_config(root / "cluster.yaml", {}).cluster == "demo"


def test_memory_is_a_part_of_the_machines_unless_it_is_configured() -> None:
    gib = 1 << 30
    config = parse(GOOD)
    assert memory_of_process(config, 16 * gib) == 4 * gib
    assert memory_of_process(config, 1024 * gib) == 8 * gib
    assert memory_of_process(config, 1) == config.memory_least
    assert memory_of_process(parse(GOOD, SHOAL_LIMITS_MEMORY="3GiB"), 16 * gib) == 3 * gib
    assert settings_from_config(config, 8, 16 * gib).memory_bytes == 4 * gib - config.memory_fixed


def test_memory_that_the_engine_alone_would_fill_is_refused_with_what_would_do() -> None:
    for too_little in ("256MiB", "0", "1B"):
        [problem] = problems(GOOD, SHOAL_LIMITS_MEMORY=too_little)
        assert "takes 488MiB at the least" in problem
    [problem] = problems(GOOD, SHOAL_LIMITS_MEMORY="1GiB", SHOAL_STORAGE_BLOCK_CACHE="4GiB")
    assert "at the least" in problem
    assert parse(GOOD, SHOAL_LIMITS_MEMORY="488MiB").limits.memory_bytes == 488 << 20
