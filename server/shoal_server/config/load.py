"""Reads a `cluster.yaml` and the environment, and says everything that is wrong with them, line by line, at once.

Every scalar setting can be overridden by `SHOAL_<SECTION>_<NAME>`: `SHOAL_TIMING_SUPPORT=2s`,
`SHOAL_KEYSPACES_DEFAULT_SHARDS=4`, `SHOAL_CLUSTER=demo`. The value is taken as it stands, without the quotes that YAML
may need. A variable that names no setting is an error, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from shoal.bounds import MAX_SHARDS
from shoal.suggestions import did_you_mean
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError

from shoal_server.config.schema import (
    MEMORY_DIVIDED_LEAST,
    ClusterConfig,
    KeyspaceConfig,
    LimitsConfig,
    ManagerConfig,
    NodeConfig,
    ObserveConfig,
    Section,
    StorageConfig,
    TimingConfig,
    TlsConfig,
    memory_fixed,
)
from shoal_server.config.units import shown, written

PREFIX = "SHOAL_"
FOREIGN_VARIABLES = ("SHOAL_URL", "SHOAL_MANAGERS", "SHOAL_CAFILE", "SHOAL_CERTFILE", "SHOAL_KEYFILE", "SHOAL_TEST_")
"""Variables, or beginnings of them, that other parts of Shoal read."""

Location: TypeAlias = tuple[str | int, ...]
_AnySection = TypeVar("_AnySection", bound=Section)

_SECTIONS: dict[str, type[Section]] = {
    "timing": TimingConfig,
    "limits": LimitsConfig,
    "storage": StorageConfig,
    "observe": ObserveConfig,
    "tls": TlsConfig,
}
_ENTRIES: dict[str, type[Section]] = {"nodes": NodeConfig, "managers": ManagerConfig, "keyspaces": KeyspaceConfig}
_EXAMPLES = {
    "cluster": "cluster: demo",
    "nodes": "- {id: n1, address: 127.0.0.1:7400, data: ./data/n1}",
    "keyspaces": "default: {shards: 8}",
    "id": "id: n1",
    "address": "address: 127.0.0.1:7400",
    "data": "data: ./data/n1",
}
"""What may be written for a setting, or in a section, that must be there."""

_UNIQUE = {"id": "id", "data": "data folder", "address": "address", "admin": "address", "metrics": "address"}
"""What no two nodes or managers can share, and what it is called; things called the same share nothing either."""

_DEEPEST = 3
"""Every setting has at most so many names from the top: `keyspaces.default.shards`."""

_YAML = "tag:yaml.org,2002:"
_TYPES_IN_USE = {_YAML + kind for kind in ("null", "bool", "int", "float", "str")}
_TYPES_READ_AS_TEXT = {_YAML + kind for kind in ("timestamp", "merge", "value")}


class ConfigError(Exception):
    """A configuration is wrong. `problems` has one line for each thing to mend; the message is all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(slots=True)
