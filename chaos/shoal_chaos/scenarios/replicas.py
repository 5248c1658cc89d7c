"""Verdicts about the replicas, once the load has ended: all are there and in step, and they hold the same rows."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from ssl import SSLContext

from shoal import ShoalError
from shoal.admin.survey import Examination, ProblemKind, examine

from shoal_chaos.checkers import divergence
from shoal_chaos.report.records import Verdict

IN_STEP_SECONDS = 15.0
SURVEY_SECONDS = 1.0
COMPARE_SECONDS = 10.0
SHOWN = 5


async def are_in_step(seeds: Sequence[str], lost: Collection[str], tls: SSLContext | None = None) -> Verdict:
    """Wait until every replica is in step, but for those of nodes that are given up.

    Args:
        lost: those nodes.
        tls: None: connections are plain.
    """

    def left(found: Examination) -> list[str]:
        return [
            one.message
            for one in found.problems
            if one.kind is not ProblemKind.NODE_NOT_LEADING and (one.node is None or one.node not in lost)
        ]

    deadline = time.monotonic() + IN_STEP_SECONDS
    problems = left(await examine(seeds, SURVEY_SECONDS, tls=tls))
    while problems and time.monotonic() < deadline:
        problems = left(await examine(seeds, SURVEY_SECONDS, tls=tls))
    judged = f"all of them, within {IN_STEP_SECONDS:g} s"
    return Verdict("replicas in step", not problems, judged, tuple(problems[:SHOWN]), safety=False)


async def are_equal(
    seeds: Sequence[str], lost: Collection[str], *, alone: bool, tls: SSLContext | None = None
) -> Verdict:
    """Compare the rows of every shard's replicas at one position of its log, but for those of nodes that are given up.

    Where that could not be done, nothing is said about safety: somebody writes, or a replica is not there.

    Args:
        alone: nobody else uses the cluster, so that it can be done.
        tls: None: connections are plain.
    """
    try:
        found = await divergence.find_violations(seeds, COMPARE_SECONDS, without=lost, tls=tls)
    except divergence.NotQuiet as error:
        if alone:
            return Verdict("replicas compared", False, found=(str(error),), safety=False)
        return Verdict("replicas agree", True, f"not compared, since others use the cluster: {error}")
    except ShoalError as error:
        return Verdict("replicas compared", False, found=(str(error),), safety=False)
    judged = "checksums of all rows of every replica, at one position of its log"
    return Verdict("replicas agree", not found, judged, tuple(one.sentence for one in found[:SHOWN]))
