"""What a node turns away, and why, as families of samples: how long requests wait, quotas, and a disk that falls behind.

Of keyspaces those are shown of which most was turned away, or asked for, at most `KEYSPACES_MAX` of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import nlargest

from shoal.bounds import WHOLE
from shoal.metrics import Family, gauge
from shoal.priorities import OverloadReason, Priority

from shoal_server.node.core import Node
from shoal_server.node.fair_shares import CONTROL

KEYSPACES_MAX = 64
NO_KEYSPACE = ""
"""In place of a name: the requests were about none, or about one that is not there any more."""


def overload_families(node: Node, now: int) -> Iterator[Family]:
    """Yield the families, as of `now` (ns of the node's clock)."""
    yield gauge(
        "shoal_node_queue_delay_seconds",
        "How long clients' requests waited at the least before they were taken, over the last tenth of a second",
        node.overload.delay_at(now) / 1e9,
    )
    yield _shed(node)
    yield from _quotas(node, now)
    budget = node.disk.budget
    yield gauge(
        "shoal_node_write_pressure",
        "How far the disk is behind with what was written; from 0 on clients may write less, at 1 nothing",
        budget.pressure,
    )
    yield gauge(
        "shoal_node_write_limit_bytes_per_second",
        "What clients may write since the disk is behind; 0: there is no such limit",
        budget.rate or 0.0,
    )


def _shed(node: Node) -> Family:
    found = Family(
        "shoal_requests_shed",
        "counter",
        "Requests that were refused as overloaded, by what there was too much of; of the keyspaces with most of them",
    )
    by_keyspace: Counter[str] = Counter()
    # Each reason is there from the start: a rate does not show the event with which its counter appears.
    counts = Counter({(reason.value, Priority.INTERACTIVE.value, NO_KEYSPACE): 0 for reason in OverloadReason})
    for (reason, priority, keyspace), count in node.overload.shed.items():
        name = _name(node, keyspace)
        by_keyspace[name] += count
        counts[reason.value, priority.value, name] += count
    shown = {NO_KEYSPACE} | {name for name, _ in by_keyspace.most_common(KEYSPACES_MAX)}
    for (of_reason, of_priority, name), count in sorted(counts.items()):
        if name in shown:
            found.add(count, reason=of_reason, priority=of_priority, keyspace=name)
    return found


def _quotas(node: Node, now: int) -> Iterator[Family]:
    share = Family(
        "shoal_quota_share_ratio", "gauge", "This node's share of what the keyspace may read and write in the cluster"
    )
    asked = Family(
        "shoal_quota_asked",
        "counter",
        "Keys and rows that clients wanted to read, and operations that they wanted done, of keyspaces with quotas",
    )
    refused = Family("shoal_quota_refused", "counter", "Requests that were refused for a quota")
    full = Family("shoal_quota_full", "gauge", "1 while the keyspace has as many bytes as it may")
    uses = nlargest(
        KEYSPACES_MAX, node.quotas.uses(now), key=lambda use: (use.refused, use.asked_reads + use.asked_writes)
    )
    for use in sorted(uses, key=lambda use: use.keyspace):
        name = _name(node, use.keyspace)
        share.add(use.reads / WHOLE, keyspace=name, operation="read")
        share.add(use.writes / WHOLE, keyspace=name, operation="write")
        asked.add(use.asked_reads, keyspace=name, operation="read")
        asked.add(use.asked_writes, keyspace=name, operation="write")
        refused.add(use.refused, keyspace=name)
        full.add(use.full, keyspace=name)
    yield from (share, asked, refused, full)


def _name(node: Node, keyspace: int) -> str:
    known = None if keyspace == CONTROL else node.routes.keyspaces.get(keyspace)
    return NO_KEYSPACE if known is None else known.name
