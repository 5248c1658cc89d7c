"""The scenarios there are, by name: faults of processes, links and machines, what operators do meanwhile, and neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from shoal_chaos.clusters.faulty_cluster import ClusterShape
from shoal_chaos.clusters.links import LinkRule
from shoal_chaos.clusters.networks import Medium
from shoal_chaos.nemeses.base import Nemesis, Together
from shoal_chaos.nemeses.changed_rows import ChangedRow
from shoal_chaos.nemeses.choosing import Who
from shoal_chaos.nemeses.clocks import Drift, OneWallWrong, WallJump
from shoal_chaos.nemeses.disks import (
    DamagedFiles,
    DamagedWhileRunning,
    LyingDisk,
    failing_reads,
    failing_sync,
    full_disk,
    nearly_full_disk,
    slow_sync,
)
from shoal_chaos.nemeses.load import LoadSpike
from shoal_chaos.nemeses.operators import Operations, Shuffle
from shoal_chaos.nemeses.other_clusters import ComesBack, OtherCluster
from shoal_chaos.nemeses.partitions import (
    Cut,
    Flapping,
    Partition,
    bridge,
    halves,
    isolated,
    isolated_from_all,
    one_way_in,
    one_way_out,
    ring,
)
from shoal_chaos.nemeses.processes import Kill, LosePower, Pause
from shoal_chaos.nemeses.slow_links import HalfOpen, MachineGone, PoorLinks
from shoal_chaos.scenarios.model import ESSENTIAL, Scenario, TimedNemesis
from shoal_chaos.scenarios.neighbours import NEIGHBOURS
from shoal_chaos.workloads.operations import (
    DRAIN,
    MERGE,
    MOVE,
    MOVE_MICROSHARDS,
    SPLIT,
    TRANSFER,
    UNDRAIN,
    without_manager,
)

Round = Callable[[Random], Sequence[TimedNemesis]]

FIVE = ClusterShape(nodes=5, voters=5)
MANAGED = ClusterShape(nodes=4, managers=1)
TIGHT_CLOCKS = ClusterShape(clock_tolerance_ms=100)

MAJORITY_STAYS = 0.3
"""While one node is away: its leaders' shards are out for an election, others only slow. A low bar: it is to tell an
outage from a nuisance on any machine, not to measure."""

DRIFT_PERMILLE = 48.0
"""A little less than `timing.clock_drift_permille`, which is what clocks may do."""

FAR_LINKS = LinkRule(delay_seconds=0.02, jitter_seconds=0.03)
LOSSY_LINKS = LinkRule(delay_seconds=0.001, loss=0.02)
FLIPPING_LINKS = LinkRule(flips=0.005)
FLIPPING_OFTEN = LinkRule(flips=0.05)
NARROW_LINKS = LinkRule(bytes_per_second=200_000)
BREAKING_LINKS = LinkRule(reset=True)
LOSSY_PACKETS = LinkRule(loss=0.02)
VERY_LOSSY_PACKETS = LinkRule(loss=0.15)
LATE_PACKETS = LinkRule(delay_seconds=0.002, jitter_seconds=0.02, duplicates=0.05)


def _each(*makers: Callable[[], Nemesis], seconds: tuple[float, float], rest_seconds: float = 1.0) -> Round:
    """Return a round in which each nemesis has its turn, for some time within `seconds`."""

    def make(random: Random) -> list[TimedNemesis]:
        return [TimedNemesis(maker(), random.uniform(*seconds), rest_seconds) for maker in makers]

    return make


def _shuffled(*makers: Callable[[], Nemesis], seconds: tuple[float, float]) -> Round:
    """As `_each`, in an order that each round draws anew."""

    def make(random: Random) -> Sequence[TimedNemesis]:
        return _each(*random.sample(makers, len(makers)), seconds=seconds)(random)

    return make


def _cut(*cuts: Cut, seconds: tuple[float, float] = (3.0, 6.0)) -> Round:
    return _each(*((lambda cut=cut: Partition(cut)) for cut in cuts), seconds=seconds)


PROCESSES = (
    Scenario(
        "leader-kill",
        "When the node that leads most is killed, its shards elect others, and nothing acknowledged is lost.",
        _each(lambda: Kill(Who.LEADER), seconds=(1.0, 4.0)),
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "follower-kill",
        "When a node that leads least is killed, hardly anybody notices.",
        _each(lambda: Kill(Who.FOLLOWER), seconds=(1.0, 4.0)),
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "majority-kill",
        "When a majority is killed, nothing is decided until enough of it is back, and nothing acknowledged is lost.",
        _each(lambda: Kill(Who.MAJORITY), seconds=(0.5, 3.0)),
    ),
    Scenario(
        "all-killed",
        "When every node is killed at once, the cluster comes back with everything that it acknowledged.",
        _each(lambda: Kill(Who.ALL), seconds=(0.2, 2.0)),
    ),
    Scenario(
        "power-loss",
        "When every machine loses its power, what was not on disk is gone, and everything acknowledged was.",
        _each(lambda: LosePower(Who.ALL), seconds=(0.2, 2.0)),
        needs_system_faults=True,
    ),
    Scenario(
        "paused-leader",
        "A leader that is stopped for longer than its lease answers no stale read when it goes on.",
        _each(lambda: Pause(Who.LEADER), seconds=(1.5, 5.0)),
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "half-open",
        "Connections to a node that is gone, and whose end nobody was told of, hold up neither clients nor peers.",
        _each(HalfOpen, seconds=(1.0, 4.0)),
        availability=MAJORITY_STAYS,
    ),
)

LINKS = (
    Scenario(
        "isolated-leader",
        "A leader that is cut off stops answering strong reads and writes before another is elected.",
        _cut(isolated, isolated_from_all),
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "minority-cut",
        "The larger side of a cut goes on, the smaller one waits, and both agree afterwards.",
        _cut(halves),
        shape=FIVE,
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "one-way-cut",
        "A leader that only hears, or only speaks, is replaced, and the rest is not held up by it.",
        _cut(one_way_out, one_way_in),
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "bridge",
        "When only one node is in touch with both halves, there is still one leader at a time, and it serves.",
        _cut(bridge),
        shape=FIVE,
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "ring",
        "When each node sees another majority, there is still one leader at a time, and it serves.",
        _cut(ring),
        shape=FIVE,
        availability=MAJORITY_STAYS,
    ),
    Scenario(
        "flapping",
        "Links that come and go cost elections, and nothing else.",
        _each(lambda: Flapping(isolated, 2.0, 2.0), lambda: Flapping(one_way_out, 1.0, 0.5), seconds=(4.0, 8.0)),
    ),
    Scenario(
        "slow-network",
        "Delays of 20 to 50 ms each way make calls slow, and depose no leader.",
        _each(lambda: PoorLinks(FAR_LINKS, "20 to 50 ms late"), seconds=(4.0, 8.0)),
        availability=0.5,
    ),
    Scenario(
        "poor-network",
        "Lost segments, narrow links and broken connections break no promise.",
        _each(
            lambda: PoorLinks(LOSSY_LINKS, "one segment in 50 is lost"),
            lambda: PoorLinks(NARROW_LINKS, "200 kB/s", Who.ANY),
            lambda: PoorLinks(BREAKING_LINKS, "all connections break", Who.ANY),
            seconds=(2.0, 5.0),
        ),
    ),
    Scenario(
        "flipped-bits",
        "Bits that flip between nodes end connections; no replica and no history is other than without.",
        _each(
            lambda: PoorLinks(FLIPPING_LINKS, "a bit flips in one of 200 pieces of bytes"),
            lambda: PoorLinks(FLIPPING_OFTEN, "a bit flips in one of 20 pieces of bytes", Who.ANY),
            seconds=(3.0, 6.0),
        ),
    ),
)

PACKETS = (
    Scenario(
        "packet-filter",
        "When packets to or from a leader vanish, another is elected, and its clients find that one.",
        _shuffled(
            lambda: Partition(isolated),
            lambda: Partition(isolated_from_all),
            lambda: Partition(one_way_out),
            lambda: Partition(one_way_in),
            seconds=(3.0, 6.0),
        ),
        availability=MAJORITY_STAYS,
        medium=Medium.PACKETS,
    ),
    Scenario(
        "machine-gone",
        "A machine that is gone without a word holds up neither clients nor peers, though its connections stay open.",
        _each(MachineGone, seconds=(2.0, 5.0), rest_seconds=2.0),
        availability=MAJORITY_STAYS,
        medium=Medium.PACKETS,
    ),
    Scenario(
        "packet-filter-halves",
        "When packets between a minority and the majority vanish, the majority goes on, and both agree afterwards.",
        _each(lambda: Partition(halves), lambda: Flapping(halves, 2.0, 1.0), seconds=(3.0, 6.0)),
        shape=FIVE,
        availability=MAJORITY_STAYS,
        medium=Medium.PACKETS,
    ),
    Scenario(
        "packet-loss",
        "Lost packets make calls slow, and break no promise.",
        _each(
            lambda: PoorLinks(LOSSY_PACKETS, "one packet in 50 is lost"),
            lambda: PoorLinks(VERY_LOSSY_PACKETS, "15 packets in 100 are lost", Who.LEADER),
            seconds=(3.0, 6.0),
        ),
        availability=MAJORITY_STAYS,
        medium=Medium.PACKETS,
    ),
    Scenario(
        "packet-disorder",
        "Packets that are late, come twice or overtake others make calls slow, and depose no leader.",
        _each(lambda: PoorLinks(LATE_PACKETS, "2 to 22 ms late, one in 20 twice"), seconds=(4.0, 8.0)),
        availability=0.5,
        medium=Medium.LATE_PACKETS,
    ),
)

MACHINES = (
    Scenario(
        "clock-jump",
        "While one wall clock is wrong, by up to a year, and after it, rows live as long as they are to.",
        _each(lambda: OneWallWrong(Who.LEADER), lambda: OneWallWrong(Who.ANY), seconds=(2.0, 5.0)),
        workloads=("expiry", "locks", *ESSENTIAL),
        shape=TIGHT_CLOCKS,
        availability=0.5,
        needs_system_faults=True,
        wall_clocks_wrong=True,
    ),
    Scenario(
        "all-clocks-jump",
        "When all wall clocks jump at once, by up to an hour, that decides when keys expire, and nothing else.",
        _each(lambda: WallJump(3600.0), lambda: WallJump(2.0), seconds=(2.0, 5.0)),
        availability=0.5,
        needs_system_faults=True,
    ),
    Scenario(
        "clock-drift",
        "With clocks that drift apart by what is allowed, and leaders that are stopped, no read is stale.",
        _each(lambda: Together(Drift(DRIFT_PERMILLE), Pause(Who.LEADER)), seconds=(2.0, 4.0)),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "slow-disk",
        "A node whose disk is slow, or hangs, gives its leaderships away.",
        _each(lambda: slow_sync(0.2), lambda: slow_sync(60.0), seconds=(4.0, 7.0)),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "failing-disk",
        "A node whose disk fails a sync, or a read, ends itself, and others take over.",
        _each(failing_sync, failing_reads, seconds=(2.0, 4.0)),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "full-disk",
        "A node whose disk is full takes no writes and leads no shard, and others take over.",
        _each(nearly_full_disk, full_disk, seconds=(3.0, 6.0)),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "lying-fsync",
        "When one disk's syncs do nothing and its machine loses power, the other replicas keep what was acknowledged.",
        _each(lambda: LyingDisk(Who.ANY), seconds=(1.0, 3.0), rest_seconds=2.0),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "lying-fsync-everywhere",
        "When all disks' syncs do nothing and all machines lose power, writes are lost, and the checkers say so.",
        _each(lambda: LyingDisk(Who.ALL), seconds=(2.0, 3.0)),
        needs_system_faults=True,
        must_break=True,
    ),
    Scenario(
        "damaged-files",
        "A node whose files were cut or changed serves nothing wrong: it refuses them, or gets from others what is gone.",
        _each(lambda: DamagedFiles("cut"), lambda: DamagedFiles("flip"), seconds=(2.0, 3.0), rest_seconds=2.0),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "damaged-while-running",
        "A node whose tables are damaged under it goes on, and its replicas that meet the damage are rebuilt: no row is lost.",
        _each(lambda: DamagedWhileRunning(), seconds=(3.0, 5.0), rest_seconds=3.0),
        availability=MAJORITY_STAYS,
        needs_system_faults=True,
    ),
    Scenario(
        "changed-row",
        "A row that changes in one replica, with no damage to be seen, is found by comparing, and the replica is rebuilt.",
        _each(ChangedRow, seconds=(1.0, 2.0), rest_seconds=2.0),
        availability=MAJORITY_STAYS,
    ),
)

OPERATORS = (
    Scenario(
        "manager-kill-in-a-move",
        "When the shard manager is killed in the middle of a move, or of a split, that goes on where it was.",
        _each(lambda: Operations([without_manager(MOVE), without_manager(SPLIT)]), seconds=(5.0, 8.0)),
        shape=MANAGED,
        availability=0.5,
    ),
    Scenario(
        "drain-under-load",
        "A node is emptied and filled again while another is killed, without a wrong answer.",
        _each(lambda: Together(Operations([DRAIN, UNDRAIN]), Kill(Who.FOLLOWER)), seconds=(2.0, 4.0)),
        shape=MANAGED,
        availability=MAJORITY_STAYS,
        recovery_seconds=20.0,
    ),
    Scenario(
        "reshard-under-faults",
        "Shards are split, merged and moved while leaders are stopped; every history holds, and every export is whole.",
        _each(
            lambda: Together(Operations([SPLIT, MOVE_MICROSHARDS, TRANSFER]), Pause(Who.LEADER)),
            lambda: Together(Operations([MOVE, MERGE, TRANSFER]), Partition(isolated)),
            seconds=(2.0, 4.0),
        ),
        workloads=(*ESSENTIAL, "exports"),
        shape=MANAGED,
        recovery_seconds=20.0,
    ),
    Scenario(
        "other-cluster",
        "Clients whose cluster was replaced at its addresses say so, and believe nothing of what is there instead.",
        _shuffled(
            lambda: OtherCluster(ComesBack.EMPTY),
            lambda: OtherCluster(ComesBack.OLDER),
            seconds=(1.0, 3.0),
        ),
        other_clusters=True,
    ),
    Scenario(
        "load-spike",
        "Many callers without pause make calls slow; none gets a wrong answer, and all is as before afterwards.",
        _each(lambda: LoadSpike(64), lambda: LoadSpike(512), seconds=(2.0, 4.0)),
        anywhere=True,
    ),
    Scenario(
        "leader-shuffle",
        "Leaders that are handed on without pause cost retries inside the client, and no errors outside.",
        _each(Shuffle, seconds=(4.0, 8.0)),
        availability=0.9,
        anywhere=True,
    ),
)


def _mix(random: Random) -> list[TimedNemesis]:
    """Two faults at a time, drawn from those that may meet without more than a minority being away for good."""
    alone: list[Callable[[], Nemesis]] = [
        lambda: Kill(Who.ANY), lambda: Kill(Who.MAJORITY), lambda: Kill(Who.ALL), lambda: LosePower(Who.ALL),
        lambda: Pause(Who.LEADER), lambda: Pause(Who.MAJORITY), HalfOpen,
    ]  # fmt: skip
    beside: list[Callable[[], Nemesis]] = [
        lambda: Partition(random.choice([isolated, halves, bridge, ring, one_way_in, one_way_out])),
        lambda: Flapping(isolated, 1.0, 1.0), lambda: PoorLinks(FAR_LINKS, "20 to 50 ms late"),
        lambda: PoorLinks(LOSSY_LINKS, "one segment in 50 is lost"), lambda: slow_sync(0.3),
        lambda: WallJump(2.0), lambda: Drift(DRIFT_PERMILLE), nearly_full_disk, lambda: LoadSpike(64),
    ]  # fmt: skip
    nemesis = Together(random.choice(beside)(), random.choice(alone)())
    return [TimedNemesis(nemesis, random.uniform(1.0, 4.0))]


MIXED = (
    Scenario(
        "random-mix",
        "Whatever two faults meet, every history holds, and the cluster comes back.",
        _mix,
        # Not those with keys that expire, which is when wall clocks say: they jump.
        workloads=(*ESSENTIAL, "sets", "queues", "scans", "swaps", "on-call"),
        recovery_seconds=20.0,
        needs_system_faults=True,
    ),
)

ALL = (*PROCESSES, *LINKS, *PACKETS, *MACHINES, *OPERATORS, *NEIGHBOURS, *MIXED)
BY_NAME = {scenario.name: scenario for scenario in ALL}
