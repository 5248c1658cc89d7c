"""What clients and nodes say to each other, as typed structs.

A frame is a list of messages: all that one side had to say to the other in one turn. Structs are encoded as arrays
with an integer tag first. Decoding validates types; sizes of keys and values are checked by the node against its limits.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from shoal.bounds import (
    MAX_SHARDS,
    Bytes,
    Checksum,
    Children,
    Count,
    Digest,
    DurationMs,
    DurationUs,
    EncodedOperations,
    Epoch,
    Features,
    Int64,
    KeyspaceId,
    LogIndex,
    LogIndexOrNone,
    MicroshardNumber,
    MinSeq,
    Name,
    Names,
    RangeBound,
    Rate,
    RequestNumber,
    RowCount,
    Seq,
    ShardId,
    Share,
    Term,
    Text,
    TtlMs,
    UnixMs,
    Version,
    WallMs,
    Word,
    WriteNumber,
)
from shoal.priorities import Priority
from shoal.protocol.checksums import ChecksumSlice, ReadChecksum
from shoal.protocol.comparison import ComparisonStatus
from shoal.protocol.failures import ReplicaFailure
from shoal.protocol.hot_keys import GetHotKeys, HotKeys
from shoal.protocol.migration import EndedMigration, MigrationStatus, MigrationStep, MovingRows, ReadMoving
from shoal.protocol.node_memory import MemoryUses
from shoal.protocol.quotas import QuotaUses, SetQuotaShares
from shoal.protocol.shedding import Shed
from shoal.shardmap import Ranges, Shard, ShardMap


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all wire structs: arrays, immutable, and acyclic, so that the garbage collector may ignore them."""


class _Stored(_Message, frozen=True, forbid_unknown_fields=True):
    """Base of what is stored in the log as the client encoded it: nothing is in it that its type does not say.

    A field that is not known would be passed over, whatever it was to change; and one that is nested deeply can be passed over
    at one place of the program and not at another, where the stack is deeper.
    """


# -- operations: what a write is made of; stored in the log as the client encoded them

DEFAULT_TTL = -1
"""In place of a TTL: the keyspace's default."""
NO_TTL = 0
"""In place of a TTL: the row never expires."""


class Put(_Stored, frozen=True, tag=1):
    """Set `key` to `value`, to expire `ttl_ms` after the leader took the write."""

    key: bytes
    value: bytes
    ttl_ms: TtlMs = DEFAULT_TTL


class Delete(_Stored, frozen=True, tag=2):
    """Remove `key`; removing what is not there is no error."""

    key: bytes


class Touch(_Stored, frozen=True, tag=3):
    """Give `key` another time to live, if it is there. Its result is 1 or 0: whether it was."""

    key: bytes
    ttl_ms: TtlMs = DEFAULT_TTL


class Increment(_Stored, frozen=True, tag=4):
    """Add `by` to the decimal integer stored under `key`. Its result is the sum.

    Where there is none it begins with 0, and expires after `ttl_ms`; one that is there keeps its expiry.
    """

    key: bytes
    by: Int64 = 1
    ttl_ms: TtlMs = DEFAULT_TTL


class DeleteRange(_Stored, frozen=True, tag=5):
    """Remove the keys of [start, end) (an empty `end`: to the last) in the microshards `ranges`.

    Its result is the number of microshards.
    """

    ranges: Ranges
    start: RangeBound
    end: RangeBound


# -- conditions: what an `Atomic` operation depends on, decided when it is applied


class KeyPresent(_Stored, frozen=True, tag=1):
    key: bytes


class KeyAbsent(_Stored, frozen=True, tag=2):
    key: bytes


class ValueEquals(_Stored, frozen=True, tag=3):
    key: bytes
    value: bytes


class ValueEqualsOrAbsent(_Stored, frozen=True, tag=4):
    key: bytes
    value: bytes


class SeqEquals(_Stored, frozen=True, tag=5):
    """The row under `key` was written at `seq`; 0: there is none."""

    key: bytes
    seq: MinSeq


class RangeUnchanged(_Stored, frozen=True, tag=6):
    """The rows of [start, end) (an empty `end`: to the last) in the microshards `ranges` have `digest`.

    See `shoal.protocol.digest`.
    """

    ranges: Ranges
    start: RangeBound
    end: RangeBound
    digest: Digest


Condition: TypeAlias = KeyPresent | KeyAbsent | ValueEquals | ValueEqualsOrAbsent | SeqEquals | RangeUnchanged
AtomicOperation: TypeAlias = Put | Delete | Touch | Increment


