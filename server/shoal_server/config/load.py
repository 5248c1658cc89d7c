"""Reads a `cluster.yaml` and the environment, and says everything that is wrong with them, line by line, at once.

Every scalar setting can be overridden by `SHOAL_<SECTION>_<NAME>`: `SHOAL_TIMING_SUPPORT=2s`,
`SHOAL_KEYSPACES_DEFAULT_SHARDS=4`, `SHOAL_CLUSTER=demo`. A variable that names no setting is an error, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from shoal_server.config.schema import ClusterConfig, KeyspaceConfig, ManagerConfig, NodeConfig

PREFIX = "SHOAL_"
FOREIGN_VARIABLES = ("SHOAL_URL", "SHOAL_TEST_")
"""Variables, or beginnings of them, that other parts of Shoal read."""

Location: TypeAlias = tuple[str | int, ...]


class ConfigError(Exception):
    """A configuration is wrong. `problems` has one line for each thing to mend; the message is all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(slots=True)
class _Source:
    """A parsed file: plain data, and the line of every place in it."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def where(self, location: Location) -> str:
        """Return `file:line` of a place, or of the nearest place around it that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.name}:{self.lines.get(location, 1)}"


def load_config(path: Path, environment: Mapping[str, str]) -> ClusterConfig:
    """Read the configuration in `path`, overridden by `environment`. Relative data folders are relative to the file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    return parse_config(text, environment, name=str(path), folder=path.parent)


def parse_config(text: str, environment: Mapping[str, str], *, name: str, folder: Path) -> ClusterConfig:
    """As `load_config`, from text. `name` stands in messages, `folder` is what relative data folders are relative to.

    Raises:
        ConfigError: something in it is wrong.
    """
    source = _parse_yaml(text, name)
    _override(source, environment)
    if source.problems:
        raise ConfigError(source.problems)
    try:
        config = ClusterConfig.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError([_problem(source, detail) for detail in _independent(error.errors())]) from error
    problems = [f"{source.where(location)}: {_dotted(location)}: {words}" for location, words in _cross_check(config)]
    if problems:
        raise ConfigError(problems)
    nodes = tuple(node.model_copy(update={"data": folder / node.data}) for node in config.nodes)
    managers = tuple(manager.model_copy(update={"data": folder / manager.data}) for manager in config.managers)
    return config.model_copy(update={"nodes": nodes, "managers": managers})


# -- YAML with line numbers


def _parse_yaml(text: str, name: str) -> _Source:
    source = _Source(name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise ConfigError([f"{name}:{line}: this is not YAML: {error.problem}"]) from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([f"{name}:1: the file must hold settings, beginning with `cluster: NAME`"])
    source.data = _plain(root, (), source)
    return source


def _plain(node: yaml.Node, location: Location, source: _Source) -> Any:
    """Return a YAML node as plain data, noting where everything stands."""
    source.lines[location] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*location, key)
            if key in mapping:
                source.problems.append(f"{source.name}:{key_node.start_mark.line + 1}: {_dotted(here)}: set twice")
            mapping[key] = _plain(value_node, here, source)
            source.lines[here] = key_node.start_mark.line + 1
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, index), source) for index, item in enumerate(node.value)]
    return yaml.safe_load(yaml.serialize(node))


# -- the environment


def _override(source: _Source, environment: Mapping[str, str]) -> None:
    known = {_variable(location): location for location in _scalar_settings(source.data)}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable.startswith(FOREIGN_VARIABLES):
            continue
        location = known.get(variable)
        if location is None:
            source.problems.append(f"{variable}: no setting has this name{_nearest(variable, known)}")
            continue
        target = source.data
        for part in location[:-1]:
            target = target.setdefault(str(part), {})
        target[str(location[-1])] = yaml.safe_load(environment[variable])


def _variable(location: Location) -> str:
    return PREFIX + "_".join(str(part) for part in location).upper().replace("-", "_").replace(".", "_")


def _scalar_settings(data: Mapping[str, Any]) -> Iterable[Location]:
    """Yield the places of all settings that a variable can override."""
    yield ("cluster",)
    for section in ("timing", "limits", "storage"):
        model = ClusterConfig.model_fields[section].annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for setting in _settings_of(model):
                yield (section, setting)
    keyspaces = data.get("keyspaces")
    for keyspace in keyspaces if isinstance(keyspaces, dict) else ():
        for setting in _settings_of(KeyspaceConfig):
            yield ("keyspaces", keyspace, setting)


# -- messages


def _settings_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _nearest(name: str, candidates: Iterable[str]) -> str:
    near = get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _siblings(location: Location) -> list[str]:
    """Return the settings that may stand where an unknown one was found."""
    model: type[BaseModel] = ClusterConfig
    models: dict[str, type[BaseModel]] = {"nodes": NodeConfig, "managers": ManagerConfig, "keyspaces": KeyspaceConfig}
    if len(location) > 1:
        section = str(location[0])
        annotation = ClusterConfig.model_fields[section].annotation
        if section in models:
            model = models[section]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return _settings_of(model)


def _independent(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Drop complaints about a whole that only follow from one about a part of it."""
    inner = {detail["loc"][:depth] for detail in details for depth in range(1, len(detail["loc"]))}
    return [detail for detail in details if detail["loc"] not in inner]


def _problem(source: _Source, detail: ErrorDetails) -> str:
    location = tuple(part for part in detail["loc"] if part != "[key]")
    where = f"{source.where(location)}: {_dotted(location)}"
    if detail["type"] == "extra_forbidden":
        known = _siblings(location)
        hint = _nearest(str(location[-1]), known) or f"; known are {', '.join(known)}"
        return f"{where}: unknown setting{hint}"
    if detail["type"] == "missing":
        return f"{where}: missing; it must be set"
    words = detail["msg"].removeprefix("Value error, ")
    if detail["type"] != "value_error":
        words = f"{words}, not {detail['input']!r}"
    return f"{where}: {words}"


# -- what no section can see alone


def _cross_check(config: ClusterConfig) -> Iterable[tuple[Location, str]]:
    members: list[tuple[str, int, NodeConfig | ManagerConfig]]
    members = [("nodes", index, node) for index, node in enumerate(config.nodes)]
    members += [("managers", index, manager) for index, manager in enumerate(config.managers)]
    seen: dict[tuple[str, str], str] = {}
    for section, index, member in members:
        claims = [("id", "id", member.id), ("data", "data folder", str(member.data))]
        claims += [
            (setting, "address", value)
            for setting in ("address", "admin", "metrics")
            if (value := getattr(member, setting)) is not None
        ]
        for setting, kind, value in claims:
            holder = seen.setdefault((kind, value), f"{section}[{index}].{setting}")
            if holder != f"{section}[{index}].{setting}":
                yield (section, index, setting), f"{kind} {value!r} is already that of {holder}"
    for name, keyspace in config.keyspaces.items():
        replicas = keyspace.voters + keyspace.followers
        if replicas > len(config.nodes):
            yield (
                ("keyspaces", name),
                f"{keyspace.voters} voters and {keyspace.followers} followers need {replicas} nodes, "
                f"there are {len(config.nodes)}: add nodes or ask for fewer replicas",
            )
