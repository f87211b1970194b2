"""Processes are killed in the midst of it all: what was committed is there, and of what was not, nothing.

A writer keeps an account of families: parents that know how many children they have, children whose amounts sum to
zero, and accounts between which money moves. What its n-th transaction does follows from the seed and n alone. So the
test knows the rows after n transactions, all of them, and compares them with what is there when the writer was killed:
those after the last commit that returned or, when the kill came between a commit and its report, after the next.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import peewee
import pytest
import servers
from conftest import with_settings
from ledger import Load, compare, prepare, until

from tent.data import dbm

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows forks no processes")

Model = dbm.declarative_base()
ACCOUNTS = 4
MOST_FAMILIES = 12
REPORT = 8  # bytes of one
Contents = dict[str, list[tuple[int, ...]]]
Report = Callable[..., None]


class Account(Model):
    """One of those of a writer, whose balances sum to zero."""

    writer = peewee.IntegerField()
    number = peewee.IntegerField()
    balance = peewee.IntegerField(default=0)


class Family(Model):
    """Has exactly `size` children, all written by the transaction that has written it last."""

    writer = peewee.IntegerField()
    number = peewee.IntegerField(index=True)
    size = peewee.IntegerField()
    written = peewee.IntegerField()


class Child(Model):
    family = peewee.ForeignKeyField(Family, backref="children", on_delete="CASCADE")
    place = peewee.IntegerField()
    amount = peewee.IntegerField()
    written = peewee.IntegerField()


# What a transaction does, for the writer and for the test


class Plan:
    """What a transaction does to the families that there are: which are new, which change, which go."""

    def __init__(self, seed: int, writer: int, number: int, families: list[int]) -> None:
        chance = random.Random(f"{seed} {writer} {number}")
        families = chance.sample(sorted(families), len(families))
        gone = max(len(families) - MOST_FAMILIES, chance.randrange(3))
        self.writer, self.number = writer, number
        self.deleted, families = families[:gone], families[gone:]
        self.changed = {family: chance.randint(-9, 9) for family in families[: chance.randrange(4)]}
        self.added = {number * 10 + place: self.size(chance) for place in range(chance.randint(1, 3))}
        self.payer, self.payee = chance.sample(range(ACCOUNTS), 2)
        self.moved = chance.randint(1, 99)
        self.flushes = chance.random() < 0.5  # before its end
        self.has_savepoint = chance.random() < 0.3  # with something in it that is rolled back
        self.is_abandoned = chance.random() < 0.1

    @staticmethod
    def size(chance: random.Random) -> int:
        """Return how many children a new family has: now and then, more than go into one statement."""
        return chance.randint(2, 6) if chance.random() < 0.97 else 700

    @staticmethod
    def amounts(size: int, gift: int = 0) -> list[int]:
        """Return what the children of a family have, which sums to zero, after the first has got something."""
        rest = [place + gift for place in range(1, size)]
        return [-sum(rest), *rest]


class Rows:
    """The rows of a writer that have to be there, as plain values."""

    def __init__(self, seed: int, writer: int = 0) -> None:
        self.seed, self.writer = seed, writer
        self.number = 0  # of the last transaction
        self.families: dict[int, tuple[int, list[int]]] = {}  # when it was written, and its children's amounts
        self.balances = [0] * ACCOUNTS

    def copy(self) -> Rows:
        copy = Rows(self.seed, self.writer)
        copy.number, copy.families, copy.balances = self.number, dict(self.families), list(self.balances)
        return copy

    def after_next(self) -> Rows:
        after = self.copy()
        after.number += 1
        plan = Plan(self.seed, self.writer, after.number, list(self.families))
        if not plan.is_abandoned:
            for family in plan.deleted:
                del after.families[family]
            for family, gift in plan.changed.items():
                size = len(after.families[family][1])
                after.families[family] = plan.number, plan.amounts(size, gift)
            for family, size in plan.added.items():
                after.families[family] = plan.number, plan.amounts(size)
            after.balances[plan.payer] -= plan.moved
            after.balances[plan.payee] += plan.moved
        return after

    def contents(self) -> Contents:
        return {
            "accounts": list(enumerate(self.balances)),
            "families": sorted((number, len(found), written) for number, (written, found) in self.families.items()),
            "children": sorted(
                (number, place, amount, written)
                for number, (written, found) in self.families.items()
                for place, amount in enumerate(found)
            ),
        }


def work(session: dbm.Session, plan: Plan) -> None:
    """Do what a plan says, and commit it unless it is to be abandoned."""
    families = session.query(Family).filter_by(writer=plan.writer)
    for number in plan.deleted:
        session.delete(families.filter_by(number=number).one(), recursive=plan.flushes)
    for number, gift in plan.changed.items():
        family = families.filter_by(number=number).one()
        family.written = plan.number
        amounts = plan.amounts(family.size, gift)
        for child in family.children:
            child.amount, child.written = amounts[child.place], plan.number
    if plan.flushes:
        session.flush()
    if plan.has_savepoint:
        savepoint = session.begin_nested()
        session.add(Family(writer=plan.writer, number=-1, size=1, written=plan.number))
        session.query(Account).filter_by(writer=plan.writer).update({Account.balance: 7})
        savepoint.rollback()
    for number, size in plan.added.items():
        family = Family(writer=plan.writer, number=number, size=size, written=plan.number)
        amounts = plan.amounts(size)
        session.add_all(
            Child(family=family, place=place, amount=amounts[place], written=plan.number) for place in range(size)
        )
    accounts = {account.number: account for account in session.query(Account).filter_by(writer=plan.writer)}
    accounts[plan.payer].balance -= plan.moved
    accounts[plan.payee].balance += plan.moved
    if plan.is_abandoned:
        session.flush()
        session.rollback()
    else:
        session.commit()


def write(config: Any, rows: Rows, report: int) -> None:
    """Do one transaction after the other, the first after these rows, and report each that has returned."""
    engine = dbm.connect(config)
    session = dbm.open_session(engine)
    for number in itertools.count(rows.number + 1):
        families = [family.number for family in session.query(Family).filter_by(writer=rows.writer)]
        work(session, Plan(rows.seed, rows.writer, number, families))
        os.write(report, number.to_bytes(REPORT, "big"))


# Kills


class Writer:
    """A process that writes, until it is killed."""

    def __init__(self, config: Any, rows: Rows) -> None:
        self.last = rows.number  # that it has reported
        self.status: int | None = None  # with which it has ended
        self.pipe, report = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                write(config, rows, report)
            except BaseException as error:
                os.write(report, b"!" * REPORT + f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(1)
        os.close(report)

    def read(self) -> bool:
        """Wait for a report; return whether there was one."""
        found = os.read(self.pipe, REPORT)
        if found == b"!" * REPORT:
            pytest.fail(f"after transaction {self.last} the writer met {os.read(self.pipe, 10_000).decode()}")
        self.last = int.from_bytes(found, "big") or self.last
        return bool(found)

    def kill(self) -> int:
        """Kill it, wherever it is, and return the number of the last transaction that it has reported."""
        self.end()
        while self.read():
            pass
        assert self.status == signal.SIGKILL, f"the writer ended by itself, after transaction {self.last}"
        return self.last

    def end(self) -> None:
        if self.status is None:
            os.kill(self.process, signal.SIGKILL)
            _, self.status = os.waitpid(self.process, 0)


Fork = Callable[[Any, Rows], Writer]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """`fork(config, rows)` starts a writer that goes on from these rows."""
    writers: list[Writer] = []

    def fork(config: Any, rows: Rows) -> Writer:
        writers.append(Writer(config, rows))
        return writers[-1]

    yield fork
    for writer in writers:
        writer.end()
        os.close(writer.pipe)


class Kills:
    """Kills writers at any moment, and says what came of it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self._figures = {"kills": 0, "commits": 0, "committed_before_the_report": 0}

    def figures(self) -> dict[str, int]:
        assert self._figures["commits"] > self._figures["kills"], "too little was done for the kills to hit anything"
        return self._figures

    def kill(self, writer: Writer, rows: Rows, look: Callable[[], Contents]) -> Rows:
        """Kill a writer after some of its transactions, and compare: `look` returns what is there.

        Returns the rows that are there, given those that were before.
        """
        for _ in range(self.chance.randrange(10)):
            writer.read()
        time.sleep(self.chance.uniform(0, 0.01))
        last, before = writer.kill(), rows.number
        while rows.number < last:
            rows = rows.after_next()
        found = look()
        if found != rows.contents():
            rows = rows.after_next()
            self._figures["committed_before_the_report"] += 1
            where = f"those after transaction {last}, the last that was reported before kill {self._figures['kills']}"
            assert found == rows.contents(), f"the rows are not {where}, and here is how they differ from the next ones"
        self._figures["kills"] += 1
        self._figures["commits"] += rows.number - before
        return rows


