"""Lets faults happen to a simulated cluster. Those that overlap add up, and each takes away only what it has brought."""

from __future__ import annotations

from random import Random

from shoal.protocol.messages import TransferLeader

from shoal_chaos.application_simulation.faults import (
    BadNetwork,
    ClockJump,
    Crash,
    Fault,
    LeaderMove,
    OneWayCut,
    Partition,
    Pause,
    SlowDisk,
)
from shoal_chaos.application_simulation.scene import ApplicationScene
from shoal_chaos.simulation.cluster.node import USUAL_SYNC_DELAY
from shoal_chaos.simulation.world.events import MILLISECOND, SECOND
from shoal_chaos.simulation.world.network import Conditions

OPERATOR = 0
"""The number, as a client of the nodes, of whoever asks for other leaders."""
OPERATOR_REQUEST = 1 << 40
TRANSFER_MS = 1000


class Injector:
    """Begins and ends faults. `story` has a line for each, in order of time."""

    def __init__(self, scene: ApplicationScene, random: Random) -> None:
        self.story: list[str] = []
        self._scene = scene
        self._random = random
        self._active: list[tuple[Fault, int]] = []

    def inject(self, fault: Fault) -> None:
        """Let a fault begin in `fault.at` seconds.

        Raises:
            ValueError: it is about a process that there is not.
        """
        self._check(fault)
        self._scene.time.after(round(fault.at * SECOND), lambda: self._begin(fault))

    def heal(self) -> None:
        """End all faults that have begun."""
        for fault, _ in list(self._active):
            self._end(fault)

    def refresh(self) -> None:
        """Derive the state of links and disks from the faults there are."""
        scene = self._scene
        scene.world.network.cut(self._cuts())
        bad = [fault for fault, _ in self._active if isinstance(fault, BadNetwork)]
        usual = Conditions()
        scene.world.network.conditions = Conditions(
            loss=max((fault.loss for fault in bad), default=usual.loss),
            delay_max=max((fault.delay_ms * MILLISECOND for fault in bad), default=usual.delay_max),
        )
        for node in scene.nodes.values():
            slow = [
                fault.sync_ms for fault, _ in self._active if isinstance(fault, SlowDisk) and fault.name == node.name
            ]
            node.sync_delay = (USUAL_SYNC_DELAY[0], max(slow) * MILLISECOND) if slow else USUAL_SYNC_DELAY

    # -- one fault

    def _check(self, fault: Fault) -> None:
        nodes, everybody = list(self._scene.nodes), self._scene.names()
        match fault:
            case SlowDisk(name=name) | ClockJump(name=name) | LeaderMove(name=name):
                named, known = [name], nodes
            case Crash(name=name):
                named, known = [name], [*nodes, *self._scene.managers]
            case Pause(name=name):
                named, known = [name], everybody
            case Partition(side=side):
                named, known = list(side), everybody
            case OneWayCut(sender=sender, receiver=receiver):
                named, known = [sender, receiver], everybody
            case _:
                return
        for name in named:
            if name not in known:
                raise ValueError(f"{fault}: there is no {name!r} that this can happen to, only {', '.join(known)}")

    def _begin(self, fault: Fault) -> None:
        scene = self._scene
        self._tell(f"{fault}")
        if isinstance(fault, LeaderMove):
            self._move_leaders(fault.name)
            return
        length = round(fault.seconds * SECOND)
        self._active.append((fault, scene.time.now + length))
        scene.under_fault = True
        match fault:
            case Crash():
                self._crash(fault.name)
            case Pause():
                self._hold_up(fault.name)
            case ClockJump():
                scene.nodes[fault.name].wall_skew_ms += fault.ms
            case _:
                self._changed()
        scene.time.after(length, lambda: self._end(fault))

    def _end(self, fault: Fault) -> None:
        """Undo a fault, unless it has been healed before."""
        active = [entry for entry in self._active if entry[0] is not fault]
        if len(active) == len(self._active):
            return
        self._active = active
        scene = self._scene
        scene.under_fault = bool(active)
        match fault:
            case Crash():
                if not any(isinstance(other, Crash) and other.name == fault.name for other, _ in active):
                    scene.start_again(fault.name)
            case Pause():
                self._hold_up(fault.name)
            case ClockJump():
                scene.nodes[fault.name].wall_skew_ms -= fault.ms
            case _:
                self._changed()
        self._tell(f"over: {fault}")

    def _tell(self, what: str) -> None:
        self.story.append(f"{self._scene.time.now / SECOND:9.3f} s  {what}")

    # -- effects

    def _hold_up(self, name: str) -> None:
        """Let a process stand still until the last of its pauses ends."""
        ends = [end for fault, end in self._active if isinstance(fault, Pause) and fault.name == name]
        self._scene.pause(name, max(ends, default=0))

    def _crash(self, name: str) -> None:
        scene = self._scene
        if name in scene.managers:
            if scene.managers[name].running:
                scene.managers[name].crash()
        elif scene.nodes[name].node is not None:
            scene.nodes[name].crash()

    def _move_leaders(self, name: str) -> None:
        for node in self._scene.nodes.values():
            if node.node is None:
                continue
            for shard, replica in list(node.node.replicas.items()):
                if node.name != name and replica.group.is_leader and name in replica.group.members:
                    request = TransferLeader(OPERATOR_REQUEST, shard, name, TRANSFER_MS)
                    node.node.receive_client(OPERATOR, [request])
                    node.turn_soon()

    def _cuts(self) -> set[tuple[str, str]]:
        names = self._scene.names()
        cut: set[tuple[str, str]] = set()
        for fault, _ in self._active:
            if isinstance(fault, Partition):
                cut |= {(a, b) for a in names for b in names if (a in fault.side) != (b in fault.side)}
            elif isinstance(fault, OneWayCut):
                cut.add((fault.sender, fault.receiver))
        return cut

    def _changed(self) -> None:
        """Derive the links' state, and tell nodes of it."""
        self.refresh()
        self._scene.managed.cluster.tell_of_links(self._random)
