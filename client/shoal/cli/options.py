"""Options and arguments that commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from shoal.arguments import to_ttl_ms
from shoal.errors import InvalidArgument
from shoal.options import Options, check_consistency, parse_duration, parse_url
from shoal.results import Consistency


class Level(StrEnum):
    """What a read may miss."""

    STRONG = "strong"
    READ_YOUR_WRITES = "read_your_writes"
    EVENTUAL = "eventual"


class Safety(StrEnum):
    """How safe a write is when it is acknowledged."""

    QUORUM = "quorum"
    FAST = "fast"


DEFAULT_URL = "shoal://127.0.0.1:7400/default"


def _checked_url(url: str) -> str:
    try:
        parse_url(url)
    except InvalidArgument as error:
        raise typer.BadParameter(str(error)) from error
    return url


def checked_duration(text: str | None) -> str | None:
    """Option callback: refuse what is no duration as wrong usage."""
    if text is not None:
        try:
            parse_duration(text)
        except InvalidArgument as error:
            raise typer.BadParameter(str(error)) from error
    return text


def checked_ttl(text: str | None) -> str | None:
    """Option callback: refuse what is no time to live as wrong usage."""
    if text is not None:
        try:
            parse_ttl(text)
        except InvalidArgument as error:
            raise typer.BadParameter(f"{error}; 0 is for ever") from error
    return text


def parse_ttl(text: str | None) -> float | None:
    """Return the seconds of a time to live: `30`, `30s`, `500ms`, `2m`; 0: for ever; None: the keyspace's default.

    Raises:
        InvalidArgument: it is none of these.
    """
    if text is None:
        return None
    seconds = 0.0 if text.strip() == "0" else parse_duration(text)
    to_ttl_ms(seconds)
    return seconds


UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="SHOAL_URL",
        callback=_checked_url,
        help="Where the data is: shoal://HOST:PORT[,HOST:PORT...]/KEYSPACE[?timeout=5s], or embedded:///FOLDER",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs, instead of text for people.")]
KeyArgument = Annotated[str, typer.Argument(help="The key, as text; its bytes are taken as the shell gives them.")]

TtlOption = Annotated[
    str | None,
    typer.Option(
        "--ttl",
        metavar="DURATION",
        callback=checked_ttl,
        help="Time until it expires, such as 30 (seconds), 500ms or 10m; 0: never. Else the keyspace's default.",
    ),
]
ConsistencyOption = Annotated[
    Level | None,
    typer.Option("--consistency", help="What may be missing; else what the URL says, else nothing (strong)."),
]
StalenessOption = Annotated[
    str | None,
    typer.Option(
        "--max-staleness",
        metavar="DURATION",
        callback=checked_duration,
        help="With a weak consistency: nothing acknowledged so long ago (such as 2s) may be missing.",
    ),
]


def level_of(level: Level | None) -> Consistency | None:
    """Return a consistency as the client takes it."""
    return None if level is None else check_consistency(level.value)


def seconds_of(duration: str | None) -> float | None:
    """Return the seconds of an option that `checked_duration` has checked, if it was given."""
    return None if duration is None else parse_duration(duration)


def argument_bytes(argument: str) -> bytes:
    """Return the bytes that stood on the command line."""
    return os.fsencode(argument)


def admin_options(url: str) -> Options:
    """Return the settings of a URL for commands that speak to nodes directly."""
    options = parse_url(url)
    if options.embedded is not None:
        raise InvalidArgument("this command asks nodes by their addresses, which an embedded:// database has none of")
    if options.tls:
        raise InvalidArgument("this command cannot speak TLS yet: give a shoal:// URL")
    return options
