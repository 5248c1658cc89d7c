"""The frames that nodes send each other: which messages may be in them."""

from __future__ import annotations

from shoal.protocol.frames import Decoder

from shoal_server.node.outbox import PeerMessage

peer_decoder: Decoder[list[PeerMessage]] = Decoder(list[PeerMessage])
