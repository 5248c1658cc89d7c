"""From what callers pass to what is sent: bytes, and times in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from math import ceil

from shoal.errors import InvalidArgument, TooLarge
from shoal.options import check_consistency
from shoal.protocol.messages import DEFAULT_TTL, NO_TTL
from shoal.results import Consistency, Duration
from shoal.routing.calls import STRONG_READ

KEYSPACE_STALENESS = -2
"""In place of a bound on staleness in milliseconds: the keyspace's."""

MAX_SECONDS = 100 * 365 * 24 * 3600
"""The longest time that is accepted anywhere: a hundred years. Nodes accept no longer one, and clocks count no further."""

MAX_BOUND_BYTES = 64 * 1024 + 1
"""The longest end of a range: one byte more than the longest key that a node may be told to accept."""


def to_bytes(what: str, given: object) -> bytes:
    """Return `given` as bytes; `str` is encoded as UTF-8.

    Raises:
        InvalidArgument: it is of another type, or no text that UTF-8 can express.
    """
    if isinstance(given, bytes):
        return given
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"a {what} is bytes or text, and {given!r:.80} is no text: {error.reason}") from error
    raise InvalidArgument(f"a {what} is bytes or str, not {type(given).__name__}: {given!r:.80}")


def many_keys(given: Iterable[bytes | str]) -> Iterable[bytes | str]:
    """Return several keys as they were given.

    Raises:
        InvalidArgument: it is one key, or no iterable.
    """
    if isinstance(given, bytes | str) or not isinstance(given, Iterable):
        raise InvalidArgument(
            f"keys are given as a list, or another iterable, not as {type(given).__name__}: {given!r:.80}"
        )
    return given


def many_items(
    given: Mapping[bytes, bytes | str] | Mapping[str, bytes | str],
) -> Iterable[tuple[bytes | str, bytes | str]]:
    """Return keys and their values.

    Raises:
        InvalidArgument: it is no mapping.
    """
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"keys and values are given as a mapping, not as {type(given).__name__}: {given!r:.80}")
    return given.items()


def to_bound(what: str, given: object) -> bytes:
    """Return the prefix, start or end of a range as bytes.

    Raises:
        InvalidArgument: it is of another type.
        TooLarge: it is longer than any key, and may be longer than a request.
    """
    bound = to_bytes(what, given)
    if len(bound) > MAX_BOUND_BYTES:
        raise TooLarge(f"a {what} has at most {MAX_BOUND_BYTES} bytes, which no key exceeds; this one has {len(bound)}")
    return bound


def to_ttl_ms(ttl: Duration | None) -> int:
    """Return a time to live as operations carry it; None: the keyspace's default; 0: for ever.

    Raises:
        InvalidArgument: it is no such time.
    """
    if ttl is None:
        return DEFAULT_TTL
    seconds = _seconds(ttl)
    if seconds is None or not 0 <= seconds <= MAX_SECONDS:
        raise InvalidArgument(
            f"ttl is a number of seconds up to {MAX_SECONDS}, or a timedelta, or 0 for never, or None for the keyspace's "
            f"default, not {ttl!r}"
        )
    return max(1, ceil(seconds * 1000)) if seconds else NO_TTL


def to_max_staleness_ms(consistency: Consistency, max_staleness: Duration | None, fallback: float | None) -> int:
    """Return the staleness that a read of this level accepts, in milliseconds, as `Fetch` carries it.

    Args:
        max_staleness: as the call gave it; refused with "strong".
        fallback: seconds, the client's.

    Raises:
        InvalidArgument: there is no such level, or the staleness is not positive, or is given for a strong read.
    """
    seconds = None
    if max_staleness is not None:
        seconds = to_max_staleness(max_staleness)
        if consistency == "strong":
            raise InvalidArgument(
                f"max_staleness={max_staleness!r} is for reads that may be stale: add consistency='eventual'"
            )
    elif consistency != "strong":
        seconds = fallback
    if check_consistency(consistency) == "strong":
        return STRONG_READ
    if seconds is not None:
        return max(1, int(seconds * 1000))
    return KEYSPACE_STALENESS if consistency == "eventual" else 0


def to_max_staleness(given: Duration) -> float:
    """Return a bound on staleness in seconds.

    Raises:
        InvalidArgument: it is no positive time.
    """
    return _positive("max_staleness", given)


def to_timeout(given: Duration) -> float:
    """Return a timeout in seconds.

    Raises:
        InvalidArgument: it is no positive time.
    """
    return _positive("timeout", given)


def _positive(what: str, given: Duration) -> float:
    seconds = _seconds(given)
    if seconds is None or not 0 < seconds <= MAX_SECONDS:
        raise InvalidArgument(
            f"{what} is a number of seconds greater than 0, up to {MAX_SECONDS}, or a timedelta, not {given!r}"
        )
    return seconds


def _seconds(given: object) -> float | None:
    if isinstance(given, timedelta):
        return given.total_seconds()
    return given if isinstance(given, int | float) and not isinstance(given, bool) else None
