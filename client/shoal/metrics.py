"""What metrics are made of: counters kept as plain numbers, and the families of samples that a scrape turns them into.

`Family` and `Sample` have the shape that `prometheus_client` asks of a collector's metrics, without a need for it: whatever
has `collect()` and returns families can be registered there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of a latency histogram's buckets, in seconds; one bucket more holds what takes longer."""

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Sample(NamedTuple):
    """One number of a scrape, laid out as `prometheus_client.samples.Sample`."""

    name: str
    labels: Mapping[str, str]
    value: float
    timestamp: None = None
    exemplar: None = None
    native_histogram: None = None


@dataclass(slots=True)
class Family:
    """All samples of one name. `name` is without a counter's `_total`."""

    name: str
    type: Kind
    documentation: str
    samples: list[Sample] = field(default_factory=list)
    unit: str = ""

    def add(self, value: float, **labels: str) -> Family:
        """Add the number for these labels."""
        suffix = "_total" if self.type == "counter" else ""
        self.samples.append(Sample(self.name + suffix, labels, value))
        return self

    def add_histogram(self, histogram: Histogram, **labels: str) -> Family:
        """Add all buckets of a histogram for these labels."""
        bucket, seen = self.name + "_bucket", 0
        for bound, count in zip(_BOUND_LABELS, histogram.counts, strict=True):
            seen += count
            self.samples.append(Sample(bucket, {**labels, "le": bound}, seen))
        self.samples.append(Sample(self.name + "_count", labels, seen))
        self.samples.append(Sample(self.name + "_sum", labels, histogram.seconds))
        return self


_BOUND_LABELS = (*map(str, LATENCY_BOUNDS), "+Inf")


class Histogram:
    """Durations counted by `LATENCY_BOUNDS`."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.seconds = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        """Count a duration, `times` times."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += times
        self.seconds += seconds * times


def counter(name: str, documentation: str, value: float) -> Family:
    """Return a counter without labels. `name` is without `_total`."""
    return Family(name, "counter", documentation).add(value)


def gauge(name: str, documentation: str, value: float) -> Family:
    """Return a gauge without labels."""
    return Family(name, "gauge", documentation).add(value)


def labelled(kind: Kind, name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]) -> Family:
    """Return a family with one label. `name` is without a counter's `_total`."""
    family = Family(name, kind, documentation)
    for labelled_as, value in values:
        family.add(value, **{label: labelled_as})
    return family
