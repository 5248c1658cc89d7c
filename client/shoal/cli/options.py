"""Options and arguments that commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlencode

import typer

from shoal.arguments import to_ttl_ms
from shoal.errors import InvalidArgument
from shoal.options import TLS_NAMES, Options, check_consistency, parse_duration, parse_url
from shoal.priorities import Priority
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


def checked_url(context: typer.Context, url: str) -> str:
    """Option callback: refuse what is no URL as wrong usage; return one over TLS with the files that the options name."""
    try:
        options = parse_url(url)
        if not options.tls:
            return url
        given = context.find_root().params
        named = {name: given[name] for name in TLS_NAMES if given.get(name) and not getattr(options.tls_files, name)}
        whole = url + ("&" if "?" in url else "?") + urlencode(named) if named else url
        parse_url(whole).tls_context()
    except InvalidArgument as error:
        raise typer.BadParameter(str(error)) from error
    return whole


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
        callback=checked_url,
        help="Where the data is: shoal://HOST:PORT[,HOST:PORT...]/KEYSPACE[?timeout=5s], shoals:// for TLS, or "
        "embedded:///FOLDER",
    ),
]
CafileOption = Annotated[
    str | None,
    typer.Option(
        "--cafile",
        envvar="SHOAL_CAFILE",
        metavar="FILE",
        help="Of shoals:// addresses: the authorities to trust, in PEM.  [default: the system's]",
    ),
]
CertfileOption = Annotated[
    str | None,
    typer.Option(
        "--certfile",
        envvar="SHOAL_CERTFILE",
        metavar="FILE",
        help="Of shoals:// addresses: your own certificate, in PEM, where the cluster wants one.",
    ),
]
KeyfileOption = Annotated[
    str | None,
    typer.Option("--keyfile", envvar="SHOAL_KEYFILE", metavar="FILE", help="Its key, if that is not in the same file."),
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


PriorityOption = Annotated[
    Priority | None,
    typer.Option(
        "--priority",
        help="Where a node is too busy for all, background gives way first, then batch, then interactive. Else what the URL "
        "says, else batch.",
    ),
]


def level_of(level: Level | None) -> Consistency | None:
    """Return a consistency as the client takes it."""
    return None if level is None else check_consistency(level.value)


def priority_of(priority: Priority | None, options: Options) -> Priority:
    """Return the priority of long work."""
    return priority or options.priority or Priority.BATCH


def seconds_of(duration: str | None) -> float | None:
    """Return the seconds of an option that `checked_duration` has checked, if it was given."""
    return None if duration is None else parse_duration(duration)


def argument_bytes(argument: str) -> bytes:
    """Return the bytes that stood on the command line."""
    return os.fsencode(argument)


ClusterUrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="SHOAL_URL",
        callback=checked_url,
        help="Where the cluster is: shoal://HOST:PORT[,HOST:PORT...]/KEYSPACE[?timeout=5s], or shoals:// for TLS",
    ),
]


def admin_options(url: str) -> Options:
    """Return the settings of a URL for commands that speak to nodes directly."""
    options = parse_url(url)
    if options.embedded is not None:
        raise InvalidArgument("this command asks nodes by their addresses, which an embedded:// database has none of")
    return options
