"""`shoal settings`: show and change what operators may tune."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.cli.options import JsonOption
from shoal.cli.output import note, print_json, print_table

from shoal_shardmanager.cli.options import (
    DEFAULT_TIMEOUT,
    ConfigOption,
    ManagersOption,
    TimeoutOption,
    client_of,
)
from shoal_shardmanager.rpc.generated import admin_pb2 as pb


class SettingView(msgspec.Struct):
    """A setting, as `--json` prints it."""

    name: str
    value: str
    default: str
    about: str


class SettingsView(msgspec.Struct):
    """The settings, as `--json` prints them."""

    version: int
    settings: list[SettingView]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("settings")(settings)


def settings(
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; repeatable.")
    ] = None,
    managers: ManagersOption = None,
    config: ConfigOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what they would be; change nothing.")] = False,
    if_version: Annotated[
        int,
        typer.Option("--if-version", min=0, help="Refuse unless the settings are of this version; 0: whatever it is."),
    ] = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    as_json: JsonOption = False,
) -> None:
    """Show the settings of placement, healing, splits and moves, or change some of them, all or none."""
    client = client_of(managers, config, timeout)
    if values or if_version:
        request = pb.ChangeSettingsRequest(values=_parsed(values or []), plan_only=plan, if_version=if_version)
        found = client.change_settings(request)
    else:
        found = client.settings()
    if as_json:
        rows = [SettingView(one.name, one.value, one.default_value, one.about) for one in found.settings]
        print_json(SettingsView(found.version, rows))
        return
    print_table(
        ("setting", "value", "default", "what it is"),
        [(one.name, one.value, one.default_value, one.about) for one in found.settings],
    )
    note(f"version {found.version}{', which was not written' if plan and values else ''}")


def _parsed(values: list[str]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for entry in values:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise CommandFailed(f"--set is NAME=VALUE, such as gone_after=1m, not {entry!r}", ExitCode.USAGE)
        if name in parsed:
            raise CommandFailed(f"--set {name} is given twice", ExitCode.USAGE)
        parsed[name] = value
    return parsed
