"""What is applied is flushed by the number of entries, too: a process that is killed has that many to apply again."""

from __future__ import annotations

from typing import Any

import pytest
from shoal.protocol.messages import Put
from shoal_server.node.core import Node
from shoal_server.node.settings import NodeSettings

ENTRIES = 10
WRITES = 60


def test_small_entries_are_flushed_by_their_number(make_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: dict[str, list[int]] = {}
    most_unflushed = 0
    end_flush = Node.flushed

    def record(node: Node, ticket: int) -> None:
        flushed.setdefault(node.identity.node, []).append(node.replicas[1].machine.state.index)
        end_flush(node, ticket)

    monkeypatch.setattr(Node, "flushed", record)
    nodes = make_nodes(NodeSettings(flush_entries=ENTRIES))
    for number in range(WRITES):
        nodes.answer(nodes.write(Put(b"k%d" % number, b"v")))
        for name, node in nodes.nodes.items():
            known = flushed.get(name, [0])[-1]
            most_unflushed = max(most_unflushed, node.replicas[1].machine.state.index - known)
    assert sorted(flushed) == sorted(nodes.nodes)
    assert most_unflushed < 2 * ENTRIES
    for indexes in flushed.values():
        assert len(indexes) <= WRITES // ENTRIES + 1
