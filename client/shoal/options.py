"""What a client is told when it is made: the URL taken apart, and checked.

    shoal://host:port,host:port/keyspace?timeout=2s&max_in_flight=4096&consistency=eventual&max_staleness=2s&region=eu
    &priority=batch

`shoals://` is the same over TLS, with `cafile=/path/ca.pem`, and `certfile=` and `keyfile=` where the cluster wants
clients to have certificates. IPv6 addresses stand in brackets: `shoal://[::1]:7400/default`. `embedded://` names a
database in this process (see embedded_url.py).
"""

from __future__ import annotations

import re
from ssl import SSLContext
from typing import cast, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from shoal.bounds import MAX_TTL_MS
from shoal.embedded_url import (
    EMBEDDED_ADDRESS,
    EMBEDDED_QUERY_NAMES,
    EMBEDDED_SCHEME,
    EmbeddedOptions,
    delimiter_of,
    folder_of,
)
from shoal.errors import InvalidArgument
from shoal.priorities import Priority
from shoal.results import Consistency
from shoal.suggestions import did_you_mean
from shoal.tls import TlsFiles, client_context

DEFAULT_PORT = 7400
DEFAULT_KEYSPACE = "default"
DEFAULT_TIMEOUT_SECONDS = 5.0
DEFAULT_MAX_IN_FLIGHT = 4096

_SCHEMES = {"shoal": False, "shoals": True, EMBEDDED_SCHEME: False}
_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")
CONSISTENCIES = get_args(Consistency)
_QUERY_NAMES = ("timeout", "max_in_flight", "consistency", "max_staleness", "region", "priority")
TLS_NAMES = ("cafile", "certfile", "keyfile")


class Options(msgspec.Struct, frozen=True):
    """A client's settings.

    Args:
        seeds: the addresses (`host:port`) of the URL: where the client looks for the cluster.
        timeout: seconds that a call may take in all, unless the call says otherwise.
        max_in_flight: calls that may be under way at once; further callers wait.
        consistency: of reads that name none.
        max_staleness: seconds, of weak reads that name none; None: the keyspace's, where a read is "eventual".
        region: where the client is: weak reads prefer replicas there; "": all replicas are equal.
        priority: of its requests, where a node is too busy for all; None: nothing was said, which is `interactive`.
        embedded: the database in this process, in place of a cluster.
        tls: whether connections are TLS, with what `tls_files` names.
    """

    seeds: tuple[str, ...]
    keyspace: str = DEFAULT_KEYSPACE
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT
    tls: bool = False
    consistency: Consistency = "strong"
    max_staleness: float | None = None
    region: str = ""
    embedded: EmbeddedOptions | None = None
    tls_files: TlsFiles = TlsFiles()
    priority: Priority | None = None

    def tls_context(self) -> SSLContext | None:
        """Return the context of connections; None: they are plain.

        Raises:
            InvalidArgument: a file cannot be used.
        """
        return client_context(self.tls_files) if self.tls else None


