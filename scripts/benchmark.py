"""Measure tent.data and its peers: the bare driver, Peewee, SQLAlchemy and others, on SQLite and on servers.

    python scripts/benchmark.py                                   # all peers on an SQLite file
    python scripts/benchmark.py --peers tent peewee --models 1 --operations A K --rounds 1
    python scripts/benchmark.py --url postgresql://tent:s3cret@localhost/tent --json results.json --chart chart.svg

Each peer runs in a process of its own, on empty tables. In a round each has its turn, and the next round begins with
another one; the results are medians over the rounds. On a server a database is made for it, and dropped at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import growth, peers, worker, workload
from benchmarks.chart import chart
from benchmarks.database import Database
from benchmarks.report import EXTRA, GROWTH, Results, machine, versions

EXTRAS = [name for name in workload.TITLES if name not in workload.LETTERS]
IMPORTS = 15  # processes for each import
TIMED_IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    arguments = parse(argv)
    if arguments.worker:
        print(json.dumps(worker.loudly(json.load(sys.stdin))))
        return 0
    results, problems = Results(arguments.peers), []
    for database in databases(arguments.url):
        problems += measure(database, arguments, results)
    if "import" in arguments.operations:
        measure_imports(arguments, results)
    print("\n\n".join(results.tables()))
    save(arguments, results, problems)
    for problem in problems:
        print(f"benchmark.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


# The command line


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="benchmark.py", description="Measure tent.data and its peers.")
    add = parser.add_argument
    add("--peers", nargs="+", choices=peers.NAMES, default=list(peers.NAMES), help="what to measure (default: all)")
    add("--models", nargs="+", type=int, choices=workload.MODELS, default=list(workload.MODELS), help="default: all")
    add("--operations", nargs="+", choices=list(workload.TITLES), default=list(workload.TITLES), help="default: all")
    add("--rows", type=positive, default=1_000, help="rows that A, B and C insert; the rest follows (default: 1000)")
    add("--rounds", type=positive, default=3, help="of which the medians are taken (default: 3)")
    add("--url", action="append", type=server, help="a server, too; by default those of TENT_TEST_URLS")
    add("--json", type=Path, help="a file for all samples and what they were measured on")
    add("--chart", type=Path, help="a file for a chart, an SVG")
    add("--growth", nargs="*", choices=peers.GROWING, help="the time for a row of more and more rows, too (of tent)")
    add("--growth-rows", nargs="+", type=positive, default=list(growth.SIZES), help="default: 1000 to 1000000")
    add("--quick", action="store_true", help="one round of 50 rows, to see that all works")
    add("--worker", action="store_true", help=argparse.SUPPRESS)  # does one job, which it reads as JSON
    arguments = parser.parse_args(argv)
    arguments.growth = ["tent"] if arguments.growth == [] else arguments.growth or []
    if arguments.url is None:
        arguments.url = [server(url) for url in os.environ.get("TENT_TEST_URLS", "").split()]
    if arguments.quick:
        arguments.rows, arguments.rounds = 50, 1
    kinds = [database.kind for database in arguments.url]
    lacking = {module: None for name in arguments.peers for module in peers.missing(name, kinds)}
    if lacking and not arguments.worker:
        parser.error(f"{', '.join(lacking)} not installed. Run: {peers.INSTALL}, or name others with --peers")
    return arguments


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def server(url: str) -> Database:
    try:
        return Database.of_url(url)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# Databases


def databases(servers: Sequence[Database]) -> Iterator[Database]:
    """Yield an SQLite file, and a database on each server; each is gone when the next is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        yield Database.of_file(Path(folder) / "benchmark.db")
    for database in servers:
        name = f"tent_test_benchmark_{os.getpid()}"  # the user of scripts/servers.sh may make those of the tests
        with created(database, name):
            yield database.named(name)


@contextlib.contextmanager
def created(database: Database, name: str) -> Iterator[None]:
    administer(database, f"CREATE DATABASE {name}")
    try:
        yield
    finally:
        administer(database, f"DROP DATABASE {name}")


