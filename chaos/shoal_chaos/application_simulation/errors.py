"""What a run ends with that is wrong with the application, and not with its cluster."""

from __future__ import annotations


class TookTooLong(AssertionError):
    """The application had not ended when its simulated time was up."""


class TimeStoodStill(TookTooLong):
    """A process of the application took steps without end, and waited for nothing, so its simulated time did not go on."""


class NotSimulated(AssertionError):
    """The application was about to leave the simulation: for a real cluster, or another address that is not simulated."""


class RunOver(Exception):
    """Ends a run at once, with `failure`, whoever may have caught that in the application."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__(str(failure))
        self.failure = failure
