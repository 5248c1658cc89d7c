"""What the doctor says of too much: keyspaces at quotas, nodes that turn requests away, disks behind, hot keys. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from shoal.admin.hot_keys import HotKeyRate
from shoal.cli.output import shown, shown_bytes
from shoal.cli.views import MEMORY_NEARLY_FULL
from shoal.priorities import OverloadReason
from shoal.protocol.messages import StatusReply
from shoal.shardmap import Keyspace

from shoal_shardmanager.doctor.evidence import Evidence, Finding, Severity

LATELY_MS = 30_000
"""What was refused longer ago says nothing of now."""
SHED_MANY = 10
"""Fewer requests that were turned away are a moment's."""
HOT_SHARE = 0.2
HOT_READS = 2_000
HOT_WRITES = 500
"""A key with so many a second, and such a share of its shard, is worth a word: no split of the shard helps it."""
HOT_SHOWN = 3
SHOWN_CHARACTERS = 60
_NO_MATTER = frozenset(("log_cache",))
"""An account that is full as long as there is anything to keep."""


def statuses(evidence: Evidence) -> Iterator[StatusReply]:
    """Yield what the nodes say that answer."""
    for report in evidence.survey.nodes:
        if report.status is not None:
            yield report.status


def keyspaces_at_quota(evidence: Evidence) -> Iterator[Finding]:
    """Keyspaces that are full, or were held to their quotas lately."""
    known = {keyspace.id: keyspace for keyspace in evidence.survey.shard_map.keyspaces}
    full: set[int] = set()
    refusing: dict[int, list[str]] = defaultdict(list)
    for status in statuses(evidence):
        for use in status.quotas:
            if use.keyspace not in known:
                continue
            if use.full:
                full.add(use.keyspace)
            elif 0 <= use.refused_ms < LATELY_MS:
                refusing[use.keyspace].append(status.node)
    for number in sorted(full):
        keyspace = known[number]
        yield Finding(
            Severity.WARNING,
            "keyspace_full",
            f"keyspace {keyspace.name} has as many bytes as its quota allows ({keyspace.max_bytes}): puts and increments fail, "
            "deletes do not",
            "it takes more again seconds to minutes after rows have gone, or with a larger quota: `shoal keyspace alter "
            f"{keyspace.name} --max-bytes SIZE`",
        )
    for number, nodes in sorted(refusing.items()):
        if number not in full:
            keyspace = known[number]
            yield Finding(
                Severity.INFO,
                "keyspace_at_quota",
                f"keyspace {keyspace.name} asks for more than its quota of {_quotas(keyspace)}: within the last half minute "
                f"some of it was refused by {', '.join(nodes)}",
                f"`shoal hot --keyspace {keyspace.name}` shows for what it asks; if it is to have more, `shoal keyspace alter "
                f"{keyspace.name}`",
            )


def _quotas(keyspace: Keyspace) -> str:
    quotas = (("reads", keyspace.reads_per_second), ("writes", keyspace.writes_per_second))
    return " and ".join(f"{rate} {kind} a second" for kind, rate in quotas if rate) or f"{keyspace.max_bytes} bytes"


_SHED_ADVICE = {
    OverloadReason.NODE_BUSY.value: "spread its leaders (`shoal rebalance`), split hot shards (`shoal hot`), add nodes, or "
    "give the keyspace that asks for most a quota",
    OverloadReason.MEMORY.value: "clients that do not read their answers, or very many of them: see client_cut_off in its "
    "log, and its memory's accounts among its metrics",
    OverloadReason.CONNECTION.value: "some client asks for very much at once over one connection: it is to wait for answers",
    OverloadReason.UNCOMMITTED.value: "followers are slow, or hardly reached: `shoal why` says of a shard what it waits for",
}


