"""Simulated nodes log as real ones do; here nobody reads it."""

from __future__ import annotations

import logging

import pytest
from shoal_server.logs import configure_logging


@pytest.fixture(autouse=True, scope="session")
def quiet_nodes() -> None:
    configure_logging(logging.CRITICAL)
