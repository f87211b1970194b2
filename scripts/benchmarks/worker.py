"""A worker: the operations of one peer on one database, in a process of their own, each checked after it was timed."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import checks, growth, workload
from benchmarks.database import Database
from benchmarks.peers import FIRST_KIND, OPERATIONS, open_peer
from benchmarks.workload import LEVELS, Stopwatch

WARM_ROWS = 20
ONE_CHANGE = {"one_change": 1_000, "one_change_100k": 100_000}  # objects that are loaded


class OperationError(Exception):
    """An operation failed, or was not done as it should be."""


def serve() -> int:
    """Do the job that stdin has as JSON. What was found is written at once, a line for each: a failure loses none."""
    try:
        for found in work(json.load(sys.stdin)):
            print(json.dumps(found), flush=True)
    except Exception as error:
        print(said(error), file=sys.stderr)
        return 1
    return 0


def said(error: Exception) -> str:
    """Return what an error says, in a line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (OperationError, checks.CheckError)) else f"{type(error).__name__}: {text}"


def work(job: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Do the operations of a job, and yield each with what it gave, in its unit. Raises `OperationError`."""
    database = Database(**job["database"])
    database.create_tables()
    peer = open_peer(job["peer"], database)
    try:
        if database.kind == "sqlite":
            checks.check_pragmas(peer)
        if job.get("sizes"):
            yield from growth.grow(database, peer, job["sizes"])
        done, failure = _warm_up(database, peer, job)
        database.empty_tables()
        yield from Run(database, peer, {**job, "operations": done}, job["rows"]).results()
        if failure is not None:
            raise failure
    finally:
        peer.close()


def _warm_up(database: Database, peer: Any, job: Mapping[str, Any]) -> tuple[list[str], OperationError | None]:
    """Do all with few rows, and return the operations up to the one that fails: those can be measured."""
    done = []
    try:
        for operation, _ in Run(database, peer, job, min(WARM_ROWS, job["rows"])).results():
            done.append(operation)
    except OperationError as error:
        return done, error
    return done, None


class Run:
    """All operations of a job once, with a number of rows."""

    def __init__(self, database: Database, peer: Any, job: Mapping[str, Any], rows: int) -> None:
        self.database, self.peer, self.rows = database, peer, rows
        self.is_driver = job["peer"] == "driver"
        self.model: int = job["model"]
        self.operations: Sequence[str] = job["operations"]
        self.is_warm_up = rows < job["rows"]
        self.stored: list[workload.Item] = []  # in the journal, in the order of their keys

    def results(self) -> Iterator[tuple[str, float]]:
        for operation in self.operations:
            call = getattr(self.peer, OPERATIONS[operation], None)
            if call is None:
                continue
            try:
                yield operation, self._steps()[operation](operation, call)
            except Exception as error:
                raise OperationError(f"{operation}, {workload.TITLES[operation]}: {said(error)}") from error

    def _steps(self) -> dict[str, Callable[[str, Any], float]]:
        return {
            **dict.fromkeys("ABC", self._insert),
            **dict.fromkeys("DGH", self._filter_large),
            "E": self._filter_small,
            "F": self._get,
            "I": self._update_whole,
            "J": self._update_partial,
            "K": self._delete,
            "held": self._held,
            "first": self._first,
            "graph": self._graph,
            "follow": self._follow,
            "one_change": self._one_change,
            "one_change_100k": self._one_change,
            "memory": self._memory,
        }

    # A to K

    def _insert(self, operation: str, call: Any) -> float:
        rows, watch = workload.items(operation, self.rows), Stopwatch()
        call(self.model, rows, watch)
        stored, before = checks.stored_rows(self.database, self.model), len(self.stored)
        checks.check(len(stored) == before + len(rows), f"{len(stored)} rows are stored, not {before + len(rows)}")
        checks.check_inserted(stored, self.model, rows)
        self.stored = [(row["level"], row["text"]) for row in stored]
        return rate(len(rows), watch)

    def _filter_large(self, operation: str, call: Any) -> float:
        self._ensure_stored()
        watch, total = Stopwatch(), 0
        for _ in range(workload.LARGE_ROUNDS):  # each in a session of its own, and its time is added to the watch
            count, found = call(self.model, LEVELS, watch)
            self._check_found(operation, count, len(self.stored), found)
            total += count
        return rate(total, watch)

    def _filter_small(self, operation: str, call: Any) -> float:
        self._ensure_stored()
        watch, pages = Stopwatch(), workload.pages(self.rows)
        in_level = {level: sum(level == other for other, _ in self.stored) for level in LEVELS}
        expected = sum(max(0, min(workload.PAGE, in_level[level] - offset)) for level, offset in pages)
        count, found = call(self.model, pages, watch)
        self._check_found(operation, count, expected, found)
        return rate(count, watch)

    def _get(self, operation: str, call: Any) -> float:
        self._ensure_stored()
        watch, keys = Stopwatch(), workload.drawn(self._keys(), 2 * self.rows)
        count, found = call(self.model, keys, watch)
        self._check_found(operation, count, len(keys), found)
        return rate(count, watch)

    def _update_whole(self, operation: str, call: Any) -> float:
        self._ensure_stored()
        watch, changes = Stopwatch(), workload.changes(self.model, self.stored)
        call(self.model, changes, watch)
        self.stored = [(change["level"], change["text"]) for change in changes]
        checks.check_changed(self.database, self.model, changes)
        return rate(len(changes), watch)

    def _update_partial(self, operation: str, call: Any) -> float:
        self._ensure_stored()
        watch, levels = Stopwatch(), [workload.next_level(level) for level, _ in self.stored]
        call(self.model, levels, watch)
        self.stored = [(level, text) for level, (_, text) in zip(levels, self.stored)]
        checks.check_changed(self.database, self.model, [{"level": level, "text": t} for level, t in self.stored])
        return rate(len(levels), watch)

    def _delete(self, operation: str, call: Any) -> float:
        self._ensure_stored()
        watch, count = Stopwatch(), len(self.stored)
        call(self.model, watch)
        self.stored = []
        checks.check_count(self.database, self._table, 0)
        return rate(count, watch)

    # The others

    def _held(self, operation: str, call: Any) -> float:
        self._fill(self.rows)
        watch = Stopwatch()
        count = call(workload.HELD_ROUNDS, watch)
        checks.check(count == workload.HELD_ROUNDS * self.rows, f"{count} objects were found")
        return rate(count, watch)

    def _first(self, operation: str, call: Any) -> float:
        self._fill_users(self.rows)
        watch = Stopwatch()
        count = call(workload.shuffled(workload.user_names(self.rows)), watch)
        checks.check(count == self.rows, f"{count} users were found, not {self.rows}")
        return rate(count, watch)

    def _graph(self, operation: str, call: Any) -> float:
        self.database.empty_tables()
        names, watch = workload.user_names(2 * self.rows), Stopwatch()
        call(names, watch)
        expected = [
            (name, profile["kind"], profile["content"]) for name in names for profile in workload.profiles_of(name)
        ]
        sql = (
            "SELECT u.name, p.kind, p.content FROM profiles p JOIN users u ON u.id = p.user_id ORDER BY u.name, p.kind"
        )
        stored = [tuple(row) for row in self.database.read(sql)]
        checks.check(stored == expected, f"{len(stored)} profiles are stored, not {len(expected)}, or other ones")
        return rate(len(names) + len(expected), watch)

    def _follow(self, operation: str, call: Any) -> float:
        names, watch = workload.user_names(2 * self.rows), Stopwatch()
        self._fill_users(len(names))
        keys = self.database.keys("users")
        profiles = [(key, FIRST_KIND, f"{name} likes it") for key, name in zip(keys, names)]
        self.database.write("profiles", ["user_id", "kind", "content"], profiles)
        followed = call(watch)
        checks.check(sorted(followed) == names, f"{len(followed)} names were found, or others than expected")
        return rate(len(names), watch)

    def _one_change(self, operation: str, call: Any) -> float:
        self._fill(self.rows if self.is_warm_up else ONE_CHANGE[operation])
        watch, commits = Stopwatch(are_short=True), workload.COMMITS
        call(commits, watch)
        [(text,)] = self.database.read("SELECT text FROM journal1 ORDER BY id LIMIT 1")
        checks.check(text == f"change {commits - 1}", f"the text is {text!r}")
        return 1_000 * statistics.median(watch.laps)

    def _memory(self, operation: str, call: Any) -> float:
        count = self.rows if self.is_warm_up else 10 * self.rows
        self._fill(count)
        gc.collect()
        tracemalloc.start()
        try:
            with call() as journals:
                gc.collect()
                held, _ = tracemalloc.get_traced_memory()
                checks.check(len(journals) == count, f"{len(journals)} objects were loaded, not {count}")
        finally:
            tracemalloc.stop()
        return held / count

    # What they share

    @property
    def _table(self) -> str:
        return workload.table_of(self.model)

    def _keys(self) -> list[int]:
        return self.database.keys(self._table)

    def _ensure_stored(self) -> None:
        """Have rows to work on if neither A, B nor C was asked for, or a delete has left none."""
        if not self.stored:
            self.peer.insert_batch(self.model, workload.items("B", 3 * self.rows), Stopwatch())
            stored = checks.stored_rows(self.database, self.model)
            self.stored = [(row["level"], row["text"]) for row in stored]

    def _fill(self, count: int) -> None:
        """Have so many rows in journal 1, and nothing else, written with the bare driver."""
        self.database.empty_tables()
        rows = [(workload.now(), level, text) for level, text in workload.items("nobody", count)]
        self.database.write("journal1", workload.names_of(1), rows)

    def _fill_users(self, count: int) -> None:
        self.database.empty_tables()
        rows = [(name, workload.now()) for name in workload.user_names(count)]
        self.database.write("users", ["name", "joined"], rows)

    def _check_found(self, operation: str, count: int, expected: int, found: Sequence[Any]) -> None:
        if operation == "G":
            checks.check_found(self.model, count, expected, found, Mapping, are_converted=not self.is_driver)
        else:
            row_type = Sequence if operation == "H" or self.is_driver else object  # SQLAlchemy's Row is no tuple
            checks.check_found(self.model, count, expected, found, row_type, are_converted=not self.is_driver)


def rate(count: int, watch: Stopwatch) -> float:
    """Return thousands of rows a second."""
    return count / watch.seconds / 1_000
