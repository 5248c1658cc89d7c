"""Simulated nodes log as real ones do; here nobody reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from shoal_chaos.simulation.logs import logging_from


@pytest.fixture(autouse=True, scope="module")
def quiet_nodes() -> Iterator[None]:
    with logging_from(logging.CRITICAL):
        yield
