"""Options and arguments that commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shoal.errors import InvalidArgument
from shoal.options import Options, parse_duration, parse_url

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


UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="SHOAL_URL",
        callback=_checked_url,
        help="Where the cluster is: shoal://HOST:PORT[,HOST:PORT...]/KEYSPACE[?timeout=5s]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs, instead of text for people.")]
KeyArgument = Annotated[str, typer.Argument(help="The key, as text; its bytes are taken as the shell gives them.")]


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