READ = {
    "accounts": "SELECT number, balance FROM accounts WHERE writer = {} ORDER BY number",
    "families": "SELECT number, size, written FROM families WHERE writer = {} ORDER BY number",
    "children": "SELECT f.number, c.place, c.amount, c.written FROM children AS c JOIN families AS f "
    "ON f.id = c.family_id WHERE f.writer = {} ORDER BY f.number, c.place",
}
BROKEN = {
    "children without a family": "SELECT c.id FROM children AS c LEFT JOIN families AS f ON f.id = c.family_id "
    "WHERE f.id IS NULL",
    "families with more or fewer children, or with some of another transaction": "SELECT f.id FROM families AS f "
    "LEFT JOIN children AS c ON c.family_id = f.id AND c.written = f.written GROUP BY f.id, f.size "
    "HAVING COUNT(c.id) <> f.size",
    "amounts that don't sum to zero": "SELECT family_id FROM children GROUP BY family_id HAVING SUM(amount) <> 0",
    "balances that don't sum to zero": "SELECT writer FROM accounts GROUP BY writer HAVING SUM(balance) <> 0",
}


def read(run: Callable[[str], Any], writer: int = 0) -> Contents:
    """Return what is there of a writer. It must make sense, whichever transaction of whichever writer was the last."""
    broken = {name: found for name, sql in BROKEN.items() if (found := list(run(sql)))}
    assert not broken
    return {name: [tuple(row) for row in run(sql.format(writer))] for name, sql in READ.items()}


