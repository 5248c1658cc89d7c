"""gRPC's ports, plain or over TLS by the certificates of the process."""

from __future__ import annotations

from typing import Any

import grpc

from shoal_server.certificates import Certificates, PemFiles


def open_port(server: Any, address: str, certificates: Certificates | None, *, clients_required: bool) -> None:
    """Have a `grpc.aio.Server` listen at `address`.

    Args:
        clients_required: whether clients need a certificate, over TLS.

    Raises:
        RuntimeError: nothing can listen there.
    """
    if certificates is None:
        server.add_insecure_port(address)
    else:
        server.add_secure_port(address, _credentials(certificates, clients_required))


def _credentials(certificates: Certificates, clients_required: bool) -> Any:
    """Return credentials that follow the files: gRPC asks before each handshake whether there are new ones."""
    known = certificates.loaded.pem

    def newest() -> Any:
        nonlocal known
        if certificates.loaded.pem is known:
            return None
        known = certificates.loaded.pem
        return _configuration(known)

    # The authorities are for clients' certificates: without these, nothing asks for them.
    return grpc.dynamic_ssl_server_credentials(
        _configuration(known), newest, require_client_authentication=clients_required
    )


def _configuration(pem: PemFiles) -> Any:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], root_certificates=pem.authorities)
