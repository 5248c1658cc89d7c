"""The one way in which stored rows of replicas are encoded and decoded: what is no row as it would be stored is damage.

Whoever decodes a row of a replica does it here, or with a function that raises `Damaged` itself. So a replica fails of which
a row is wrong, and no other kind of exception comes out of what a disk, or somebody, has made of a row. And what is stored
can be read again: whoever encodes a row that could not be is stopped before it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

import msgspec

from shoal_server.invariants import invariant
from shoal_server.storage.engine import Damaged, Engine, StorageFailed

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
SHOWN_KEY_BYTES = 64
"""So much of a key is shown: what it is of, and where."""


class NotARow(Exception):
    """It is no row as it would be stored; the message says why."""


def damaged_row(family: str, key: bytes, problem: object) -> Damaged:
    """Return what to raise for a stored row that cannot be one."""
    more = "" if len(key) <= SHOWN_KEY_BYTES else f" and {len(key) - SHOWN_KEY_BYTES} bytes more"
    return Damaged(family, f"row {key[:SHOWN_KEY_BYTES].hex()}{more} of the {family} family is damaged: {problem}")


def decoded(family: str, key: bytes, row: bytes, decode: Callable[[bytes, bytes], T]) -> T:
    """Return what `decode` makes of a stored row's key and value.

    Raises:
        Damaged: it makes nothing of them.
    """
    try:
        return decode(key, row)
    except (StorageFailed, MemoryError):
        raise
    except NotARow as error:
        raise damaged_row(family, key, error) from error
    except Exception as error:
        # Whatever a decoder says of bytes that it was not written for.
        raise damaged_row(family, key, f"{type(error).__name__}: {error}") from error


class RowCodec(Generic[T]):
    """Encodes and decodes the rows of one kind that are MessagePack and have a `format`."""

    def __init__(self, kind: type[T], family: Literal["data", "meta"], format_read: int) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._family = family
        self._format = format_read

    def encode(self, row: T) -> bytes:
        """Return what to store.

        A struct can be made with values that its fields' bounds forbid, and encoded: it would be lost when it is stored.
        """
        encoded = _encoder.encode(row)
        try:
            self._decode(b"", encoded)
        except (NotARow, msgspec.MsgspecError) as error:
            invariant(False, f"what is stored can be read again: {row}: {error}")
        return encoded

    def decode(self, key: bytes, row: bytes) -> T:
        """
        Raises:
            Damaged: it is no such row, or of another format.
        """
        return decoded(self._family, key, row, self._decode)

    def load(self, engine: Engine, key: bytes) -> T | None:
        """Return the row under `key`, None where there is none.

        Raises:
            Damaged: it cannot be read, is no such row, or is of another format.
        """
        row = engine.get(engine.meta if self._family == "meta" else engine.data, key)
        return None if row is None else self.decode(key, row)

    def _decode(self, _: bytes, row: bytes) -> T:
        found: Any = self._decoder.decode(row)
        if found.format != self._format:
            raise NotARow(f"it is of format {found.format}; this Shoal reads {self._format}")
        return found  # type: ignore[no-any-return]  # the decoder's kind
