"""Strings that another process can go on from: MessagePack with a checksum, in the alphabet of URLs.

They are not secret and not signed; the checksum tells those that were cut or mistyped.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from typing import TypeVar
from zlib import crc32

import msgspec

from shoal.errors import InvalidArgument
from shoal.protocol.frames import Decoder

S = TypeVar("S", bound=msgspec.Struct)

_CHECKSUM_BYTES = 4
_MAX_CHARACTERS = 512 * 1024
"""More than the longest cursor has, whose three keys are as long as keys can be."""


def encode(token: msgspec.Struct) -> str:
    """Return a struct as a string of letters, digits, `-` and `_`."""
    body = msgspec.msgpack.encode(token)
    return urlsafe_b64encode(crc32(body).to_bytes(_CHECKSUM_BYTES, "big") + body).rstrip(b"=").decode()


def decode(what: str, text: str, kind: type[S]) -> S:
    """Return the struct that `encode` made `text` from.

    Raises:
        InvalidArgument: it is no string, was not made so, or by another version.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"a {what} is a string, not {type(text).__name__}")
    if len(text) > _MAX_CHARACTERS:
        raise InvalidArgument(f"a {what} has at most {_MAX_CHARACTERS} characters, not {len(text)}: {text!r:.40}")
    try:
        raw = text.encode("ascii")
        data = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
        body = data[_CHECKSUM_BYTES:]
        if crc32(body).to_bytes(_CHECKSUM_BYTES, "big") != data[:_CHECKSUM_BYTES]:
            raise InvalidArgument(f"this is no {what}, or not all of it: {text!r:.40}")
        decoder: Decoder[S] = Decoder(kind)
        return decoder.decode(body)
    except (AttributeError, UnicodeError, NotBase64, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"this is no {what} that this version can read: {text!r:.40} ({error})") from error
