"""What clients and nodes say to each other, as typed structs.

A frame is a list of messages: all that one side had to say to the other in one turn. Structs are encoded as arrays
with an integer tag first. Decoding validates types; sizes of keys and values are checked by the node against its limits.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shoal.shardmap import Shard, ShardMap


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all wire structs: arrays, immutable, and acyclic, so that the garbage collector may ignore them."""


# -- operations: what a write is made of; stored in the log as the client encoded them


class Put(_Message, frozen=True, tag=1):
    """Set `key` to `value`."""

    key: bytes
    value: bytes


class Delete(_Message, frozen=True, tag=2):
    """Remove `key`; removing what is not there is no error."""

    key: bytes


Operation: TypeAlias = Put | Delete


# -- greeting: the first message of each side, in a frame of its own


class Hello(_Message, frozen=True, tag=1):
    """Opens a connection. `role` is "client" or "peer"; a peer names its cluster, node and data folder's incarnation.

    A client may leave `cluster` empty: then it takes whichever cluster answers.
    """

    role: str
    oldest: int
    newest: int
    cluster: str = ""
    node: str = ""
    incarnation: str = ""
    features: tuple[str, ...] = ()


class Welcome(_Message, frozen=True, tag=2):
    """Accepts a connection and says the protocol version to speak, the limits in force and the node's shard map."""

    version: int
    cluster: str
    node: str
    incarnation: str
    max_frame_bytes: int
    max_key_bytes: int
    max_value_bytes: int
    max_batch_bytes: int
    shard_map: ShardMap
    features: tuple[str, ...] = ()


class Refused(_Message, frozen=True, tag=3):
    """Turns a connection away, or ends one, and says why; the sender closes after it. `code` is an `ErrorCode`."""

    code: str
    message: str


Greeting: TypeAlias = Hello | Welcome | Refused


# -- requests: client to node. `request` is the client's number for it on this connection


class OpenSession(_Message, frozen=True, tag=10):
    """Open a deduplication session with a shard: answered by `SessionOpened`."""

    request: int
    shard: int


class Write(_Message, frozen=True, tag=11):
    """Apply `operations` (an encoded `list[Operation]`) to a shard, all in one log entry: answered by `Written`.

    `session` and `number` name this write for ever: sent again, it is applied once. Numbers of a session begin at 1,
    and a client has no write in flight that is `SESSION_WINDOW` or more behind its newest.
    """

    request: int
    shard: int
    keyspace: int
    session: int
    number: int
    timeout_ms: int
    operations: msgspec.Raw


class Read(_Message, frozen=True, tag=12):
    """Read keys of one shard, strongly: answered by `Rows`, in the order of `keys`."""

    request: int
    shard: int
    keyspace: int
    timeout_ms: int
    keys: list[bytes]


class ReadPage(_Message, frozen=True, tag=13):
    """Read a shard's rows in the order of (microshard, key), strongly, from after a cursor: answered by `Page`.

    The first page is asked for with `microshard=-1` and an empty `after`.
    """

    request: int
    shard: int
    keyspace: int
    timeout_ms: int
    microshard: int
    after: bytes
    max_rows: int


class GetShardMap(_Message, frozen=True, tag=14):
    """Ask for the node's shard map: answered by `ShardMapReply`."""

    request: int


class GetStatus(_Message, frozen=True, tag=15):
    """Ask for the state of the node and its replicas: answered by `StatusReply`."""

    request: int


class TransferLeader(_Message, frozen=True, tag=16):
    """Ask a shard's leader to hand leadership to `target`: answered by `Done` once the target leads."""

    request: int
    shard: int
    target: str
    timeout_ms: int


class Ping(_Message, frozen=True, tag=17):
    """Answered by `Done` at once."""

    request: int


Request: TypeAlias = OpenSession | Write | Read | ReadPage | GetShardMap | GetStatus | TransferLeader | Ping


# -- answers: node to client


class SessionOpened(_Message, frozen=True, tag=40):
    request: int
    session: int


class Written(_Message, frozen=True, tag=41):
    """The write is on disk at a majority of voters and applied at the leader, at sequence number `seq`."""

    request: int
    seq: int


class Rows(_Message, frozen=True, tag=42):
    """Values (None: no such key) and the seqs they were written at (0: no such key), in the order of the keys asked.

    `seq` is the position of the shard that was read; `served_by` the node.
    """

    request: int
    seq: int
    served_by: str
    values: list[bytes | None]
    seqs: list[int]


class Page(_Message, frozen=True, tag=43):
    """Rows of a shard after a cursor; `done` says that no more follow, else continue after the last row's."""

    request: int
    seq: int
    done: bool
    microshards: list[int]
    keys: list[bytes]
    values: list[bytes]


class ShardMapReply(_Message, frozen=True, tag=44):
    request: int
    shard_map: ShardMap


class PeerProgress(_Message, frozen=True):
    """What a leader knows of one replica of a shard."""

    node: str
    role: str
    match_index: int
    state: str
    supported: bool


class ReplicaStatus(_Message, frozen=True):
    """One replica on the answering node. `role`: "leader", "candidate", "voter" or "follower"; `peers` on leaders only."""

    shard: int
    role: str
    leader: str
    term: int
    seq: int
    last_index: int
    commit_index: int
    applied_index: int
    first_index: int
    lease_ms: int
    voters: tuple[str, ...]
    followers: tuple[str, ...]
    peers: tuple[PeerProgress, ...] = ()


class StatusReply(_Message, frozen=True, tag=45):
    """The state of a node. `writable` is "" or the reason why it turns writes away."""

    request: int
    node: str
    cluster: str
    incarnation: str
    software: str
    uptime_ms: int
    map_version: int
    connected_peers: tuple[str, ...]
    not_writable: str
    disk_free_bytes: int
    replicas: tuple[ReplicaStatus, ...]


class Done(_Message, frozen=True, tag=46):
    request: int


class Failure(_Message, frozen=True, tag=47):
    """The request was refused or failed. `code` is an `ErrorCode`; an unknown one is to be taken as "internal".

    `not_leader` and `wrong_shard` carry the fresh route where the node knows one, and the version of its shard map.
    `maybe_applied` is True only where a write may have been done.
    """

    request: int
    code: str
    message: str
    maybe_applied: bool = False
    retry_after_ms: int = 0
    route: Shard | None = None
    map_version: int = 0


Answer: TypeAlias = SessionOpened | Written | Rows | Page | ShardMapReply | StatusReply | Done | Failure | Refused

SESSION_WINDOW = 64
"""How many writes of one session may be unanswered at once: what a node remembers of each session."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""No side sends or accepts a longer frame; a longer length ends the connection before a byte of it is kept."""

MAX_KEY_BYTES = 4096
MAX_VALUE_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Defaults of the limits that a node announces in `Welcome`."""
