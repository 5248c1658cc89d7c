"""Whom a node takes for a peer: a node of the shard map, of the same cluster, with the data folder that it was met with."""

from __future__ import annotations

from shoal.protocol.messages import Hello, Welcome
from shoal.protocol.version import NEWEST, OLDEST

from shoal_server.certificates import Certificate, host_of, names_host
from shoal_server.node.core import Node
from shoal_server.storage.engine import Engine
from shoal_server.storage.node_rows import load_peer_incarnation, save_peer_incarnation


class PeerIdentities:
    """See the module's first line."""

    def __init__(self, node: Node, engine: Engine) -> None:
        self._node = node
        self._engine = engine

    def hello(self) -> Hello:
        """Return how this node greets its peers."""
        identity = self._node.identity
        return Hello(
            "peer",
            OLDEST,
            NEWEST,
            identity.cluster,
            identity.node,
            identity.incarnation,
            cluster_id=self._node.cluster_id,
        )

    def check(self, expected: str, greeting: Hello | Welcome) -> str:
        """Return why this is not the peer that the shard map and the past say, or ""."""
        node, incarnation, cluster_id = greeting.node, greeting.incarnation, greeting.cluster_id
        if greeting.cluster != self._node.identity.cluster:
            return f"cluster {greeting.cluster!r} is not this node's, {self._node.identity.cluster!r}"
        known_id = self._node.cluster_id
        if cluster_id and known_id and cluster_id != known_id:
            return (
                f"node {node!r} is of another cluster {greeting.cluster!r}: of id {cluster_id}, this node's is {known_id}; "
                "data of one of them was copied, or made anew"
            )
        if node not in self._node.routes.nodes:
            return f"the shard map has no node {node!r}"
        if node != expected:
            return f"node {node!r} answers where {expected!r} should be"
        known = load_peer_incarnation(self._engine, node)
        if known is None:
            save_peer_incarnation(self._engine, node, incarnation)
        elif known != incarnation:
            return (
                f"node {node!r} has come back with another data folder (incarnation {incarnation}, known as {known}): "
                "it has lost what it had promised; bring its folder back, or give the machine a new node id"
            )
        if cluster_id and not known_id:
            self._node.learn_cluster_id(cluster_id)
        return ""

    def check_dialling(self, hello: Hello, certificate: Certificate, *, secure: bool) -> str:
        """Return why whoever has dialled this node is not the peer that it says it is, or ""."""
        if hello.node == self._node.identity.node:
            return f"node {hello.node!r} is this node itself: two processes run under one id"
        known = self._node.routes.nodes.get(hello.node)
        if secure and known is not None and not names_host(certificate, host_of(known.address)):
            host = host_of(known.address)
            return f"node {hello.node!r} is at {host!r}, which is not in the certificate of this connection"
        return self.check(hello.node, hello)
