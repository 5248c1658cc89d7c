"""What the client's logger says: connections, attempts that failed, and nothing that anybody stores."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import shoal
from shoal.errors import ErrorCode
from shoal.protocol.messages import Failure, Write


async def test_connections_and_failed_attempts_are_logged_without_what_is_stored(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = iter([ErrorCode.NOT_LEADER, ErrorCode.OVERLOADED])

    def refuse(node: Any, request: Any) -> Any:
        if isinstance(request, Write) and (code := next(refusals, None)) is not None:
            return Failure(request.request, code, "not b'private/key' here")
        return cluster.serve(node, request)

    with caplog.at_level(logging.DEBUG, "shoal"):
        async with shoal.AsyncClient(cluster.url()) as db:
            cluster.script = refuse
            await db.put("private/key", "secret")
            cluster.nodes["n1"].drop_connections()
            await db.put("private/key", "secret")
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("connected to n1 of cluster") for line in said)
    assert any("did not serve a request of shard" in line and line.endswith(": not_leader") for line in said)
    assert any("did not serve a request of shard" in line and line.endswith(": overloaded") for line in said)
    lost = [record for record in caplog.records if record.getMessage().startswith("no connection to")]
    assert lost
    assert all(record.levelno == logging.INFO for record in lost)
    assert not any("secret" in line or "private" in line for line in said)
