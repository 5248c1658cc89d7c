"""A whole cluster over TLS: three nodes and a manager as processes, applications, operators, and a new certificate."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import shoal
import trustme
import typer.testing
from shoal.admin.connection import AdminConnection
from shoal.cli.main import app
from shoal.protocol.frames import FrameReader, encode_frame, greeting_decoder
from shoal.protocol.messages import Hello, Refused
from shoal.protocol.version import NEWEST, OLDEST
from shoal.tls import TlsFiles, client_context
from shoal_chaos.clusters.configuration import Configuration
from shoal_chaos.clusters.process_cluster import ProcessCluster
from shoal_server.api.generated import shoal_pb2 as pb
from shoal_server.local.layout import free_ports, generated_config

NODES = 3
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.05


class SecureCluster:
    """The processes, and certificates to come with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(folder / "other.pem")
        self.authority.issue_cert("somebody@example.org").private_key_and_cert_chain_pem.write_to_path(
            folder / "client.pem"
        )
        self.issue()
        ports = free_ports(2 * NODES + 2)
        config = (
            generated_config(NODES, ports[:NODES], [(ports[-2], ports[-1])], ports[NODES : 2 * NODES])
            + "tls: {certificate: node.crt, key: node.key, authorities: ca.pem}\n"
        )
        self.processes = ProcessCluster(folder, Configuration(config))
        self.config = self.processes.config

    def issue(self) -> None:
        made = self.authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=90))
        made.cert_chain_pems[0].write_to_path(self.folder / "node.crt")
        made.private_key_pem.write_to_path(self.folder / "node.key")

    async def start(self) -> None:
        self.processes.start_all()
        try:
            await self.processes.ready()
        except (TimeoutError, shoal.ShoalError):
            logs = sorted((self.folder / "logs").iterdir())
            pytest.fail("\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs))
        await self.told("m1", "node_started", "")  # which a manager is, too

    @property
    def url(self) -> str:
        return f"{self.processes.url}&timeout=20s"

    def context(self, certificate: str = "") -> ssl.SSLContext:
        return client_context(
            TlsFiles(str(self.folder / "ca.pem"), str(self.folder / certificate) if certificate else "")
        )

    def shoal(
        self, *arguments: str, cafile: str = "ca.pem", certificate: str = "", code: int | tuple[int, ...] = 0
    ) -> typer.testing.Result:
        environment = {
            **self.processes.environment,
            "SHOAL_CAFILE": str(self.folder / cafile),
            "SHOAL_CERTFILE": str(self.folder / certificate) if certificate else "",
            "SHOAL_KEYFILE": "",
        }
        done = typer.testing.CliRunner().invoke(app, list(arguments), env=environment)
        expected = (code,) if isinstance(code, int) else code
        assert done.exit_code in expected, (
            done.exit_code,
            done.stdout,
            done.stderr,
            traceback.format_exception(done.exception),
        )
        return done

    def events(self, process: str, event: str) -> list[dict[str, Any]]:
        lines = self.processes.log_of(process).splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [each for each in found if each["event"] == event]

    async def told(self, process: str, event: str, words: str) -> dict[str, Any]:
        """Return the event with these words in its reason, once it is logged."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for found in self.events(process, event):
                    if words in found.get("reason", ""):
                        return found
                await asyncio.sleep(LOOK_SECONDS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    made = SecureCluster(tmp_path_factory.mktemp("tls"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.processes.kill_all())


def test_applications_and_operators_are_served_over_tls(cluster):
    with shoal.Client(cluster.url) as db:
        db.put_many({f"key-{number}": b"value" for number in range(100)})
        assert db.get("key-7") == b"value"
        assert len(list(db.scan("key-"))) == 100
    assert "3 of 3 reachable" in cluster.shoal("status", "--wait", "20s").stdout
    assert cluster.shoal("get", "key-7").stdout.strip() == "value"
    assert cluster.shoal("export").stdout.count('"key":"key-') == 100


def test_managers_control_nodes_and_take_orders_over_tls(cluster):
    cluster.shoal("rebalance")
    assert "SHOAL_CERTFILE" in cluster.shoal("transfer-leader", "1", "n2", code=1).stderr
    assert "SHOAL_CERTFILE" in cluster.shoal("log-level", "n1", "info", code=1).stderr
    cluster.shoal("transfer-leader", "1", "n2", certificate="client.pem")
    cluster.shoal("log-level", "n1", "info", certificate="client.pem")
    assert "rebalance" in cluster.shoal("operations", "--config", str(cluster.processes.folder.config_file)).stdout
    assert cluster.shoal("doctor", "--config", str(cluster.processes.folder.config_file)).stdout.startswith(
        "cluster local: well"
    )


def test_grpc_is_served_over_tls(cluster):
    authority = (cluster.folder / "ca.pem").read_bytes()
    with grpc.secure_channel(cluster.config.nodes[0].admin, grpc.ssl_channel_credentials(authority)) as channel:
        put = channel.unary_unary("/shoal.v1.Shoal/Put", pb.PutRequest.SerializeToString, pb.WriteReply.FromString)
        get = channel.unary_unary("/shoal.v1.Shoal/Get", pb.GetRequest.SerializeToString, pb.GetReply.FromString)
        put(pb.PutRequest(key=b"from-grpc", value=b"1"), timeout=20)
        assert get(pb.GetRequest(key=b"from-grpc"), timeout=20).entry.value == b"1"


async def test_who_does_not_know_the_authority_is_told_so_and_the_node_logs_the_address(cluster):
    with pytest.raises(shoal.Unauthenticated, match="give the authority's, as a cafile"):
        async with shoal.AsyncClient(cluster.url.replace("ca.pem", "other.pem")):
            pass
    logged = await cluster.told("n1", "connection_refused", "broke off the handshake")
    assert logged["address"].startswith("127.0.0.1:")


def test_commands_say_which_option_is_missing(cluster):
    assert "give the authority's" in cluster.shoal("status", cafile="other.pem", code=5).stderr
    assert "give its authority's (SHOAL_CAFILE" in cluster.shoal("operations", cafile="other.pem", code=5).stderr
    assert "cannot be read" in cluster.shoal("status", cafile="nowhere.pem", code=2).stderr


async def test_plain_connections_are_told_that_the_cluster_speaks_tls(cluster):
    with pytest.raises(shoal.ProtocolMismatch, match="speaks TLS only"):
        async with shoal.AsyncClient(cluster.url.replace("shoals:", "shoal:").partition("?")[0]):
            pass
    await cluster.told("n1", "connection_refused", "does not speak TLS")


async def test_the_managers_own_nodes_take_nobody_without_a_certificate(cluster):
    address = cluster.config.managers[0].address
    with pytest.raises(shoal.Unauthenticated, match="wants a client's certificate"):
        await AdminConnection.open(address, PATIENCE_SECONDS, cluster.context())
    async with await AdminConnection.open(address, PATIENCE_SECONDS, cluster.context("client.pem")) as connection:
        assert connection.welcome.node == "m1"


async def test_a_peer_needs_a_certificate_for_the_host_that_the_shard_map_says(cluster):
    host, _, port = cluster.config.nodes[0].address.partition(":")
    for certificate in ("", "client.pem"):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=cluster.context(certificate))
        writer.write(encode_frame([Hello("peer", OLDEST, NEWEST, "local", "n2", "of-somebody-else")]))
        frames = FrameReader()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (bodies := frames.feed(data := await reader.read(4096))):
                assert data, "the connection was closed without a word"
        refused = greeting_decoder.decode(bodies[0])[0]
        assert isinstance(refused, Refused)
        assert "not in the certificate of this connection" in refused.message
        writer.close()


async def test_a_new_certificate_is_taken_over_while_the_cluster_serves(cluster):
    def serial() -> str:
        return ssl.get_server_certificate(tuple(cluster.config.nodes[0].address.split(":")))  # type: ignore[arg-type]

    processes = cluster.processes.running
    async with shoal.AsyncClient(cluster.url) as db:
        before = await asyncio.to_thread(serial)
        (cluster.folder / "node.key").write_text("half a key")
        os.kill(processes["n1"].pid, signal.SIGHUP)
        await cluster.told("n1", "certificates_refused", "no certificate and its key")
        assert await asyncio.to_thread(serial) == before
        cluster.issue()
        for process in processes.values():
            os.kill(process.pid, signal.SIGHUP)
        for name in processes:
            await cluster.told(name, "certificates_loaded", "")
        assert await asyncio.to_thread(serial) != before
        await db.put("key-7", "newer")
    async with shoal.AsyncClient(cluster.url) as db:
        assert await db.get("key-7") == b"newer"
    assert not any("half a key" in cluster.processes.log_of(name) for name in processes)


async def test_a_node_ends_in_good_order(cluster):
    node = cluster.processes.running["n3"]
    node.signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not node.ended():
            await asyncio.sleep(LOOK_SECONDS)
    assert node.exit_code() == 0
