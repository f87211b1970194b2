"""Many at once on one database, one engine and, which is refused, one session: nothing is lost or half done.

Each worker keeps its own account of what has returned; at the end the rows are what all accounts say together.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import peewee
import pytest
from conftest import Person, opened, with_settings
from ledger import ChangedMyMind

from tent.data import dbm

WORKERS = 8
WAIT = 60  # seconds, for a test that fails
Model = dbm.declarative_base()


class Account(Model):
    """A row that several workers change."""

    number = peewee.IntegerField(unique=True)
    balance = peewee.IntegerField(default=0)
    version = dbm.VersionField()


class Entry(Model):
    """What one transaction of a worker did to an account."""

    worker = peewee.IntegerField()
    number = peewee.IntegerField()
    account = peewee.ForeignKeyField(Account)

    class Meta:
        indexes = ((("worker", "number"), True),)


@pytest.fixture
def accounts(bare_engine: Any) -> Any:
    """An engine of a database with an account for each worker."""
    dbm.install_tables(bare_engine, models=Model)
    with dbm.transaction(bare_engine) as session:
        session.add_all(Account(number=number) for number in range(WORKERS))
    return bare_engine


# Workers, in threads on one engine or in processes


class Worker:
    """One of those that work at once, and what it has done."""

    def __init__(self, engine: Any, place: int, seed: int) -> None:
        self.engine = engine
        self.place = place
        self.chance = random.Random(f"{seed} {place}")
        self.moved = self.commits = self.repeated = 0
        self.longest = 0.0  # seconds that a transaction took, repetitions included

    def do(self, callback: Callable[[dbm.Session], Any], **options: Any) -> None:
        """Run a transaction, and keep its figures."""
        calls = 0

        def call(session: dbm.Session) -> None:
            nonlocal calls
            calls += 1
            callback(session)

        begun = time.perf_counter()
        dbm.run_transaction(self.engine, call, **options)
        self.longest = max(self.longest, time.perf_counter() - begun)
        self.commits += 1
        self.repeated += calls - 1


class Done(NamedTuple):
    place: int
    moved: int
    commits: int
    repeated: int
    longest: float


together: Any = None  # a barrier for all workers


def get_ready(barrier: Any) -> None:
    global together
    together = barrier


def run_one(job: Callable[..., None], engine: Any, place: int, seed: int, *args: Any) -> Done:
    """Let a worker do a job; in a process of its own it is given a config, not an engine."""
    is_config = not isinstance(engine, peewee.Database)
    worker = Worker(dbm.connect(engine) if is_config else engine, place, seed)
    together.wait(WAIT)
    job(worker, *args)
    if is_config:
        worker.engine.close_all()
    return Done(place, worker.moved, worker.commits, worker.repeated, worker.longest)


def run_all(job: Callable[..., None], engine: Any, seed: int, *args: Any) -> list[Done]:
    """Let all workers do a job at once: given an engine, in threads, given a config, in processes."""
    if isinstance(engine, peewee.Database):
        pool: Any = ThreadPoolExecutor(WORKERS, initializer=get_ready, initargs=[threading.Barrier(WORKERS)])
    else:
        fresh = get_context("forkserver")
        fresh.set_forkserver_preload(["pytest", "hypothesis.stateful", "tent.data.dbm"])  # all the same for each
        pool = ProcessPoolExecutor(WORKERS, fresh, initializer=get_ready, initargs=[fresh.Barrier(WORKERS)])
    with pool:
        done = [pool.submit(run_one, job, engine, place, seed, *args) for place in range(WORKERS)]
        return [each.result() for each in done]


def figures(done: list[Done]) -> dict[str, Any]:
    return {
        "commits": sum(each.commits for each in done),
        "repeated": sum(each.repeated for each in done),
        "longest_wait": f"{max(each.longest for each in done):.2f} s",
        "longest_of_the_luckiest": f"{min(each.longest for each in done):.2f} s",
    }


# One row that all change: what is read, and its version, tell whether somebody else was faster


# SQLite lets one in after the other. On a server all read at once, one wins, and the others read again, as often as
# there are others, or oftener.
ATTEMPTS = {"sqlite": 10, "postgresql": 1000, "mariadb": 1000, "mysql": 1000}


def count_up(worker: Worker, times: int, attempts: int) -> None:
    for number in range(times):

        def work(session: dbm.Session, number: int = number) -> None:
            account = session.query(Account).filter_by(number=0).one()
            session.add(Entry(worker=worker.place, number=number, account=account))
            account.balance += 1

        worker.do(work, attempts=attempts)


def count_up_by_hand(worker: Worker, times: int) -> None:
    """Do it in one session, whose objects are corrected when a commit fails, and committed again."""
    with dbm.open_session(worker.engine) as session:
        account = session.query(Account).filter_by(number=0).one()
        for number in range(times):
            begun = time.perf_counter()
            session.add(Entry(worker=worker.place, number=number, account=account))
            account.balance += 1
            while not is_committed(session, account):
                worker.repeated += 1
            worker.commits += 1
            worker.longest = max(worker.longest, time.perf_counter() - begun)


def is_committed(session: dbm.Session, account: Account) -> bool:
    try:
        session.commit()
        return True
    except dbm.StaleDataError:
        session.refresh(account, discard=True)
        account.balance += 1
    except peewee.OperationalError as error:  # it was locked, or in a deadlock: nothing is to be corrected
        if not session.engine.is_retryable(error):
            raise
    return False


def count_up_and_compare(accounts: Any, job: Any, given: Any, seed: int, times: int, *args: Any) -> dict[str, Any]:
    done = run_all(job, given, seed, times, *args)
    with dbm.open_session(accounts) as session:
        account = session.query(Account).filter_by(number=0).one()
        assert (account.balance, account.version) == (WORKERS * times, 1 + WORKERS * times)
        entries = {tuple(row) for row in session.query(Entry.worker, Entry.number)}
    assert entries == set(itertools.product(range(WORKERS), range(times)))
    return figures(done)


def test_a_counter_with_a_version_that_8_threads_count_up_is_exact(
    accounts: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    attempts = ATTEMPTS[accounts.kind]
    report(**count_up_and_compare(accounts, count_up, accounts, seed, 1000 if is_long else 50, attempts))


def test_a_counter_whose_version_is_read_long_before_the_commit_is_exact(
    accounts: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    report(**count_up_and_compare(accounts, count_up_by_hand, accounts, seed, 1000 if is_long else 30))


@pytest.mark.databases("file", "servers")
def test_a_counter_with_a_version_that_8_processes_count_up_is_exact(
    accounts: Any, config: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    attempts = ATTEMPTS[accounts.kind]
    report(**count_up_and_compare(accounts, count_up, config, seed, 1000 if is_long else 50, attempts))


# Two rows that are locked in the order in which everybody meets nobody: each locks its own, then its neighbour's


def pass_on(worker: Worker, times: int, rounds: int) -> None:
    """Give something to the neighbour; in the first rounds, when everybody has locked its own row."""
    for number in range(times):
        amount, is_first_call = worker.chance.randint(1, 99), number < rounds

        def work(session: dbm.Session, number: int = number, amount: int = amount) -> None:
            nonlocal is_first_call
            own, neighbours = (
                session.query(Account).filter_by(number=place % WORKERS) for place in (worker.place, worker.place + 1)
            )
            payer = own.with_for_update().one()
            if is_first_call:
                is_first_call = False
                together.wait(WAIT)
            payee = neighbours.with_for_update().one()
            payer.balance -= amount
            payee.balance += amount
            session.add(Entry(worker=worker.place, number=number, account=payer))

        if number < rounds:
            together.wait(WAIT)  # a row that was locked too early would let somebody wait who is waited for
        worker.do(work)
        worker.moved += amount


def pass_on_and_compare(accounts: Any, given: Any, seed: int, times: int, rounds: int) -> dict[str, Any]:
    done = run_all(pass_on, given, seed, times, rounds)
    gains = [done[place - 1].moved - done[place].moved for place in range(WORKERS)]
    with dbm.open_session(accounts) as session:
        for account in session.query(Account):
            assert (account.balance, account.version) == (gains[account.number], 1 + 2 * times)
        entries = {tuple(row) for row in session.query(Entry.worker, Entry.number)}
    assert entries == set(itertools.product(range(WORKERS), range(times)))
    assert sum(each.repeated for each in done) >= rounds, "no deadlock was met"
    return {**figures(done), "deadlocks_at_least": rounds}


@pytest.mark.databases("servers")
def test_deadlocks_of_8_threads_lose_nothing(
    accounts: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    report(**pass_on_and_compare(accounts, accounts, seed, *(1000, 50) if is_long else (20, 2)))


@pytest.mark.databases("servers")
def test_deadlocks_of_8_processes_lose_nothing(
    accounts: Any, config: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    report(**pass_on_and_compare(accounts, config, seed, *(1000, 50) if is_long else (20, 2)))


# Rows of one's own, among those of all others


def live(worker: Worker, times: int) -> None:
    """Insert, change and delete people, some in vain; what is then there is what has returned, also to others."""
    chance, place = worker.chance, worker.place
    people: dict[str, int] = {}
    for number in range(times):
        added = {f"{place} {number} {each}": chance.randrange(100) for each in range(chance.randrange(4))}
        changed = {name: chance.randrange(100) for name in chance.sample(sorted(people), min(len(people), 2))}
        gone = sorted(people.keys() - changed)[10:]
        is_meant = chance.random() < 0.8

        def work(
            session: dbm.Session,
            added: Any = added,
            changed: Any = changed,
            gone: Any = gone,
            is_meant: bool = is_meant,
        ) -> None:
            session.add_all(Person(name=name, age=place, score=score) for name, score in added.items())
            for person in session.query(Person).filter(Person.name.in_([*changed, *gone])):
                if person.name in changed:
                    person.score = changed[person.name]
                else:
                    session.delete(person)
            session.flush()
            if not is_meant:
                raise ChangedMyMind

        try:
            worker.do(work)
            people = {name: score for name, score in {**people, **added, **changed}.items() if name not in gone}
        except ChangedMyMind:
            assert not is_meant
        with dbm.open_session(worker.engine) as session:
            there = {person.name: person.score for person in session.query(Person).filter_by(age=place)}
        assert there == people


def test_8_threads_each_find_what_they_have_written_and_nothing_else(
    engine: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    report(**figures(run_all(live, engine, seed, 1000 if is_long else 40)))


# Those who wait


def wait_for_turns(worker: Worker, times: int, done: list[int]) -> None:
    """Write, and keep in `longest` how many transactions of others were done while one waited for its own."""
    for number in range(times):
        before = len(done)
        with dbm.transaction(worker.engine) as session:
            session.add(Account(number=1000 * worker.place + number + WORKERS))
            session.flush()
            worker.longest = max(worker.longest, len(done) - before)
        done.append(worker.place)


@pytest.mark.databases("sqlite")
def test_nobody_who_waits_for_a_database_sees_half_of_the_work_of_all_others_done_first(
    accounts: Any, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    done: list[int] = []
    times = 1000 if is_long else 150
    overtaken = [each.longest for each in run_all(wait_for_turns, accounts, seed, times, done)]
    report(transactions=len(done), overtaken_at_most=max(overtaken))
    assert len(done) == WORKERS * times
    assert max(overtaken) < len(done) / 2


# One session, which threads use at once: each call is done as if it were the only one, or refused


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


class Hammer:
    """A thread's part of the work with a session that others use at the same time."""

    def __init__(self, session: dbm.Session, place: int, seed: int) -> None:
        self.session = session
        self.place = place
        self.chance = random.Random(f"{seed} {place}")
        self.people: dict[str, Person] = {}  # that it has added
        self.scores: dict[str, int] = {}  # that they have to have
        self.returned = self.refused = 0
        self.refused_ways: set[str] = set()

    def done(self, call: Callable[[], Any]) -> bool:
        """Return whether a call returned, and was not refused."""
        try:
            call()
        except dbm.ConcurrentUseError:
            self.refused += 1
            time.sleep(self.chance.uniform(0, 0.001))  # else the same call would refuse all that the thread does
            return False
        self.returned += 1
        return True

    def add(self, number: int) -> None:
        names = [f"{self.place} {number} {each}" for each in range(self.chance.randint(1, 3))]
        people = {name: Person(name=name, age=self.place) for name in names}
        if self.done(lambda: self.session.add_all(people.values())):
            self.people.update(people)
            self.scores.update(dict.fromkeys(names, 0))

    def update(self, number: int) -> None:
        if self.people:
            name = self.chance.choice(list(self.people))
            of_it = self.session.query(Person).where(Person.name == name)
            if self.done(lambda: of_it.update({Person.score: number})):
                self.scores[name] = number

    def merge(self, number: int) -> None:
        """Change an object. To set an attribute is no call of the session, which could be refused."""
        name, person = self.chance.choice([*self.people.items(), ("", Person())])
        if person.id is not None and self.done(lambda: self.session.merge(Person(id=person.id, score=number))):
            self.scores[name] = number

    def delete(self, number: int) -> None:
        if len(self.people) > 20:
            name = self.chance.choice(list(self.people))
            if self.done(lambda: self.session.delete(self.people[name])):
                del self.people[name], self.scores[name]

    def write(self, number: int) -> None:
        self.done(self.chance.choice([self.session.flush, self.session.commit]))

    def end(self, number: int) -> None:
        self.done(self.chance.choice([self.session.begin_nested, self.session.rollback]))

    def read(self, number: int) -> None:
        session, name = self.session, self.chance.choice([*self.people, "nobody"])
        self.done(
            self.chance.choice(
                [
                    lambda: session.query(Person).all(),
                    lambda: session.query(Person).filter_by(name=name).first(),
                    lambda: session.query(Person).where((Person.name == name) | (Person.name == "nobody")).all(),
                    lambda: session.query(Person.name, Person.score).all(),
                    lambda: session.query(Person).count(),
                    lambda: session.get(Person, 1 + self.chance.randrange(100)),
                    lambda: session.execute("SELECT COUNT(*) FROM people").scalar(),
                    lambda: session.expire_all(),
                ]
            )
        )

    def look(self, number: int) -> None:
        """Look into the session's books, which is never refused."""
        session, person = self.session, self.chance.choice([*self.people.values(), Person()])
        for book in (session.new, session.dirty, session.deleted, list(session), list(session.identity_map)):
            assert all(book)
        assert repr(session) and session.state(person)
        assert {person in session, session.in_transaction()} <= {True, False}


