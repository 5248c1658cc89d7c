"""What the command line says of gRPC's failures over TLS, and where it finds managers over TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from shoal.cli.failures import CommandFailed, ExitCode
from shoal.options import parse_url
from shoal.tls import TlsFiles
from shoal_server.config import parse_config
from shoal_shardmanager.cli.options import process_files
from shoal_shardmanager.rpc.secure import credentials, explained

CLUSTER = """
cluster: demo
nodes: [{id: n1, address: 127.0.0.1:7400, data: d}]
keyspaces: {default: {voters: 1}}
"""
FILES = "tls: {certificate: node.crt, key: node.key, authorities: ca.pem, clients: %s}"


@pytest.mark.parametrize(
    ("secure", "details", "words"),
    [
        (True, "SSL routines: CERTIFICATE_VERIFY_FAILED: unable to get local issuer", "SHOAL_CAFILE"),
        (True, "SSL_ERROR_SSL: WRONG_VERSION_NUMBER", "does not answer in TLS"),
        (True, "UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", "SHOAL_CERTFILE"),
        (False, "UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", "write shoals://HOST:PORT"),
    ],
)
def test_what_grpc_says_of_tls_comes_with_what_to_do(secure, details, words):
    said = explained(details, secure=secure)
    assert words in said
    assert details in said


def test_other_failures_are_left_as_they_are():
    assert explained("Connection refused", secure=True) == "Connection refused"


def test_credentials_are_made_of_the_files_that_are_named(tmp_path: Path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    assert credentials(TlsFiles(str(tmp_path / "ca.pem"))) is not None
    with pytest.raises(CommandFailed, match="cannot be read: No such file") as refused:
        credentials(TlsFiles(str(tmp_path / "nowhere.pem")))
    assert refused.value.exit_code is ExitCode.USAGE


def test_a_configuration_says_which_authority_commands_trust():
    def files(extra: str, **settings: bool) -> TlsFiles | None:
        config = parse_config(CLUSTER + extra, {}, name="c.yaml", folder=Path("/etc/shoal"))
        return process_files(config, **settings)

    assert files("", certificate=True) is None
    assert files(FILES % "none", certificate=False) == TlsFiles("/etc/shoal/ca.pem")
    own = TlsFiles("/etc/shoal/ca.pem", "/etc/shoal/node.crt", "/etc/shoal/node.key")
    assert files(FILES % "required", certificate=True) == own


def test_addresses_of_managers_over_tls_are_a_url():
    options = parse_url("shoals://127.0.0.1:7550,127.0.0.1:7551?cafile=/ca.pem")
    assert options.seeds == ("127.0.0.1:7550", "127.0.0.1:7551")
    assert options.tls_files == TlsFiles("/ca.pem")