class Atomic(_Stored, frozen=True, tag=7):
    """Do all of `operations`, if all of `conditions` hold, or nothing."""

    conditions: list[Condition]
    operations: list[AtomicOperation]


Operation: TypeAlias = Put | Delete | Touch | Increment | DeleteRange | Atomic


# -- results of operations, other than Put and Delete, which always succeed


class Applied(_Message, frozen=True, tag=1):
    """It was done; `values` are the results of it, or of the operations in an `Atomic` that have one, in order."""

    values: list[Int64]


class ConditionNotMet(_Message, frozen=True, tag=2):
    """Condition number `condition` did not hold, and nothing was done.

    `found_seq` is that of the row found, 0 where there was none. `found` is its value, None where there was none or it
    was longer than `MAX_FOUND_BYTES`, or one of many; for a `RangeUnchanged` both are empty.
    """

    condition: Count
    found_seq: Seq
    found: bytes | None


class Impossible(_Message, frozen=True, tag=3):
    """Operation number `operation` cannot be done on what is stored, and nothing was done: `reason` says why.

    `again`: it can, in a log entry of its own: others in this one had looked at as much as an entry may.
    """

    operation: Count
    reason: Text
    again: bool = False


OperationResult: TypeAlias = Applied | ConditionNotMet | Impossible

MAX_FOUND_BYTES = 1024
"""The longest value that a failed condition shows."""


# -- greeting: the first message of each side, in a frame of its own


class Hello(_Message, frozen=True, tag=1):
    """Opens a connection. `role` is "client" or "peer"; a peer names its cluster, node and data folder's incarnation.

    A client may leave `cluster` empty: then it takes whichever cluster answers. `cluster_id` tells a peer's cluster from
    every other one, also of that name; "" where it does not know that yet. `priority` is what a client's requests have
    when a node is too busy for all, a `Priority`; an unknown one is taken for the lowest.
    """

    role: Word
    oldest: Count
    newest: Count
    cluster: Name = ""
    node: Name = ""
    incarnation: Word = ""
    features: Features = ()
    cluster_id: Word = ""
    priority: Word = Priority.INTERACTIVE.value


class Welcome(_Message, frozen=True, tag=2):
    """Accepts a connection and says the protocol version to speak, the limits in force and the node's shard map.

    `cluster_id` tells the cluster from every other one, also of that name; "" where the node does not know it yet: then it
    is of no use to who has data to read or write.
    """

    version: Count
    cluster: Name
    node: Name
    incarnation: Word
    max_frame_bytes: Bytes
    max_key_bytes: Bytes
    max_value_bytes: Bytes
    max_batch_bytes: Bytes
    shard_map: ShardMap
    features: Features = ()
    cluster_id: Word = ""


class Refused(_Message, frozen=True, tag=3):
    """Turns a connection away, or ends one, and says why; the sender closes after it.

    `code` is an `ErrorCode`; of `overloaded`, `reason` says of what there is too much, and `retry_after_ms` when to connect
    again at the earliest; 0: whenever there is something to ask.
    """

    code: Word
    message: Text
    reason: Word = ""
    retry_after_ms: DurationMs = 0


Greeting: TypeAlias = Hello | Welcome | Refused


# -- requests: client to node. `request` is the client's number for it on this connection. `timeout_ms` is for how long its
# caller waits: a node that has not begun by then does nothing, and says so; 0: nobody says.
#
# Whatever is read or changed beside single keys names the microshards that it is about, as `ranges`: rows of a microshard
# that has gone to another shard would be missing without notice. A shard that lacks one of them answers `wrong_shard` to
# the whole request, and nothing was read or done; what it has besides does not matter.


class OpenSession(_Message, frozen=True, tag=10):
    """Open a deduplication session with a shard: answered by `SessionOpened`."""

    request: RequestNumber
    shard: ShardId


SESSION_ID_BYTES = 16

SessionId: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=SESSION_ID_BYTES, max_length=SESSION_ID_BYTES)]
"""Names a session: drawn at random where it was opened, so nobody can guess one, or meet another's by chance."""