def administer(database: Database, statement: str) -> None:
    with database.connected() as connection:
        if database.kind == "postgresql":
            connection.autocommit = True  # databases are not made in transactions
        connection.cursor().execute(statement)


# Measuring


def measure(database: Database, arguments: argparse.Namespace, results: Results) -> list[str]:
    """Measure all peers on a database, and return what went wrong."""
    able, problems = [], []
    for name in arguments.peers:
        reason = peers.NEEDS[name].reasons.get(database.kind)
        if reason is None:
            able.append(name)
        else:
            print(f"{name} is left out on {database.kind}: {reason}", file=sys.stderr)
    for number in range(arguments.rounds):
        for suite, job in jobs(arguments):
            for name in rotated(able, number):
                progress(f"{database.kind}, round {number + 1} of {arguments.rounds}, {suite}: {name}")
                done = work({**job, "peer": name, "database": fresh(database).as_dict()})
                if isinstance(done, str):
                    problems.append(f"{name} on {database.kind}, {suite}: {done}")
                else:
                    results.add(database.kind, suite, name, done)
    for name in arguments.growth:
        progress(f"{database.kind}, growth: {name}")
        sizes = {"sizes": arguments.growth_rows, "peer": name, "database": fresh(database).as_dict()}
        done = work({**sizes, "model": 1, "operations": [], "rows": 1})
        if isinstance(done, str):
            problems.append(f"{name} on {database.kind}, growth: {done}")
        else:
            results.add(database.kind, GROWTH, name, done)
    return problems


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each suite and what a worker does for it."""
    letters = [operation for operation in arguments.operations if operation in workload.LETTERS]
    extras = [operation for operation in arguments.operations if operation in peers.OPERATIONS.keys() - set(letters)]
    for model in arguments.models if letters else ():
        yield f"model {model}", {"model": model, "operations": letters, "rows": arguments.rows}
    if extras:
        yield EXTRA, {"model": 1, "operations": extras, "rows": arguments.rows}


def rotated(names: Sequence[str], number: int) -> list[str]:
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def fresh(database: Database) -> Database:
    """Return the database, whose file is gone if it is one: a worker makes the tables anew."""
    if database.kind == "sqlite":
        for end in ("", "-wal", "-shm"):
            Path(database.name + end).unlink(missing_ok=True)
    return database


def work(job: dict[str, Any]) -> dict[str, float] | str:
    """Have a job done by a worker, and return its results, or what went wrong."""
    command = [sys.executable, __file__, "--worker"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"the worker ended with {done.returncode}"
    found: dict[str, float] = json.loads(done.stdout)
    return found


def progress(text: str) -> None:
    """Show what is being done: in a terminal in one line, which the next one replaces."""
    is_terminal = sys.stderr.isatty()
    print(f"\r\x1b[K{text}" if is_terminal else text, end="" if is_terminal else "\n", file=sys.stderr, flush=True)


def measure_imports(arguments: argparse.Namespace, results: Results) -> None:
    """Measure the import of each peer in fresh processes, in turns: milliseconds, without what Python itself takes."""
    rounds = 1 if arguments.quick else IMPORTS
    samples: dict[str, list[float]] = {name: [] for name in arguments.peers}
    for _ in range(rounds):
        for name, found in samples.items():
            progress(f"import of {name}")
            code = TIMED_IMPORT.format(peers.NEEDS[name].imports)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found.append(1_000 * float(done.stdout))
    for name, found in samples.items():
        results.add("sqlite", EXTRA, name, {"import": statistics.median(found)})


def save(arguments: argparse.Namespace, results: Results, problems: Sequence[str]) -> None:
    if arguments.chart:
        arguments.chart.write_text(chart(results))
    if arguments.json:
        kinds = [database.kind for database in arguments.url]
        found = {
            "machine": machine(),
            "versions": versions(arguments.peers, kinds),
            "rows": arguments.rows,
            "rounds": arguments.rounds,
            "results": results.as_dict(),
            "problems": list(problems),
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
