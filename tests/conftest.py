"""What the tests share: engines, sessions, models, and a count of the statements that run."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import peewee
import pytest
import servers
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

from tent.data import dbm
from tent.data.orm.sql import with_marks

Model = dbm.declarative_base()


class Person(Model):
    """A row with all kinds of columns; most tests need no other model."""

    name = peewee.CharField(null=True)
    email = peewee.CharField(unique=True, null=True)
    age = peewee.IntegerField(null=True)
    born = peewee.DateField(null=True)
    score = peewee.IntegerField(default=0)
    tags = peewee.JSONField(default=list)


class Note(Model):
    """Belongs to a person."""

    person = peewee.ForeignKeyField(Person, backref="notes", on_delete="CASCADE")
    text = peewee.TextField(default="")


class Node(Model):
    """Refers to rows of its own table."""

    parent = peewee.ForeignKeyField("self", null=True, backref="children")
    name = peewee.CharField()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="tests/reliability: the long form of each, for hours")
    parser.addoption("--seed", type=int, help="tests/reliability: repeat a run, by the seed that it has printed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test run on each database, as what holds for one holds for the others, or on those that it is marked with.

    `@pytest.mark.databases("sqlite")` is for what only SQLite does; `servers` are the others, and each has its name.
    """
    if "database" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("databases")
        names = servers.named(*marker.args) if marker else servers.DATABASES
        metafunc.parametrize("database", names or [ABSENT], indirect=True)


ABSENT = "absent"  # the database of a test for one that is not given


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests for databases that are not given, and of the long form unless it was asked for.

    Pytest tells how many it deselected.
    """
    wanted = {item: getattr(item, "callspec", None) for item in items}
    absent = [item for item, call in wanted.items() if call and call.params.get("database") == ABSENT]
    if not config.getoption("--long"):
        absent += [item for item in items if item.get_closest_marker("long") and item not in absent]
    config.hook.pytest_deselected(items=absent)
    items[:] = [item for item in items if item not in absent]


def pytest_report_header() -> str:
    given = "" if servers.URLS else " (servers: set TENT_TEST_URLS, see scripts/servers.sh)"
    clusters = ", ".join(servers.CLUSTERS) or 'none (set TENT_TEST_CLUSTERS="replication galera")'
    return f"databases: {', '.join(servers.DATABASES)}{given}; clusters: {clusters}"


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """The name of the database that a test runs on."""
    name: str = request.param
    return name


@pytest.fixture
def config(database: str, tmp_path: Path) -> Any:
    """The config of an empty database."""
    if database in servers.URLS:
        return servers.emptied(database)
    path = ":memory:" if database == "memory" else str(tmp_path / "test.db")
    return {"driver": "sqlite", "path": path, "timeout": 2}


@pytest.fixture
def bare_engine(config: Any) -> Iterator[Any]:
    """An engine of a database without tables."""
    engine = dbm.connect(config)
    yield engine
    engine.close_all()


@pytest.fixture
def engine(bare_engine: Any) -> Any:
    """An engine of a database with the tables above."""
    dbm.install_tables(bare_engine, models=Model)
    return bare_engine


@pytest.fixture
def connect(config: Any) -> Iterator[Callable[..., Any]]:
    """`connect(pool_size=2)` gives an engine of the test's database, with its tables and these settings."""
    engines = []

    def connect(**settings: Any) -> Any:
        engine = dbm.connect(with_settings(config, **settings))
        engines.append(engine)
        dbm.install_tables(engine, models=Model)
        return engine

    yield connect
    for engine in engines:
        engine.close_all()


@pytest.fixture
def file_engine(tmp_path: Path) -> Iterator[Any]:
    engine = dbm.connect({"driver": "sqlite", "path": tmp_path / "file.db", "timeout": 2})
    dbm.install_tables(engine, models=Model)
    yield engine
    engine.close_all()


@pytest.fixture
def swift_engine(config: Any) -> Iterator[Any]:
    """An engine for many small transactions: a file needs not outlive the machine's power."""
    engine = dbm.connect({**config, "pragmas": {"synchronous": 0}} if isinstance(config, dict) else config)
    yield engine
    engine.close_all()


@pytest.fixture
def outside(config: Any) -> Iterator[Any]:
    """Another program's engine of the same database."""
    engine = dbm.connect(config)
    yield engine
    engine.close_all()


@pytest.fixture
def session(engine: Any) -> Iterator[dbm.Session]:
    session = dbm.open_session(engine)
    yield session
    session.rollback()
    session.close()


@pytest.fixture
def other(engine: Any) -> Iterator[dbm.Session]:
    """A second session on the same engine."""
    session = dbm.open_session(engine)
    yield session
    session.rollback()
    session.close()


