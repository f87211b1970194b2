"""The goals of tent.data, and which of them results reach. A goal that has no limit is only shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import workload
from benchmarks.report import GROWTH, Results, best_of, is_model, ratio, shown

MEAN = 3.0  # times the mean of the best other library, in each model
DRIVER = 2.5  # times the mean of tent that the bare driver has, at most
SQLALCHEMY = 2.0  # times SQLAlchemy, in each row that makes objects
IMPORT = 15.0  # milliseconds that the import adds to Peewee's, at most
GROWTH_RATIO = 1.2  # times the time for a row that there are many more of, at most
MAKING_OBJECTS = (*"ABCDEFIJK", "held", "first", "graph", "follow")
ADDED = {"import_added": "import, added to Peewee", "import_added_alone": "the same without drivers"}
WITH_OTHER_GOALS = ("memory", "import", *ADDED)  # they are no matter of speed
Goal = dict[str, Any]  # what it is about, goal, found, is_reached (None if it has no limit), and where it is not


def goals(results: Results) -> list[Goal]:
    """Return all goals that can be judged by what was measured."""
    found = []
    for database, suites in results.samples.items():
        for suite, by_peer in suites.items():
            if "tent" in by_peer:
                about = {"database": database, "suite": suite}
                found += [{**about, **goal} for goal in _of_suite(results, database, suite)]
    return found


def lines(found: list[Goal]) -> Iterator[str]:
    """Yield the lines of a table of goals."""
    yield f"{'goals':<66}{'found':>10}  reached"
    for goal in found:
        reached = {True: "yes", False: "NO", None: ""}[goal["is_reached"]]
        title = f"{goal['database']}, {goal['suite']}: {goal['goal']}"
        yield f"{title:<66}{goal['found']:>10}  {reached:<7} {'; '.join(goal['but'])}".rstrip()


def _of_suite(results: Results, database: str, suite: str) -> Iterator[Goal]:
    if suite == GROWTH:
        yield from _growth(results, database)
        return
    rows = {operation: results.row(database, suite, operation) for operation in results.operations(database, suite)}
    yield from _firsts(rows)
    yield from _beside_sqlalchemy(rows)
    yield from _means(results, database, suite) if is_model(suite) else ()
    yield from _others(rows)


def _goal(goal: str, found: str, is_reached: bool | None, but: list[str] | None = None) -> Goal:
    return {"goal": goal, "found": found, "is_reached": is_reached, "but": but or []}


def _firsts(rows: Mapping[str, Mapping[str, float]]) -> Iterator[Goal]:
    behind, count = [], 0
    for operation, row in rows.items():
        is_rate = workload.unit(operation) == workload.RATE
        name, value = best_of(row, is_rate)
        times = ratio(row.get("tent"), value, is_rate)
        if times is not None and operation not in WITH_OTHER_GOALS:
            count += 1
            behind += [f"{_title(operation)} {times:.2f} of {name}"] if times < 1 else []
    if count:
        yield _goal("first in every row", f"{count - len(behind)} of {count}", not behind, behind)


def _beside_sqlalchemy(rows: Mapping[str, Mapping[str, float]]) -> Iterator[Goal]:
    found = {o: ratio(rows[o].get("tent"), rows[o].get("sqlalchemy"), True) for o in rows if o in MAKING_OBJECTS}
    times = {operation: value for operation, value in found.items() if value is not None}
    less = [f"{_title(operation)} {value:.2f}" for operation, value in times.items() if value < SQLALCHEMY]
    if times:
        goal = f"tent/SQLAlchemy >= {SQLALCHEMY:g} in rows that make objects"
        yield _goal(goal, f"{min(times.values()):.2f}", not less, less)


def _means(results: Results, database: str, suite: str) -> Iterator[Goal]:
    best, driver = results.best(database, suite), results.times_as_fast(database, suite, "driver", "tent")
    if best is not None:
        name, times = best
        is_reached = times >= MEAN
        yield _goal(f"mean, tent/best >= {MEAN:g}", f"{times:.2f}", is_reached, [f"the best is {name}"])
    if driver is not None:
        yield _goal(f"mean, driver/tent <= {DRIVER:g}", f"{driver:.2f}", driver <= DRIVER)


def _others(rows: Mapping[str, Mapping[str, float]]) -> Iterator[Goal]:
    of_tent = {operation: row["tent"] for operation, row in rows.items() if "tent" in row}
    if "one_change" in of_tent and "one_change_100k" in of_tent:
        times = of_tent["one_change_100k"] / of_tent["one_change"]
        yield _goal("one change of 100,000 / of 1,000", f"{times:.2f}", None)
    if "memory" in of_tent and "peewee" in rows["memory"]:
        yield _goal("memory, tent/Peewee", f"{of_tent['memory'] / rows['memory']['peewee']:.2f}", None)
    for operation, goal in ADDED.items():
        if operation in of_tent:
            added = of_tent[operation]
            yield _goal(f"{goal} < {IMPORT:g} ms", f"{shown(added)} ms", added < IMPORT)


def _growth(results: Results, database: str) -> Iterator[Goal]:
    ratios = results.growth(database, "tent")
    more = [f"{operation} {times:.2f}" for operation, times in ratios.items() if times > GROWTH_RATIO]
    goal = f"time for a row of many / of few <= {GROWTH_RATIO:g}"
    yield _goal(goal, f"{max(ratios.values()):.2f}", not more, more)


def _title(operation: str) -> str:
    title = workload.TITLES[operation]
    return f"{operation} {title}" if operation in workload.LETTERS else title
