"""Whether a node is ready to be asked: pure, from what its core knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal_server.node.core import Node


@dataclass(frozen=True, slots=True)
class Readiness:
    """`reason`: "" where the process is ready, else why it is not. `failed`: it never will be: it has to be started anew."""

    reason: str = ""
    failed: bool = False

    @property
    def ready(self) -> bool:
        return not self.reason


STARTING = Readiness("starting: the data folder is being opened")
STOPPING = Readiness("stopping: leaderships are being handed over")


def judge(node: Node, now: int, *, stopping: bool, failure: str) -> Readiness:
    """Say whether a node can serve, or find who does.

    A shard without a leader does not make its nodes unready: the others of their shards would be lost with it. A node that
    hears the leader of none of its shards is cut off.

    Args:
        now: of the node's clock (ns).
    """
    if failure:
        return Readiness(f"failed: {failure}", failed=True)
    if stopping:
        return STOPPING
    if not node.routes.map.version:
        return Readiness("joining: no manager has given this node a shard map yet")
    if node.disk.stalled:
        return Readiness(f"the disk hangs: {node.disk.not_leading}")
    replicas = node.replicas.values()
    if replicas and not any(replica.group.has_leader(now) for replica in replicas):
        return Readiness(f"cut off: it hears the leader of none of its {len(replicas)} shards")
    return Readiness()
