"""What servers do in the middle of work: they stop statements, let others change tables, and refuse values."""

from __future__ import annotations

import decimal
import threading
import time
from collections.abc import Iterator
from typing import Any

import peewee
import pytest
from conftest import Person

from tent.data import dbm

Root = dbm.declarative_base()


class Entry(Root):  # type: ignore[misc,valid-type]
    """Has more columns than PostgreSQL gets as arrays."""

    name = peewee.CharField(max_length=20, unique=True)
    one, two, three, four = (peewee.TextField(null=True) for _ in range(4))
    five, six, seven, eight = (peewee.TextField(null=True) for _ in range(4))


class Sum(Root):  # type: ignore[misc,valid-type]
    amount = peewee.DecimalField(max_digits=25, decimal_places=5)


@pytest.fixture(autouse=True)
def tables(engine: Any) -> Iterator[None]:
    dbm.install_tables(engine, models=Root)
    yield
    dbm.uninstall_tables(engine, models=Root)


# Statements that are stopped


SLOW = {
    "postgresql": (
        "CREATE OR REPLACE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.age = 3 THEN PERFORM pg_sleep(30); END IF; RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION be_slow()",
    ),
    "mariadb": ("CREATE TRIGGER slow BEFORE INSERT ON people FOR EACH ROW DO SLEEP(IF(NEW.age = 3, 30, 0))",),
}
STOP = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_cancel_backend(%s)"),
    "mariadb": ("SELECT connection_id()", "KILL QUERY %s"),
}


@pytest.mark.databases("postgresql", "mariadb")
def test_a_flush_that_somebody_stops_is_nobodys_error_and_not_tried_again(engine: Any, database: str) -> None:
    for sql in SLOW[database]:
        engine.execute_sql(sql.replace("%", "%%"))
    who, stop = STOP[database]
    with dbm.open_session(engine) as session:
        session.begin()
        number = session.scalar(who)
        stopped = threading.Event()

        def stop_it() -> None:
            with engine.connection_context():
                while not stopped.wait(0.2):
                    engine.execute_sql(stop, (number,)).fetchall()

        people = [Person(age=age) for age in range(8)]
        session.add_all(people)
        stopper = threading.Thread(target=stop_it)
        stopper.start()
        try:
            with pytest.raises(peewee.DatabaseError, match="while inserting objects into") as caught:
                session.commit()
        finally:
            stopped.set()
            stopper.join()
        assert caught.value.object is None
        assert session.new == people
        session.rollback()


@pytest.mark.databases("postgresql")
def test_a_transaction_that_was_idle_for_too_long_is_done_again(engine: Any) -> None:
    calls = []

    def work(session: dbm.Session) -> None:
        calls.append(session.execute("SELECT 1"))
        if len(calls) == 1:
            session.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            time.sleep(0.3)
        session.add(Person(name="Ann"))

    dbm.run_transaction(engine, work)
    assert len(calls) == 2
    with dbm.open_session(engine) as session:
        assert session.query(Person).count() == 1


# Tables that others change


@pytest.mark.databases("servers")
def test_queries_go_on_after_another_program_has_changed_the_table(engine: Any, config: Any) -> None:
    with dbm.transaction(engine) as session:
        session.add(Sum(amount=1))
    for _ in range(8):  # psycopg prepares a statement that comes again
        with dbm.open_session(engine) as session:
            assert session.query(Sum).one().amount == 1
    other = dbm.connect(config)
    table = "sums"
    other.execute_sql(f"ALTER TABLE {table} ADD COLUMN note int")
    other.execute_sql(f"ALTER TABLE {table} DROP COLUMN amount")
    other.execute_sql(f"ALTER TABLE {table} ADD COLUMN amount numeric(25, 6) NOT NULL DEFAULT 2")
    other.close_all()
    for _ in range(3):
        with dbm.open_session(engine) as session:
            assert session.query(Sum).one().amount == 2


# Values


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("value", ["nul \0 here", "half \ud83e"], ids=["NUL", "surrogate"])
def test_a_value_that_the_driver_refuses_among_wide_rows_is_named(session: dbm.Session, value: str) -> None:
    entries = [Entry(name=str(number), eight="x") for number in range(20)]
    entries[10].eight = value
    session.add_all(entries)
    with pytest.raises(peewee.DataError) as caught:
        session.commit()
    assert caught.value.object is entries[10]
    assert "Entry.eight (TextField) can't hold" in str(caught.value)
    entries[10].eight = "y"
    session.commit()
    assert session.query(Entry).count() == 20


def test_a_decimal_is_exact_beside_one_that_was_given_as_a_float(session: dbm.Session, other: dbm.Session) -> None:
    sums = [Sum(amount=0), Sum(amount=0)]
    session.add_all(sums)
    session.commit()
    exact = decimal.Decimal("1234567890.12345")
    sums[0].amount, sums[1].amount = 2.5, exact
    session.commit()
    assert [found.amount for found in other.query(Sum).order_by(Sum.id)] == [decimal.Decimal("2.5"), exact]
    assert [one.amount for one in sums] == [decimal.Decimal("2.5"), exact]


@pytest.mark.databases("mariadb", "mysql")
@pytest.mark.parametrize("charset", ["latin1", "ascii"])
def test_unique_texts_are_swapped_in_a_column_of_a_small_character_set(
    engine: Any, session: dbm.Session, charset: str
) -> None:
    engine.execute_sql(f"ALTER TABLE entries CONVERT TO CHARACTER SET {charset}")
    one, two = Entry(name="a"), Entry(name="b")
    session.add_all([one, two])
    session.commit()
    one.name, two.name = "b", "a"
    session.commit()
    assert session.query(Entry.name).order_by(Entry.id).all() == [("b",), ("a",)]


@pytest.mark.databases("postgresql")
def test_the_json_fields_of_playhouse_are_refused_with_peewees(session: dbm.Session) -> None:
    from playhouse.postgres_ext import BinaryJSONField

    class Paper(dbm.declarative_base()):  # type: ignore[misc]
        content = BinaryJSONField()

    with pytest.raises(
        dbm.ArgumentError, match=r"Paper\.content is a BinaryJSONField .* Declare it as peewee\.JSONField"
    ):
        session.query(Paper).all()
