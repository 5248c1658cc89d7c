"""How long placement takes and how good it is: a skewed start, an even one, 100 nodes added, a zone lost.

One core, no I/O. The sizes are options; the defaults are those of the goal (100,000 shards on 2,000 nodes).
"""

from __future__ import annotations

import gc
import platform
import resource
import time
from dataclasses import replace
from random import Random

import typer
from rich.console import Console
from rich.table import Table
from shoal_shardmanager.placement import (
    AddReplica,
    Budget,
    Keyspace,
    Load,
    Mode,
    MoveReplica,
    Node,
    NodeState,
    Plan,
    PlannedStep,
    RemoveReplica,
    Scores,
    Settings,
    Shard,
    State,
    TransferLeader,
    plan,
)

CAPACITY = Load(bytes=4 << 40, reads=200_000.0, writes=50_000.0, cpu=16.0)


def make_nodes(count: int, zones: int, first: int = 0) -> tuple[Node, ...]:
    return tuple(
        Node(f"n{number}", "r", f"z{number % zones}", capacity=CAPACITY) for number in range(first, first + count)
    )


def make_keyspaces(count: int) -> tuple[Keyspace, ...]:
    return tuple(Keyspace(number) for number in range(1, count + 1))


def make_shards(count: int, keyspaces: int, nodes: tuple[Node, ...], skew: float, rng: Random) -> tuple[Shard, ...]:
    """Place replicas at random, one a zone: node number r of a zone is chosen in proportion to exp(skew * normal).

    Keyspaces have sizes in proportion to 1/rank, loads are log-normal (sigma 1).
    """
    zones: dict[str, list[str]] = {}
    for node in nodes:
        zones.setdefault(node.zone, []).append(node.id)
    bias = {zone: [rng.lognormvariate(0, skew) for _ in members] for zone, members in zones.items()}
    drawn = {zone: rng.choices(members, bias[zone], k=count) for zone, members in zones.items()}
    sizes = [1 / rank for rank in range(1, keyspaces + 1)]
    owners = rng.choices(range(1, keyspaces + 1), sizes, k=count)
    names = list(zones)
    shards = []
    for number in range(count):
        chosen = rng.sample(names, 3) if len(names) > 3 else names
        voters = tuple(drawn[zone][number] for zone in chosen)
        load = Load(
            int(rng.lognormvariate(0, 1) * (1 << 28)),
            rng.lognormvariate(0, 1) * 100,
            rng.lognormvariate(0, 1) * 20,
            rng.lognormvariate(0, 1) * 0.01,
        )
        shards.append(Shard(number + 1, owners[number], voters, leader=rng.choice(voters), load=load))
    return tuple(shards)


def apply(state: State, steps: tuple[PlannedStep, ...]) -> State:
    """Return the state after the steps."""
    shards = {shard.id: shard for shard in state.shards}
    for step in steps:
        shard = shards[step.shard]
        match step:
            case MoveReplica():
                swap = {step.source: step.target}
                shard = replace(
                    shard,
                    voters=tuple(swap.get(node, node) for node in shard.voters),
                    followers=tuple(swap.get(node, node) for node in shard.followers),
                    leader=step.target if step.leads else shard.leader,
                )
                if shard.leader == step.source:
                    shard = replace(shard, leader="")
            case AddReplica():
                shard = replace(shard, voters=(*shard.voters, step.target))
            case RemoveReplica():
                shard = replace(shard, voters=tuple(node for node in shard.voters if node != step.source))
            case TransferLeader():
                shard = replace(shard, leader=step.target)
        shards[step.shard] = shard
    return replace(state, shards=tuple(shards.values()))


def necessary(before: State, added: int) -> int:
    """Return how many replicas the added nodes must hold for evenness."""
    replicas = sum(len(shard.replicas) for shard in before.shards)
    return added * (replicas // (len(before.nodes) + added))


def spread(state: State) -> str:
    """Return the least and most replicas and leaders of a node."""
    replicas = {node.id: 0 for node in state.nodes if node.state is NodeState.ACTIVE}
    leaders = dict(replicas)
    for shard in state.shards:
        for node in shard.replicas:
            if node in replicas:
                replicas[node] += 1
        if shard.leader in leaders:
            leaders[shard.leader] += 1
    return f"{min(replicas.values())}..{max(replicas.values())}, {min(leaders.values())}..{max(leaders.values())}"


def scored(scores: Scores) -> str:
    values = (scores.replicas, scores.leaders, scores.bytes, scores.reads, scores.writes, scores.cpu)
    return " ".join(f"{100 * value:.1f}" for value in values)


def main(
    shards: int = 100_000,
    nodes: int = 2_000,
    added: int = 100,
    keyspaces: int = 50,
    zones: int = 5,
    skew: float = 0.5,
    seed: int = 1,
) -> None:
    """Plan for `shards` shards of three voters on `nodes` nodes, and print what it took and what came of it."""
    rng = Random(seed)
    settings = Settings()
    table = Table(
        title=f"placement: {shards} shards x 3, {nodes} nodes, {zones} zones, {keyspaces} keyspaces, seed {seed}"
    )
    for column in ("start", "seconds", "copies", "transfers", "of necessary", "waves", "replicas, leaders a node"):
        table.add_column(column)
    table.add_column("unevenness % before\nreplicas leaders bytes reads writes cpu")
    table.add_column("after")
    members = make_nodes(nodes, zones)

    def run(name: str, state: State, mode: Mode = Mode.PERIODIC, wanted: int = 0) -> tuple[State, Plan]:
        gc.collect()
        start = time.process_time()
        answer = plan(state, settings, mode, Budget(), seed)
        seconds = time.process_time() - start
        after = apply(state, answer.steps)
        transfers = sum(isinstance(step, TransferLeader) for step in answer.steps)
        ratio = f"{answer.moves / wanted:.3f} x {wanted}" if wanted else "-"
        table.add_row(
            name, f"{seconds:.1f}", str(answer.moves), str(transfers), ratio, str(answer.waves), spread(after),
            scored(answer.before), scored(answer.after),
        )  # fmt: skip
        Console(stderr=True).print(f"{name}: {seconds:.1f} s, {answer.moves} copies, {len(answer.refusals)} refusals")
        return after, answer

    start = State(members, make_keyspaces(keyspaces), make_shards(shards, keyspaces, members, skew, rng))
    even, _ = run("random, skewed", start)
    even, _ = run("that, again", even)
    even, _ = run("that, again", even)
    grown = replace(even, nodes=members + make_nodes(added, zones, nodes))
    run(f"{added} nodes added", grown, wanted=necessary(even, added))
    lost = tuple(replace(node, state=NodeState.GONE) if node.id == "n0" else node for node in members)
    run("a node lost", replace(even, nodes=lost), Mode.EMERGENCY)
    lost = tuple(replace(node, state=NodeState.GONE) if node.zone == "z0" else node for node in members)
    run("a zone lost", replace(even, nodes=lost), Mode.EMERGENCY)
    leaving = tuple(replace(node, state=NodeState.DRAINING) if int(node.id[1:]) < added else node for node in members)
    run(f"{added} nodes drained", replace(even, nodes=leaving))
    Console(width=180).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    Console().print(f"Python {platform.python_version()}, one core, CPU seconds; peak memory {peak} MiB")


if __name__ == "__main__":
    typer.run(main)
