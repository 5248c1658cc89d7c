"""`plan`: from a state to steps, refusals and scores. Pure: the same arguments give the same plan."""

from __future__ import annotations

from shoal_shardmanager.placement.balance import Balancer
from shoal_shardmanager.placement.board import Board
from shoal_shardmanager.placement.context import Context
from shoal_shardmanager.placement.invariants import invariant
from shoal_shardmanager.placement.leaders import even_leaders
from shoal_shardmanager.placement.model import Mode, Plan, Refusal, Scores, State
from shoal_shardmanager.placement.objective import scores
from shoal_shardmanager.placement.preferences import follow_preferences
from shoal_shardmanager.placement.repair import drain, mend_constraints, remove_surplus, replace_lost
from shoal_shardmanager.placement.schedule import schedule
from shoal_shardmanager.placement.settings import Budget, Settings
from shoal_shardmanager.placement.targets import Targets

ROUNDS_MAX = 12
REST_PART = 3_000  # a round that changed less than this part of the replicas is the last: the next plan does the rest
HARD = ("missing", "surplus", "gone", "draining", "crowded", "region_shortage", "over_capacity")


def plan(state: State, settings: Settings, mode: Mode, budget: Budget | None = None, seed: int = 0) -> Plan:
    """Plan the steps that better the placement, the most urgent first, within the budget.

    `ValueError` where the state contradicts itself. Equal arguments give equal plans, as long as `budget.expired`
    answers the same.
    """
    board = Board(state, settings)
    context = Context(board, settings, budget or Budget(), seed)
    before = scores(board)
    leaders = list(board.leader)
    search(context, mode)
    steps = schedule(context, leaders)
    after = scores(board)
    check_no_worse(before, after)
    refusals = tuple(context.refusals)
    if context.refused:
        refusals += (
            Refusal("cluster", f"{context.refused} more refusals are not listed", "raise refusals_max to see them"),
        )
    return Plan(mode, steps, refusals, before, after, context.stopped)


def search(context: Context, mode: Mode) -> None:
    """Better the board, hard constraints first."""
    if mode is Mode.LEADERS:
        even_leaders(context)
        return
    targets = Targets(context)
    replace_lost(context, targets)
    if mode is Mode.EMERGENCY:
        return
    remove_surplus(context)
    mend_constraints(context, targets)
    drain(context, targets)
    follow_preferences(context, targets)
    even(context, targets)


def even(context: Context, targets: Targets) -> None:
    """Even replicas, loads and leaders until (almost) nothing is gained any more."""
    balancer = Balancer(context, targets)
    for _ in range(ROUNDS_MAX):
        changed = balancer.round()
        changed += even_leaders(context)
        if changed <= sum(context.board.count) // REST_PART or context.stopped:
            break


def check_no_worse(before: Scores, after: Scores) -> None:
    for name in HARD:
        invariant(getattr(after, name) <= getattr(before, name), f"a plan never makes {name} worse")