def shedding_nodes(evidence: Evidence) -> Iterator[Finding]:
    """Nodes that turn requests away, for other reasons than a quota or their disk."""
    names = {keyspace.id: keyspace.name for keyspace in evidence.survey.shard_map.keyspaces}
    for status in statuses(evidence):
        for reason, advice in _SHED_ADVICE.items():
            shed = [each for each in status.shed if each.reason == reason]
            count = sum(each.count for each in shed)
            if count < SHED_MANY:
                continue
            most = names.get(max(shed, key=lambda each: each.count).keyspace)
            yield Finding(
                Severity.WARNING,
                "node_sheds",
                f"node {status.node} turned away {count} requests within the last ten to twenty seconds ({reason})"
                f"{f', most of them of keyspace {most}' if most else ''}; requests wait for {status.queue_delay_us // 1000} ms",
                advice,
                node=status.node,
            )


_MEMORY_ADVICE = {
    "connections": "fewer connections, or more memory for nodes (limits.memory)",
    "frames": "some clients send very long frames, or parts of frames and not the rest: see client_cut_off in its log",
    "requests": "clients ask for more at once than it can do: spread its leaders (`shoal rebalance`), add nodes",
    "answers": "clients ask for much and do not read it, or slowly: see client_cut_off in its log",
    "entries": "its followers do not keep up with what is written: look at their disks and at the network to them",
    "peers": "a peer takes less than is sent to it: look at the network to it, and see peer_cut_off in its log",
    "snapshots": "nothing has to be done: the rest of the snapshots wait",
    "results": "results of conditional writes, remembered for those who repeat them: more memory for nodes (limits.memory), or "
    "fewer shards on each",
}


def memory_nearly_full(evidence: Evidence) -> Iterator[Finding]:
    """Nodes that hold nearly as much of something as they may."""
    for status in statuses(evidence):
        for use in status.memory:
            if use.used_bytes >= MEMORY_NEARLY_FULL * use.bound_bytes and use.account not in _NO_MATTER:
                yield Finding(
                    Severity.WARNING,
                    "memory_nearly_full",
                    f"node {status.node} holds {shown_bytes(use.used_bytes)} of {use.account} in memory, of "
                    f"{shown_bytes(use.bound_bytes)} that it may; {use.refused} times there was no room",
                    _MEMORY_ADVICE.get(use.account, "more memory for nodes (limits.memory)"),
                    node=status.node,
                )


def disks_behind(evidence: Evidence) -> Iterator[Finding]:
    """Nodes that let clients write less, since their disks do not keep up."""
    for status in statuses(evidence):
        if status.writes_slowed:
            yield Finding(
                Severity.WARNING,
                "disk_behind",
                f"the disk of node {status.node} does not keep up with what is written: {status.writes_slowed}",
                "other load on the disk, or too many writes for it: move leaders or replicas off (`shoal rebalance`, `shoal "
                f"failover {status.node}`), or give the keyspace that writes most a quota",
                node=status.node,
            )


def hot_keys(evidence: Evidence) -> Iterator[Finding]:
    """Keys that are asked for so often that only the application can help them."""
    told = 0
    for hot in evidence.hot_keys:
        much_read, much_written = hot.reads >= HOT_READS, hot.writes >= HOT_WRITES
        if hot.share < HOT_SHARE or not (much_read or much_written) or told == HOT_SHOWN:
            continue
        told += 1
        yield Finding(
            Severity.INFO,
            "hot_key",
            f"key {_short(hot)} of keyspace {hot.keyspace} is read {hot.reads} and written {hot.writes} times a second, "
            f"{100 * hot.share:.0f}% of what is asked of shard {hot.shard}",
            _hot_advice(much_read=much_read, much_written=much_written),
            shard=hot.shard,
        )


def _hot_advice(*, much_read: bool, much_written: bool) -> str:
    advice = []
    if much_read:
        advice.append(
            "read it with consistency='eventual', which all replicas serve, or keep it in the application for a moment"
        )
    if much_written:
        advice.append("split it: count under several keys, one of them chosen by chance, and add them up when reading")
    return "; ".join(advice) + ": no split or move of the shard helps a single key"


def _short(hot: HotKeyRate) -> str:
    text = shown(hot.key)
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}...")
