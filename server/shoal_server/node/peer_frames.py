"""The frames that nodes send each other: which messages may be in them."""

from __future__ import annotations

import msgspec

from shoal_server.node.outbox import PeerMessage

peer_decoder: msgspec.msgpack.Decoder[list[PeerMessage]] = msgspec.msgpack.Decoder(list[PeerMessage])
