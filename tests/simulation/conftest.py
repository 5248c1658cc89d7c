"""Simulated nodes log as real ones do; here nobody reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from shoal_server.logs import configure_logging


@pytest.fixture(autouse=True, scope="module")
def quiet_nodes() -> Iterator[None]:
    before = structlog.get_config()
    configure_logging(logging.CRITICAL)
    yield
    structlog.configure(**before)