class Write(_Message, frozen=True, tag=11):
    """Apply `operations` (an encoded `list[Operation]`) to a shard, all in one log entry: answered by `Written`.

    Each operation succeeds or fails alone. With `fast`, the answer comes when the leader has queued the write; that is
    for Put and Delete only, since nothing else has its result by then. `session` and `number` name this write for ever:
    sent again, it is applied once. Numbers of a session begin at 1, and a client has no write in flight that is
    `SESSION_WINDOW` or more behind its newest. A session that was opened with a certificate is unknown to connections
    with another one, or none.
    """

    request: RequestNumber
    shard: ShardId
    keyspace: KeyspaceId
    session: SessionId
    number: WriteNumber
    timeout_ms: DurationMs
    operations: EncodedOperations
    fast: bool = False


class Freshness(_Message, frozen=True):
    """Which replicas may serve a read.

    Args:
        strong: the leader alone; the other two are then of no account.
        min_seq: those that have applied the shard's log up to this seq.
        max_staleness_ms: those that lack nothing acknowledged longer ago than this; 0: however stale they are.
    """

    strong: bool = True
    min_seq: MinSeq = 0
    max_staleness_ms: DurationMs = 0


STRONG = Freshness()


MAX_READ_KEYS = 65_536

ReadKeys: TypeAlias = Annotated[list[bytes], msgspec.Meta(max_length=MAX_READ_KEYS)]


class Read(_Message, frozen=True, tag=12):
    """Read keys of one shard: answered by `Rows`, in the order of `keys`: for the first of them, as many as fit."""

    request: RequestNumber
    shard: ShardId
    keyspace: KeyspaceId
    timeout_ms: DurationMs
    keys: ReadKeys
    freshness: Freshness = STRONG


class ReadPage(_Message, frozen=True, tag=13):
    """Read rows in the order of (microshard, key), strongly: those of the microshards `ranges`. Answered by `Page`.

    `after`: in the first of the microshards, only what follows this key; b"": all. So the next page is asked for with
    what is left of `ranges`, and from where the last one says.
    """

    request: RequestNumber
    shard: ShardId
    keyspace: KeyspaceId
    timeout_ms: DurationMs
    ranges: Ranges
    after: RangeBound
    max_rows: RowCount


class GetShardMap(_Message, frozen=True, tag=14):
    """Ask for the node's shard map: answered by `ShardMapReply`."""

    request: RequestNumber


class GetStatus(_Message, frozen=True, tag=15):
    """Ask for the state of the node and its replicas: answered by `StatusReply`."""

    request: RequestNumber


class TransferLeader(_Message, frozen=True, tag=16):
    """Ask a shard's leader to hand leadership to `target`: answered by `Done` once the target leads."""

    request: RequestNumber
    shard: ShardId
    target: Name
    timeout_ms: DurationMs


class Ping(_Message, frozen=True, tag=17):
    """Answered by `Done` at once."""

    request: RequestNumber


class Scan(_Message, frozen=True, tag=18):
    """Read rows of [start, end) (an empty `end`: to the last) in key order: answered by `ScanPage`.

    Those of the microshards `ranges`; with `reverse` from the end down.
    """

    request: RequestNumber
    shard: ShardId
    keyspace: KeyspaceId
    timeout_ms: DurationMs
    ranges: Ranges
    start: RangeBound
    end: RangeBound
    reverse: bool
    keys_only: bool
    max_rows: RowCount
    freshness: Freshness = STRONG


class InstallShardMap(_Message, frozen=True, tag=19):
    """Take over a newer shard map: answered by `Done` once it is on disk. From the shard manager.

    `found`: shards whose first replicas these are; this node may open its replica of them as a founder. Any other
    replica that the map newly puts on this node opens empty, and waits to be added by the shard's leader.
    """

    request: RequestNumber
    shard_map: ShardMap
    found: Annotated[list[ShardId], msgspec.Meta(max_length=MAX_SHARDS)] = []


class ChangeMembership(_Message, frozen=True, tag=20):
    """Have a shard's leader propose one change of its membership: answered by `Done` once it is in the leader's log.

    `kind` is one of 1 (add `node` as a follower), 2 (promote it to a voter), 3 (demote it), 4 (remove it).
    `if_version`: refused where the membership is of another version by now, so that a request that comes late, or twice,
    changes nothing; 0: whatever it is.
    """

    request: RequestNumber
    shard: ShardId
    kind: Count
    node: Name
    if_version: Version = 0


class DropReplica(_Message, frozen=True, tag=21):
    """Remove a replica that the node's shard map does not put there: answered by `Done` once its rows are gone.

    Refused where the node votes in the group, as far as it knows, unless the map has no such shard any more, or is made
    for a newer membership than the replica has heard of.

    Args:
        empty_at: whoever drops the whole shard knows that nothing was left of it at this entry of its log: refused where the
            replica is as far or further, and has microshards, or takes part in a migration; -1: all that the replica has may
            go, as others have it, or are to lose it, too.
    """

    request: RequestNumber
    shard: ShardId
    empty_at: LogIndexOrNone = -1


