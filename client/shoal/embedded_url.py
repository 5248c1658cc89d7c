"""What an `embedded://` URL names: the folder of a database in this process, or none for one that keeps nothing.

embedded:///path/to/folder?keyspace=orders&microshards=64&delimiter=:      embedded://
"""

from __future__ import annotations

from urllib.parse import SplitResult, unquote

import msgspec

from shoal.errors import InvalidArgument

EMBEDDED_SCHEME = "embedded"
EMBEDDED_QUERY_NAMES = ("keyspace", "microshards", "delimiter")
DELIMITER_CHARACTERS_MAX = 16
"""As in a cluster's configuration."""
EMBEDDED_ADDRESS = "embedded"
"""Stands for an address where the client names the one node there is."""


class EmbeddedOptions(msgspec.Struct, frozen=True):
    """Which database in this process.

    Args:
        folder: absolute; "" for a database that keeps nothing.
        microshards: of the keyspace, where it has to be made; where it is there already, it must have so many.
        delimiter: of the keyspace, likewise; b"": each key is a partition by itself.
    """

    folder: str
    microshards: int | None = None
    delimiter: bytes | None = None


def delimiter_of(text: str) -> bytes:
    """Return the delimiter that a URL names.

    Raises:
        InvalidArgument: it is too long.
    """
    if len(text) > DELIMITER_CHARACTERS_MAX:
        raise InvalidArgument(f"a delimiter has at most {DELIMITER_CHARACTERS_MAX} characters, not {len(text)}")
    return text.encode()


def folder_of(parts: SplitResult, url: str) -> str:
    """Return the folder of a URL that was taken apart.

    Raises:
        InvalidArgument: it names none, or a relative one.
    """
    folder = unquote(parts.path)
    if parts.netloc or not url.lower().startswith(f"{EMBEDDED_SCHEME}://"):
        raise InvalidArgument(f"a folder is named whole, by three slashes: embedded:///path/to/folder, not {url!r}")
    if folder and not folder.strip("/"):
        raise InvalidArgument(f"{url!r} names no folder; embedded:// alone is a database that keeps nothing")
    return folder
