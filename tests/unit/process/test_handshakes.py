"""Connections to a TLS port that never get through their handshake, beside one that does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from ssl import SSLContext

import pytest
import trustme
from shoal.tls import TlsFiles, client_context
from shoal_server import secure_listener
from shoal_server.certificates import Certificates
from shoal_server.config.schema import TlsConfig

from .server import serving

IDLE = 600
FEW = 8
"""Descriptors that the process opens meanwhile for itself."""


class Files:
    """A node's certificate, and who trusts it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "node.pem")
        self._folder = folder

    @property
    def certificates(self) -> Certificates:
        node = self._folder / "node.pem"
        config = TlsConfig(certificate=node, key=node, authorities=self._folder / "ca.pem")
        return Certificates(config, "n1", "127.0.0.1:1")

    @property
    def client(self) -> SSLContext:
        return client_context(TlsFiles(str(self._folder / "ca.pem"), ""))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_idle_handshakes_hold_up_nobody(files: Files):
    async with serving(certificates=files.certificates) as server:
        idle = [await server.connect() for _ in range(IDLE)]
        async with asyncio.timeout(2):
            newcomer = await server.connect(ssl=files.client)
            await newcomer.greet()
            assert await newcomer.is_served()
        assert len(server.reception.unfinished) <= server.reception.unfinished.most // 2
        for connection in idle:
            connection.writer.transport.abort()


async def test_a_handshake_that_gives_way_leaves_nothing_open(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(secure_listener, "HANDSHAKE_SECONDS", 3600.0)
    async with serving(certificates=files.certificates) as server:
        monkeypatch.setattr(server.reception.unfinished, "most", 8)
        before = descriptors()
        idle = [await server.connect() for _ in range(40)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(connection.reader.read() for connection in idle[:36]))
            # 4 handshakes are under way, for each of which there are two descriptors, and here are the ends of all.
            while descriptors() > before + 40 + 8 + FEW:
                await asyncio.sleep(0.01)
        assert any("its place" in reason or "greet at once" in reason for reason in server.refusals)
        for connection in idle:
            connection.writer.transport.abort()


async def test_who_has_shaken_hands_and_does_not_greet_gives_way_in_words(
    files: Files, monkeypatch: pytest.MonkeyPatch
):
    async with serving(certificates=files.certificates) as server:
        monkeypatch.setattr(server.reception.unfinished, "most", 8)
        silent = await server.connect(ssl=files.client)
        others = [await server.connect(ssl=files.client) for _ in range(4)]
        assert "greet at once" in (await silent.refusal()).message
        await others[-1].greet()
        assert await others[-1].is_served()