class SplitShard(_Message, frozen=True, tag=22):
    """Have a shard's leader split off `child`, some of its microshards: answered by `Done` once that is applied there.

    Each replica of the shard makes one of the child, without moving a row. The nodes then route by a map of version
    `map_version` until the shard manager's of that version comes.
    """

    request: RequestNumber
    shard: ShardId
    child: Shard
    map_version: Version


class SkipEntry(_Message, frozen=True, tag=34):
    """Have the node's replica of a shard go on behind an entry that it is stuck at, as if that did nothing.

    Answered by `Done` once that is on disk. Refused unless the replica is stuck at this very entry: `ReplicaStatus.failure`
    has it. What it was to change is lost there; so each replica of the shard is to skip it, or none.
    """

    request: RequestNumber
    shard: ShardId
    index: LogIndex
    term: Term
    checksum: Checksum


class SetLogLevel(_Message, frozen=True, tag=32):
    """Have the process log from `level` on: debug, info, warning or error. Answered by `Done`; it lasts until it ends."""

    request: RequestNumber
    level: Word


Request: TypeAlias = (
    OpenSession
    | Write
    | Read
    | ReadPage
    | Scan
    | GetShardMap
    | GetStatus
    | TransferLeader
    | Ping
    | InstallShardMap
    | ChangeMembership
    | DropReplica
    | SplitShard
    | MigrationStep
    | ReadMoving
    | ReadChecksum
    | SetLogLevel
    | SkipEntry
    | SetQuotaShares
    | GetHotKeys
)


ONE_PARTITION_FEATURE = "one_partition"
"""In a `Welcome`'s features: what is written together must share a partition, since it is for testing, and in a cluster
nothing less is certain to be of one shard."""

# -- traces: what a client's spans are continued by, sent only to a node that has asked for it in its `Welcome`

TRACES_FEATURE = "traces"
"""In a `Welcome`'s features: the node makes spans, and takes `Traces` messages."""
MAX_TRACE_CONTEXTS = 16
"""The most calls of one request that are traced through a node; the others' spans end at the client."""
MAX_TRACE_STATE = 512
"""The longest `tracestate` that is handed on; a longer one is left out, as W3C's Trace Context allows."""


class TraceContext(_Message, frozen=True):
    """A sampled span of a client, as W3C's Trace Context names it: the ids' bytes, and its `tracestate`."""

    trace: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    span: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    state: Annotated[str, msgspec.Meta(max_length=MAX_TRACE_STATE)] = ""


class Traces(_Message, frozen=True, tag=33):
    """Request number `request`, which follows on this connection, is made for these spans. It is not answered."""

    request: RequestNumber
    contexts: Annotated[tuple[TraceContext, ...], msgspec.Meta(max_length=MAX_TRACE_CONTEXTS)]


TracedRequest: TypeAlias = Request | Traces
"""What a client sends to a node that makes spans."""


# -- answers: node to client


class SessionOpened(_Message, frozen=True, tag=40):
    request: RequestNumber
    session: SessionId


class Written(_Message, frozen=True, tag=41):
    """The write is on disk at a majority of voters and applied at the leader, at sequence number `seq`.

    A `fast` one is queued at the leader, to get `seq` unless a failover loses it. `results` are those of the operations
    that have one, in order.
    """

    request: RequestNumber
    seq: Seq
    results: list[OperationResult] = []


class Rows(_Message, frozen=True, tag=42):
    """Values (None: no such key) and the seqs they were written at (0: no such key), in the order of the keys asked.

    `seq` is the position of the shard that was read; `served_by` the node. Nothing is missing that was acknowledged
    `staleness_ms` or longer before the request was sent. `expiries` are milliseconds of Unix time, 0 for never, beside
    the values; empty where none of them expires.
    """

    request: RequestNumber
    seq: Seq
    served_by: Name
    values: list[bytes | None]
    seqs: list[Seq]
    staleness_ms: Count = 0
    expiries: list[UnixMs] = []


class PageResume(_Message, frozen=True):
    """Up to here rows were read: in this microshard up to the key `after`, and all of those before it."""

    microshard: MicroshardNumber
    after: RangeBound