class _Source:
    """Plain data from a file and from variables, where each thing in it came from, and what is wrong with it.

    Args:
        lines: of the file, for every place in it.
        variables: that override the file, for the places they override.
        faulty: the places complained about already; what follows from them alone is not worth a second complaint.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    variables: dict[Location, str] = field(default_factory=dict)
    faulty: set[Location] = field(default_factory=set)
    _in_file: list[tuple[int, str]] = field(default_factory=list)
    _in_environment: list[str] = field(default_factory=list)

    def complain(self, location: Location, words: str, *, involved: Sequence[Location] = ()) -> None:
        """Note what is wrong at a place.

        Args:
            involved: the places that are wrong together, if it is none by itself.
        """
        self.faulty.add(location)
        variables = [self.variables[place] for place in (location, *involved) if place in self.variables]
        if variables:
            self.complain_of_variable(" and ".join(variables), f"{_dotted(location)}: {words}")
            return
        line = self.line_of(next((place for place in involved if place in self.lines), location))
        self.complain_of_line(line, f"{_dotted(location)}: {words}")

    def complain_of_line(self, line: int, words: str) -> None:
        """Note what is wrong in a line of the file."""
        self._in_file.append((line, f"{self.name}:{line}: {words}"))

    def complain_of_variable(self, variable: str, words: str) -> None:
        """Note what is wrong with an environment variable."""
        self._in_environment.append(f"{variable}: {words}")

    def problems(self) -> list[str]:
        """Return all complaints: of the file from top to bottom, then of variables by name."""
        in_order = sorted(self._in_file, key=lambda problem: problem[0])
        return [text for _, text in in_order] + sorted(self._in_environment)

    def line_of(self, location: Location) -> int:
        """Return the line of a place, or of the nearest place around it that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def load_config(path: Path, environment: Mapping[str, str]) -> ClusterConfig:
    """Read the configuration in `path`, overridden by `environment`. Relative paths are relative to the file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a ValueError is text that is not UTF-8, or a path that cannot be one
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    return parse_config(text, environment, name=str(path), folder=path.parent)


def parse_config(text: str, environment: Mapping[str, str], *, name: str, folder: Path) -> ClusterConfig:
    """As `load_config`, from text. `name` stands in messages, `folder` is what relative paths are relative to.

    Raises:
        ConfigError: something in it is wrong.
    """
    source = _parse_yaml(text, name)
    _settle_shapes(source)
    _override(source, environment)
    config = _validate(source)
    for location, involved, words in _conflicts(source):
        source.complain(location, words, involved=involved)
    for location, words in _clashes(source):
        source.complain(location, words)
    problems = source.problems()
    if config is None or problems:
        raise ConfigError(problems)
    nodes = tuple(node.model_copy(update={"data": folder / node.data}) for node in config.nodes)
    managers = tuple(manager.model_copy(update={"data": folder / manager.data}) for manager in config.managers)
    return config.model_copy(update={"nodes": nodes, "managers": managers, "tls": config.tls.beside(folder)})


# -- YAML with line numbers


def _parse_yaml(text: str, name: str) -> _Source:
    source = _Source(name)
    root = _compose(text, name)
    if root is None or root.tag == _YAML + "null":
        return source
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([f"{name}:1: the file must hold settings, beginning with `{_EXAMPLES['cluster']}`"])
    source.lines[()] = root.start_mark.line + 1
    source.data = _plain(root, (), source)
    return source


def _compose(text: str, name: str) -> yaml.Node | None:
    """Return the root of a YAML file; None: there is nothing in it but comments."""
    try:
        loader = yaml.SafeLoader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"{name}:{line}: this is not YAML: {error.reason}: U+{error.character:04X}"]) from error
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark.line if error.problem_mark is not None else loader.line) + 1
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([f"{name}:{line}: this is not YAML: {words}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{name}:{loader.line + 1}: too many brackets or levels inside each other"]) from error
    except (ValueError, ArithmeticError) as error:  # PyYAML has no error of its own for "\UFFFFFFFF"
        raise ConfigError([f"{name}:{loader.line + 1}: this is not YAML: {error}"]) from error


def _plain(node: yaml.Node, location: Location, source: _Source) -> Any:
    """Return a YAML node as plain data, noting where everything stands."""
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, location, source)
    # No setting lies deeper, so what does is complained about for being a mapping or a list, whatever is in it;
    # and it may have no end: an alias can stand inside of what it stands for.
    inside = node.value if len(location) < _DEEPEST else ()
    if isinstance(node, yaml.SequenceNode):
        source.lines.update({(*location, index): item.start_mark.line + 1 for index, item in enumerate(inside)})
        return [_plain(item, (*location, index), source) for index, item in enumerate(inside)]
    mapping: dict[str, Any] = {}
    for key_node, value_node in inside:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or not key.isprintable():
            source.complain_of_line(line, f"{_dotted(location) or 'the file'}: a name in it is not plain text")
            continue
        here = (*location, key)
        if key in mapping:
            words = f"set twice, before in line {source.lines[here]}: remove one of them"
            source.complain_of_line(line, f"{_dotted(here)}: {words}")
        source.lines[here] = line
        mapping[key] = _plain(value_node, here, source)
    return mapping


def _scalar(node: yaml.ScalarNode, location: Location, source: _Source) -> Any:
    if node.tag in _TYPES_READ_AS_TEXT:
        return node.value
    if node.tag not in _TYPES_IN_USE:
        source.complain(
            location, f"no setting is of type {shown(node.tag.replace(_YAML, '!!'))}: write the value alone"
        )
        return None
    try:
        return SafeConstructor().construct_object(node)
    except (ValueError, LookupError, ArithmeticError):  # as in `!!int x`, `!!bool x` or a number of thousands of digits
        kind = node.tag.removeprefix(_YAML)
        source.complain(location, f"{shown(node.value)} cannot be read as {kind}: write one, or text in quotes")
        return None


def _settle_shapes(source: _Source) -> None:
    """Make every section what its kind of section is, so that all that follows can rely on it.

    An empty optional section means its defaults. One of another kind is complained about, and goes on as an empty one.
    """
    data = source.data
    for section in _SECTIONS:
        data[section] = _mapping(source, (section,), data.get(section))
    if "keyspaces" in data:
        keyspaces = _mapping(source, ("keyspaces",), data["keyspaces"])
        data["keyspaces"] = {name: _mapping(source, ("keyspaces", name), entry) for name, entry in keyspaces.items()}
    for section in ("nodes", "managers"):
        if section in data:
            entries = _list(source, (section,), data[section])
            data[section] = [_mapping(source, (section, index), entry) for index, entry in enumerate(entries)]
    for section in ("nodes", "keyspaces"):
        if section in data and not data[section] and (section,) not in source.faulty:
            source.complain((section,), f"empty; it needs at least one entry, such as `{_EXAMPLES[section]}`")


def _mapping(source: _Source, location: Location, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if value is not None:
        source.complain(location, f"must hold settings, each as `name: value`, not {shown(value)}")
    return {}


def _list(source: _Source, location: Location, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if value is not None:
        example = _EXAMPLES["nodes"]
        source.complain(location, f"must be a list, with entries such as `{example}`, not {shown(value)}")
    return []


# -- the environment


def _override(source: _Source, environment: Mapping[str, str]) -> None:
    known: dict[str, list[Location]] = {}
    for location in _scalar_settings(source.data):
        known.setdefault(_variable(location), []).append(location)
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable.startswith(FOREIGN_VARIABLES):
            continue
        if variable.startswith(_variable(("keyspaces", ""))) and not source.data.get("keyspaces"):
            continue  # which keyspaces there should be is not known, and is complained about
        named = known.get(variable, [])
        if len(named) == 1:
            _set(source, named[0], variable, environment[variable])
        elif named:
            meanings = " or ".join(_dotted(location) for location in named)
            source.complain_of_variable(variable, f"could be {meanings}: set them in {source.name}")
        else:
            words = f"no setting has this name{_nearest(variable, known)}"
            source.complain_of_variable(variable if variable.isprintable() else shown(variable), words)


def _set(source: _Source, location: Location, variable: str, value: str) -> None:
    target: dict[str | int, Any] = _at(source.data, location[:-1])
    target[location[-1]] = value
    source.variables[location] = variable
    source.faulty.discard(location)  # which was about the value in the file


def _variable(location: Location) -> str:
    return PREFIX + "_".join(str(part) for part in location).upper().replace("-", "_").replace(".", "_")


def _scalar_settings(data: Mapping[str, Any]) -> Iterator[Location]:
    """Yield the places of all settings that a variable can override."""
    yield ("cluster",)
    for section, model in _SECTIONS.items():
        for setting in _settings_of(model):
            yield (section, setting)
    for keyspace in data.get("keyspaces", ()):
        for setting in _settings_of(KeyspaceConfig):
            yield ("keyspaces", keyspace, setting)


# -- what the schema says


def _validate(source: _Source) -> ClusterConfig | None:
    try:
        return ClusterConfig.model_validate(source.data)
    except ValidationError as error:
        for detail in error.errors():
            _complain_of(source, detail)
    return None


def _complain_of(source: _Source, detail: ErrorDetails) -> None:
    location, kind = detail["loc"], detail["type"]
    if kind == "string_pattern_mismatch" and location[-1] == "[key]":
        location = location[:-1]  # of a keyspace with a wrong name, which need not be wrong otherwise
        source.complain_of_line(source.line_of(location), f"{_dotted(location)}: {_words(location, detail)}")
        return
    if kind == "too_short":
        return  # known since the shapes were settled; and also said of a list whose every entry is wrong
    if location in source.faulty or (kind == "missing" and location[:-1] in source.faulty):
        return
    if kind not in ("missing", "extra_forbidden"):
        detail["input"] = _at(source.data, location)  # as it was written: a bound is checked after units are gone
    source.complain(location, _words(location, detail))


def _words(location: Location, detail: ErrorDetails) -> str:
    setting, given, context = str(location[-1]), shown(detail["input"]), detail.get("ctx", {})
    unit = _unit(location)
    match detail["type"]:
        case "extra_forbidden":
            known = _siblings(location)
            return "unknown setting" + (_nearest(setting, known) or f"; known are {', '.join(known)}")
        case "missing":
            needed = "it needs at least one entry" if setting in _ENTRIES else "it must be set"
            return f"missing; {needed}, such as `{_EXAMPLES[setting]}`"
        case "value_error":
            return detail["msg"].removeprefix("Value error, ")
        case "string_type" | "path_type":
            quotes = ": put it in quotes" if isinstance(detail["input"], bool | int | float) else ""
            return f"must be text, not {given}{quotes}"
        case "string_pattern_mismatch":
            return (
                "must be a name of 1 to 63 letters, digits, `_`, `.` and `-`, beginning with a letter or a digit, "
                f"not {given}"
            )
        case "greater_than":
            return f"must be more than {context['gt']}, not {given}"
        case "greater_than_equal":
            return f"must be at least {written(context['ge'], unit)}, not {given}"
        case "less_than":
            return f"must be less than {context['lt']}, not {given}"
        case "less_than_equal":
            return f"must be at most {written(context['le'], unit)}, not {given}"
        case "too_long":
            return f"has {context['actual_length']} entries, and may have at most {context['max_length']}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters, not {given}"
        case _:
            return f"{detail['msg']}, not {given}"


def _unit(location: Location) -> str:
    """Return the unit that the name of a setting's field ends with."""
    model = (_SECTIONS | _ENTRIES).get(str(location[0]))
    fields = {} if model is None else {field.alias or name: name for name, field in model.model_fields.items()}
    return fields.get(str(location[-1]), "").rpartition("_")[2]


