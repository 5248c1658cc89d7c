"""Quantiles of what was measured, by the nearest rank: always a value that was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest of `values` that at least this share of them do not exceed; share 0: the smallest; none: 0."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