class Page(_Message, frozen=True, tag=43):
    """Rows of a shard after a cursor; `done` says that no more follow, else continue at `resume`.

    A page may be short, or empty, and not the last one: it is bounded by what is looked at. `expiries` are as those of `Rows`.
    """

    request: RequestNumber
    seq: Seq
    done: bool
    microshards: list[MicroshardNumber]
    keys: list[bytes]
    values: list[bytes]
    expiries: list[UnixMs] = []
    resume: PageResume | None = None


class ShardMapReply(_Message, frozen=True, tag=44):
    request: RequestNumber
    shard_map: ShardMap


class PeerProgress(_Message, frozen=True):
    """What a leader knows of one replica of a shard."""

    node: Name
    role: Word
    match_index: LogIndex
    state: Word
    supported: bool


class MicroshardLoad(_Message, frozen=True):
    """What one microshard of a replica had to do lately, and how large it is.

    Args:
        reads, writes: keys read and operations applied here a second, over about the last ten seconds; estimated from a
            sample, so that one that is hardly used may show 0.
        bytes: of its keys and rows, uncompressed, when they were last counted.
    """

    microshard: MicroshardNumber
    reads: Rate
    writes: Rate
    bytes: Bytes


class ReplicaStatus(_Message, frozen=True):
    """One replica on the answering node. `role`: "leader", "candidate", "voter" or "follower"; `peers` on leaders only.

    Args:
        membership_committed: the newest membership in the log is committed.
        reads, writes: keys read and operations applied here since the process began.
        written_bytes: of rows applied here since then.
        bytes, keys: of the rows that the replica has, uncompressed, as counted at a slow pace in the background; they lag
            behind writes by seconds to minutes.
        counted: every microshard that the replica has was counted since the process began or since it came; until then
            `bytes` and `keys` are too low.
        hot: the microshards with most reads and writes lately, the busiest first, at most `MAX_HOT_MICROSHARDS`.
        cpu: the share of one core that the shard took on this node lately: the process's, divided among its replicas by
            reads and writes, which is an estimate.
        ranges: the microshards that the replica has, by its log as applied here.
        outgoing, incoming: the migration that the shard is the source, or the target, of.
        migrations_ended: the last of those that the shard is done with, the newest last.
        failure_words: "" or how the replica has failed, for readers that do not know of `failure` yet.
        comparison: of leaders that compare their replicas in the background, how far that is.
        failure: how the replica has failed, if it has: it serves nothing then.
        children: the last shards that were split off this one, by the replica's log as applied here, the newest last.
    """

    shard: ShardId
    role: Word
    leader: Name
    term: Term
    seq: Seq
    last_index: LogIndex
    commit_index: LogIndex
    applied_index: LogIndex
    first_index: LogIndex
    lease_ms: Count
    voters: Names
    followers: Names
    peers: tuple[PeerProgress, ...] = ()
    membership_version: Version = 0
    membership_committed: bool = False
    reads: Rate = 0
    writes: Rate = 0
    written_bytes: Count = 0
    bytes: Bytes = 0
    keys: Count = 0
    counted: bool = False
    hot: tuple[MicroshardLoad, ...] = ()
    cpu: Share = 0.0
    ranges: Ranges = ()
    outgoing: MigrationStatus | None = None
    incoming: MigrationStatus | None = None
    migrations_ended: tuple[EndedMigration, ...] = ()
    failure_words: Text = ""
    comparison: ComparisonStatus | None = None
    failure: ReplicaFailure | None = None
    children: Children = ()


MAX_HOT_MICROSHARDS = 8


