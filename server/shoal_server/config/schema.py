"""What may stand in a `cluster.yaml`, with defaults and bounds. Units are in the names: `_ns`, `_bytes`.

In the file a setting has its name without the unit: `heartbeat_interval: 150ms` sets `heartbeat_interval_ns`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from shoal.bounds import (
    MAX_BYTES,
    MAX_FOLLOWERS,
    MAX_KEYSPACES,
    MAX_MICROSHARDS,
    MAX_MS,
    MAX_NODES,
    MAX_PLACE,
    MAX_QUOTA_RATE,
    MAX_TTL_MS,
    MAX_VOTERS,
)

from shoal_server.config.units import address, duration_ns, size_bytes, switch, whole_number
from shoal_server.storage.engine_memory import engine_bytes

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
SECOND = 1_000_000_000
MILLISECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
MEMORY_PROGRAM = 128 * MIB
"""What the program and its libraries take before it holds anything for anybody."""
MEMORY_DIVIDED_LEAST = 128 * MIB
"""What has to be left to hold things in."""
MANAGERS_MAX = 7
"""They are the voters of one shard."""

Duration = Annotated[int, BeforeValidator(duration_ns)]
Size = Annotated[int, BeforeValidator(size_bytes)]
Count = Annotated[int, BeforeValidator(whole_number)]
Switch = Annotated[bool, BeforeValidator(switch)]
Address = Annotated[str, BeforeValidator(address)]
Place = Annotated[str, Field(max_length=MAX_PLACE)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class Section(BaseModel):
    """Base of all sections: immutable; an unknown setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, populate_by_name=False)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield settings of this section that contradict each other, and what would be right.

        These are no validators of the model: it would run none of them once any setting is wrong by itself, and
        stop at the first of them.
        """
        yield from ()


class NodeConfig(Section):
    """A storage node. `admin` is where it serves gRPC (`shoal_server.api`), `metrics` where `/metrics` and health pages are.

    `address` is where others find it; `listen` is where it listens, for a node behind a proxy or a translation of addresses.
    """

    id: Name
    region: Place = ""
    zone: Place = ""
    address: Address
    listen: Address | None = None
    admin: Address | None = None
    metrics: Address | None = None
    data: Path

    @property
    def listens_at(self) -> str:
        """Where the node's own socket is."""
        return self.listen or self.address


class ManagerConfig(Section):
    """A shard manager."""

    id: Name
    address: Address
    admin: Address | None = None
    metrics: Address | None = None
    data: Path


class KeyspaceConfig(Section):
    """A keyspace, as it is created with the cluster.

    `reads_per_second`, `writes_per_second`, `max_bytes`: its quotas, if it has any.
    """

    microshards: Count = Field(1024, ge=1, le=MAX_MICROSHARDS)
    shards: Count = Field(8, ge=1, le=MAX_MICROSHARDS)
    delimiter: str = Field("/", max_length=16)
    voters: Count = Field(3, ge=1, le=MAX_VOTERS)
    followers: Count = Field(0, ge=0, le=MAX_FOLLOWERS)
    max_staleness_ns: Duration = Field(5 * SECOND, alias="max_staleness", ge=MILLISECOND, le=MAX_MS * MILLISECOND)
    default_ttl_ns: Duration | None = Field(None, alias="default_ttl", ge=MILLISECOND, le=MAX_TTL_MS * MILLISECOND)
    reads_per_second: Count | None = Field(None, ge=1, le=MAX_QUOTA_RATE)
    writes_per_second: Count | None = Field(None, ge=1, le=MAX_QUOTA_RATE)
    max_bytes: Size | None = Field(None, ge=1, le=MAX_BYTES)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield settings of this section that contradict each other, and what would be right."""
        if self.shards > self.microshards:
            yield (
                ("microshards", "shards"),
                f"{self.shards} shards cannot share {self.microshards} microshards: ask for fewer shards",
            )
        if self.voters % 2 == 0:
            yield (
                ("voters",),
                f"{self.voters} voters bear no more failures than {self.voters - 1}: ask for an odd number",
            )


class TimingConfig(Section):
    """How long nodes trust each other (see `raft.config.Timing`), and when a disk counts as hung or as slow.

    `clock_tolerance`: by how much nodes' wall clocks may differ; a node whose own is further off leads nothing.
    """

    heartbeat_interval_ns: Duration = Field(150 * MILLISECOND, alias="heartbeat_interval", ge=MILLISECOND, le=MINUTE)
    support_ns: Duration = Field(SECOND, alias="support", ge=MILLISECOND, le=10 * MINUTE)
    clock_drift_permille: Count = Field(50, ge=0, lt=500)
    election_spread_ns: Duration = Field(150 * MILLISECOND, alias="election_spread", ge=MILLISECOND, le=MINUTE)
    sync_stall_ns: Duration = Field(2 * SECOND, alias="sync_stall", ge=MILLISECOND, le=HOUR)
    sync_slow_ns: Duration = Field(100 * MILLISECOND, alias="sync_slow", ge=MILLISECOND, le=HOUR)
    clock_tolerance_ns: Duration = Field(SECOND, alias="clock_tolerance", ge=50 * MILLISECOND, le=HOUR)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield settings of this section that contradict each other, and what would be right."""
        if self.heartbeat_interval_ns * 3 > self.support_ns:
            yield (
                ("heartbeat_interval", "support"),
                "support must outlast three heartbeat intervals, or one lost heartbeat costs a leader",
            )
        if self.sync_slow_ns > self.sync_stall_ns:
            yield ("sync_slow", "sync_stall"), "sync_slow must not be longer than sync_stall: a hung disk is slow, too"