def _siblings(location: Location) -> list[str]:
    """Return the settings that may stand where an unknown one was found."""
    if len(location) == 1:
        return _settings_of(ClusterConfig)
    return _settings_of((_SECTIONS | _ENTRIES)[str(location[0])])


# -- what no setting can see alone


def _conflicts(source: _Source) -> list[tuple[Location, list[Location], str]]:
    """Return sections whose settings contradict each other or the number of nodes, with those settings."""
    found: list[tuple[Location, tuple[str, ...], str]] = []
    for section, model in _SECTIONS.items():
        conflicts = _sound_part(source, (section,), model).conflicts()
        found += [((section,), settings, words) for settings, words in conflicts]
    limits, storage = _sound_part(source, ("limits",), LimitsConfig), _sound_part(source, ("storage",), StorageConfig)
    least = memory_fixed(storage) + MEMORY_DIVIDED_LEAST
    if limits.memory_bytes is not None and limits.memory_bytes < least:
        words = (
            f"a node with this block_cache and write_buffer of `storage` takes {written(least, 'bytes')} at the least: give it "
            "more memory, or these less"
        )
        found.append((("limits",), ("memory",), words))
    nodes = len(source.data.get("nodes", ()))
    shards = 0
    for name in source.data.get("keyspaces", ()):
        location: Location = ("keyspaces", name)
        keyspace = _sound_part(source, location, KeyspaceConfig)
        found += [(location, settings, words) for settings, words in keyspace.conflicts()]
        shards += keyspace.shards
        if 0 < nodes < (replicas := keyspace.voters + keyspace.followers):
            words = (
                f"{keyspace.voters} voters and {keyspace.followers} followers need {replicas} nodes, "
                f"there are {nodes}: add nodes or ask for fewer replicas"
            )
            found.append((location, ("voters", "followers"), words))
    if shards > MAX_SHARDS:
        words = f"they have {shards} shards, and a cluster has at most {MAX_SHARDS}: ask for fewer"
        found.append((("keyspaces",), (), words))
    placed = [(section, [(*section, setting) for setting in settings], words) for section, settings, words in found]
    # The value of a wrong setting is not known: what contradicts its default may well agree with what is meant.
    return [conflict for conflict in placed if source.faulty.isdisjoint((conflict[0], *conflict[1]))]