@pytest.fixture
def statements(engine: Any) -> Callable[[], Any]:
    """`with statements() as ran:` collects the SQL of each statement that the engine's sessions run."""
    return lambda: collected(engine)


# For tests/reliability, which tries to break the library's word: how much, by what seed, and with what figures


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form was asked for: `pytest -s tests/reliability --long`."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a test: one that is given repeats a run; the short form has the same one each time."""
    given: int | None = request.config.getoption("--seed")
    if given is not None:
        return given
    return random.randrange(2**32) if request.config.getoption("--long") else 1


@pytest.fixture
def chance(seed: int) -> random.Random:
    """The source of all that a test leaves to chance."""
    return random.Random(seed)


@pytest.fixture
def report(request: pytest.FixtureRequest, seed: int) -> Callable[..., None]:
    """`report(kills=1000, violations=0)` prints the figures of a test, past pytest, with its name and its seed."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")

    def report(**figures: Any) -> None:
        found = ", ".join(f"{name.replace('_', ' ')} {figure}" for name, figure in figures.items())
        with capture.global_and_fixture_disabled():
            print(f"\n{request.node.name}: {found} (--seed {seed})")

    return report


LONG = 20_000  # steps of a state machine in the long form


class StateMachine(RuleBasedStateMachine):
    """Hypothesis', which counts the steps of all its examples."""

    steps = 0

    @invariant()
    def count_a_step(self) -> None:
        StateMachine.steps += 1


@pytest.fixture
def run_machine(database: str, is_long: bool, seed: int, report: Callable[..., None]) -> Callable[..., None]:
    """`run_machine(machine, examples=40)` tries that many, the same ones each time; fewer on a server, which is slower.

    In the long form it tries as many again, by the next seed, until 20,000 steps are done.
    """

    def run(machine: Callable[[], StateMachine], examples: int, **options: Any) -> None:
        usual = hypothesis.settings(
            **{"derandomize": not is_long, **options},
            max_examples=examples // 5 if database in servers.URLS and not is_long else examples,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        StateMachine.steps, rounds = 0, 0
        while rounds == 0 or (is_long and StateMachine.steps < LONG):
            factory = hypothesis.seed(seed + rounds)(lambda: machine()) if is_long else machine
            run_state_machine_as_test(factory, settings=usual)  # type: ignore[no-untyped-call]
            rounds += 1
        if is_long:
            report(steps=StateMachine.steps, examples=rounds * examples)

    return run


def install_tables_with_keys_that_do_not_come_again(engine: Any, models: Any) -> None:
    """Else a new row can get the key of one that another session deleted, and be taken for it: who could tell?

    Only SQLite gives the key of the last row again when that is deleted.
    """
    dbm.install_tables(engine, models=models)
    if engine.kind == "sqlite":
        made = engine.execute_sql("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()
        dbm.uninstall_tables(engine, models=models)
        for (sql,) in made:
            engine.execute_sql(sql.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT"))
        dbm.install_tables(engine, models=models)


@contextmanager
def collected(engine: Any) -> Iterator[list[str]]:
    ran: list[str] = []

    def hook(event: peewee.QueryEvent) -> None:
        ran.append(event.sql)

    engine.query_hooks.append(hook)
    try:
        yield ran
    finally:
        engine.query_hooks.remove(hook)


def calls_in(call: Callable[[], Any]) -> int:
    """Return how many functions a call calls, in Python and in C: work on each object would show."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    former = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(former)
    return count


@contextmanager
def opened(engine: Any) -> Iterator[list[Any]]:
    """Collect the connections that an engine opens."""
    found: list[Any] = []
    open_one = engine._open

    def note() -> Any:
        found.append(open_one())
        return found[-1]

    engine._open = note
    try:
        yield found
    finally:
        del engine._open


def with_settings(config: Any, options: Any = None, **settings: Any) -> dict[str, Any]:
    """Return a config, mapping or URL, as a mapping that has other settings, and options of the driver, too."""
    found = {**(servers.mapping(config) if isinstance(config, str) else config), **settings}
    return {**found, "options": {**found.get("options", {}), **options}} if options else found


def run_sql(engine: Any, sql: str, params: Any = ()) -> Any:
    """Run SQL beside any session, with SQLite's `?` for its parameters on every engine; return the driver's cursor."""
    return engine.execute_sql(with_marks(sql, params, engine.param), params)


def as_sqlite(sql: str) -> str:
    """Return a statement that an engine has made as it would be made for SQLite."""
    return sql.replace("`", '"').replace("%s", "?").replace("START TRANSACTION", "BEGIN")


def verbs(ran: list[str]) -> list[str]:
    """Return the first word of each statement."""
    return [as_sqlite(sql).split()[0] for sql in ran]