def parse_url(url: str) -> Options:
    """Take a client's URL apart.

    Raises:
        InvalidArgument: the URL is not of this form, or names something unknown.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidArgument(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in _SCHEMES:
        raise InvalidArgument(f"a Shoal URL begins with shoal://, shoals:// or embedded://, not {url!r}")
    if parts.fragment or "@" in parts.netloc:
        raise InvalidArgument(f"a Shoal URL has no user and no fragment: {url!r}")
    embedded = None
    if parts.scheme == EMBEDDED_SCHEME:
        settings = _settings(parts.query, _QUERY_NAMES + EMBEDDED_QUERY_NAMES)
        microshards = _count("microshards", settings["microshards"]) if "microshards" in settings else None
        delimiter = delimiter_of(settings["delimiter"]) if "delimiter" in settings else None
        embedded = EmbeddedOptions(folder_of(parts, url), microshards, delimiter)
        seeds: tuple[str, ...] = (EMBEDDED_ADDRESS,)
        keyspace = settings.get("keyspace", "")
    else:
        tls = _SCHEMES[parts.scheme]
        settings = _settings(parts.query, _QUERY_NAMES + (TLS_NAMES if tls else ()))
        seeds = tuple(_address(host, url) for host in parts.netloc.split(","))
        keyspace = unquote(parts.path).strip("/")
        if "/" in keyspace:
            raise InvalidArgument(f"the path of a Shoal URL is one keyspace's name, not {parts.path!r}")
    return Options(
        seeds=tuple(dict.fromkeys(seeds)),
        keyspace=keyspace or DEFAULT_KEYSPACE,
        timeout=parse_duration(settings["timeout"]) if "timeout" in settings else DEFAULT_TIMEOUT_SECONDS,
        max_in_flight=_count("max_in_flight", settings.get("max_in_flight", str(DEFAULT_MAX_IN_FLIGHT))),
        tls=_SCHEMES[parts.scheme],
        consistency=check_consistency(settings.get("consistency", "strong")),
        max_staleness=parse_duration(settings["max_staleness"]) if "max_staleness" in settings else None,
        region=settings.get("region", ""),
        embedded=embedded,
        tls_files=TlsFiles(**{name: settings[name] for name in TLS_NAMES if name in settings}),
        priority=check_priority(settings["priority"]) if "priority" in settings else None,
    )


def check_consistency(given: str) -> Consistency:
    """Return `given` as the level it names.

    Raises:
        InvalidArgument: it names none.
    """
    if given not in CONSISTENCIES:
        raise InvalidArgument(f"consistency is one of {', '.join(CONSISTENCIES)}, not {given!r}")
    return cast(Consistency, given)


def check_priority(given: str) -> Priority:
    """Return `given` as the priority that it names.

    Raises:
        InvalidArgument: it names none.
    """
    try:
        return Priority(given)
    except ValueError:
        hint = did_you_mean(given, [each.value for each in Priority]) if isinstance(given, str) else ""
        raise InvalidArgument(
            f"priority is one of {', '.join(Priority)}, not {given!r:.80}" + (f": {hint}" if hint else "")
        ) from None


def _settings(query: str, names: tuple[str, ...]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in TLS_NAMES and name not in names:
            raise InvalidArgument(f"{name!r} in the URL is for TLS: begin it with shoals://")
        if name not in names:
            hint = did_you_mean(name, names) or f"known are {', '.join(names)}"
            raise InvalidArgument(f"unknown setting {name!r} in the URL: {hint}")
        settings[name] = value
    return settings


def parse_duration(text: str) -> float:
    """Return the seconds of `2s`, `500ms`, `1m`, `1h`, `1d` or a plain number of seconds.

    Raises:
        InvalidArgument: it is none of these, or zero, or longer than a hundred years.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"a duration is written like 2s, 500ms, 1m or 1h, not {text!r}")
    seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2]]
    if seconds <= 0:
        raise InvalidArgument(f"a duration must be longer than zero, not {text!r}")
    if seconds > MAX_TTL_MS / 1000:
        raise InvalidArgument(f"a duration is at most {MAX_TTL_MS // 3_600_000}h, a hundred years, not {text!r:.80}")
    return seconds


def split_address(address: str) -> tuple[str, int]:
    """Take a checked `host:port` apart; brackets of IPv6 addresses go."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _address(text: str, url: str) -> str:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        host += bracket
        port = rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidArgument(f"{text!r} in {url!r} is not an address: write [::1]:7400")
    elif ":" in text:
        host, _, port = text.rpartition(":")
        if ":" in host:
            raise InvalidArgument(f"an IPv6 address stands in brackets: [{text}], in {url!r}")
    if not host:
        raise InvalidArgument(f"{url!r} names no host: write shoal://host:port/keyspace")
    number = port or str(DEFAULT_PORT)
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidArgument(f"{port!r} in {url!r} is not a port: 1 to 65535")
    return f"{host}:{int(number)}"


def _count(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise InvalidArgument(f"{name} is a whole number from 1, not {value!r}")
    return int(value)
