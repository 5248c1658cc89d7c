"""What a real cluster tells of itself: scrapes, dashboard, alerts, health pages, the doctor, slow requests, log levels."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import shoal
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from shoal_server.local.cluster import LocalCluster, prepare_folder
from shoal_shardmanager.doctor.evidence import Severity
from shoal_shardmanager.doctor.gather import gather
from shoal_shardmanager.doctor.judge import judge
from shoal_shardmanager.rpc.client import ManagersClient

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "shoal.json"
PAGE = ROOT / "docs" / "observability.md"
WAIT_SECONDS = 40.0
SMALL = "storage: {block_cache: 1MiB, write_buffer: 4MiB}\nobserve: {slow_request: 300ms, storage_counters: true}\n"
QUOTAS = ("--reads-per-second", "1000000", "--writes-per-second", "1000000", "--max-bytes", "10GiB")
MANAGES = 'shoal_manager_controls{manager="m1"} 1.0'
QUOTA = 'shoal_quota_full{keyspace="default"}'
NAME = re.compile(r"\bshoal_[a-z]+_[a-z_]+\b")


class Watched:
    """A cluster of processes, with a manager, and what an operator sees of it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        config = cluster.config
        self.pages = {entry.id: entry.metrics for entry in (*config.nodes, *config.managers)}

    async def page(self, process: str, path: str) -> tuple[int, str]:
        """Return the status and the text of a page; status 0 where nobody listens yet."""

        def fetch() -> tuple[int, str]:
            try:
                with urlopen(f"http://{self.pages[process]}{path}", timeout=WAIT_SECONDS) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as error:
                return error.code, error.read().decode()
            except URLError as error:
                return 0, str(error)

        return await asyncio.to_thread(fetch)

    async def page_with(self, process: str, path: str, text: str) -> str:
        """Wait until a page is well, and has `text` in it; return it."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                status, page = await self.page(process, path)
                if status == 200 and text in page:
                    return page
                await asyncio.sleep(0.05)

    async def shoal(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command; return its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shoal.cli", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"SHOAL_URL": self.cluster.url() + "?timeout=2s"},
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    @property
    def manager(self) -> str:
        """Where the manager takes orders."""
        return str(self.cluster.config.managers[0].admin)

    async def doctor(self) -> tuple[int, dict[str, Any]]:
        """Run the command; return its exit code and what it found."""
        code, out, err = await self.shoal("doctor", "--json", "--managers", self.manager)
        assert out, err
        return code, json.loads(out)

    async def wrong(self) -> set[str]:
        """Return the codes of what the doctor finds wrong, without a command."""
        managers = ManagersClient([self.manager], 1.0)
        try:
            facts = await gather(self.cluster.addresses, managers, [], 1.0)
        finally:
            managers.close()
        return {finding.code for finding in judge(facts) if finding.severity is not Severity.INFO}

    def log(self, process: str) -> list[dict[str, Any]]:
        lines = self.cluster.folder.log_file(process).read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """Run three nodes and a manager until all is well, and the manager controls them."""
    prepared = prepare_folder(folder / "cluster", nodes=3, port=0, managers=1)
    prepared.config_file.write_text(prepared.config_file.read_text() + SMALL)
    cluster = LocalCluster(prepared, prepared.config_file)
    cluster.start_all()
    found = Watched(cluster)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await cluster.is_ready():
                await asyncio.sleep(0.05)
        await found.page_with("m1", "/metrics", MANAGES)
        yield found
    finally:
        for child in cluster.running.values():
            os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT_SECONDS):
            while cluster.running:
                await asyncio.sleep(0.02)


def names_in(scrapes: list[str]) -> set[str]:
    """The names that queries may use: of samples."""
    return {
        sample.name for text in scrapes for family in text_string_to_metric_families(text) for sample in family.samples
    }


async def some_load(db: shoal.AsyncClient) -> None:
    await db.put_many({f"user:{number}/name": "v" for number in range(100)})
    assert await db.get("user:1/name") == b"v"
    await db.get("user:1/name", consistency="eventual")
    assert len([key async for key in db.scan("user:")]) == 100
    with pytest.raises(shoal.InvalidArgument):
        await db.increment("user:1/name")


async def test_dashboard_alerts_and_documentation_name_what_a_scrape_has(tmp_path: Path):
    async with watched(tmp_path) as found:
        async with shoal.AsyncClient(found.cluster.url()) as db:
            await some_load(db)
            registry = CollectorRegistry()
            registry.register(db)  # type: ignore[arg-type]
            scrapes = [generate_latest(registry).decode()]
        code, out, err = await found.shoal("keyspace", "alter", "default", *QUOTAS, "--managers", found.manager)
        assert code == 0, out + err
        for process in found.pages:
            await found.page_with(process, "/metrics", "shoal_manager_quota_used_bytes{" if process == "m1" else QUOTA)
        api = await asyncio.create_subprocess_exec(
            sys.executable, "-c", GRPC_GET, str(found.cluster.config.nodes[0].admin), cwd=tmp_path
        )
        assert await api.wait() == 0
        for process in found.pages:
            assert await found.page(process, "/healthz") == (200, "alive\n")
            assert await found.page_with(process, "/readyz", "ready") == "ready\n"
            scrapes.append(
                await found.page_with(process, "/metrics", MANAGES if process == "m1" else "shoal_node_info")
            )
        names = names_in(scrapes)
        check_names(names)
        check_with_promtool(scrapes)
        operations = {}
        for family in text_string_to_metric_families(scrapes[1]):
            if family.name == "shoal_node_operations":
                operations = {sample.labels["operation"]: sample.value for sample in family.samples}
        assert operations["write"] >= 100
        code, out, _ = await found.shoal("log-level", "n1", "error")
        assert (code, out) == (0, "n1 logs from error on\n")
        assert "log_level_set" in {event["event"] for event in found.log("n1")}
        code, _, err = await found.shoal("log-level", "n9", "error")
        assert (code, "there are n1, n2, n3" in err) == (3, True)
        assert all(b"user:1/name" not in file.read_bytes() for file in (tmp_path / "cluster" / "logs").iterdir())


GRPC_GET = """
import sys, grpc
from shoal_server.api.generated import shoal_pb2 as pb, shoal_pb2_grpc as rpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    rpc.ShoalStub(channel).Get(pb.GetRequest(key=b"user:1/name"), timeout=30)
"""


def check_names(names: set[str]) -> None:
    """The dashboard, the alerts and the documentation name samples that exist, and the documentation all of them."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [str(variable["query"]) for variable in dashboard["templating"]["list"]]
    alerts = (PROMETHEUS / "alerts.yml").read_text()
    used = {name for text in (*queries, alerts) for name in NAME.findall(text)}
    assert used <= names, sorted(used - names)
    families = {re.sub(r"_(bucket|count|sum)$", "", name) if "duration" in name else name for name in names}
    documented = set(re.findall(r"^\| `(shoal_\w+)` \|", PAGE.read_text(), re.MULTILINE))
    # Labelled by what happens: these are there once it has happened.
    now_and_then = {
        "shoal_client_refusals_total",
        "shoal_client_overloads_total",
        "shoal_client_throttled_calls_total",
    }
    assert documented - now_and_then <= families, sorted(documented - families)
    shoals = {name for name in families if name.startswith("shoal_")}
    assert shoals <= documented, sorted(shoals - documented)


