"""One node, asked directly: connect by address, one request, one answer. What operators' tools are built on.

Data goes through `shoal.Client`, which knows routes and retries; here nothing is retried and nothing is rerouted, since
the question is what this very node says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from ssl import SSLContext, SSLError
from types import TracebackType
from typing import TypeVar

import msgspec

from shoal.errors import (
    BY_CODE,
    DeadlineExceeded,
    ErrorCode,
    Internal,
    Overloaded,
    ProtocolMismatch,
    ShoalError,
    Unavailable,
)
from shoal.options import split_address
from shoal.priorities import Priority, known_reason
from shoal.protocol.checksums import ChecksumCursor, ChecksumSlice, ReadChecksum
from shoal.protocol.frames import (
    BadLength,
    FrameDamaged,
    FrameReader,
    answer_decoder,
    encode_frame,
    greeting_decoder,
)
from shoal.protocol.hot_keys import GetHotKeys, HotKeys
from shoal.protocol.messages import (
    Answer,
    ChangeMembership,
    Done,
    DropReplica,
    Failure,
    GetShardMap,
    GetStatus,
    Hello,
    InstallShardMap,
    Page,
    ReadPage,
    Refused,
    Request,
    SetLogLevel,
    ShardMapReply,
    SkipEntry,
    SplitShard,
    StatusReply,
    TransferLeader,
    Welcome,
    Working,
)
from shoal.protocol.migration import (
    UNREAD,
    AdoptMicroshards,
    BeginIncoming,
    BeginOutgoing,
    CancelMigration,
    ClearedRange,
    ForgetMoved,
    MigrationCursor,
    MovedRow,
    MovingRows,
    ReadMoving,
    SealMicroshards,
    StoreMoved,
)
from shoal.protocol.quotas import QuotaShare, SetQuotaShares
from shoal.protocol.version import NEWEST, OLDEST, agree
from shoal.routing.overload import overload_of
from shoal.shardmap import MicroshardRange, Ranges, Shard, ShardMap
from shoal.tls import explain

READ_BYTES = 256 * 1024
DEFAULT_TIMEOUT_SECONDS = 5.0
NODE_SHARE_OF_TIMEOUT = 0.9
"""The node is told to give up a little before we do, so that its reason arrives in place of our silence."""
ARRIVING_SECONDS = 60.0
"""An answer of which bytes keep coming has so long: what a slow link takes to bring a long one is no silence."""
SLOWEST_BYTES_PER_SECOND = 100_000
"""A long request has as much more time as it takes to get there at that rate."""

_Answer = TypeVar("_Answer", StatusReply, ShardMapReply, Page, MovingRows, ChecksumSlice, HotKeys, Done)


class NotLeader(Unavailable):
    """The node does not lead the shard that it was asked about; `route` says who may, where the node knows."""

    def __init__(self, message: str, *, shard: int, route: Shard | None) -> None:
        super().__init__(message, shard=shard)
        self.route = route


class WrongShard(NotLeader):
    """The shard does not have what it was asked for, or the node has no replica of it; a newer map says who has."""


class AdminConnection:
    """A connection to one node. One request at a time; not to be shared between tasks.

    `welcome` is what the node said of itself when the connection was made, its shard map among it.
    """

    def __init__(
        self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_seconds: float
    ) -> None:
        """Wrap an open stream; use `open`, which also greets the node."""
        self.address = address
        self.welcome: Welcome
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._bodies: list[bytes] = []
        self._last_request = 0
        self._timeout_seconds = timeout_seconds
        self._patience: asyncio.Timeout | None = None
        self._latest = 0.0
        self._node_timeout_ms = max(1, int(timeout_seconds * NODE_SHARE_OF_TIMEOUT * 1000))

    @classmethod
    async def open(
        cls,
        address: str,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        tls: SSLContext | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> AdminConnection:
        """Connect to `address` (`host:port`) and exchange greetings, which, as each question later, must be done
        within `timeout_seconds`, unless an answer is still arriving by then (see `ARRIVING_SECONDS`).

        Args:
            tls: None: the connection is plain.
            priority: of what is asked, where the node is too busy for all.

        Raises:
            Unavailable: nobody listens there, or the connection broke.
            DeadlineExceeded: no greeting came in time.
            ProtocolMismatch: it is no Shoal node, or one that speaks no common version, or no TLS.
            Unauthenticated: one side does not trust the other's certificate.
        """
        host, port = split_address(address)
        try:
            async with asyncio.timeout(timeout_seconds) as patience:
                reader, writer = await asyncio.open_connection(host, port, ssl=tls)
                connection = cls(address, reader, writer, timeout_seconds)
                connection._wait_with(patience)
                try:
                    await connection._greet(priority)
                except BaseException:
                    writer.close()
                    raise
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer from {address} within {timeout_seconds:g} s") from error
        except SSLError as error:
            raise _insecure(address, error) from error
        except OSError as error:
            raise Unavailable(f"cannot connect to {address}: {_reason(error)}") from error
        return connection

    async def __aenter__(self) -> AdminConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._writer.close()

    # -- questions

    async def status(self) -> StatusReply:
        """Return the state of the node and its replicas."""
        return await self._ask(GetStatus(self._number()), StatusReply)

    async def shard_map(self) -> ShardMap:
        """Return the node's shard map, with the leaders that it knows."""
        return (await self._ask(GetShardMap(self._number()), ShardMapReply)).shard_map

    async def transfer_leader(self, shard: int, target: str) -> None:
        """Have the node, which must lead `shard`, hand its leadership to node `target`; return once that leads.

        Raises:
            NotLeader: the node does not lead the shard.
            InvalidArgument: the target cannot lead it.
        """
        await self._ask(TransferLeader(self._number(), shard, target, self._node_timeout_ms), Done, shard)

    async def install_shard_map(self, shard_map: ShardMap, found: Sequence[int] = ()) -> None:
        """Have the node take over a newer shard map; return once it is on the node's disk.

        Args:
            found: shards whose first replicas the map puts there: the node opens its own as a founder.

        Raises:
            InvalidArgument: the map is older than the node's, of another cluster, or contradicts itself.
        """
        await self._ask(InstallShardMap(self._number(), shard_map, list(found)), Done)

    async def change_membership(self, shard: int, kind: int, node: str, *, if_version: int = 0) -> None:
        """Have the node, which must lead `shard`, propose one change of membership (see `ChangeMembership`).

        Raises:
            NotLeader: the node does not lead the shard.
            InvalidArgument: the change may not be made, or not now; the message says why.
        """
        await self._ask(ChangeMembership(self._number(), shard, kind, node, if_version), Done, shard)

    async def split_shard(self, shard: int, child: Shard, map_version: int) -> None:
        """Have the node, which must lead `shard`, split `child` off; return once that is applied there.

        Args:
            child: a shard number that is not in use, some of the microshards, and the replicas that `shard` has; the
                first voter should be its leader.
            map_version: newer than that of any map: of the one that has the child in it.

        Raises:
            NotLeader: the node does not lead the shard.
            InvalidArgument: it cannot be split so, or not now; the message says why.
        """
        await self._ask(SplitShard(self._number(), shard, child, map_version), Done, shard)

    async def skip_entry(self, shard: int, index: int, term: int, checksum: int) -> None:
        """Have the node's replica of `shard` go on behind the entry that it is stuck at (see `SkipEntry`).

        Raises:
            InvalidArgument: it is not stuck at this very entry.
        """
        await self._ask(SkipEntry(self._number(), shard, index, term, checksum), Done)

    async def set_log_level(self, level: str) -> None:
        """Have the process log from `level` on: "debug", "info", "warning" or "error"; it lasts until the process ends.

        Raises:
            InvalidArgument: it is no such level.
        """
        await self._ask(SetLogLevel(self._number(), level), Done)

    async def hot_keys(self, shard: int = 0) -> HotKeys:
        """Return which keys clients have asked the node for most lately, of one shard, or of its busiest ones (0)."""
        return await self._ask(GetHotKeys(self._number(), shard), HotKeys)

    async def set_quota_shares(self, epoch: int, number: int, shares: tuple[QuotaShare, ...]) -> None:
        """Have the node take shares of keyspaces' quotas (see `SetQuotaShares`).

        Raises:
            InvalidArgument: newer ones have come to it, or those of a newer leadership.
        """
        await self._ask(SetQuotaShares(self._number(), epoch, number, shares), Done)

    async def drop_replica(self, shard: int, *, empty_at: int = -1) -> None:
        """Have the node remove its replica of `shard`, which its shard map must not put there.

        Args:
            empty_at: from this entry of the shard's log on, nothing is left of it; -1: what the replica has may go.

        Raises:
            InvalidArgument: the map puts one there, or the replica leads, or has microshards that it should not have.
        """
        await self._ask(DropReplica(self._number(), shard, empty_at), Done)

    async def read_page(
        self,
        shard: int,
        keyspace: int,
        ranges: Ranges,
        after: bytes,
        *,
        max_rows: int,
    ) -> Page:
        """Return rows of a shard's microshards `ranges`, of the first of them those behind `after`, read strongly.

        Raises:
            WrongShard: the shard does not have all of these microshards.
            NotLeader: the node does not lead the shard.
        """
        request = ReadPage(self._number(), shard, keyspace, self._node_timeout_ms, ranges, after, max_rows)
        return await self._ask(request, Page, shard)

    async def read_checksum(
        self, shard: int, ranges: Ranges, cursor: ChecksumCursor, *, max_rows: int
    ) -> ChecksumSlice:
        """Return the checksum of rows after `cursor`, at most `max_rows`, on the node's own replica of `shard`.

        Args:
            ranges: the microshards that the rows are of.

        Raises:
            WrongShard: the replica does not have all of them.
            InvalidArgument: the node has no replica of the shard.
        """
        return await self._ask(ReadChecksum(self._number(), shard, ranges, cursor, max_rows), ChecksumSlice, shard)

    # -- moving microshards: what each step is for, and in which order, is in `shoal.protocol.migration`
    #
    # All of these raise NotLeader where the node does not lead the shard, and InvalidArgument where the step is refused.

    async def begin_incoming(
        self, shard: int, migration: int, source: int, ranges: tuple[MicroshardRange, ...]
    ) -> None:
        """Have the target shard expect microshards of shard `source`."""
        await self._ask(BeginIncoming(self._number(), shard, migration, source, ranges), Done, shard)

    async def begin_outgoing(
        self,
        shard: int,
        migration: int,
        target: int,
        ranges: tuple[MicroshardRange, ...],
        confirmed: MigrationCursor = UNREAD,
    ) -> None:
        """Have the source shard keep a journal of microshards that shard `target` is to get, from `confirmed` on."""
        await self._ask(BeginOutgoing(self._number(), shard, migration, target, ranges, confirmed), Done, shard)

    async def read_moving(self, shard: int, migration: int, cursor: MigrationCursor, *, max_bytes: int) -> MovingRows:
        """Read from the source shard what follows the target's cursor."""
        return await self._ask(ReadMoving(self._number(), shard, migration, cursor, max_bytes), MovingRows, shard)

    async def store_moved(
        self,
        shard: int,
        migration: int,
        number: int,
        cleared: list[ClearedRange],
        rows: list[MovedRow],
        cursor: MigrationCursor,
        behind: MigrationCursor,
    ) -> None:
        """Have the target shard store what `read_moving` returned for the cursor `behind`, as number `number`."""
        request = StoreMoved(self._number(), shard, migration, number, cleared, rows, cursor, behind)
        await self._ask(request, Done, shard)

    async def seal_microshards(self, shard: int, migration: int, map_version: int) -> None:
        """Have the source shard part with the microshards."""
        await self._ask(SealMicroshards(self._number(), shard, migration, map_version), Done, shard)

    async def adopt_microshards(self, shard: int, migration: int, map_version: int) -> None:
        """Have the target shard serve the microshards, all of which it has stored."""
        await self._ask(AdoptMicroshards(self._number(), shard, migration, map_version), Done, shard)

    async def forget_moved(self, shard: int, migration: int) -> None:
        """Have the source shard remove the rows that the target has adopted."""
        await self._ask(ForgetMoved(self._number(), shard, migration), Done, shard)

    async def cancel_migration(self, shard: int, migration: int) -> None:
        """Have a shard give a migration up; ask the source first."""
        await self._ask(CancelMigration(self._number(), shard, migration), Done, shard)

    # -- frames

    def _number(self) -> int:
        self._last_request += 1
        return self._last_request

    async def _greet(self, priority: Priority) -> None:
        self._writer.write(encode_frame([Hello("client", OLDEST, NEWEST, priority=priority)]))
        body = await self._next_frame()
        try:
            greeting = greeting_decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise ProtocolMismatch(f"{self.address} does not greet as a Shoal node does: {error}") from error
        welcome = greeting[0] if greeting else None
        if isinstance(welcome, Refused):
            raise _refused(self.address, welcome)
        if not isinstance(welcome, Welcome) or agree(welcome.version, welcome.version) is None:
            raise ProtocolMismatch(f"{self.address} answered a Hello with {welcome!r}")
        self.welcome = welcome

    async def _ask(self, request: Request, answer_type: type[_Answer], shard: int | None = None) -> _Answer:
        frame = encode_frame([request])
        try:
            async with asyncio.timeout(self._timeout_seconds + len(frame) / SLOWEST_BYTES_PER_SECOND) as patience:
                self._wait_with(patience)
                self._writer.write(frame)
                answer = await self._answer_to(request)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer from {self.address} to {type(request).__name__} within {self._timeout_seconds:g} s",
                maybe_applied=isinstance(request, TransferLeader),
                shard=shard,
            ) from error
        except SSLError as error:
            raise _insecure(self.address, error) from error
        except OSError as error:
            raise Unavailable(f"lost the connection to {self.address}: {_reason(error)}", shard=shard) from error
        if isinstance(answer, Refused):
            raise _refused(self.address, answer)
        if isinstance(answer, Failure):
            raise self._failed(answer, shard)
        if not isinstance(answer, answer_type):
            raise ProtocolMismatch(f"{self.address} answered a {type(request).__name__} with a {type(answer).__name__}")
        return answer

    async def _answer_to(self, request: Request) -> Answer:
        while True:
            for answer in self._decode(await self._next_frame()):
                # An answer to another number is of an earlier question, whose caller has given up.
                if isinstance(answer, Refused) or (
                    not isinstance(answer, Working) and answer.request == request.request
                ):
                    return answer

    def _decode(self, body: bytes) -> list[Answer]:
        try:
            return answer_decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise ProtocolMismatch(f"{self.address} sent what cannot be decoded: {error}") from error

    def _wait_with(self, patience: asyncio.Timeout) -> None:
        """Wait for the next frames as long as this does, and longer if they take their time to arrive."""
        self._patience = patience
        self._latest = asyncio.get_running_loop().time() + ARRIVING_SECONDS

    def _is_arriving(self) -> None:
        """Bytes came, of a frame that is not complete yet: as long as more of them come, the node is not silent."""
        due = None if self._patience is None else self._patience.when()
        if self._patience is not None and due is not None:
            until = min(asyncio.get_running_loop().time() + self._timeout_seconds, self._latest)
            self._patience.reschedule(max(due, until))

    async def _next_frame(self) -> bytes:
        while not self._bodies:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise ConnectionResetError("the node closed the connection")
            try:
                bodies = self._frames.feed(data)
                self._bodies += bodies
                if not bodies:
                    self._is_arriving()
            except FrameDamaged as error:
                raise ConnectionResetError(str(error)) from error
            except BadLength as error:
                raise ProtocolMismatch(f"{self.address} does not speak Shoal's protocol: {error}") from error
        return self._bodies.pop(0)

    def _failed(self, failure: Failure, shard: int | None) -> ShoalError:
        if shard is not None and failure.code in (ErrorCode.NOT_LEADER, ErrorCode.WRONG_SHARD):
            kind = WrongShard if failure.code == ErrorCode.WRONG_SHARD else NotLeader
            return kind(failure.message, shard=shard, route=failure.route)
        error = BY_CODE.get(failure.code, Internal)(
            f"{self.address}: {failure.message}",
            maybe_applied=failure.maybe_applied,
            retry_after=failure.retry_after_ms / 1000 if failure.retry_after_ms else None,
            shard=shard,
        )
        if isinstance(error, Overloaded):
            error.reason = known_reason(failure.reason)
        return error


def _refused(address: str, refused: Refused) -> ShoalError:
    error = BY_CODE.get(refused.code, ProtocolMismatch)(f"{address} refused the connection: {refused.message}")
    if isinstance(error, Overloaded):
        error.reason, error.retry_after = overload_of(refused)
    return error


def _insecure(address: str, error: SSLError) -> ShoalError:
    failure = explain(error)
    return BY_CODE[failure.refusal](f"cannot connect to {address}: {failure.reason}")


def _reason(error: OSError) -> str:
    # Not `strerror`: where asyncio made the error, that is a sentence with the address in it once more.
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
