"""An event loop whose connections can be led elsewhere: so one client alone gets to its nodes by other links."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import uvloop
from shoal.options import split_address
from shoal_server.local.layout import LOOPBACK, free_ports

from shoal_chaos.clusters.links import CLIENTS, LinkRule, Links
from shoal_chaos.clusters.proxy import NodeProxy

START_SECONDS = 10.0


class DetouringLoop(uvloop.Loop):
    """`detours`: where a connection to an address goes instead."""

    def __init__(self) -> None:
        super().__init__()
        self.detours: dict[tuple[str, int], tuple[str, int]] = {}

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> Any:
        if host is not None and port is not None:
            host, port = self.detours.get((host, port), (host, port))
        return await super().create_connection(protocol_factory, host, port, **options)  # type: ignore[arg-type]


@contextmanager
def narrow_links(addresses: Sequence[str], bytes_per_second: float) -> Iterator[None]:
    """Lead this loop's connections to nodes over links that are so narrow from them to us.

    The proxies have a thread and a loop of their own, whose connections go where they should.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, DetouringLoop):
        raise TypeError("connections can only be led elsewhere in a DetouringLoop")
    fronts = dict(zip(addresses, free_ports(len(addresses)), strict=True))
    proxying = asyncio.new_event_loop()
    thread = threading.Thread(target=proxying.run_forever, name="narrow-links", daemon=True)
    thread.start()

    async def start() -> list[NodeProxy]:
        links = Links()
        proxies = [NodeProxy(address, *_to(address, front), links, Random(0)) for address, front in fronts.items()]
        links.set({(address, CLIENTS): LinkRule(bytes_per_second=bytes_per_second) for address in addresses})
        for proxy in proxies:
            await proxy.start()
        return proxies

    async def stop(proxies: Sequence[NodeProxy]) -> None:
        for proxy in proxies:
            await proxy.stop()

    started = asyncio.run_coroutine_threadsafe(start(), proxying).result(START_SECONDS)
    loop.detours = {split_address(address): (LOOPBACK, front) for address, front in fronts.items()}
    try:
        yield
    finally:
        loop.detours = {}
        asyncio.run_coroutine_threadsafe(stop(started), proxying).result(START_SECONDS)
        proxying.call_soon_threadsafe(proxying.stop)
        thread.join()
        proxying.close()


def _to(address: str, front: int) -> tuple[str, int, int]:
    host, port = split_address(address)
    return host, front, port
