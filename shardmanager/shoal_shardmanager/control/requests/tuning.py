"""The settings that operators may change: names, units, bounds; each value is checked, and all of them or none are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from msgspec.structs import replace
from shoal.suggestions import did_you_mean
from shoal_server.config.units import duration_ns, size_bytes, whole_number

from shoal_shardmanager.control.requests.model import Refused, Why
from shoal_shardmanager.control.rows import SettingsRow

OFF = "off"
HOUR_MS = 3_600_000


class Unit(Enum):
    """How a value is written."""

    COUNT = auto()
    DURATION = auto()
    SIZE = auto()


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: what operators call it, where the row has it, and what it may be (in the row's unit).

    Args:
        can_be_off: 0 is written as `off`.
    """

    name: str
    field: str
    unit: Unit
    least: int
    most: int
    about: str
    can_be_off: bool = False

    def shown(self, row: SettingsRow) -> str:
        """Return the value as it may be written."""
        value: int = getattr(row, self.field)
        if not value and self.can_be_off:
            return OFF
        return self._written(value)

    def _written(self, value: int) -> str:
        if self.unit is Unit.DURATION:
            return f"{value // 1000}s" if value % 1000 == 0 else f"{value}ms"
        if self.unit is Unit.SIZE:
            for name, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
                if value and value % factor == 0:
                    return f"{value // factor}{name}"
        return str(value)

    def parsed(self, text: str) -> int:
        """Return the value that `text` is.

        Raises:
            Refused: it is none, or out of bounds.
        """
        if self.can_be_off and text.strip() in (OFF, "0"):
            return 0
        try:
            if self.unit is Unit.DURATION:
                value = duration_ns(text) // 1_000_000
            elif self.unit is Unit.SIZE:
                value = size_bytes(text)
            else:
                value = whole_number(text)
        except ValueError as error:
            raise Refused(Why.WRONG, f"{self.name}: {error}") from error
        if not self.least <= value <= self.most:
            off = f", or {OFF}" if self.can_be_off else ""
            bounds = f"from {self._written(self.least)} to {self._written(self.most)}{off}"
            raise Refused(Why.WRONG, f"{self.name}: {bounds}, not {text.strip()}")
        return value


SETTINGS = (
    Setting("gone_after", "gone_after_ms", Unit.DURATION, 1_000, 24 * HOUR_MS,
            "a node that is silent for so long has its replicas replaced"),
    Setting("catch_up_entries", "catch_up_entries", Unit.COUNT, 1, 1_000_000,
            "a new replica that lacks no more entries may vote"),
    Setting("moves_per_node", "moves_per_node", Unit.COUNT, 1, 1_000, "replicas of a node being filled at once"),
    Setting("moves_per_cluster", "moves_per_cluster", Unit.COUNT, 1, 100_000, "and of all nodes"),
    Setting("history", "history", Unit.COUNT, 10, 100_000, "operations that are kept once they have ended"),
    Setting("split_bytes", "split_bytes", Unit.SIZE, 1 << 20, 1 << 50, "a shard of more is split by itself", True),
    Setting("split_reads_per_second", "split_reads_per_second", Unit.COUNT, 100, 1 << 40,
            "a shard that is read more often is split by itself", True),
    Setting("split_writes_per_second", "split_writes_per_second", Unit.COUNT, 100, 1 << 40,
            "a shard that is written more often is split by itself", True),
    Setting("split_pause", "split_pause_ms", Unit.DURATION, 1_000, 24 * HOUR_MS,
            "after a split, before a shard is split by itself again; doubled each time"),
    Setting("migration_bytes_per_second", "migration_bytes_per_second", Unit.SIZE, 64 << 10, 1 << 40,
            "how fast microshards are copied to another shard", True),
    Setting("merge_linger", "merge_linger_ms", Unit.DURATION, 1_000, HOUR_MS,
            "how long an emptied shard answers writes that are repeated"),
)  # fmt: skip

_BY_NAME = {setting.name: setting for setting in SETTINGS}


def with_settings(row: SettingsRow, values: Mapping[str, str], if_version: int = 0) -> SettingsRow:
    """Return the settings with other values; the same row if nothing is different.

    Raises:
        Refused: a name is not known, a value makes no sense, or the settings are not of version `if_version` (0: any).
    """
    if if_version and if_version != row.version:
        raise Refused(
            Why.CONFLICT, f"the settings are of version {row.version} by now, not {if_version}: look again, and repeat"
        )
    fields: dict[str, int] = {}
    for name, text in values.items():
        setting = _BY_NAME.get(name)
        if setting is None:
            hint = did_you_mean(name, _BY_NAME) or f"there are {', '.join(_BY_NAME)}"
            raise Refused(Why.NOT_FOUND, f"no setting {name!r}; {hint}")
        fields[setting.field] = setting.parsed(text)
    if all(getattr(row, field) == value for field, value in fields.items()):
        return row
    return replace(row, version=row.version + 1, **fields)