def check_with_promtool(scrapes: list[str]) -> None:
    """Prometheus' own tool finds nothing wrong with the scrapes, and the alerts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        return
    for text in scrapes:
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]):
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_doctor_and_the_pages_tell_of_nodes_that_are_killed_or_hang(tmp_path: Path):
    async with watched(tmp_path) as found:
        async with asyncio.timeout(WAIT_SECONDS):
            while (answer := await found.doctor())[0]:
                assert not answer[1]["well"]
        assert answer[1]["well"]
        children = found.cluster.running
        async with shoal.AsyncClient(found.cluster.url(), timeout=WAIT_SECONDS) as db:
            await some_load(db)
            os.kill(children["n3"].pid, signal.SIGKILL)
            async with asyncio.timeout(WAIT_SECONDS):
                while await found.wrong() != {"node_unreachable", "no_voter_to_spare"}:
                    await asyncio.sleep(0.05)
            os.kill(children["n2"].pid, signal.SIGSTOP)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    while "shard_without_leader" not in await found.wrong():
                        await asyncio.sleep(0.05)
                    while (await found.page("n1", "/readyz"))[0] != 503:
                        await asyncio.sleep(0.05)
                assert (await found.page("n1", "/healthz"))[0] == 200
                assert "cut off" in (await found.page("n1", "/readyz"))[1]
                code, report = await found.doctor()
                assert (code, report["well"]) == (5, False)
                assert report["findings"][0]["severity"] == "critical"
            finally:
                os.kill(children["n2"].pid, signal.SIGCONT)
            await db.put("user:1/name", "after")
        events = found.log("n1")
        assert [event["event"] for event in events if event["event"].startswith(("node_ready", "node_not_ready"))][
            :2
        ] == [
            "node_ready",
            "node_not_ready",
        ]
