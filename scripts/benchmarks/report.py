"""The results: medians over the rounds, what they were measured on, and their tables in the terminal."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import peers, workload

EXTRA = "other"  # the name of the suite of what is not A to K
GROWTH = "growth"  # and of the times for a row
Samples = dict[str, list[float]]  # of an operation, by round


class Results:
    """Samples by database, suite (a model, or the others), peer and operation."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, dict[str, Samples]]] = {}

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> Results:
        """Return the results that `as_dict` was made of."""
        results = cls()
        for database, suites in found.items():
            results.samples[database] = {suite: of_suite["samples"] for suite, of_suite in suites.items()}
        return results

    def add(self, database: str, suite: str, peer: str, found: Mapping[str, float]) -> None:
        if not found:
            return
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

    def peers(self, database: str, suite: str) -> list[str]:
        return [name for name in peers.NAMES if name in self.samples[database][suite]]

    def operations(self, database: str, suite: str) -> list[str]:
        """Return the operations that any peer was measured in."""
        found = {operation for by_operation in self.samples[database][suite].values() for operation in by_operation}
        return [operation for operation in workload.TITLES if operation in found]

    def row(self, database: str, suite: str, operation: str) -> dict[str, float]:
        """Return the median of each peer that was measured in an operation."""
        found = {name: self.median(database, suite, name, operation) for name in self.peers(database, suite)}
        return {name: value for name, value in found.items() if value is not None}

    def mean(self, database: str, suite: str, peer: str) -> float | None:
        """Return the geometric mean of a peer's operations A to K; of those that it has."""
        return geometric_mean(self._rates(database, suite, peer).values())

    def lacking(self, database: str, suite: str) -> dict[str, str]:
        """Return the letters that peers lack, of those that others have: their means are over fewer."""
        letters = [letter for letter in self.operations(database, suite) if letter in workload.LETTERS]
        found = {name: self._rates(database, suite, name) for name in self.peers(database, suite)}
        lacks = {name: "".join(letter for letter in letters if letter not in rates) for name, rates in found.items()}
        return {name: lack for name, lack in lacks.items() if lack}

    def times_as_fast(self, database: str, suite: str, peer: str, other: str) -> float | None:
        """Return how many times as fast a peer is as another, in the geometric mean of the operations both have."""
        rates, others = self._rates(database, suite, peer), self._rates(database, suite, other)
        return geometric_mean([rates[letter] / others[letter] for letter in rates if letter in others])

    def best(self, database: str, suite: str) -> tuple[str, float] | None:
        """Return the library that tent is the least ahead of, of the operations both have, and by how many times."""
        names = [name for name in self.peers(database, suite) if name not in ("tent", "driver")]
        ratios = [
            (ratio, name) for name in names if (ratio := self.times_as_fast(database, suite, "tent", name)) is not None
        ]
        return (min(ratios)[1], min(ratios)[0]) if ratios else None

    def _rates(self, database: str, suite: str, peer: str) -> dict[str, float]:
        found = self.samples[database][suite].get(peer, {})
        return {letter: statistics.median(found[letter]) for letter in workload.LETTERS if letter in found}

    def as_dict(self) -> dict[str, Any]:
        """Return all that was measured, as JSON takes it."""
        return {
            database: {
                suite: {
                    "samples": by_peer,
                    "medians": self.medians(database, suite),
                    **(self._means(database, suite) if is_model(suite) else {}),
                }
                for suite, by_peer in suites.items()
            }
            for database, suites in self.samples.items()
        }

    def _means(self, database: str, suite: str) -> dict[str, Any]:
        names = self.peers(database, suite)
        return {
            "geometric_means": {name: self.mean(database, suite, name) for name in names},
            "lacking": self.lacking(database, suite),
            "tent_as_fast": {name: self.times_as_fast(database, suite, "tent", name) for name in names},
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
        columns = self.peers(database, suite)
        ratios = ["tent/best", "driver/tent"] if "tent" in columns else []
        yield _line(f"{database}, {suite}" + (f" ({workload.RATE})" if is_model(suite) else ""), [*columns, *ratios])
        for operation in self.operations(database, suite):
            row = self.row(database, suite, operation)
            is_rate = workload.unit(operation) == workload.RATE
            cells = [ratio(row.get("tent"), best_of(row, is_rate)[1], is_rate)]
            cells.append(ratio(row.get("driver"), row.get("tent"), is_rate))
            shown_ratios = [_shown_ratio(cell) for cell in cells][: len(ratios)]
            yield _line(_label(suite, operation), [*(shown(row.get(name)) for name in columns), *shown_ratios])
        if is_model(suite):
            yield from self._lines_of_means(database, suite, columns, ratios)

    def _lines_of_means(
        self, database: str, suite: str, columns: Sequence[str], ratios: Sequence[str]
    ) -> Iterator[str]:
        lacking, best = self.lacking(database, suite), self.best(database, suite)
        means = [shown(self.mean(database, suite, name)) + ("*" if name in lacking else "") for name in columns]
        cells = [
            _shown_ratio(best[1] if best else None),
            _shown_ratio(self.times_as_fast(database, suite, "driver", "tent")),
        ]
        yield _line("geometric mean", [*means, *cells[: len(ratios)]])
        if lacking:
            yield "* over fewer operations: " + "; ".join(f"{name} without {lack}" for name, lack in lacking.items())
        if best and ratios:
            yield f"The best beside tent is {best[0]}; means are compared over the operations that both have."

    def _growth_table(self, database: str) -> Iterator[str]:
        columns = self.peers(database, GROWTH)
        titles = [cell for name in columns for cell in (name, "ratio")]
        yield _line(f"{database}, {GROWTH} (microseconds a row)", titles)
        ratios = {name: self.growth(database, name) for name in columns}
        for operation in next(iter(self.samples[database][GROWTH].values())):
            values = [(self.median(database, GROWTH, name, operation), ratios[name].get(operation)) for name in columns]
            yield _line(operation, [cell for value, times in values for cell in (shown(value), _shown_ratio(times))])
        yield "The ratio is that to the fewest rows."

    def growth(self, database: str, peer: str) -> dict[str, float]:
        """Return how many times the time for a row is that of the fewest rows, of inserts and of selects."""
        found: dict[str, float] = {}
        first: dict[str, float] = {}
        for operation, samples in self.samples[database][GROWTH].get(peer, {}).items():
            value = statistics.median(samples)
            found[operation] = value / first.setdefault(operation.partition(" ")[0], value)
        return found


def is_model(suite: str) -> bool:
    return suite not in (EXTRA, GROWTH)


def best_of(row: Mapping[str, float], is_rate: bool) -> tuple[str | None, float | None]:
    """Return the library, and its value, that is the best of a row beside tent. The driver is none."""
    others = [(value, name) for name, value in row.items() if name not in ("tent", "driver")]
    best = (max if is_rate else min)(others, default=None)
    return (best[1], best[0]) if best else (None, None)


def ratio(value: float | None, other: float | None, is_rate: bool) -> float | None:
    """Return how many times as good a value is as another."""
    if not value or not other:
        return None
    return value / other if is_rate else other / value


def _label(suite: str, operation: str) -> str:
    title = workload.TITLES[operation]
    if suite != EXTRA:
        return f"{operation} {title}"
    unit = workload.unit(operation)
    return title if unit == workload.RATE else f"{title}, {unit}"


def _shown_ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _line(title: str, cells: Sequence[str]) -> str:
    return f"{title:<36}" + "".join(f"{cell:>12}" for cell in cells)


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


# What it was measured on


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")  # Linux's; elsewhere Python knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def versions(names: Sequence[str], kinds: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that peers are and, on these kinds of databases, use."""
    packages = {package for name in names for package in peers.NEEDS[name].packages}
    distributions = importlib.metadata.packages_distributions()  # psycopg2 is in psycopg2-binary, say
    for drivers in (peers.NEEDS[name].drivers for name in names):
        for module in (drivers[kind] for kind in kinds if kind in drivers):
            packages.update(distributions.get(module, [module]))
    found = {}
    for package in sorted(packages, key=str.lower):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a source tree that was not installed
            found[package] = "unknown"
    return found
