"""Measure tent.data and its peers: the bare driver, Peewee, SQLAlchemy and others, on SQLite and on servers.

    python scripts/benchmark.py                                   # all peers on an SQLite file
    python scripts/benchmark.py --peers tent peewee --models 1 --operations A K --rounds 1
    python scripts/benchmark.py --url postgresql://tent:s3cret@localhost/tent --json results.json --chart chart.svg
    python scripts/benchmark.py --results results.json --chart chart.svg      # of an earlier run; nothing is measured

Each peer runs in a process of its own, on empty tables. In a round each has its turn, and the next round begins with
another one; the results are medians over the rounds. On a server a database is made for it, and dropped at the end.
What fails, a peer or a whole server, is told at the end, when all else was measured, and the exit code is then 1.

    --peers NAME...       driver tent peewee sqlalchemy django pony sqlobject tortoise; all of them unless given
    --models N...         1 (three columns), 2 (with relations), 3 (35 columns), on which A to K run
    --operations NAME...  A to K, held, first, graph, follow, one_change, one_change_100k, memory, import
    --rows N              rows that A, B and C insert (1000); how many the others work on follows from it
    --rounds N            of which the medians are taken (3)
    --url URL             a server, too, and again for another kind: postgresql://... or mariadb://...; those of
                          TENT_TEST_URLS unless given. What is behind its "?" is for the driver, as ?ssl_disabled=true
    --no-sqlite           only the servers
    --growth [NAME...]    the time for a row of more and more rows, too, of tent unless others are named; in minutes
    --growth-rows N...    how many (1000 10000 100000 1000000)
    --quick               one round of 50 rows, to see that all works; its numbers say nothing
    --json FILE           writes all samples, what they were measured on, the goals, and what failed
    --chart FILE          draws the means, and the other operations on SQLite, as an SVG
    --results FILE        reads a file that --json has written, instead of measuring: prints its tables, draws its chart
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import goals, growth, peers, worker, workload
from benchmarks.chart import chart
from benchmarks.database import Database
from benchmarks.report import EXTRA, GROWTH, Results, machine, versions

NAMED = [name for name in workload.TITLES if not name.startswith("import_")]  # operations; those come with "import"
IMPORTS = 15  # processes for each import
TIMED_IMPORT = """
import sys, time
sys.modules.update(dict.fromkeys(sys.argv[1].split()))  # None: it can't be imported
times = [time.perf_counter()]
for name in sys.argv[2:]:
    __import__(name)
    times.append(time.perf_counter())
