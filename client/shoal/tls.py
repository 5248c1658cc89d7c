"""TLS as clients have it: the context that files make, and what a failure of TLS means in words.

Nodes and managers use the same for the connections that they open.
"""

from __future__ import annotations

from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, SSLCertVerificationError, SSLContext, SSLError, TLSVersion
from typing import NamedTuple

import msgspec

from shoal.errors import ErrorCode, InvalidArgument

CLIENT_HELLO = b"\x16\x03"
"""What a connection begins with that speaks TLS. Read as the length of a frame, it is beyond every limit."""

_NOT_YET_VALID, _EXPIRED = 9, 10  # codes of X509_V_ERR_...
_WRONG_NAME = (62, 64)
_NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
        "UNKNOWN_PROTOCOL",
        "HTTP_REQUEST",
        "UNEXPECTED_MESSAGE",
        "BAD_RECORD_TYPE",
    }
)
_ALERT = "ALERT_"
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")


class TlsFiles(msgspec.Struct, frozen=True):
    """Where a client's certificates are, in PEM; "": none.

    Args:
        cafile: the authorities that the other side's certificate is checked against; "": the system's.
        certfile: this side's own certificate, with those between it and the authority.
        keyfile: its private key, without a password; "": in `certfile`, too.
    """

    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""


class TlsFailure(NamedTuple):
    """What went wrong, and what to do; `refusal` says of which kind it is for callers."""

    reason: str
    refusal: ErrorCode


def client_context(files: TlsFiles) -> SSLContext:
    """Return a context for connections to Shoal's processes: certificates and names are checked.

    Raises:
        InvalidArgument: a file cannot be used.
    """
    if files.keyfile and not files.certfile:
        raise InvalidArgument(f"a key without its certificate: {files.keyfile!r} needs a certfile beside it")
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.minimum_version = TLSVersion.TLSv1_2
    if files.cafile:
        load_authorities(context, files.cafile)
    else:
        context.load_default_certs()
    if files.certfile:
        load_certificate(context, files.certfile, files.keyfile)
    return context


def load_authorities(context: SSLContext, file: str) -> None:
    """Have `context` trust the certificates in `file`.

    Raises:
        InvalidArgument: it cannot be read, or holds none.
    """
    _check_readable(file)
    try:
        context.load_verify_locations(file)
    except SSLError as error:
        raise InvalidArgument(f"{file!r} holds no certificates of authorities in PEM: {_short(error)}") from error


def load_certificate(context: SSLContext, certfile: str, keyfile: str) -> None:
    """Have `context` present the certificate in `certfile`.

    Raises:
        InvalidArgument: a file cannot be read, is of another form, or the key is not that of the certificate.
    """
    for file in filter(None, (certfile, keyfile)):
        _check_readable(file)
    key = keyfile or certfile
    try:
        # A password of nothing: OpenSSL would ask for one at the terminal, and wait.
        context.load_cert_chain(certfile, key, password="")
    except SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidArgument(f"the key in {key!r} is not that of the certificate in {certfile!r}") from error
        raise InvalidArgument(
            f"{certfile!r} and {key!r} are no certificate and its key in PEM, or the key has a password: {_short(error)}"
        ) from error


def explain(error: SSLError) -> TlsFailure:
    """Return what a failure of TLS means, as seen from the side that has connected."""
    reason = error.reason or ""
    if isinstance(error, SSLCertVerificationError):
        return TlsFailure(f"{_of_certificate(error)} ({error.verify_message})", ErrorCode.UNAUTHENTICATED)
    if _ALERT in reason and any(word in reason for word in _OF_CERTIFICATES):
        said = reason.partition(_ALERT)[2].lower().replace("_", " ")
        advice = "give one of an authority that it trusts, with its key"
        if "required" in said:
            return TlsFailure(f"it wants a client's certificate: {advice} ({said})", ErrorCode.UNAUTHENTICATED)
        return TlsFailure(f"it does not take this side's certificate: {advice} ({said})", ErrorCode.UNAUTHENTICATED)
    if reason in _NOT_TLS:
        return TlsFailure(
            "it does not answer in TLS: has it been switched on there? A shoal:// URL speaks without it "
            f"({_short(error)})",
            ErrorCode.PROTOCOL_MISMATCH,
        )
    return TlsFailure(f"TLS failed: {_short(error)}", ErrorCode.PROTOCOL_MISMATCH)


def _of_certificate(error: SSLCertVerificationError) -> str:
    if error.verify_code in _WRONG_NAME:
        return "its certificate is for another name than the address says"
    if error.verify_code == _NOT_YET_VALID:
        return "its certificate is not valid yet: compare the clocks"
    if error.verify_code == _EXPIRED:
        return "its certificate is out of date: have it renewed"
    return "its certificate is of no authority that is trusted here: give the authority's, as a cafile"


def _check_readable(file: str) -> None:
    try:
        with Path(file).open("rb"):
            return
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgument(f"{file!r} cannot be read: {words}") from error


def _short(error: SSLError) -> str:
    """Return OpenSSL's name of what is wrong, in words; never anything of a file's content."""
    return (error.reason or "unknown format").lower().replace("_", " ")