@pytest.fixture
def start(config: Any) -> Iterator[Callable[..., Any]]:
    """`start(writers=2)` makes the tables, with what is there at first, and gives the config and an engine."""
    engines = []

    def start(writers: int = 1, **settings: Any) -> tuple[Any, Any]:
        own = with_settings(config, **settings)
        engine = dbm.connect(own)
        engines.append(engine)
        dbm.install_tables(engine, models=Model)
        with dbm.transaction(engine) as session:
            places = itertools.product(range(writers), range(ACCOUNTS))
            session.add_all(Account(writer=writer, number=number) for writer, number in places)
        return own, engine

    yield start
    for engine in engines:
        engine.close_all()


@pytest.fixture(params=["wal", "delete"])
def journal(request: pytest.FixtureRequest) -> str:
    """What SQLite undoes transactions with that have no end."""
    mode: str = request.param
    return mode


def look_into(path: str, journal: str, writer: int = 0) -> Contents:
    """Return what is in a file of a writer's, to whom no more than SQLite is known, and the file is well."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == (journal,)
        db.execute("BEGIN")  # all is read at the same moment
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        return read(db.execute, writer)


@pytest.mark.databases("file")
def test_a_writer_of_a_file_that_is_killed_leaves_whole_transactions(
    start: Callable[..., Any], fork: Fork, journal: str, seed: int, chance: random.Random, is_long: bool, report: Report
) -> None:
    config, engine = start(pragmas={"journal_mode": journal})
    engine.close_all()
    kills, rows, in_the_midst = Kills(chance), Rows(seed), 0

    def look() -> Contents:
        nonlocal in_the_midst
        left = Path(f"{config['path']}-journal")
        in_the_midst += left.exists() and left.stat().st_size > 0
        return look_into(config["path"], journal)

    for _ in range(500 if is_long else 50):
        rows = kills.kill(fork(config, rows), rows, look)
    assert in_the_midst or journal != "delete", "no transaction without an end has left what it is undone with"
    report(**kills.figures(), **({"which_left_a_journal": in_the_midst} if journal == "delete" else {}))


@pytest.mark.databases("file")
def test_a_writer_of_a_file_that_is_killed_leaves_the_others_alone(
    start: Callable[..., Any], fork: Fork, journal: str, seed: int, chance: random.Random, is_long: bool, report: Report
) -> None:
    config, engine = start(writers=3, pragmas={"journal_mode": journal}, timeout=60)
    engine.close_all()
    kills, rows = Kills(chance), [Rows(seed, writer) for writer in range(3)]
    writers = [fork(config, each) for each in rows]

    def kill(writer: int) -> None:
        rows[writer] = kills.kill(writers[writer], rows[writer], lambda: look_into(config["path"], journal, writer))

    for _ in range(200 if is_long else 10):
        writer = chance.randrange(3)
        kill(writer)
        writers[writer] = fork(config, rows[writer])
    for writer in range(3):
        kill(writer)
    report(**kills.figures())


@pytest.mark.databases("servers")
def test_a_writer_on_a_server_that_is_killed_leaves_whole_transactions(
    start: Callable[..., Any], fork: Fork, seed: int, chance: random.Random, is_long: bool, report: Report
) -> None:
    config, engine = start()
    own, kills, rows = connections(engine), Kills(chance), Rows(seed)

    def look() -> Contents:
        until(lambda: connections(engine) <= own)  # the server ends what the writer has left
        with engine.connection_context():
            return read(lambda sql: engine.execute_sql(sql).fetchall())

    for _ in range(200 if is_long else 20):
        rows = kills.kill(fork(config, rows), rows, look)
    report(**kills.figures())


CONNECTIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE db = DATABASE()",
}
CONNECTIONS["mysql"] = CONNECTIONS["mariadb"]


def connections(engine: Any) -> set[int]:
    """Return the server's numbers of its connections to the database."""
    with engine.connection_context():
        return {number for (number,) in engine.execute_sql(CONNECTIONS[engine.kind])}


