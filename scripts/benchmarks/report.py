"""The results: medians over the rounds, what they were measured on, and their tables in the terminal."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers, workload

EXTRA = "other"  # the name of the suite of what is not A to K
GROWTH = "growth"  # and of the times for a row
Samples = dict[str, list[float]]  # of an operation, by round


class Results:
    """Samples by database, suite (a model, or the others), peer and operation."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.samples: dict[str, dict[str, dict[str, Samples]]] = {}

    def add(self, database: str, suite: str, peer: str, found: dict[str, float]) -> None:
        peers_of_suite = self.samples.setdefault(database, {}).setdefault(suite, {})
        for operation, value in found.items():
            peers_of_suite.setdefault(peer, {}).setdefault(operation, []).append(value)

    def median(self, database: str, suite: str, peer: str, operation: str) -> float | None:
        samples = self.samples.get(database, {}).get(suite, {}).get(peer, {}).get(operation)
        return statistics.median(samples) if samples else None

    def medians(self, database: str, suite: str) -> dict[str, dict[str, float]]:
        """Return the medians of a suite by peer and operation."""
        return {
            peer: {operation: statistics.median(samples) for operation, samples in operations.items()}
            for peer, operations in self.samples[database][suite].items()
        }

    def mean(self, database: str, suite: str, peer: str) -> float | None:
        """Return the geometric mean of a peer's operations A to K; of those that it has."""
        found = self.samples.get(database, {}).get(suite, {}).get(peer, {})
        return geometric_mean([statistics.median(found[letter]) for letter in workload.LETTERS if letter in found])

    def as_dict(self) -> dict[str, Any]:
        """Return all that was measured, as JSON takes it."""
        return {
            database: {
                suite: {
                    "samples": by_peer,
                    "medians": self.medians(database, suite),
                    "geometric_means": {peer: self.mean(database, suite, peer) for peer in by_peer},
                }
                for suite, by_peer in suites.items()
            }
            for database, suites in self.samples.items()
        }

    # Tables

    def tables(self) -> Iterator[str]:
        for database, suites in self.samples.items():
            for suite in suites:
                yield "\n".join(self._table(database, suite))

    def _table(self, database: str, suite: str) -> Iterator[str]:
        if suite == GROWTH:
            yield from self._growth_table(database)
            return
        columns = [name for name in self.names if name in self.samples[database][suite]]
        operations = [o for o in workload.TITLES if any(self.median(database, suite, c, o) for c in columns)]
        title = f"{database}, {suite}" + ("" if suite == EXTRA else f" ({workload.RATE})")
        ratios = ["tent/best", "driver/tent"] if "tent" in columns else []
        yield _line(title, [*columns, *ratios])
        for operation in operations:
            values = {c: self.median(database, suite, c, operation) for c in columns}
            is_rate = workload.unit(operation) == workload.RATE
            yield _line(
                _label(suite, operation), [*map(_shown, values.values()), *_ratios(values, is_rate)[: len(ratios)]]
            )
        if suite != EXTRA:
            means = {c: self.mean(database, suite, c) for c in columns}
            yield _line("geometric mean", [*map(_shown, means.values()), *_ratios(means, True)[: len(ratios)]])

    def _growth_table(self, database: str) -> Iterator[str]:
        medians = self.medians(database, GROWTH)
        yield _line(f"{database}, {GROWTH} (microseconds a row)", list(medians))
        for operation in next(iter(medians.values())):
            yield _line(operation, [_shown(found.get(operation)) for found in medians.values()])


def _label(suite: str, operation: str) -> str:
    title = workload.TITLES[operation]
    if suite != EXTRA:
        return f"{operation} {title}"
    unit = workload.unit(operation)
    return title if unit == workload.RATE else f"{title}, {unit}"


def _ratios(values: dict[str, float | None], is_rate: bool) -> list[str]:
    """Return how many times as fast tent is as the best other library, and the driver as tent."""
    tent, driver = values.get("tent"), values.get("driver")
    others = [value for name, value in values.items() if value is not None and name not in ("tent", "driver")]
    best = (max if is_rate else min)(others, default=None)
    return [_ratio(tent, best, is_rate), _ratio(driver, tent, is_rate)]


def _ratio(value: float | None, other: float | None, is_rate: bool) -> str:
    if not value or not other:
        return "-"
    return f"{value / other if is_rate else other / value:.2f}"


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _line(title: str, cells: Sequence[str]) -> str:
    return f"{title:<36}" + "".join(f"{cell:>12}" for cell in cells)


def geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


# What it was measured on


def machine() -> dict[str, Any]:
    return {"cpu": _cpu(), "cores": os.cpu_count(), "os": platform.platform(), "python": platform.python_version()}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")  # Linux's; elsewhere Python knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def versions(names: Sequence[str], kinds: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that peers are and, on these kinds of databases, use."""
    packages = {package for name in names for package in peers.NEEDS[name].packages}
    packages |= {
        peers.NEEDS[name].drivers[kind] for name in names for kind in kinds if kind in peers.NEEDS[name].drivers
    }
    found = {}
    for package in sorted(packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a source tree that was not installed
            found[package] = "unknown"
    return found
