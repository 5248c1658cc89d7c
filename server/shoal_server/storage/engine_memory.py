"""What the engine on disk may hold in memory by its settings: one block cache, and the write buffers of each family."""

from __future__ import annotations

LOG_BUFFER_BYTES = 16 * 1024 * 1024
META_BUFFER_BYTES = 8 * 1024 * 1024
WRITE_BUFFERS = 3
"""Of each family: one that is written to, and two that are on their way to the disk."""


def engine_bytes(block_cache_bytes: int, write_buffer_bytes: int) -> int:
    """Return what it holds at the most, in bytes.

    Args:
        write_buffer_bytes: one of the family with the rows.
    """
    return block_cache_bytes + WRITE_BUFFERS * (write_buffer_bytes + LOG_BUFFER_BYTES + META_BUFFER_BYTES)
