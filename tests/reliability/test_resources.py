"""Resources: streams take constant memory, sessions leave nothing behind, and what is kept is bounded."""

from __future__ import annotations

import collections
import gc
import itertools
import json
import random
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person

from tent.data import dbm
from tent.data.orm.mapper import mapper_of
from tent.data.orm.statements import Insert

Report = Callable[..., None]
DESCRIPTORS = Path("/proc/self/fd")
has_descriptors = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="the platform lists no descriptors")


@contextmanager
def no_collector() -> Iterator[None]:
    """What goes in here goes by its reference count alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def census() -> collections.Counter[str]:
    """Return how many objects of each type there are."""
    gc.collect()
    return collections.Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())


def growth_of(work: Callable[[int], Any], count: int, room: int = 0) -> tuple[int, int, dict[str, int]]:
    """Return by how many objects and bytes a piece of work grows when it is done again, and of which types.

    The first time fills caches; `room` is for what grows and is swept out by turns, as the references that sqlite3 has
    to the cursors of a connection are when there are 200.
    """
    tracemalloc.start()
    work(count)
    before, bytes_before = census(), tracemalloc.get_traced_memory()[0]
    work(count)
    after, bytes_after = census(), tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    least = max(room, count // 10, 20)
    more = {name: number - before[name] for name, number in after.items() if number - before[name] > least}
    return sum(after.values()) - sum(before.values()), bytes_after - bytes_before, more


def assert_no_growth(work: Callable[[int], Any], count: int, report: Report, room: int = 0, **figures: Any) -> None:
    """See that a piece of work, done again, leaves less than a tenth of an object and 20 bytes a time."""
    objects, size, more = growth_of(work, count, room)
    report(times=2 * count, objects=objects, bytes=size, **figures)
    assert not more, f"{objects} objects more: {more}"
    assert objects < max(200, count // 10, 2 * room)
    assert size < max(200_000, 20 * count, 300 * room)


def descriptors() -> int:
    return len(list(DESCRIPTORS.iterdir())) if DESCRIPTORS.exists() else 0


# Streams

STREAM = """
import resource, sys, tracemalloc
sys.path.insert(0, {tests!r})
from conftest import Person, Model
from tent.data import dbm
import json
engine = dbm.connect(json.loads(sys.argv[1]))
tracemalloc.start()
count = 0
with dbm.open_session(engine) as session:
    query = session.query(Person).where(Person.id <= int(sys.argv[2])).order_by(Person.id)
    for person in query.yield_per(1_000):
        count += person.id > 0
        if count == 10_000:  # by now everything is imported and compiled
            tracemalloc.reset_peak()
