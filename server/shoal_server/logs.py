"""Structured logs: one event a line on stderr, as JSON, or for people where stderr is a terminal.

docs/observability.md lists the events. What they say is of the system, never of its users' data: fields whose names mean keys,
values or credentials come out as `[withheld]`, whoever adds them.
"""

from __future__ import annotations

import logging
import sys

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
WITHHELD = "[withheld]"
SECRET_FIELDS = frozenset(
    {"authorization", "credentials", "key", "keys", "password", "private_key", "secret", "token", "value", "values"}
)


def configure_logging(level: int = logging.INFO) -> None:
    """Set up structlog for this process."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _withhold,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def set_log_level(level: str) -> str:
    """Log from `level` (see `LEVELS`) on from now on, in the whole process; return "" or why that is not done."""
    number = LEVELS.get(level)
    if number is None:
        return f"{level!r} is no log level: there are {', '.join(LEVELS)}"
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(min(number, logging.WARNING)))
    structlog.get_logger("shoal.node").warning("log_level_set", log_level=level)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    return ""


def _withhold(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in SECRET_FIELDS.intersection(event):
        event[name] = WITHHELD
    return event
