"""A node's accounts of memory (node/memory.py) as families of samples."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.metrics import Family, gauge, labelled

from shoal_server.node.memory import Account, MemoryBudget


def memory_families(memory: MemoryBudget) -> Iterator[Family]:
    """Yield what each account holds, and may hold, and how often there was no room in it."""
    yield labelled(
        "gauge",
        "shoal_memory_held_bytes",
        "What the node holds for others, by what for",
        "account",
        [(account.label, memory.used(account)) for account in Account],
    )
    yield labelled(
        "gauge",
        "shoal_memory_bound_bytes",
        "What it may hold of each",
        "account",
        [(account.label, memory.bound(account)) for account in Account],
    )
    yield labelled(
        "counter",
        "shoal_memory_refused",
        "Times that there was no room in an account",
        "account",
        [(account.label, memory.refused[account]) for account in Account],
    )
    yield gauge(
        "shoal_memory_squeezed",
        "Which part of their shares the bounds are: below 1 while the process has more memory than it may",
        memory.squeezed,
    )