def hammer(engine: Any, seed: int, times: int, ways: str) -> tuple[list[Hammer], dbm.Session]:
    """Let 4 threads use one session at once, in all these ways, and return them and the session."""
    inside, overlaps = threading.Lock(), []

    def note_overlap(event: peewee.QueryEvent) -> None:
        if inside.acquire(blocking=False):
            time.sleep(0.0001)  # for the others
            inside.release()
        else:
            overlaps.append(event.sql)

    session = dbm.open_session(engine)
    hammers = [Hammer(session, place, seed) for place in range(4)]
    engine.query_hooks.append(note_overlap)
    with ThreadPoolExecutor(len(hammers)) as pool:
        start = threading.Barrier(len(hammers))

        def work(hammer: Hammer) -> None:
            start.wait(WAIT)
            for number in range(times):
                way, refused = hammer.chance.choice(ways.split()), hammer.refused
                getattr(hammer, way)(number)
                hammer.refused_ways |= {way} if hammer.refused > refused else set()

        for each in [pool.submit(work, hammer) for hammer in hammers]:
            each.result()
    engine.query_hooks.remove(note_overlap)
    assert not overlaps
    return hammers, session


def calls(hammers: list[Hammer]) -> dict[str, int]:
    figures = {f"calls_{name}": sum(getattr(each, name) for each in hammers) for name in ("returned", "refused")}
    assert all(figures.values()), "the threads did not meet"
    refused = {way for each in hammers for way in each.refused_ways}
    assert refused >= {"add", "update", "write", "read"}, "some calls wait, or come in between, and are not refused"
    return figures