class LimitsConfig(Section):
    """What clients may send, and what a node holds for them.

    `client_output_buffer`: for a client with so much unread no more answers are made. `client_stall`: a client on whose
    connection something waits to go on, in or out, and nothing has moved for so long, is cut off. `memory`: of a process, in
    all; a part of the machine's where nothing is said.
    """

    max_key_bytes: Size = Field(4 * KIB, alias="max_key", ge=1, le=64 * KIB)
    max_value_bytes: Size = Field(MIB, alias="max_value", ge=1, le=8 * MIB)
    max_batch_bytes: Size = Field(8 * MIB, alias="max_batch", ge=64 * KIB, le=64 * MIB)
    max_frame_bytes: Size = Field(16 * MIB, alias="max_frame", ge=256 * KIB, le=256 * MIB)
    client_output_buffer_bytes: Size = Field(MIB, alias="client_output_buffer", ge=512 * KIB, le=64 * GIB)
    client_stall_ns: Duration = Field(30 * SECOND, alias="client_stall", ge=SECOND, le=HOUR)
    client_requests_in_flight: Count = Field(8192, ge=1, le=1_000_000)
    max_clients: Count = Field(4096, ge=1, le=1_000_000)
    memory_bytes: Size | None = Field(None, alias="memory", ge=0, le=64 * TIB)

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield settings of this section that contradict each other, and what would be right."""
        if self.max_key_bytes + self.max_value_bytes > self.max_batch_bytes:
            yield ("max_key", "max_value", "max_batch"), "max_batch must hold one largest key and value"
        if self.max_batch_bytes * 2 > self.max_frame_bytes:
            yield ("max_batch", "max_frame"), "max_frame must be at least twice max_batch"


class StorageConfig(Section):
    """RocksDB, the log, and whether replicas are compared with each other in the background."""

    block_cache_bytes: Size = Field(64 * MIB, alias="block_cache", ge=MIB, le=64 * TIB)
    write_buffer_bytes: Size = Field(32 * MIB, alias="write_buffer", ge=MIB, le=64 * GIB)
    disk_reserve_bytes: Size = Field(256 * MIB, alias="disk_reserve", ge=0, le=MAX_BYTES)
    log_retain_bytes: Size = Field(16 * MIB, alias="log_retain", ge=64 * KIB, le=TIB)
    sessions_per_shard: Count = Field(4096, ge=1, le=1_000_000)
    compare_replicas: Switch = True


def memory_fixed(storage: StorageConfig) -> int:
    """Return what a node takes whatever it holds for others (bytes): the program, RocksDB's cache and its write buffers."""
    return MEMORY_PROGRAM + engine_bytes(storage.block_cache_bytes, storage.write_buffer_bytes)


class ObserveConfig(Section):
    """What processes tell of themselves. `slow_request`: a request that takes longer is logged, with where the time went.

    `tracing`: nodes make spans of what clients trace, and send them where OpenTelemetry's own variables say.
    `storage_counters`: RocksDB counts what it looks up and writes, at the price of a few percent of the reads.
    """

    slow_request_ns: Duration = Field(500 * MILLISECOND, alias="slow_request", ge=MILLISECOND, le=24 * HOUR)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tracing: Switch = False
    storage_counters: Switch = False


class TlsConfig(Section):
    """TLS, on every port but that of the pages: off where nothing is set. The files are in PEM.

    `certificate` is the process's own, with those between it and its authority, and `key` its key without a password;
    `authorities` are those whose certificates are trusted, of nodes, managers and clients. `clients` says whether these
    need one.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    clients: Literal["none", "required"] = "none"

    @property
    def on(self) -> bool:
        """Whether it is switched on."""
        return self.certificate is not None

    def conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield settings of this section that contradict each other, and what would be right."""
        files = {"certificate": self.certificate, "key": self.key, "authorities": self.authorities}
        missing = [name for name, path in files.items() if path is None]
        if len(missing) in (1, 2):
            yield tuple(files), f"TLS needs certificate, key and authorities: add {' and '.join(missing)}"
        if len(missing) == len(files) and self.clients == "required":
            yield ("clients",), "clients have certificates only over TLS: add certificate, key and authorities"

    def beside(self, folder: Path) -> TlsConfig:
        """Return it with paths that are relative to `folder`."""
        paths = {"certificate": self.certificate, "key": self.key, "authorities": self.authorities}
        return self.model_copy(update={name: folder / path for name, path in paths.items() if path is not None})


class ClusterConfig(Section):
    """A whole cluster."""

    cluster: Name
    nodes: tuple[NodeConfig, ...] = Field(min_length=1, max_length=MAX_NODES)
    managers: tuple[ManagerConfig, ...] = Field((), max_length=MANAGERS_MAX)
    keyspaces: dict[Name, KeyspaceConfig] = Field(min_length=1, max_length=MAX_KEYSPACES)
    timing: TimingConfig = TimingConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()
    observe: ObserveConfig = ObserveConfig()
    tls: TlsConfig = TlsConfig()

    @property
    def memory_fixed(self) -> int:
        """What of a node's memory is not for the node to divide (bytes): see `memory_fixed`."""
        return memory_fixed(self.storage)

    @property
    def memory_least(self) -> int:
        """With less (bytes) there is nothing to divide."""
        return self.memory_fixed + MEMORY_DIVIDED_LEAST
