"""How a command ends: the exit codes, and which error means which. Nothing else in the command line chooses one."""

from __future__ import annotations

from enum import IntEnum

from shoal.errors import ErrorCode, ShoalError


class ExitCode(IntEnum):
    """What the process's exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    DEADLINE = 6
    OUTCOME_UNKNOWN = 7
    INCOMPLETE = 8


_BY_ERROR: dict[ErrorCode, ExitCode] = {
    ErrorCode.KEYSPACE_NOT_FOUND: ExitCode.NOT_FOUND,
    ErrorCode.CONDITION_FAILED: ExitCode.CONFLICT,
    ErrorCode.TRANSACTION_CONFLICT: ExitCode.CONFLICT,
    ErrorCode.TOO_STALE: ExitCode.UNAVAILABLE,
    ErrorCode.OVERLOADED: ExitCode.UNAVAILABLE,
    ErrorCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED: ExitCode.DEADLINE,
    ErrorCode.OUTCOME_UNKNOWN: ExitCode.OUTCOME_UNKNOWN,
}


def exit_code_of(error: ShoalError) -> ExitCode:
    """Return the exit code for an error.

    Whatever may have been done is "outcome unknown", also where a deadline was the cause: a script that reads
    "deadline" may then rely on nothing having been written.
    """
    if error.maybe_applied:
        return ExitCode.OUTCOME_UNKNOWN
    return _BY_ERROR.get(error.code, ExitCode.FAILED)


class CommandFailed(Exception):
    """A command cannot do what it was asked to: one line that says why, and the exit code."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