def test_a_session_that_threads_use_at_once_does_what_has_returned_and_nothing_of_what_was_refused(
    engine: Any, restless: None, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    hammers, session = hammer(engine, seed, 5_000 if is_long else 500, "add add update merge delete write read look")
    session.commit()
    with dbm.open_session(engine) as other:
        assert dict(other.query(Person.name, Person.score)) == {
            name: score for one in hammers for name, score in one.scores.items()
        }
    for one in hammers:
        for name, person in one.people.items():
            assert (session.state(person), person.score) == ("persistent", one.scores[name])
    session.close()
    report(**calls(hammers), rows=sum(len(each.people) for each in hammers))


def test_a_session_that_threads_roll_back_at_once_agrees_with_its_rows(
    engine: Any, restless: None, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    """Who can say what a rollback has undone that came beside other calls? The objects can, and their rows."""
    hammers, session = hammer(engine, seed, 5_000 if is_long else 500, "add add update write end read look")
    people = {name: person for hammer in hammers for name, person in hammer.people.items()}
    session.commit()
    there = {name: person.score for name, person in people.items() if session.state(person) == "persistent"}
    with dbm.open_session(engine) as other:
        assert dict(other.query(Person.name, Person.score)) == there
    assert {session.state(person) for person in people.values()} == {"persistent", "transient"}
    session.close()
    report(**calls(hammers), rows=len(there))


# One engine, with which threads do all that can be done with one


class Tenant:
    """A thread's part of the work with an engine."""

    def __init__(self, engine: Any, config: Any, place: int, seed: int) -> None:
        self.engine, self.config = engine, config
        self.chance = random.Random(f"{seed} {place}")
        self.written = 0

    def go_on(self) -> None:
        self.chance.choice(
            [
                self.write, self.read, self.drop, self.open_and_close, self.use_it_as_peewee_does, self.clear_the_pool,
                self.listen, self.connect,
            ]
        )()  # fmt: skip

    def add(self, session: dbm.Session) -> None:
        session.add(Person(name="Jo"))

    def write(self) -> None:
        dbm.run_transaction(self.engine, self.add)
        self.written += 1

    def read(self) -> None:
        with dbm.open_session(self.engine) as session:
            found = session.query(Person).filter_by(name="Jo").limit(5).all()
            assert len(found) <= 5
            assert session.query(Person).count() >= self.written

    def drop(self) -> None:
        """Let go of a session in the middle of its transaction."""
        session = dbm.open_session(self.engine)
        session.add(Person(name="dropped"))
        session.flush()

    def open_and_close(self) -> None:
        session = dbm.open_session(self.engine)
        assert repr(session) and repr(self.engine)
        session.close()

    def use_it_as_peewee_does(self) -> None:
        engine = self.engine
        with engine.connection_context():
            assert engine.execute_sql("SELECT COUNT(*) FROM people").fetchone()[0] >= self.written
        with engine.atomic():
            Person.insert(name="Jo").execute(engine)
        engine.close()
        self.written += 1

    def clear_the_pool(self) -> None:
        self.chance.choice([self.engine.close_idle, lambda: self.engine.close_stale(3600)])()

    def listen(self) -> None:
        told: list[Any] = []
        heard = {self.engine: "after_commit", Person: "after_insert"}
        for target, event in heard.items():
            dbm.listen(target, event, told.append)
        self.write()
        for target, event in heard.items():
            dbm.unlisten(target, event, told.append)
        assert {type(each) for each in told} == {dbm.Session, Person}

    def connect(self) -> None:
        engine: Any = dbm.connect(self.config)
        dbm.install_tables(engine, models=[Person])
        dbm.run_transaction(engine, self.add)
        engine.close_all()
        self.written += engine.database != ":memory:"


def test_an_engine_serves_any_number_of_threads_whatever_they_do_with_it(
    config: Any, restless: None, seed: int, is_long: bool, report: Callable[..., None]
) -> None:
    ample = {"timeout": 60} if isinstance(config, dict) else {"pool_size": 3, "pool_timeout": 60}
    config = with_settings(config, **ample)
    engine: Any = dbm.connect(config)
    dbm.install_tables(engine, models=[Person])
    engine.close_idle()  # those that are opened from now on are counted
    tenants = [Tenant(engine, config, place, seed) for place in range(WORKERS)]

    def live(tenant: Tenant) -> None:
        for _ in range(2000 if is_long else 50):
            tenant.go_on()
        engine.close()

    with opened(engine) as connections, ThreadPoolExecutor(WORKERS) as pool:
        for each in [pool.submit(live, tenant) for tenant in tenants]:
            each.result()
    kept = {id(connection) for _, _, connection in engine._connections}
    assert not engine._in_use
    assert {id(connection) for connection in connections if not engine.is_gone(connection)} == kept
    with dbm.open_session(engine) as session:
        assert session.query(Person).filter_by(name="Jo").count() == sum(tenant.written for tenant in tenants)
        assert not session.query(Person).filter_by(name="dropped").exists()
    report(connections_opened=len(connections), kept=len(kept), rows=sum(tenant.written for tenant in tenants))
    engine.close_all()
