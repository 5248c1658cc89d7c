"""Placement: where replicas and leaders should be. A pure function of a state; no I/O, no clock, no global chance.

Reading order: model.py (what goes in and out), settings.py, domains.py, board.py (numbers), constraints.py (hard),
objective.py (soft), targets.py, repair.py, preferences.py, balance.py, leaders.py (the search), schedule.py (steps in
waves), planner.py (all together), first.py (new shards), explain.py (why).
"""

from shoal_shardmanager.placement.explain import Explanation, why
from shoal_shardmanager.placement.first import FirstPlacement, NewShard, initial
from shoal_shardmanager.placement.model import (
    METRICS,
    AddReplica,
    Keyspace,
    Load,
    Mode,
    MoveReplica,
    Node,
    NodeState,
    Plan,
    PlannedStep,
    Refusal,
    RemoveReplica,
    Role,
    Scores,
    Shard,
    State,
    TransferLeader,
)
from shoal_shardmanager.placement.planner import plan
from shoal_shardmanager.placement.settings import Budget, Caps, Settings, Weights
from shoal_shardmanager.placement.wording import described

__all__ = [
    "METRICS",
    "AddReplica",
    "Budget",
    "Caps",
    "Explanation",
    "FirstPlacement",
    "Keyspace",
    "Load",
    "Mode",
    "MoveReplica",
    "NewShard",
    "Node",
    "NodeState",
    "Plan",
    "PlannedStep",
    "Refusal",
    "RemoveReplica",
    "Role",
    "Scores",
    "Settings",
    "Shard",
    "State",
    "TransferLeader",
    "Weights",
    "described",
    "initial",
    "plan",
    "why",
]
