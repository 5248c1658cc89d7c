"""Somebody else's cluster, of which nothing is known but its URL and how its managers are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shoal.admin.survey import ProblemKind, Survey, examine, survey
from shoal.options import parse_url

from shoal_chaos.clusters.commands import command_output

READY_SECONDS = 30.0


class RemoteCluster:
    """Implements `nemeses.base.Target`; commands find the managers by `SHOAL_MANAGERS`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.remarks: list[str] = []
        self.failures: list[str] = []
        self.broken: list[str] = []
        self.lost: set[str] = set()
        options = parse_url(url)
        self._seeds, self._tls = options.seeds, options.tls_context()

    async def leaders(self) -> Mapping[int, str]:
        found = await self._survey()
        leaders = {shard.id: found.leader(shard.id) for shard in found.shard_map.shards}
        return {shard: leader.node for shard, leader in leaders.items() if leader is not None}

    async def voters(self) -> Mapping[int, Sequence[str]]:
        return {shard.id: shard.voters for shard in (await self._survey()).shard_map.shards}

    async def run(self, *arguments: str) -> bytes:
        return await command_output(arguments, {"SHOAL_URL": self.url})

    async def ready(self) -> None:
        """Wait until every shard has a leader.

        Raises:
            TimeoutError: one has none.
        """
        found = await examine(self._seeds, wait_seconds=READY_SECONDS, tls=self._tls)
        leaderless = [one.message for one in found.problems if one.kind is ProblemKind.SHARD_WITHOUT_LEADER]
        if leaderless:
            raise TimeoutError("; ".join(leaderless))

    async def _survey(self) -> Survey:
        return await survey(self._seeds, tls=self._tls)