# The server is killed: one of the test's own, which nobody else uses, and which keeps what it has acknowledged. In the
# long form only, as scripts/servers.sh installs the server where there is none.


@pytest.fixture
def kind(database: str, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> Iterator[str]:
    """The kind of a server of the test's own, which scripts/servers.sh starts, kills and wipes."""
    with tempfile.TemporaryDirectory(prefix="tent-") as folder:
        os.chmod(folder, 0o755)  # the server runs as a user of its own
        monkeypatch.setenv("TENT_SERVERS", str(Path(folder) / "servers"))
        monkeypatch.setenv("TENT_SERVERS_FSYNC", "on")
        monkeypatch.setenv(f"TENT_SERVERS_{database.upper()}_PORT", str(free_port(chance)))
        try:
            yield database
        finally:
            servers.script("wipe", database)


def free_port(chance: random.Random) -> int:
    """Return a port that nothing uses, and that no client's connection gets by itself."""
    while True:
        port = chance.randrange(20_000, 32_000)
        with closing(socket.socket()) as found:
            try:
                found.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


@pytest.mark.long
@pytest.mark.databases("postgresql", "mariadb")
def test_a_server_that_is_killed_has_lost_nothing_that_was_acknowledged(
    kind: str, chance: random.Random, report: Report
) -> None:
    engine: Any = dbm.connect(servers.script("start", kind).strip())
    kills, waits = 20, []
    try:
        prepare(engine)
        with Load([engine], writers=6, shares=0.25, attempts=100) as load:
            for _ in range(kills):
                load.go_on(chance.uniform(0, 1))
                servers.script("kill", kind)
                time.sleep(chance.uniform(0, 0.5))
                servers.script("start", kind)
                waits.append(load.go_on())
        with dbm.open_session(engine) as session:
            compare(load.ledger, session)
    finally:
        engine.close_all()
    ledger = load.ledger
    report(
        kills_of_the_server=kills,
        acknowledged=len(ledger.acknowledged),
        in_doubt=dict(ledger.doubts),
        errors_met=dict(ledger.errors),
        until_all_had_written_again=f"{max(waits):.2f} s at most",
    )
