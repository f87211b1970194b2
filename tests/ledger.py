"""Writers that keep a ledger of what a cluster has acknowledged, to compare it with what is there at the end.

Each transaction has a unique number, writes a transfer with entries that sum to zero, and counts in a row that all
writers share. So what is lost, there twice or half done shows.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import peewee

from tent.data import dbm

Model = dbm.declarative_base()
ENTRIES = 3  # of a transfer
COUNTERS = ("by SQL", "locked", "versioned")  # how each of them is incremented


class Transfer(Model):
    """What one transaction writes, with its entries."""

    number = peewee.IntegerField(unique=True)
    writer = peewee.IntegerField()


class Entry(Model):
    transfer = peewee.ForeignKeyField(Transfer, backref="entries")
    amount = peewee.IntegerField()


class Tally(Model):
    """A row that all writers change: what is lost there is an update over another's."""

    way = peewee.CharField(unique=True)
    value = peewee.IntegerField(default=0)
    version = dbm.VersionField()


class ChangedMyMind(Exception):
    """What a transaction raises that is to leave nothing."""


class Ledger:
    """What was acknowledged, and what it took."""

    def __init__(self, shares: float) -> None:
        self.shares = shares  # the part of transactions that count in a shared row
        self.numbers = itertools.count(1)
        self.acknowledged: dict[int, str] = {}  # numbers, with when and by whom
        self.abandoned: set[int] = set()
        self.counted: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()  # met on the way, by kind
        self.doubts: collections.Counter[str] = collections.Counter()
        self.calls = 0
        self.longest = 0.0  # that one transaction took, repetitions included
        self.failures: list[BaseException] = []
        self.stopping = threading.Event()
        self.begun = time.monotonic()
        self.lock = threading.Lock()

    def way(self, number: int) -> str | None:
        """Return the shared row that a transaction counts in, if it does."""
        return COUNTERS[number % 3] if number * self.shares % 1 < self.shares else None

    def watch(self, engine: Any) -> None:
        """Count the errors that run_transaction meets on an engine, each once however often the engine is asked."""
        decide = engine.is_outage

        def is_outage(error: BaseException) -> bool:
            if not hasattr(error, "is_counted"):
                self.note(kind_of(error))
            error.is_counted = True  # type: ignore[attr-defined]
            answer: bool = decide(error)
            return answer

        engine.is_outage = is_outage

    def note(self, error: str) -> None:
        with self.lock:
            self.errors[error] += 1

    def report(self, title: str) -> None:
        seconds = time.monotonic() - self.begun
        done = len(self.acknowledged)
        print(f"\n{title}")
        print(f"  {done} transactions acknowledged in {seconds:.0f} s ({done / seconds:.0f}/s), in {self.calls} calls")
        print(f"  errors met: {dict(self.errors.most_common())}; commits in doubt: {dict(self.doubts)}")
        print(f"  longest transaction, repetitions included: {self.longest:.2f} s")


def kind_of(error: BaseException) -> str:
    cause = getattr(error, "orig", None)
    number = cause.args[0] if cause and cause.args and isinstance(cause.args[0], int) else None
    code = number or getattr(cause, "sqlstate", None) or ""
    return f"{type(cause or error).__name__} {code}".strip()


class Writer(threading.Thread):
    """Writes one transfer after the other, through whatever happens, until it is told to stop."""

    def __init__(self, place: int, engine: Any, ledger: Ledger, **options: Any) -> None:
        super().__init__(name=f"writer {place}", daemon=True)
        self.place, self.engine, self.ledger, self.options = place, engine, ledger, options
        self.moments: list[float] = []  # at which something was acknowledged

    def first_since(self, moment: float) -> float:
        """Return when the first transaction after a moment was acknowledged, or 0."""
        found = bisect.bisect(self.moments, moment)
        return self.moments[found] if found < len(self.moments) else 0

    def run(self) -> None:
        while not self.ledger.stopping.is_set():
            number = next(self.ledger.numbers)
            try:
                self.write(number)
            except BaseException as error:
                error.add_note(f"in the transaction {number}") if hasattr(error, "add_note") else None
                self.ledger.failures.append(error)
                self.ledger.stopping.set()

    def write(self, number: int) -> None:
        """Do a transaction, and note it in the ledger when it is acknowledged."""
        begun, way = time.monotonic(), self.ledger.way(number)
        is_kept = self.keep(number)
        with self.ledger.lock:
            self.ledger.longest = max(self.ledger.longest, time.monotonic() - begun)
            if is_kept:
                self.moments.append(time.monotonic())
                self.ledger.acknowledged[number] = f"after {self.moments[-1] - self.ledger.begun:.3f} s, {self.name}"
                self.ledger.counted.update([way] if way else [])
            else:
                self.ledger.abandoned.add(number)

    def keep(self, number: int) -> bool:
        """Return whether a transaction was committed, or was abandoned by itself."""
        was_in_doubt = False
        while True:
            try:
                dbm.run_transaction(self.engine, lambda session: self.work(session, number), **self.options)
                return True
            except ChangedMyMind:
                return False
            except dbm.CommitInDoubtError:
                was_in_doubt = True
                if self.is_there(number):
                    self.ledger.doubts["was there"] += 1
                    return True
                self.ledger.doubts["repeated"] += 1
            except peewee.IntegrityError:
                # The commit in doubt was done after all: between the look and the repetition.
                if not was_in_doubt or not self.is_there(number):
                    raise
                self.ledger.doubts["was there when repeated"] += 1
                return True

    def is_there(self, number: int) -> bool:
        def look(session: dbm.Session) -> bool:
            return session.query(Transfer).filter_by(number=number).exists()

        return dbm.run_transaction(self.engine, look)

    def work(self, session: dbm.Session, number: int) -> None:
        self.ledger.calls += 1
        transfer = Transfer(number=number, writer=self.place)
        session.add(transfer)
        amounts = [number, -number - 1, 1]
        session.add_all([Entry(transfer=transfer, amount=amount) for amount in amounts])
        way = self.ledger.way(number)
        if way:
            increment(session, way)
        if number % 20 == 0:
            session.flush()
            raise ChangedMyMind