class StatusReply(_Message, frozen=True, tag=45):
    """The state of a node.

    Args:
        not_writable: "" or the reason why it turns writes away.
        disk_used_bytes: what the node's data folder holds.
        disk_latency_us: how long a sync of the disk took lately, in the mean; 0 where none was needed yet.
        not_leading: "" or the reason why the node takes no leadership and hands over those that it has.
        cpu: the share of one core that the process took lately.
        map_derived: the node's shard map is one that it has made itself, from a split or from microshards that moved: it
            may lack what the shard manager's of that version has.
        wall_ms: Unix time by the node's clock; 0: from a node that does not say.
        clock_offset_ms: by how much that clock is ahead of what the other nodes' allow; negative: behind.
        clock_problem: "" or the reason why the node leads nothing, where that is its clock.
        cluster_id: what tells its cluster from every other one; "": it does not know that yet.
        damaged_families: the column families of its storage that have damaged tables, which it does not compact.
        newest_shard: the highest number of a shard that it knows of, or remembers: none up to it may be given again. 0: from a
            node that does not say.
        newest_migration: the highest number of a migration that its replicas are in, or remember; 0: of none.
        quotas: how it stands with those of keyspaces that have one, and a replica here.
        quota_epoch: of the leadership among managers that it has its shares from; 0: of none.
        write_pressure: how far its disk is behind with what was written, from 0 to 1; from there on clients write nothing.
        write_rate: what clients may write because of that (bytes a second), 0 where there is no such bound.
        writes_slowed: "" or the reason for it.
        queue_delay_us: for how long clients' requests wait at the least before it takes them.
        shed: what it has refused as overloaded lately, those first of which most.
        memory: what it holds for others, by account; (): from a node that does not say.
    """

    request: RequestNumber
    node: Name
    cluster: Name
    incarnation: Word
    software: Word
    uptime_ms: Count
    map_version: Version
    connected_peers: tuple[Name, ...]
    not_writable: Text
    disk_free_bytes: Count
    replicas: tuple[ReplicaStatus, ...]
    cpu: Share = 0.0
    disk_used_bytes: Count = 0
    disk_latency_us: DurationUs = 0
    not_leading: Text = ""
    map_derived: bool = False
    wall_ms: WallMs = 0
    clock_offset_ms: WallMs = 0
    clock_problem: Text = ""
    cluster_id: Word = ""
    damaged_families: Names = ()
    newest_shard: ShardId = 0
    newest_migration: Version = 0
    quotas: QuotaUses = ()
    quota_epoch: Epoch = 0
    write_pressure: Share = 0.0
    write_rate: Rate = 0
    writes_slowed: Text = ""
    queue_delay_us: DurationUs = 0
    shed: Shed = ()
    memory: MemoryUses = ()


class Done(_Message, frozen=True, tag=46):
    request: RequestNumber


class Failure(_Message, frozen=True, tag=47):
    """The request was refused or failed. `code` is an `ErrorCode`; an unknown one is to be taken as "internal".

    `not_leader` and `wrong_shard` carry the fresh route where the node knows one, and the version of its shard map; so does
    `unavailable` where it is what the request is about that is not the shard's yet.
    `maybe_applied` is True only where a write may have been done. `reason` says of `overloaded` what there was too much of:
    an `OverloadReason`. `only_adding`: of a write, the operations alone are refused that add something, since the keyspace is
    full; others would be done.
    """

    request: RequestNumber
    code: Word
    message: Text
    maybe_applied: bool = False
    retry_after_ms: DurationMs = 0
    route: Shard | None = None
    map_version: Version = 0
    reason: Word = ""
    only_adding: bool = False


class ScanPage(_Message, frozen=True, tag=48):
    """Rows in key order (reversed: from the last down), from one point of the shard, whose position is `seq`.

    `values` is empty where only keys were asked for. `resume` is None where no more rows follow, else where to go on:
    the next page's `start`, or its `end` in reverse.
    """

    request: RequestNumber
    seq: Seq
    served_by: Name
    keys: list[bytes]
    values: list[bytes]
    seqs: list[Seq]
    resume: RangeBound | None
    staleness_ms: Count = 0


class Working(_Message, frozen=True, tag=51):
    """A sign of life: the node has requests of this connection that still wait, and has answered none of them for a while."""


Answer: TypeAlias = (
    SessionOpened
    | Written
    | Rows
    | Page
    | ScanPage
    | MovingRows
    | ShardMapReply
    | StatusReply
    | ChecksumSlice
    | HotKeys
    | Done
    | Failure
    | Refused
    | Working
)

SESSION_WINDOW = 64
"""How many writes of one session may be unanswered at once: what a node remembers of each session."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""No side sends or accepts a longer frame; a longer length ends the connection before a byte of it is kept."""

MAX_FRAME_REQUESTS = 16_384
"""No client puts more requests into a frame: it makes another one, so that a node is never long at understanding one."""

MAX_FRAME_ELEMENTS = 65_536
"""Likewise keys and ranges in the requests of a frame, and whatever else they list; a single request may have as many."""

LONG_FRAME_BYTES = 4 * 1024 * 1024
"""A longer frame holds one request, with its traces: many small ones would be ten times as much once they are decoded."""
LONG_FRAME_MESSAGES = 2

MAX_KEY_BYTES = 4096
MAX_VALUE_BYTES = 1024 * 1024
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Defaults of the limits that a node announces in `Welcome`."""
