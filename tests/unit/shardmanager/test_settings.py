"""Settings: written with units, checked as a whole, versioned."""

from __future__ import annotations

import pytest
from shoal_shardmanager.control.requests import SETTINGS, Refused, Why, with_settings
from shoal_shardmanager.control.rows import SettingsRow

USUAL = SettingsRow()


def test_every_setting_can_be_written_as_it_is_shown() -> None:
    for setting in SETTINGS:
        assert with_settings(USUAL, {setting.name: setting.shown(USUAL)}) is USUAL
    fields = {setting.field for setting in SETTINGS}
    assert fields == set(SettingsRow.__struct_fields__) - {"version"}


def test_values_have_units() -> None:
    after = with_settings(USUAL, {"gone_after": "2m", "split_bytes": "8GiB", "moves_per_node": "4"})
    assert (after.gone_after_ms, after.split_bytes, after.moves_per_node) == (120_000, 8 << 30, 4)
    assert after.version == USUAL.version + 1
    shown = {setting.name: setting.shown(after) for setting in SETTINGS}
    assert (shown["gone_after"], shown["split_bytes"], shown["migration_bytes_per_second"]) == ("120s", "8GiB", "off")


def test_a_limit_can_be_switched_off() -> None:
    assert with_settings(USUAL, {"split_bytes": "off"}).split_bytes == 0
    assert with_settings(USUAL, {"split_writes_per_second": "0"}).split_writes_per_second == 0


@pytest.mark.parametrize(
    ("values", "why", "words"),
    [
        ({"split_byte": "1GiB"}, Why.NOT_FOUND, "did you mean 'split_bytes'"),
        ({"nonsense": "1"}, Why.NOT_FOUND, "there are gone_after, "),
        ({"gone_after": "soon"}, Why.WRONG, "gone_after: 'soon' is not a duration"),
        ({"gone_after": "off"}, Why.WRONG, "is not a duration"),
        ({"gone_after": "1ms"}, Why.WRONG, "gone_after: from 1s to 86400s, not 1ms"),
        ({"split_bytes": "1KiB"}, Why.WRONG, "from 1MiB to 1048576GiB, or off, not 1KiB"),
        ({"moves_per_node": "0"}, Why.WRONG, "from 1 to 1000, not 0"),
        ({"moves_per_node": "4", "history": "x"}, Why.WRONG, "history: 'x' is not a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(values: dict[str, str], why: Why, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        with_settings(USUAL, values)
    assert refusal.value.why is why
    assert words in str(refusal.value)


def test_settings_that_were_changed_meanwhile_are_not_overwritten() -> None:
    after = with_settings(USUAL, {"history": "300"}, if_version=1)
    with pytest.raises(Refused, match="version 2 by now, not 1") as refusal:
        with_settings(after, {"history": "400"}, if_version=1)
    assert refusal.value.why is Why.CONFLICT
