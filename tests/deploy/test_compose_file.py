"""What docker-compose.yml would start is started here: its commands, environment and ports, as processes on loopback.

Every service has a loopback address of its own in place of its name, so that all have the same ports, as in containers.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "shoal"]
RUNNING = [name for name in OURS if "profiles" not in SERVICES[name]]
ENTRYPOINT = [sys.executable, "-m", "shoal.cli"]
DATA = "/var/lib/shoal"


def can_bind(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 7400))
        except OSError:
            return False
    return True


class Containers:
    """The services that run Shoal, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        network = Random(str(folder)).randrange(1, 250)
        self.addresses = {name: f"127.83.{network}.{number}" for number, name in enumerate(OURS, start=1)}
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    def local(self, text: str) -> str:
        """Return text with addresses in place of services' names, where a port follows."""
        return re.sub(r"\b([a-z]\w*)(?=:\d)", lambda match: self.addresses.get(match[1], match[1]), text)

    def mounted(self, service: str) -> dict[str, Path]:
        """Return what a service finds at which path, files copied with addresses for names."""
        found: dict[str, Path] = {}
        for volume in SERVICES[service].get("volumes", ()):
            source, target = volume.split(":")[:2]
            place = self.folder / service / target.strip("/")
            if source.startswith("./"):
                place.parent.mkdir(parents=True, exist_ok=True)
                data = self.folder / service / DATA.strip("/")
                place.write_text(self.local((ROOT / source).read_text()).replace(DATA, str(data)))
            else:
                assert source in COMPOSE["volumes"], f"{service} mounts {source}, which is no volume"
                place.mkdir(parents=True, exist_ok=True)
            found[target] = place
        return found

    def environment(self, service: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
        return own | {name: self.local(value) for name, value in SERVICES[service].get("environment", {}).items()}

    async def start(self, service: str) -> None:
        places = self.mounted(service)
        command = [str(places.get(part, part)) for part in SERVICES[service]["command"]]
        with (self.folder / f"{service}.log").open("ab") as log:
            self.processes[service] = await asyncio.create_subprocess_exec(
                *ENTRYPOINT, *command, stdout=log, stderr=log, env=self.environment(service)
            )

    async def run(self, service: str, *arguments: str) -> tuple[int, str]:
        """Do as `docker compose run --rm SERVICE ARGUMENTS`; return the exit code and what was printed."""
        process = await asyncio.create_subprocess_exec(
            *ENTRYPOINT, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=self.environment(service),
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    async def is_healthy(self, service: str) -> bool:
        """Run a service's health check, as the engine would."""
        kind, program, *arguments = SERVICES[service]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *map(self.local, arguments), stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0

    async def until(self, what: Any, patience_seconds: float = 60) -> None:
        async with asyncio.timeout(patience_seconds):
            while not await what():
                await asyncio.sleep(0.2)

    async def stop(self) -> dict[str, int]:
        """Stop all as the engine does; return the exit codes."""
        for process in self.processes.values():
            if process.returncode is None:
                process.terminate()
        return {name: await process.wait() for name, process in self.processes.items()}


@pytest.fixture
async def containers(tmp_path: Path) -> AsyncIterator[Containers]:
    made = Containers(tmp_path)
    if not all(map(can_bind, made.addresses.values())):
        pytest.skip("this machine has one loopback address only, or its port 7400 is taken on all of them")
    yield made
    for process in made.processes.values():
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_services_of_the_compose_file_make_a_healthy_cluster_and_end_in_order(containers: Containers) -> None:
    for service in RUNNING:
        await containers.start(service)

    async def is_well() -> bool:
        code, _ = await containers.run("cli", "status")
        return code == 0

    await containers.until(is_well)
    for service in RUNNING:
        await containers.until(lambda service=service: containers.is_healthy(service))
    code, text = await containers.run("cli", "put", "greeting", "hello")
    assert code == 0, text
    code, text = await containers.run("cli", "get", "greeting")
    assert (code, text.strip()) == (0, "hello")

    async def is_managed() -> bool:
        code, _ = await containers.run("cli", "rebalance", "--plan")
        return code == 0

    await containers.until(is_managed)
    assert set((await containers.stop()).values()) == {0}
    assert not await containers.is_healthy("n1"), "the check must be able to fail"


def test_every_service_has_its_volume_its_health_check_and_an_image_of_a_fixed_version() -> None:
    volumes = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    named = [volume for volume in volumes if not volume.startswith("./")]
    assert sorted(named) == sorted(COMPOSE["volumes"]), "each is used, once"
    for name in RUNNING:
        assert f"//{name}:" in SERVICES[name]["healthcheck"]["test"][-1]
        assert SERVICES[name]["command"][-1] == name
    for source in (volume for volume in volumes if volume.startswith("./")):
        assert (ROOT / source).exists(), f"{source} is mounted and not there"
    for name in set(SERVICES) - set(OURS):
        assert re.search(r":v?\d+\.\d+\.\d+$", SERVICES[name]["image"]), f"{name}: say which version"


def test_published_ports_are_on_loopback_and_each_once() -> None:
    published = [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(published) == len(set(published))
    assert all(port.startswith("127.0.0.1:") for port in published), "there is no password on any of them"
