"""What all nemeses have in common, and what they are let loose on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from shoal_chaos.clusters.faulty_cluster import FaultyCluster


class Target(Protocol):
    """Any cluster, also somebody else's: what can be done to it with a URL and its operators' commands."""

    remarks: list[str]
    """What went otherwise than planned and breaks no promise, in words."""

    @property
    def url(self) -> str: ...

    async def leaders(self) -> Mapping[int, str]:
        """Return the leader of every shard that has one."""
        ...

    async def voters(self) -> Mapping[int, Sequence[str]]:
        """Return the voters of every shard."""
        ...

    async def run(self, *arguments: str) -> bytes:
        """Run `shoal ...`; return what it printed.

        Raises:
            RequestFailed: it did not end well.
        """
        ...


class Nemesis(ABC):
    """One kind of harm. It is begun once and then healed once; after that, the cluster is left to itself.

    `outcome`: what came of it, in words, once it is healed; "" where that is not to be said.
    """

    name: ClassVar[str]
    outcome: str = ""

    async def prepare(self, cluster: FaultyCluster, random: Random) -> None:  # noqa: B027
        """Make ready for it; what happens now is not yet judged as its doing. Most need nothing."""

    @abstractmethod
    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        """Do harm; return in words what was done, to whom.

        Raises:
            NotPossibleHere: this machine cannot do it.
        """

    @abstractmethod
    async def heal(self, cluster: FaultyCluster) -> None:
        """Undo it, also where it was only half begun."""


class Disturbance(Nemesis):
    """Harm that needs no hold of the cluster's processes, and can be done to any cluster."""

    @abstractmethod
    async def start(self, cluster: Target, random: Random) -> str:
        """Do it; return it in words."""

    @abstractmethod
    async def heal(self, cluster: Target) -> None:
        """End it."""


class Together(Nemesis):
    """Several at once."""

    name: ClassVar[str] = "together"

    def __init__(self, *nemeses: Nemesis) -> None:
        self._nemeses = nemeses

    async def start(self, cluster: FaultyCluster, random: Random) -> str:
        return "; ".join([await nemesis.start(cluster, random) for nemesis in self._nemeses])

    async def heal(self, cluster: FaultyCluster) -> None:
        async with AsyncExitStack() as stack:
            for nemesis in self._nemeses:
                stack.push_async_callback(nemesis.heal, cluster)
