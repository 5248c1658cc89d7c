"""gRPC over TLS for the command line: credentials from files, and what gRPC's words for its failures mean."""

from __future__ import annotations

from pathlib import Path

import grpc
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.tls import TlsFiles

_HOPELESS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not to be trusted: give its authority's (SHOAL_CAFILE, --cafile), and "
    "see that it is valid now and for this address",
    "WRONG_VERSION_NUMBER": "it does not answer in TLS: has it been switched on there? HOST:PORT without shoals:// speaks "
    "without it",
}
"""Signs of failures that another attempt does not change, and what they mean."""
_CLOSED = "Socket closed"


def credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Return what a channel is made with.

    Raises:
        CommandFailed: a file cannot be read.
    """

    def read(file: str) -> bytes | None:
        return Path(file).read_bytes() if file else None

    try:
        return grpc.ssl_channel_credentials(read(tls.cafile), read(tls.keyfile or tls.certfile), read(tls.certfile))
    except OSError as error:
        raise CommandFailed(f"{error.filename!r} cannot be read: {error.strerror}", ExitCode.USAGE) from error


def is_hopeless(error: grpc.RpcError) -> bool:
    """Say whether the same server will refuse the next attempt, too."""
    details = error.details() or ""
    return any(sign in details for sign in _HOPELESS)


def explained(details: str, *, secure: bool) -> str:
    """Return gRPC's words with what they mean, where they are about TLS.

    Args:
        secure: whether the connection was to be TLS.
    """
    meaning = next((words for sign, words in _HOPELESS.items() if sign in details), "")
    if not meaning and _CLOSED in details:
        meaning = (
            "if it closes every connection, it wants a client's certificate (SHOAL_CERTFILE, --certfile), of an authority "
            "that it trusts"
            if secure
            else "if it closes every connection, it speaks TLS: write shoals://HOST:PORT"
        )
    return f"{meaning} ({details})" if meaning else details
