"""Tries an application under faults, and tells a failure so that it can be understood and had again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal_chaos.application_simulation.coroutines import check_coroutine_function
from shoal_chaos.application_simulation.faults import Fault, draw_plan
from shoal_chaos.application_simulation.run import APPLICATION, Application, ApplicationOutcome, run_once
from shoal_chaos.application_simulation.shape import Shape
from shoal_chaos.application_simulation.shrinking import shrink
from shoal_chaos.simulation.world.events import derived_random

STORY_LINES = 40
SECONDS_MAX = 600.0
NOT_THE_SAME = (
    "Run again under the same faults it did something else: it takes time or chance from where the simulation cannot give "
    "them, or keeps something between runs. So nothing shorter was looked for."
)


@dataclass(frozen=True, slots=True)
class ShoalSimulation:
    """What the fixture `shoal_sim` is: a seed, and what runs an application under it.

    Args:
        replay: the command that runs the same test with this seed alone; "" where there is none.
    """

    seed: int
    replay: str = ""

    def run(
        self,
        application: Application,
        *,
        faults: Sequence[Fault] | None = None,
        nodes: int = 3,
        shards: int = 2,
        managers: int = 1,
        keyspaces: Sequence[str] = ("default",),
        max_staleness: float = 5.0,
        default_ttl: float = 0.0,
        seconds_max: float = SECONDS_MAX,
    ) -> Any:
        """Run `application(sim)`, a coroutine, on new simulated clusters: without faults, and then with some.

        Each run calls it anew, so it must keep nothing between calls. It fails by raising. What fails only under faults is
        run again under fewer and shorter ones, and raised with the shortest plan that was found in its notes.

        Args:
            faults: None: drawn from the seed; else those of the only run, none where it is empty.
            nodes, shards, managers, keyspaces, max_staleness, default_ttl: see `Shape`.
            seconds_max: of simulated time for one run.

        Returns:
            What the coroutine has returned, in the last run.

        Raises:
            Exception: what the coroutine has raised, or what was raised in the background of a process and seen by nobody.
            TookTooLong: it had not ended in time, or (`TimeStoodStill`) a process of it went on and on without waiting.
            NotSimulated: it was about to connect to something that is not simulated, or to use a blocking client.
            TypeError: `application` is no coroutine function, nor does it return a coroutine.
            Violation: Shoal itself is wrong; the application need not be.
            ValueError: there cannot be such a cluster, or a fault is about a process that there is not.
        """
        check_coroutine_function(application)
        shape = Shape(nodes, shards, managers, tuple(keyspaces), max_staleness, default_ttl)

        def outcome_under(plan: Sequence[Fault]) -> ApplicationOutcome:
            return run_once(application, self.seed, plan, shape, seconds_max)

        outcome = outcome_under(faults or ())
        if outcome.failure is not None:
            said = (
                "It fails under the faults that the test orders."
                if faults
                else "It fails without faults drawn from the seed."
            )
            raise self._told(outcome, said, faults or ())
        if faults is not None:
            return outcome.result
        random = derived_random(self.seed, "application/plan")
        names = [f"n{number}" for number in range(1, nodes + 1)]
        others = [*(f"m{number}" for number in range(1, managers + 1)), APPLICATION]
        plan = draw_plan(random, names, others, outcome.seconds)
        outcome = outcome_under(plan)
        if outcome.failure is None:
            return outcome.result
        again = outcome_under(plan)
        if again.trace != outcome.trace:
            raise self._told(outcome, f"It passes without faults. {NOT_THE_SAME}", plan)
        failures = [outcome]

        def fails_as_well(candidate: Sequence[Fault]) -> bool:
            found = outcome_under(candidate)
            if type(found.failure) is not type(outcome.failure):
                return False
            failures.append(found)
            return True

        shortest, runs = shrink(plan, fails_as_well)
        raise self._told(
            failures[-1],
            f"It passes without faults, and fails under {len(shortest)} of the {len(plan)} that the seed has drawn, "
            f"as {runs} further runs have found:",
            shortest,
        )

    def _told(self, outcome: ApplicationOutcome, said: str, plan: Sequence[Fault]) -> BaseException:
        """Return the failure of a run, with all that helps in its notes."""
        failure = outcome.failure
        assert failure is not None, "a run that failed has a failure"
        failure.add_note(f"Shoal simulation, seed {self.seed}, after {outcome.seconds:.3f} simulated seconds. {said}")
        if plan:
            failure.add_note("faults=[\n" + "".join(f"    {fault},\n" for fault in plan) + "]")
        if outcome.story:
            shown = outcome.story[-STORY_LINES:]
            failure.add_note("What happened (simulated time):\n" + "\n".join(shown))
        if self.replay:
            failure.add_note(f"The same again: {self.replay}")
        return failure