print(*(1_000 * (end - start) for start, end in zip(times, times[1:])))
"""


@dataclass
class Measured:
    """What was measured, and what there is to say about it."""

    results: Results = field(default_factory=Results)
    servers: dict[str, str] = field(default_factory=dict)  # the version of each database
    notes: list[str] = field(default_factory=list)  # what was left out
    problems: list[str] = field(default_factory=list)  # what went wrong

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text, file=sys.stderr)

    def add(self, database: str, suite: str, name: str, found: dict[str, float], problem: str | None) -> None:
        self.results.add(database, suite, name, found)
        if problem is not None:
            self.problems.append(f"{name} on {database}, {suite}: {problem}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    arguments = parse(argv)
    if arguments.worker:
        return worker.serve()
    if arguments.results:
        found, results = arguments.results, Results.of_dict(arguments.results["results"])
    else:
        measured = measure_all(arguments)
        found, results = as_dict(arguments, measured), measured.results
    found["goals"] = goals.goals(results)
    print("\n\n".join([*results.tables(), *(["\n".join(goals.lines(found["goals"]))] if found["goals"] else [])]))
    if arguments.chart:
        arguments.chart.write_text(chart(results, found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    for problem in found["problems"]:
        print(f"benchmark.py: {problem}", file=sys.stderr)
    return 1 if found["problems"] and not arguments.results else 0


def as_dict(arguments: argparse.Namespace, measured: Measured) -> dict[str, Any]:
    """Return all that was found, as JSON takes it."""
    return {
        "machine": machine(),
        "servers": measured.servers,
        "versions": versions(arguments.peers, list(measured.servers)),
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "results": measured.results.as_dict(),
        "notes": measured.notes,
        "problems": measured.problems,
    }


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
    add("--operations", nargs="+", choices=NAMED, default=NAMED, help="default: all")
    add("--rows", type=positive, default=1_000, help="rows that A, B and C insert; the rest follows (default: 1000)")
    add("--rounds", type=positive, default=3, help="of which the medians are taken (default: 3)")
    add("--url", action="append", type=server, help="a server, too (default: TENT_TEST_URLS)")
    add("--no-sqlite", action="store_true", help="only the servers")
    add("--json", type=Path, help="a file for all samples, what they were measured on, and the goals")
    add("--chart", type=Path, help="a file for a chart, an SVG")
    add("--results", type=written, help="a file of --json, to show and draw instead of measuring")
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
    if len(set(kinds)) < len(kinds):
        parser.error("--url names two servers of one kind, whose results would be mixed")
    if arguments.no_sqlite and not kinds:
        parser.error("--no-sqlite leaves nothing: name a server with --url")
    names = dict.fromkeys([*arguments.peers, *arguments.growth])
    lacking = {module: None for name in names for module in peers.missing(name, ["sqlite", *kinds])}
    if lacking and not arguments.worker and not arguments.results:
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


def written(path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text())
        Results.of_dict(found["results"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{path} has no results ({worker.said(error)})") from error
    return found


# Databases


@contextlib.contextmanager
def at_hand(database: Database | None) -> Iterator[Database]:
    """Make a database on a server, or an SQLite file; it is gone afterwards."""
    if database is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Database.of_file(Path(folder) / "benchmark.db")
    else:
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


def measure_all(arguments: argparse.Namespace) -> Measured:
    """Measure all that was asked for. What goes wrong is noted, and what was measured before is kept."""
    measured = Measured()
    try:
        for server in [*([] if arguments.no_sqlite else [None]), *arguments.url]:
            try:
                with at_hand(server) as database:
                    measured.servers[database.kind] = database.version()
                    measure(database, arguments, measured)
            except Exception as error:  # the server can't be reached, say
                measured.problems.append(f"{server.kind if server else 'sqlite'}: {worker.said(error)}")
        if "import" in arguments.operations:
            measure_imports(arguments, measured)
    except KeyboardInterrupt:
        measured.problems.append("it was interrupted")
    if sys.stderr.isatty():
        progress("")  # clears the line
    return measured


def measure(database: Database, arguments: argparse.Namespace, measured: Measured) -> None:
    """Measure all peers on a database."""
    able = [name for name in arguments.peers if database.kind not in peers.NEEDS[name].reasons]
    for name in arguments.peers:
        if name not in able:
            measured.note(f"{name} is left out on {database.kind}: {peers.NEEDS[name].reasons[database.kind]}")
        elif options := peers.untaken(name, database):
            measured.note(f"{name} has not, on {database.kind}: {', '.join(options)}. Its driver takes no such option")
    for number in range(arguments.rounds):
        for suite, job in jobs(arguments):
            for name in rotated(able, number):
                progress(f"{database.kind}, round {number + 1} of {arguments.rounds}, {suite}: {name}")
                done = work({**job, "peer": name, "database": fresh(database).as_dict()})
                measured.add(database.kind, suite, name, *done)
    for name in arguments.growth:
        progress(f"{database.kind}, growth: {name}")
        job = {"sizes": arguments.growth_rows, "model": 1, "operations": [], "rows": 1}
        measured.add(database.kind, GROWTH, name, *work({**job, "peer": name, "database": fresh(database).as_dict()}))


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


def work(job: dict[str, Any]) -> tuple[dict[str, float], str | None]:
    """Have a job done by a worker, and return its results, and what went wrong if not all of it was done."""
    command = [sys.executable, __file__, "--worker"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
    found: dict[str, float] = dict(json.loads(line) for line in done.stdout.splitlines())
    if done.returncode == 0:
        return found, None
    return found, last_line(done.stderr) or f"the worker ended with {done.returncode}"


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def progress(text: str) -> None:
    """Show what is being done: in a terminal in one line, which the next one replaces."""
    is_terminal = sys.stderr.isatty()
    print(f"\r\x1b[K{text}" if is_terminal else text, end="" if is_terminal else "\n", file=sys.stderr, flush=True)


def measure_imports(arguments: argparse.Namespace, measured: Measured) -> None:
    """Measure the import of each peer in fresh processes, in turns: milliseconds, without what Python itself takes.

    Of tent, also what it adds to that of Peewee: as all is installed here, and as if no driver of a server was. Peewee
    imports all drivers there are, and what these import of the standard library is not tent's to import then.
    Modules are compiled before, and found where this process finds them; the processes start in an empty folder.
    """
    names = list(arguments.peers)
    for number in range(1 + (1 if arguments.quick else IMPORTS)):
        for name in list(names):
            progress(f"import of {name}")
            found, problem = imported(name)
            if problem is not None:
                names.remove(name)
            # the first has compiled modules
            measured.add("sqlite", EXTRA, name, found if number > 0 else {}, problem and f"import: {problem}")


def imported(name: str) -> tuple[dict[str, float], str | None]:
    """Return what the import of a peer took, once, and what went wrong."""
    modules = peers.NEEDS[name].imports
    times, problem = import_times(modules)
    if problem is not None or len(modules) == 1:
        return {"import": times[0]} if times else {}, problem
    found = {"import": sum(times), "import_added": times[-1]}
    alone, problem = import_times(modules, hidden=peers.SERVER_DRIVERS)
    return {**found, "import_added_alone": alone[-1]} if alone else found, problem


def import_times(modules: Sequence[str], hidden: Sequence[str] = ()) -> tuple[list[float], str | None]:
    """Return the milliseconds for each module, in their order, in a fresh process, or what went wrong."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    tent = find_spec("tent")
    paths = [str(Path(place).parent) for place in (tent.submodule_search_locations or () if tent else ())]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in paths)
    command = [sys.executable, "-c", TIMED_IMPORT, " ".join(hidden), *modules]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode != 0:
        return [], last_line(done.stderr) or f"the process ended with {done.returncode}"
    return [float(time) for time in done.stdout.split()], None


if __name__ == "__main__":
    sys.exit(main())