def increment(session: dbm.Session, way: str) -> None:
    tallies = session.query(Tally).filter_by(way=way)
    if way == "by SQL":
        tallies.update({Tally.value: Tally.value + 1})
    elif way == "locked":
        tallies.with_for_update().one().value += 1
    else:
        tallies.one().value += 1  # a change that was made meanwhile is a StaleDataError, and repeated


def prepare(engine: Any, *others: Any) -> None:
    """Make empty tables, and wait until the other nodes of Galera have them, too."""
    dbm.uninstall_tables(engine, models=Model)
    dbm.install_tables(engine, models=Model)
    with dbm.transaction(engine) as session:
        session.add_all([Tally(way=way) for way in COUNTERS])
    for other in others:
        with other.connection_context():  # without a transaction, which would see what there is when it begins
            other.execute_sql("SET SESSION wsrep_sync_wait = 1")
            assert other.execute_sql("SELECT COUNT(*) FROM tallies").fetchone() == (len(COUNTERS),)
            other.execute_sql("SET SESSION wsrep_sync_wait = 0")


def compare(ledger: Ledger, session: Any) -> None:
    """Compare the ledger with what a server has."""
    found = [number for (number,) in session.execute("SELECT number FROM transfers")]
    there = set(found)
    assert len(found) == len(there), "some are there twice"
    lost = [f"{number} {how}" for number, how in ledger.acknowledged.items() if number not in there]
    assert not lost, f"{len(lost)} were acknowledged, and are lost: {lost[:3]} … {lost[-3:]}"
    assert not there - ledger.acknowledged.keys(), "some were never acknowledged, and are there"
    whole = session.execute(
        "SELECT t.number FROM transfers AS t JOIN entries AS e ON e.transfer_id = t.id "
        "GROUP BY t.number HAVING COUNT(*) = 3 AND SUM(e.amount) = 0"
    )
    assert {number for (number,) in whole} == ledger.acknowledged.keys(), "some are half there"
    assert session.scalar("SELECT COUNT(*) FROM entries") == ENTRIES * len(found), "some entries belong to nothing"
    assert {tally.way: tally.value for tally in session.query(Tally)} == {way: ledger.counted[way] for way in COUNTERS}


class Load:
    """`with Load(engines, …) as load:` has several writers at work on each engine."""

    def __init__(self, engines: list[Any], writers: int, shares: float, **options: Any) -> None:
        self.ledger = ledger = Ledger(shares)
        for engine in engines:
            ledger.watch(engine)
        self.writers = [Writer(place, engine, ledger, **options) for place, engine in enumerate(engines * writers)]

    def __enter__(self) -> Load:
        for writer in self.writers:
            writer.start()
        return self

    def go_on(self, seconds: float = 0) -> float:
        """Let the writers work for a time, or until each has done something; return when the last of them had."""
        begun = time.monotonic()
        self.ledger.stopping.wait(seconds)
        until(lambda: self.ledger.stopping.is_set() or all(writer.first_since(begun) for writer in self.writers), 60)
        self.check()
        return max(writer.first_since(begun) for writer in self.writers) - begun

    def check(self) -> None:
        if self.ledger.failures:
            raise self.ledger.failures[0]

    def __exit__(self, *exception: Any) -> None:
        self.ledger.stopping.set()
        for writer in self.writers:
            writer.join(90)
            assert not writer.is_alive(), f"{writer.name} hangs"
        if exception[0] is None:
            self.check()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)