def _sound_part(source: _Source, location: Location, model: type[_AnySection]) -> _AnySection:
    """Return a section of nothing but what is right in it; the rest has its defaults."""
    given: dict[str, Any] = _at(source.data, location)
    return model.model_validate({name: given[name] for name in given if (*location, name) not in source.faulty})


def _clashes(source: _Source) -> Iterator[tuple[Location, str]]:
    """Yield what several nodes or managers have that only one can have."""
    seen: dict[tuple[str, str], str] = {}
    for section in ("nodes", "managers"):
        for index, member in enumerate(source.data.get(section, ())):
            for setting, kind in _UNIQUE.items():
                value, location = member.get(setting), (section, index, setting)
                if not isinstance(value, str) or location in source.faulty:
                    continue
                if setting == "data":
                    value = str(Path(value))  # `./d` is `d`
                holder = seen.setdefault((kind, value), _dotted(location))
                if holder != _dotted(location):
                    yield location, f"{kind} {value!r} is already that of {holder}"


# -- places and names


def _at(data: Any, location: Location) -> Any:
    for part in location:
        data = data[part]
    return data


def _settings_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _nearest(name: str, candidates: Iterable[str]) -> str:
    hint = did_you_mean(name, candidates, similarity=0.5)
    return f"; {hint}" if hint else ""