print(count, tracemalloc.get_traced_memory()[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def streamed(config: Any, rows: int) -> tuple[int, int, int]:
    """Return how many rows a process read as a stream, and the most bytes and kilobytes that it had for it."""
    if isinstance(config, dict):
        config = {**config, "path": str(config["path"])}
    program = STREAM.format(tests=str(Path(__file__).parent.parent))
    command = [sys.executable, "-c", program, json.dumps(config), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, peak, resident = map(int, done.stdout.split())
    return count, peak, resident


@pytest.mark.databases("file", "postgresql", "mariadb")
def test_a_stream_takes_as_much_memory_for_many_rows_as_for_few(
    swift_engine: Any, config: Any, is_long: bool, report: Report
) -> None:
    rows = 10_000_000 if is_long else 100_000
    dbm.install_tables(swift_engine, models=[Person, Note])
    with swift_engine.atomic():
        for start in range(0, rows, 5_000):
            people = [(number, f"person {number}", "[]", 0) for number in range(start + 1, start + 5_001)]
            insert_people(swift_engine, people)
    few, many = streamed(config, rows // 5), streamed(config, rows)
    report(
        rows=rows, mb_at_most=round(many[1] / 1e6, 2), of_a_fifth=round(few[1] / 1e6, 2), rss_mb=many[2] // 1024,
        rss_of_a_fifth=few[2] // 1024,
    )  # fmt: skip
    assert (few[0], many[0]) == (rows // 5, rows)
    assert many[1] < 1.2 * few[1] + 500_000
    assert many[2] < 1.2 * few[2] + 10_000


def insert_people(engine: Any, people: list[tuple[Any, ...]]) -> None:
    mark = f"({', '.join([engine.param] * 4)})"
    sql = f"INSERT INTO people (id, name, tags, score) VALUES {', '.join([mark] * len(people))}"
    engine.execute_sql(sql, [value for person in people for value in person])


def test_the_objects_of_a_stream_go_while_it_goes_on(engine: Any) -> None:
    with dbm.transaction(engine) as session:
        session.add_all([Person(name=str(number)) for number in range(500)])
    with no_collector(), dbm.open_session(engine) as session:
        most, references = 0, weakref.WeakSet[Any]()
        for person in session.query(Person).yield_per(50):
            references.add(person)
            most = max(most, len(references))
        del person
        assert most <= 101  # those of one part, and the one that is read next
        assert len(references) == 0


# Sessions that come and go


def work_of_a_session(engine: Any, number: int) -> None:
    """Do of each kind of work something: a round of it leaves the rows as they were."""
    session = dbm.open_session(engine)
    person = session.query(Person).first()
    assert person is not None
    person.score = number
    person.tags = [number]
    kind = number % 8
    if kind == 0:
        session.rollback()
    elif kind == 1:
        session.add(Note(person=person))
        session.flush()
        session.rollback()
    elif kind == 2:
        session.add(Person(email="taken"))
        with pytest.raises(peewee.IntegrityError):
            session.commit()
        session.rollback()
    elif kind == 3:
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.add(Note(person=person))
            1 / 0  # noqa: B018
        session.commit()
    elif kind == 4:
        note = Note(person=person)
        session.add(note)
        session.commit()
        assert list(person.notes) == [note]
        session.delete(note)
        session.commit()
    elif kind == 5:
        session.commit()
        for each in session.query(Person).yield_per(1):
            assert each is person
            break
    elif kind == 6:
        session.flush()
        return  # dropped in a transaction
    else:
        session.commit()
        session.query(Person).where(Person.id == person.id).update({"score": 0})
        session.rollback()
    session.close()


@pytest.fixture
def worked(swift_engine: Any) -> Any:
    dbm.install_tables(swift_engine, models=[Person, Note, Node])
    with dbm.transaction(swift_engine) as session:
        session.add(Person(email="taken"))
    return swift_engine


def test_sessions_that_come_and_go_leave_nothing(worked: Any, is_long: bool, report: Report) -> None:
    count = 500_000 if is_long else 1_000

    def work(times: int) -> None:
        for number in range(times):
            work_of_a_session(worked, number)

    work(8)
    open_before = descriptors()
    assert_no_growth(work, count, report, room=250, sessions=2 * count, descriptors=open_before)
    assert descriptors() == open_before
    assert len(worked._in_use) == 0
    assert len(worked._connections) <= 1
    assert worked.in_transaction() is False


@pytest.fixture
def untraced_threads() -> Iterator[None]:
    """What measures the coverage of tests keeps something of each thread that it traces."""
    trace = threading.gettrace()
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    threading.settrace(trace)  # type: ignore[arg-type]


@pytest.mark.databases("file", "servers")
@pytest.mark.usefixtures("untraced_threads")
def test_sessions_in_threads_that_come_and_go_leave_nothing(worked: Any, is_long: bool, report: Report) -> None:
    count = 20_000 if is_long else 300

    def work(times: int) -> None:
        for _ in range(times):
            threads = [threading.Thread(target=read_and_write) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def read_and_write() -> None:
        with dbm.open_session(worked) as session:
            session.query(Person).where(Person.id > 0).all()
        with worked.connection_context():  # a thread's own, beside any session
            worked.execute_sql("SELECT 1").fetchall()

    work(2)
    before = descriptors()
    assert_no_growth(work, count, report, room=700, threads=6 * count)
    assert len(worked._in_use) == 0
    assert descriptors() <= before + 3 * 8  # of as many connections as there were threads at once; 3 files on SQLite


@has_descriptors
def test_engines_that_come_and_go_leave_no_descriptor(config: Any) -> None:
    def work(times: int) -> None:
        for _ in range(times):
            engine = dbm.connect(config)
            with dbm.open_session(engine) as session:
                session.scalar("SELECT 1")
            engine.close_all()

    work(2)
    gc.collect()
    before = descriptors()
    work(20)
    assert descriptors() == before


@has_descriptors
@pytest.mark.databases("file", "servers")
def test_an_engine_that_is_dropped_closes_its_connections(config: Any) -> None:
    gc.collect()
    before = descriptors()
    engine = dbm.connect(config)
    with dbm.open_session(engine) as session:
        session.scalar("SELECT 1")
    assert descriptors() > before
    del engine, session
    gc.collect()
    assert descriptors() == before


# Objects that nobody holds


ENDS: dict[str, Callable[[Any], Any]] = {
    "a commit": lambda session: session.commit(),
    "a rollback": lambda session: session.rollback(),
    "a flush and a rollback": lambda session: (session.flush(), session.rollback()),
    "a savepoint": lambda session: (session.begin_nested().commit(), session.commit()),
    "a savepoint that is rolled back": lambda session: (session.begin_nested().rollback(), session.rollback()),
    "a failed flush": lambda session: fail(session),
    "a failed commit": lambda session: fail(session, session.commit),
    "an expunge": lambda session: session.expunge_all(),
    "a close": lambda session: (session.rollback(), session.close()),
}


def fail(session: Any, write: Callable[[], Any] | None = None) -> None:
    session.add(Person(email="taken"))
    with pytest.raises(peewee.IntegrityError):
        (write or session.flush)()
    session.rollback()


LOADS: dict[str, Callable[[Any], Any]] = {
    "get": lambda session: session.get(Person, 1),
    "first": lambda session: session.query(Person).first(),
    "all": lambda session: session.query(Person).where(Person.id > 0).all()[0],
    "filter_by": lambda session: session.query(Person).filter_by(email="taken").one(),
    "a relation": lambda session: session.query(Note).first().person,
    "a backref": lambda session: session.query(Person).first().notes[0],
    "a stream": lambda session: next(iter(session.query(Person).yield_per(5))),
    "a join": lambda session: session.query(Note, Person).join(Person).all()[0][1],
    "merge": lambda session: session.merge(Person(id=1, email="taken")),
    "refresh": lambda session: refreshed(session.get(Person, 1), session),
}


def refreshed(person: Any, session: Any) -> Any:
    session.refresh(person)
    return person


@pytest.mark.parametrize("load", LOADS)
def test_an_object_that_nobody_holds_goes_at_once_whatever_came_after_or_before_it(worked: Any, load: str) -> None:
    with dbm.transaction(worked) as session:
        session.add(Note(person=1))
    with dbm.open_session(worked) as session:
        for name, end in ENDS.items():
            for comes_after in (True, False):
                with no_collector():
                    if not comes_after:
                        end(session)
                    instance = LOADS[load](session)
                    if comes_after:
                        end(session)
                    reference = weakref.ref(instance)
                    del instance
                    assert reference() is None, name


@pytest.mark.parametrize("end", [end for end in ENDS if "savepoint" not in end and "failed" not in end])
def test_an_object_that_was_changed_goes_at_once_after(worked: Any, end: str) -> None:
    with dbm.open_session(worked) as session, no_collector():
        person, new = session.get(Person, 1), Person(name="new")
        assert person is not None
        person.name, person.tags = "changed", ["x"]
        session.add(new)
        ENDS[end](session)
        references = weakref.ref(person), weakref.ref(new)
        del person, new
        assert [reference() for reference in references] == [None, None]


# Sessions that live long


numbers = itertools.count()  # each once: what is kept by a key would not grow when the same ones come again


def add_and_commit(session: Any, times: int) -> None:
    for _ in range(times):
        session.add(Person(name="x"))
        session.commit()


def add_with_a_key(session: Any, times: int) -> None:
    for number in itertools.islice(numbers, times):
        session.add(Node(id=number + 1, name="x"))
        session.commit()
        session.query(Node).delete()
        session.commit()


def add_and_delete(session: Any, times: int) -> None:
    for _ in range(times):
        note = Note(person=Person(name="x"))
        session.add(note)
        session.commit()
        session.delete(note.person)
        session.commit()


def move_a_child(session: Any, times: int) -> None:
    session.add_all([child := Note(person=Person()), other := Person()])
    session.commit()
    session.delete(other)  # who refers to it is looked for, and noted from now on
    for _ in range(times):
        session.commit()
        child.person = Person()
    session.commit()


def follow(session: Any, times: int) -> None:
    for _ in range(times):
        for person in session.query(Person).limit(3):
            list(person.notes)
        for note in session.query(Note).limit(3):
            assert note.person is not None
        session.expire_all()


def fail_again_and_again(session: Any, times: int) -> None:
    for number in itertools.islice(numbers, times):
        session.add(Note(person=10**8 + number))
        with pytest.raises(peewee.IntegrityError):
            session.commit()
        session.rollback()


def roll_back_savepoints(session: Any, times: int) -> None:
    for _ in range(times):
        session.add(Person(name="x"))
        session.begin_nested().rollback()
        session.rollback()


def add_and_expunge(session: Any, times: int) -> None:
    for number in itertools.islice(numbers, times):
        session.add(one := Person(id=10**8 + number))
        session.expunge(one)
        session.add(two := Person())
        session.flush()
        session.expunge(two)
        session.rollback()


def query_in_many_ways(session: Any, times: int) -> None:
    for number in itertools.islice(numbers, times):
        session.query(Person).where(Person.id.in_(range(number % 50))).limit(1).all()
        session.query(Person.id.alias(f"a{number}")).limit(1).all()
        session.query(Person).order_by(*[Person.id, Person.name, -Person.score][: number % 3]).limit(2).first()


LIVES = [
    add_and_commit, add_with_a_key, add_and_delete, move_a_child, follow, fail_again_and_again, roll_back_savepoints,
    add_and_expunge, query_in_many_ways,
]  # fmt: skip


@pytest.mark.databases("memory")
@pytest.mark.parametrize("life", LIVES)
def test_a_session_that_lives_long_does_not_grow(
    worked: Any, life: Callable[[Any, int], None], is_long: bool, report: Report
) -> None:
    with dbm.open_session(worked) as session:
        assert_no_growth(lambda times: life(session, times), 100_000 if is_long else 1_500, report, room=1_100)


def test_dead_references_are_swept_out(worked: Any) -> None:
    with dbm.open_session(worked) as session:
        for start in range(0, 6_000, 500):
            session.add_all([Node(name=str(number)) for number in range(start, start + 500)])
            session.commit()
        assert len(session.identity_map.rows(Node)) <= 1_500
        assert len(session.identity_map) == 0


# What models and engines keep


def test_the_statements_of_a_model_are_bounded(
    bare_engine: Any, chance: random.Random, is_long: bool, report: Report
) -> None:
    """A program sets the columns that a client sends, in the order in which it sends them."""
    base: Any = dbm.declarative_base()
    names = [f"c{number}" for number in range(12)]
    fields: dict[str, Any] = {name: peewee.IntegerField(null=True) for name in names}
    wide: Any = type("Wide", (base,), {**fields, "__module__": __name__})
    dbm.install_tables(bare_engine, models=base)
    count = 100_000 if is_long else 2_500
    with dbm.open_session(bare_engine) as session:
        instance = wide()
        session.add(instance)
        for number in range(count):
            session.flush()
            chosen = chance.sample(names, chance.randint(1, 12))
            for name in chosen:
                setattr(instance, name, number)
            session.query(wide.id).filter_by(**dict.fromkeys(chosen, number)).all()
        session.rollback()
    mapper = mapper_of(wide, bare_engine)
    orders = mapper._ordered.cache_info().currsize
    kept = {"statements": len(mapper.statements), "orders": orders, "shapes": len(mapper.shapes._kept)}
    report(commits=count, **kept)
    assert max(kept.values()) <= 1_000


def test_inserts_of_any_number_of_rows_keep_no_statement_for_each(worked: Any) -> None:
    def work(times: int) -> None:
        with dbm.open_session(worked) as session:
            for count in range(1, times):
                session.add_all([Node(name="x") for _ in range(count)])
                session.flush()
            session.rollback()

    objects, size, more = growth_of(work, 60, room=250)
    assert (objects < 300, size < 100_000, more) == (True, True, {})
    known = [vars(one).values() for one in mapper_of(Node, worked).statements.values() if hasattr(one, "__dict__")]
    inserts = [each for values in known for each in values if isinstance(each, Insert)]
    assert any(each.kept for each in inserts)
    assert max(len(each.kept) for each in inserts) <= 2  # of one row, and of a whole batch
