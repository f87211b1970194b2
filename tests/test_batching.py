"""What a flush sends: nothing before it, then only what changed, in few statements; and what comes back exactly."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import socket
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person, as_sqlite, calls_in, run_sql, verbs, with_settings

from tent.data import dbm

Model = dbm.declarative_base()


class Lower(peewee.CharField):
    """A field of a user's own, which converts both ways."""

    def db_value(self, value: Any) -> Any:
        return None if value is None else value.lower()

    def python_value(self, value: Any) -> Any:
        return None if value is None else value.title()


class Words(peewee.TextField):
    """A field of a user's own, whose values can change in place."""

    def db_value(self, value: Any) -> Any:
        return None if value is None else " ".join(sorted(value))

    def python_value(self, value: Any) -> Any:
        return None if value is None else set(value.split())


class Everything(Model):
    """A column of each kind."""

    integer = peewee.IntegerField(null=True)
    big = peewee.BigIntegerField(null=True)
    number = peewee.FloatField(null=True)
    price = peewee.DecimalField(max_digits=10, decimal_places=2, null=True)
    flag = peewee.BooleanField(null=True)
    char = peewee.CharField(null=True)
    text = peewee.TextField(null=True)
    blob = peewee.BlobField(null=True)
    code = peewee.UUIDField(null=True)
    binary_code = peewee.BinaryUUIDField(null=True)
    moment = peewee.DateTimeField(null=True)
    day = peewee.DateField(null=True)
    clock = peewee.TimeField(null=True)
    stamp = peewee.TimestampField(null=True, default=None, utc=True)
    address = peewee.IPField(null=True)
    bits = peewee.BigBitField(null=True)
    data = peewee.JSONField(null=True)
    lower = Lower(null=True)
    words = Words(null=True)


WIDE = {  # more columns than PostgreSQL gets as arrays
    "big": 2**40,
    "number": 1.5,
    "price": decimal.Decimal("1.25"),
    "flag": True,
    "char": "a",
    "blob": b"a",
    "moment": datetime.datetime(2020, 2, 29, 1, 2, 3),
    "day": datetime.date(2020, 2, 29),
    "clock": datetime.time(1, 2, 3),
}


class Defaulted(Model):
    """The database fills in what is left out."""

    name = peewee.CharField()
    state = peewee.CharField(null=True, constraints=[peewee.SQL("DEFAULT 'new'")])
    rank = peewee.IntegerField(null=True, constraints=[peewee.SQL("DEFAULT (6 * 7)")])
    mood = peewee.CharField(null=True, default="good")


class DefaultedWithKey(Model):
    code = peewee.CharField(primary_key=True)
    state = peewee.CharField(null=True, constraints=[peewee.SQL("DEFAULT 'new'")])


class KeyOnly(Model):
    """Has no column but a generated key."""


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


def rows(engine: Any, sql: str) -> list[Any]:
    """What the database says, asked on no session's connection."""
    return list(engine.execute_sql(sql).fetchall())


def writes(ran: list[str]) -> list[str]:
    """The first word of each statement that writes."""
    return [sql.split()[0] for sql in ran if sql.split()[0] in ("INSERT", "UPDATE", "DELETE")]


def make_people(engine: Any, count: int) -> None:
    rows = [(f"p{number}", 0, "[]") for number in range(1, count + 1)]
    for start in range(0, count, 5_000):
        some = rows[start : start + 5_000]
        places = ", ".join(["(?, ?, ?)"] * len(some))
        run_sql(
            engine, f"INSERT INTO people (name, score, tags) VALUES {places}", [part for row in some for part in row]
        )


# Nothing is written before a flush


def test_adding_changing_and_deleting_run_no_sql(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    make_people(engine, 3)
    one, two, three = session.query(Person).all()
    with statements() as ran:
        session.add(Person(name="new"))
        session.add_all([Note(person=one), Node(name="n")])
        one.name, one.tags = "other", ["x"]
        two.tags.append("y")
        session.delete(three)
    assert ran == []


def test_between_the_last_query_and_the_commit_changes_run_no_sql(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    make_people(engine, 50)
    people = session.query(Person).all()
    with statements() as ran:
        for person in people:
            person.score += 1
            person.tags.append("x")
        before_commit = len(ran)
        session.commit()
    assert before_commit == 0
    assert verbs(ran) == ["BEGIN", "UPDATE", "COMMIT"]


def test_a_commit_with_nothing_to_do_runs_no_sql(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    make_people(engine, 3)
    session.query(Person).all()
    with statements() as ran:
        session.flush()
        session.commit()
    assert ran == []


# A commit costs what changed


def test_a_commit_of_one_change_among_100_000_loaded_objects_does_the_work_of_one(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    make_people(engine, 100_000)
    few = session.query(Person).limit(10).all()
    few[5].name = "warm"
    session.commit()
    few[5].name = "other"
    calls_with_few = calls_in(session.commit)
    everyone = session.query(Person).all()
    everyone[5].name = "changed"
    assert len(session.identity_map) == 100_000
    assert session.dirty == [everyone[5]]
    with statements() as ran:
        calls_with_many = calls_in(session.commit)
    assert verbs(ran) == ["BEGIN", "UPDATE", "COMMIT"]
    assert calls_with_many < 1.5 * calls_with_few
    assert rows(engine, "SELECT COUNT(*) FROM people WHERE name = 'changed'") == [(1,)]


def test_a_rollback_of_one_change_among_many_loaded_objects_does_the_work_of_one(session: Any, engine: Any) -> None:
    make_people(engine, 20_000)
    few = session.query(Person).limit(10).all()
    few[5].name = "other"
    calls_with_few = calls_in(session.rollback)
    everyone = session.query(Person).all()
    everyone[5].name = "other"
    assert calls_in(session.rollback) < 1.5 * calls_with_few
    assert everyone[5].name == "p6"


# Inserts


def test_1_000_adds_and_a_commit_take_at_most_10_statements(session: Any, statements: Callable[[], Any]) -> None:
    people = [Person(name=str(number), email=f"{number}@x") for number in range(1_000)]
    with statements() as ran:
        session.add_all(people)
        session.commit()
    assert len(ran) <= 10
    assert len({person.id for person in people}) == 1_000


def test_2_500_rows_get_their_generated_keys_each_its_own(session: Any, engine: Any) -> None:
    people = [Person(name=str(number)) for number in range(2_500)]
    session.add_all(people)
    session.commit()
    assert dict(rows(engine, "SELECT id, name FROM people")) == {person.id: person.name for person in people}


@pytest.mark.databases("sqlite")
def test_random_keys_of_many_rows_are_refused(session: Any, engine: Any) -> None:
    session.add(Person(id=2**63 - 2))
    session.commit()
    people = [Person(score=number) for number in range(20)]
    session.add_all(people)
    with pytest.raises(dbm.FlushError, match="highest key that there can be, 9223372036854775807"):
        session.commit()
    assert [person.id for person in people] == [None] * 20
    for number, person in enumerate(people, 1):
        person.id = number
    session.commit()
    assert rows(engine, "SELECT id, score FROM people ORDER BY id LIMIT 20") == [(n + 1, n) for n in range(20)]


@pytest.mark.databases("sqlite")
def test_keys_that_a_trigger_takes_between_those_of_many_rows_are_no_matter(session: Any, engine: Any) -> None:
    engine.execute_sql(
        "CREATE TRIGGER more AFTER INSERT ON people WHEN new.score > 0 BEGIN INSERT INTO people VALUES "
        "(NULL, 'more', NULL, NULL, NULL, 0, '[]'); END"
    )
    people = [Person(score=number) for number in range(1, 5)]
    session.add_all(people)
    session.commit()
    assert rows(engine, "SELECT id, score FROM people WHERE score > 0 ORDER BY id") == [(p.id, p.score) for p in people]
    assert rows(engine, "SELECT COUNT(*) FROM people") == [(8,)]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("sequence", "default"),
    [
        ("START 10 INCREMENT -1 MAXVALUE 10", "nextval('numbers')"),
        ("START 10", "nextval('numbers') * 7919 % 100003"),
        ("START 98 MAXVALUE 100 CYCLE", "nextval('numbers')"),
    ],
    ids=["falling", "scrambled", "cycling"],
)
def test_keys_that_do_not_grow_are_given_each_to_its_own_row(
    session: Any, engine: Any, sequence: str, default: str
) -> None:
    run_sql(engine, f"CREATE SEQUENCE numbers {sequence}")
    run_sql(engine, f"ALTER TABLE people ALTER id SET DEFAULT {default}")
    people = [Person(name=str(number)) for number in range(5)]
    session.add_all(people)
    session.commit()
    keys = [person.id for person in people]
    assert keys != sorted(keys)
    assert dict(rows(engine, "SELECT id, name FROM people")) == {person.id: person.name for person in people}


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("made", ["SERIAL", "INT GENERATED BY DEFAULT AS IDENTITY"])
def test_many_rows_whose_keys_count_upwards_take_one_statement_in_any_schema(
    engine: Any, session: dbm.Session, statements: Callable[[], Any], made: str
) -> None:
    run_sql(engine, 'DROP SCHEMA IF EXISTS "Another One" CASCADE')
    run_sql(engine, 'CREATE SCHEMA "Another One"')
    run_sql(engine, f'CREATE TABLE "Another One"."The Things" (id {made} PRIMARY KEY, name TEXT)')

    class Thing(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.TextField()

        class Meta:
            schema, table_name = "Another One", "The Things"

    session.add_all([Thing(name=str(number)) for number in range(5)])
    with statements() as ran:
        session.commit()
    assert [sql.split(" FROM ")[-1].split("(")[0] for sql in ran[1:-1]] == ["unnest"]


@pytest.mark.databases("mysql")
@pytest.mark.parametrize("count", [1, 3])
def test_keys_that_come_from_no_auto_increment_are_refused(session: Any, engine: Any, count: int) -> None:
    run_sql(
        engine,
        "SET STATEMENT foreign_key_checks = 0 FOR ALTER TABLE people MODIFY id INT DEFAULT (UUID_SHORT() % 1000000)",
    )
    people = [Person(name=str(number)) for number in range(count)]
    session.add_all(people)
    with pytest.raises(dbm.FlushError, match="come from no AUTO_INCREMENT"):
        session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM people") == [(0,)]
    for number, person in enumerate(people, 1):
        person.id = number
    session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM people") == [(count,)]


@pytest.mark.databases("postgresql", "mariadb")
def test_keys_that_fall_as_nobody_can_know_before_are_refused(session: Any, engine: Any) -> None:
    if engine.kind == "mariadb":
        run_sql(engine, "CREATE SEQUENCE numbers INCREMENT -1")
        run_sql(
            engine, "SET STATEMENT foreign_key_checks = 0 FOR ALTER TABLE people MODIFY id INT DEFAULT NEXTVAL(numbers)"
        )
    else:
        run_sql(
            engine,
            "CREATE FUNCTION turn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := -NEW.id; RETURN NEW; END $$",
        )
        run_sql(
            engine,
            "CREATE TRIGGER turned BEFORE INSERT ON people FOR EACH ROW WHEN (NEW.id > 0) EXECUTE PROCEDURE turn()",
        )
    people = [Person(name=str(number)) for number in range(5)]
    session.add_all(people)
    with pytest.raises(dbm.FlushError, match=r"people.* don't grow .*Give the objects keys, or let those of the table"):
        session.commit()
    assert [person.id for person in people] == [None] * 5
    assert rows(engine, "SELECT COUNT(*) FROM people") == [(0,)]
    for person in people[1:]:
        session.expunge(person)
    session.commit()  # of one there is no doubt
    assert rows(engine, "SELECT id, name FROM people") == [(people[0].id, "0")]


def test_children_of_many_new_parents_get_the_keys_of_theirs(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    count = engine.batch + 200
    notes = [Note(person=Person(name=str(number)), text=str(number)) for number in range(count)]
    session.add_all(notes)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT"] * 4
    wrong = "SELECT * FROM notes JOIN people ON people.id = person_id WHERE name <> text"
    assert rows(engine, wrong) == []
    assert rows(engine, "SELECT COUNT(*) FROM notes JOIN people ON people.id = person_id") == [(count,)]


def test_new_rows_with_and_without_a_given_key_are_inserted(session: Any, engine: Any) -> None:
    people = [Person(name="a"), Person(id=100, name="b"), Person(name="c")]
    session.add_all(people)
    session.commit()
    assert dict(rows(engine, "SELECT name, id FROM people")) == {person.name: person.id for person in people}
    assert people[1].id == 100


def test_a_key_is_given_that_the_database_would_make_for_a_row_that_was_added_before(session: Any, engine: Any) -> None:
    made, given = Person(name="made"), Person(id=1, name="given")
    session.add_all([made, given])
    session.commit()
    assert made.id != given.id == 1
    assert rows(engine, "SELECT name FROM people ORDER BY id") == [("given",), ("made",)]


def test_a_deleted_object_is_added_again_beside_a_new_one(session: Any, engine: Any) -> None:
    old, new = Person(name="old"), Person(name="new")
    session.add(old)
    session.commit()
    key = old.id
    session.delete(old)
    session.flush()
    session.add_all([new, old])
    session.commit()
    assert new.id != old.id == key
    assert rows(engine, "SELECT name FROM people ORDER BY id") == [("old",), ("new",)]


@pytest.mark.databases("servers")
def test_a_commit_of_10_000_rows_is_a_handful_of_round_trips_to_a_server(
    session: Any, statements: Callable[[], Any]
) -> None:
    people = [Person(name=str(number), email=f"{number}@x") for number in range(10_000)]
    session.add_all(people)
    with statements() as inserted:
        session.commit()
    for person in people:
        person.age = 1
    with statements() as updated:
        session.commit()
    for person in people:
        session.delete(person)
    with statements() as deleted:
        session.commit()
    assert len(inserted) <= 12
    assert len(updated) == 3
    assert len(deleted) <= 12


class Relay:
    """Stands between a client and a server. From one thing that the client says to another, it keeps answers back."""

    def __init__(self, address: Any) -> None:
        self.has_waited_in_vain = False
        self._address, self._open = address, threading.Event()
        self._open.set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, server = self._door.accept()[0], socket.create_connection(self._address)
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            said = b""
            while data := client.recv(4096):
                said = said[-20:] + data
                if b"the first row" in said:
                    self._open.clear()
                if b"the last row" in said:
                    self._open.set()
                server.sendall(data)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(4096):
                if not self._open.wait(10):
                    self.has_waited_in_vain = True
                    self._open.set()
                client.sendall(data)


def fill(items: Iterable[Everything]) -> None:
    for item in items:
        for name, value in WIDE.items():
            setattr(item, name, value)


FOREIGN = {  # types of other programs' columns, with what a field of ours gives them
    "mood": (peewee.CharField, "sad", "fine"),
    "feelings.feeling": (peewee.CharField, "sad", "fine"),
    "level": (peewee.IntegerField, 3, 4),
    "UUID": (peewee.CharField, str(uuid.UUID(int=1)), str(uuid.UUID(int=2))),
    "INET": (peewee.TextField, "10.0.0.1", "10.0.0.2"),
    "JSONB": (peewee.TextField, '{"a": 1}', '{"b": 2}'),
    "INTERVAL": (peewee.CharField, "1 day", "02:00:00"),
    "TIMESTAMPTZ": (peewee.CharField, "2020-02-29 01:02:03+00", "2021-02-28 01:02:03+00"),
    "NUMERIC(8, 2)": (peewee.FloatField, 1.25, 2.5),
    "INT": (peewee.CharField, "1", "2"),
    "BIT(4)": (peewee.CharField, "0101", "1111"),
    "CHAR(3)": (peewee.CharField, "ab ", "abc"),
    "INT[]": (peewee.CharField, "{1,2}", "{3,4}"),
    "pair": (peewee.CharField, "(1,2)", "(3,4)"),
}


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("kind", FOREIGN)
def test_many_values_go_into_a_column_of_another_type_than_its_field_as_one_does(
    engine: Any, session: dbm.Session, kind: str
) -> None:
    field, *values = FOREIGN[kind]
    engine.execute_sql("DROP SCHEMA IF EXISTS feelings CASCADE")
    engine.execute_sql("CREATE SCHEMA feelings")
    engine.execute_sql("CREATE TYPE feelings.feeling AS ENUM ('sad', 'fine')")
    engine.execute_sql("CREATE TYPE mood AS ENUM ('sad', 'fine')")
    engine.execute_sql("CREATE TYPE pair AS (a INT, b INT)")
    engine.execute_sql("CREATE DOMAIN level AS NUMERIC CHECK (VALUE < 10)")
    engine.execute_sql(f"CREATE TABLE things (id SERIAL PRIMARY KEY, code {kind} UNIQUE, value {kind})")

    class Thing(dbm.declarative_base()):  # type: ignore[misc]
        code = field()
        value = field(null=True)

    things = [Thing(code=code, value=code) for code in values]
    session.add_all(things)
    session.commit()
    for thing, value in zip(things, [values[1], None]):
        thing.value = value
    session.commit()
    assert rows(
        engine, f"SELECT code = '{values[0]}'::{kind}, value = '{values[1]}'::{kind} FROM things ORDER BY id"
    ) == [
        (True, True),
        (False, None),
    ]


@pytest.mark.databases("mariadb", "mysql")
def test_many_updates_put_what_one_puts_into_columns_of_another_type_or_charset(
    engine: Any, session: dbm.Session, statements: Callable[[], Any]
) -> None:
    engine.execute_sql(
        "CREATE TABLE things (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(5), mood ENUM('ä', 'ö'), text TEXT, "
        "bits BIT(8), flag BIT(1), big BIGINT UNSIGNED, digits VARCHAR(40)) CHARACTER SET latin1"
    )

    class Thing(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()
        mood = peewee.CharField()
        text = peewee.TextField()
        bits = peewee.IntegerField()
        flag = peewee.BooleanField()
        big = peewee.BigIntegerField()
        digits = peewee.BigIntegerField()

    def given(number: int) -> dict[str, Any]:
        return {
            "name": "äöüß" + "x" * number,
            "mood": "äö"[number],
            "text": "é" * 1_000,
            "bits": 6 + number,
            "flag": bool(number),
            "big": 2**64 - 1 - number,
            "digits": 123456789012345678 + number,
        }

    engine.execute_sql("INSERT INTO things () VALUES (), ()")
    things = session.query(Thing).order_by(Thing.id).all()
    for number, thing in enumerate(things):
        for name, value in given(number).items():
            setattr(thing, name, value)
    with statements() as ran:
        session.commit()
    assert verbs(ran) == ["BEGIN", "UPDATE", "COMMIT"]
    found = rows(
        engine, "SELECT name, mood, text, bits + 0, flag + 0, big, CAST(digits AS SIGNED) FROM things ORDER BY id"
    )
    assert [list(row) for row in found] == [list(given(number).values()) for number in range(2)]
    things[0].name, things[1].name = "日", "b"
    with pytest.raises(peewee.DataError, match="Incorrect string value") as caught:
        session.commit()
    assert caught.value.object is things[0]  # type: ignore[attr-defined]


@pytest.mark.databases("mariadb", "mysql")
def test_many_rows_are_found_by_keys_of_another_charset(engine: Any, session: dbm.Session) -> None:
    engine.execute_sql("CREATE TABLE words (word VARCHAR(9) PRIMARY KEY, count INT) CHARACTER SET latin1")

    class Word(dbm.declarative_base()):  # type: ignore[misc]
        word = peewee.CharField(primary_key=True)
        count = peewee.IntegerField(default=0)

    words = [Word(word=word) for word in ("Bär", "Tür", "Igel")]
    session.add_all(words)
    session.commit()
    for count, word in enumerate(words, 1):
        word.count = count
    session.commit()
    assert rows(engine, "SELECT word, count FROM words ORDER BY count") == [("Bär", 1), ("Tür", 2), ("Igel", 3)]


@pytest.mark.databases("postgresql")
def test_many_rows_are_found_by_keys_of_another_type_than_their_field(engine: Any, session: dbm.Session) -> None:
    engine.execute_sql("CREATE TABLE things (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name VARCHAR(3))")
    engine.execute_sql("INSERT INTO things (name) VALUES ('a'), ('b')")

    class Thing(dbm.declarative_base()):  # type: ignore[misc]
        id = peewee.CharField(primary_key=True)
        name = peewee.CharField()

    one, two = session.query(Thing).order_by(Thing.name)
    one.name, two.name = "c", "d"
    session.commit()
    assert rows(engine, "SELECT name FROM things ORDER BY name") == [("c",), ("d",)]
    one.name, two.name = "four", "five"
    with pytest.raises(peewee.DataError, match=r"too long for type character varying\(3\)"):  # it is not cut
        session.commit()


@pytest.mark.databases("postgresql")
def test_a_column_whose_type_is_altered_meanwhile_is_known_after_the_first_error(
    engine: Any, session: dbm.Session
) -> None:
    people = [Person(name="sad"), Person(name="fine")]
    session.add_all(people)
    session.commit()
    engine.execute_sql("CREATE TYPE mood AS ENUM ('sad', 'fine')")
    engine.execute_sql("ALTER TABLE people ALTER name TYPE mood USING name::mood")
    people[0].name, people[1].name = "fine", "sad"
    with pytest.raises(peewee.ProgrammingError, match='"name" is of type mood'):
        session.commit()
    session.commit()
    assert rows(engine, "SELECT name FROM people ORDER BY id") == [("fine",), ("sad",)]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("verb", ["insert", "update"])
def test_wide_rows_are_sent_without_waiting_for_the_answer_to_each(engine: Any, config: str, verb: str) -> None:
    relay = Relay((engine.connect_params["host"], int(engine.connect_params["port"])))
    relayed = dbm.connect(with_settings(config, host="127.0.0.1", port=relay.port))
    items = [Everything() for _ in range(300)]
    with dbm.open_session(relayed) as session:
        session.add_all(items)
        if verb == "update":
            session.commit()
        fill(items)
        items[0].text, items[-1].text = "the first row", "the last row"
        for item in items[1:-1]:
            item.text = "a row"
        session.commit()
    relayed.close_all()
    relay.close()
    assert not relay.has_waited_in_vain
    assert rows(engine, "SELECT COUNT(*) FROM everythings WHERE text = 'a row' AND number = 1.5") == [(298,)]


def test_many_wide_rows_get_their_generated_keys_each_its_own(session: Any, engine: Any) -> None:
    items = [Everything(text=str(number)) for number in range(1_200)]
    session.add_all(items)
    session.commit()
    assert dict(rows(engine, "SELECT id, text FROM everythings")) == {item.id: item.text for item in items}


def test_many_wide_rows_are_updated_each_with_its_own_values(session: Any, engine: Any) -> None:
    items = [Everything() for _ in range(1_200)]
    session.add_all(items)
    session.commit()
    fill(items)
    for number, item in enumerate(items):
        item.text = str(number)
    session.commit()
    found = rows(engine, "SELECT id, text FROM everythings WHERE number = 1.5")
    assert dict(found) == {item.id: item.text for item in items}


def test_the_wide_row_that_is_gone_is_named(session: Any, engine: Any) -> None:
    items = [Everything(text=str(number)) for number in range(100)]
    session.add_all(items)
    session.commit()
    run_sql(engine, "DELETE FROM everythings WHERE text = '70'")
    fill(items)
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is items[70]
    session.expunge(items[70])
    session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM everythings WHERE number = 1.5") == [(99,)]


@pytest.mark.databases("servers")
@pytest.mark.parametrize("verb", ["insert", "update"])
def test_the_wide_row_whose_value_the_server_refuses_is_named(session: Any, engine: Any, verb: str) -> None:
    items = [Everything(text=str(number)) for number in range(100)]
    session.add_all(items)
    if verb == "update":
        session.commit()
    fill(items)
    items[70].integer = 2**40
    with pytest.raises(peewee.DataError, match=r"Everything\.integer") as caught:
        session.commit()
    assert caught.value.object is items[70]  # type: ignore[attr-defined]
    items[70].integer = 70
    session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM everythings WHERE number = 1.5") == [(100,)]


@pytest.mark.databases("servers")
def test_wide_rows_that_are_refused_are_no_news_for_the_log(session: Any, caplog: pytest.LogCaptureFixture) -> None:
    taken = [Everything(id=1), Everything(id=2)]
    session.add_all(taken)
    session.commit()
    session.expunge_all()
    session.add_all([Everything(id=number) for number in range(2, 100)])
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert caplog.records == []


def test_generated_keys_are_those_of_the_rows_whoever_else_inserts(engine: Any) -> None:
    def insert(writer: str) -> None:
        for _ in range(5):
            dbm.run_transaction(
                engine, lambda session: session.add_all([Person(name=f"{writer} {n}") for n in range(100)])
            )

    threads = [threading.Thread(target=insert, args=[writer]) for writer in "abcd"]
    for thread in threads:
        thread.start()
    mine = [Person(name=f"mine {n}") for n in range(1_200)]
    with dbm.transaction(engine) as session:
        session.add_all(mine)
    for thread in threads:
        thread.join()
    assert [person.id for person in mine] == sorted(person.id for person in mine)
    with dbm.open_session(engine) as session:
        rows = dict(session.execute("SELECT id, name FROM people").all())
        assert [rows[person.id] for person in mine] == [f"mine {n}" for n in range(1_200)]


def test_columns_that_were_never_set_are_written_as_null_in_one_batch(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    people = [Person(name="a"), Person(age=3), Person(email="c@x")]
    session.add_all(people)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT"]
    assert rows(engine, "SELECT name, age, email FROM people ORDER BY id") == [
        ("a", None, None),
        (None, 3, None),
        (None, None, "c@x"),
    ]


def test_a_nullable_column_that_was_never_set_reads_none_after_the_flush(
    session: Any, statements: Callable[[], Any]
) -> None:
    person = Person(name="a")
    session.add(person)
    session.commit()
    with statements() as ran:
        assert person.age is person.born is None
    assert ran == []


def test_a_model_with_only_a_key_column_is_inserted(session: Any, engine: Any) -> None:
    keys = [KeyOnly() for _ in range(3)]
    session.add_all(keys)
    session.commit()
    assert [key.id for key in keys] == [1, 2, 3]
    assert rows(engine, "SELECT id FROM key_onlies ORDER BY id") == [(1,), (2,), (3,)]


# Values that the database makes


def test_a_database_default_is_read_back_in_the_flush(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    one, two = Defaulted(name="one"), Defaulted(name="two", state="old")
    session.add_all([one, two])
    with statements() as ran:
        session.commit()
        found = (one.state, one.rank, two.state, two.rank)
    assert found == ("new", 42, "old", 42)
    assert writes(ran) == ["INSERT", "INSERT"]
    reads = [sql for sql in ran if sql.startswith("SELECT")]
    assert len(reads) == (0 if engine.returns_inserted else 2)


def test_database_defaults_of_many_rows_take_one_statement(session: Any, statements: Callable[[], Any]) -> None:
    items = [Defaulted(name=str(number)) for number in range(400)]
    session.add_all(items)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT"]
    assert {(item.state, item.rank) for item in items} == {("new", 42)}


def test_an_explicit_none_is_null_and_not_the_database_default(session: Any, engine: Any) -> None:
    item = Defaulted(name="one", state=None)
    session.add(item)
    session.commit()
    assert item.state is None
    assert rows(engine, "SELECT state, rank FROM defaulteds") == [(None, 42)]


def test_a_generated_column_is_left_out_and_read_back_in_the_flush(engine: Any, session: dbm.Session) -> None:
    class Box(dbm.declarative_base()):  # type: ignore[misc]
        width = peewee.IntegerField()
        area = peewee.IntegerField(null=True, constraints=[peewee.SQL("GENERATED ALWAYS AS (width * width) STORED")])

    dbm.install_tables(engine, models=[Box])
    boxes = [Box(width=width) for width in (3, 1, 2)]
    session.add_all(boxes)
    session.commit()
    assert [box.area for box in boxes] == [9, 1, 4]
    for box in boxes:
        box.width += 1
    session.commit()
    session.refresh(boxes[0])
    assert boxes[0].area == 16
    session.add(Box(width=1, area=1))
    with pytest.raises(peewee.PeeweeException, match="area"):  # as of any other value that a column doesn't take
        session.commit()


@pytest.mark.databases("sqlite", "mariadb", "mysql")
def test_a_virtual_column_is_one_in_the_short_form_too(engine: Any, session: dbm.Session) -> None:
    class Box(dbm.declarative_base()):  # type: ignore[misc]
        width = peewee.IntegerField()
        area = peewee.IntegerField(null=True, constraints=[peewee.SQL("as (width * width)")])

    dbm.install_tables(engine, models=[Box])
    boxes = [Box(width=width) for width in (3, 1, 2)]
    session.add_all(boxes)
    session.commit()
    assert [box.area for box in boxes] == [9, 1, 4]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("when", ["ALWAYS", "BY DEFAULT"])
def test_an_identity_may_be_the_key_or_another_column(engine: Any, session: dbm.Session, when: str) -> None:
    class Ticket(dbm.declarative_base()):  # type: ignore[misc]
        id = peewee.IntegerField(primary_key=True, constraints=[peewee.SQL(f"GENERATED {when} AS IDENTITY")])
        name = peewee.CharField()

    class Draw(dbm.declarative_base()):  # type: ignore[misc]
        number = peewee.IntegerField(constraints=[peewee.SQL(f"GENERATED {when} AS IDENTITY (START 7)")])
        name = peewee.CharField()

    dbm.install_tables(engine, models=[Ticket, Draw])
    tickets, draws = [Ticket(name=name) for name in "cab"], [Draw(name=name) for name in "cab"]
    session.add_all([*tickets, *draws])
    session.commit()
    assert rows(engine, "SELECT name, id FROM tickets") == [(ticket.name, ticket.id) for ticket in tickets]
    assert [(draw.number, draw.id) for draw in draws] == [(7, 1), (8, 2), (9, 3)]


def test_database_defaults_go_to_the_objects_with_the_same_given_keys(session: Any, engine: Any) -> None:
    made = {"sqlite": "hex(randomblob(8))", "postgresql": "gen_random_uuid()::text"}.get(engine.kind, "uuid()")

    class Marked(dbm.declarative_base()):  # type: ignore[misc]
        code = peewee.CharField(primary_key=True)
        mark = peewee.CharField(null=True, constraints=[peewee.SQL(f"DEFAULT ({made})")])

    dbm.install_tables(engine, models=[Marked])
    items = [Marked(code=code) for code in "cab"]
    session.add_all(items)
    session.commit()
    assert dict(rows(engine, "SELECT code, mark FROM markeds")) == {item.code: item.mark for item in items}
    assert len({item.mark for item in items}) == 3


@pytest.mark.databases("servers")
def test_a_table_that_keeps_other_keys_than_it_is_given_is_an_error_that_says_so(session: Any, engine: Any) -> None:
    if engine.kind == "postgresql":
        engine.execute_sql(
            "CREATE FUNCTION lower_code() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.code := lower(NEW.code); RETURN NEW; END $$"
        )
        action = "EXECUTE PROCEDURE lower_code()"
    else:
        action = "SET NEW.code = lower(NEW.code)"
    engine.execute_sql(f"CREATE TRIGGER lowered BEFORE INSERT ON defaulted_with_keys FOR EACH ROW {action}")
    items = [DefaultedWithKey(code=code) for code in "aBC"]
    session.add_all(items)
    with pytest.raises(dbm.FlushError, match=r"defaulted_with_keys. keeps other keys .*that of <.*code='B'"):
        session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM defaulted_with_keys") == [(0,)]
    for item in items:
        item.code = item.code.lower()
    session.commit()
    assert rows(engine, "SELECT code, state FROM defaulted_with_keys ORDER BY code") == [(c, "new") for c in "abc"]


@pytest.mark.databases("sqlite")
def test_database_defaults_are_those_of_the_insert_whatever_a_trigger_does_then(session: Any, engine: Any) -> None:
    engine.execute_sql(
        "CREATE TRIGGER mark AFTER INSERT ON defaulted_with_keys BEGIN "
        "UPDATE defaulted_with_keys SET state = 'mark ' || code WHERE code = new.code; END"
    )
    items = [DefaultedWithKey(code=code) for code in "cab"]
    session.add_all(items)
    session.commit()
    assert [item.state for item in items] == ["new"] * 3
    assert [session.get(DefaultedWithKey, code) for code in "cab"] == items


@pytest.mark.databases("sqlite")
def test_a_key_can_be_a_database_default(session: Any, engine: Any) -> None:
    class Ticket(dbm.declarative_base()):  # type: ignore[misc]
        code = peewee.CharField(primary_key=True, constraints=[peewee.SQL("DEFAULT (hex(randomblob(8)))")])
        number = peewee.IntegerField()

    class Seat(dbm.declarative_base()):  # type: ignore[misc]
        row = peewee.IntegerField()
        place = peewee.IntegerField(constraints=[peewee.SQL("DEFAULT 7")])

        class Meta:
            primary_key = peewee.CompositeKey("row", "place")

    dbm.install_tables(engine, models=[Ticket, Seat])
    tickets, seats = [Ticket(number=number) for number in range(3)], [Seat(row=row) for row in range(3)]
    session.add_all([*tickets, *seats])
    session.commit()
    assert rows(engine, "SELECT code, number FROM tickets ORDER BY number") == [(t.code, t.number) for t in tickets]
    assert [session.get(Seat, (row, 7)) for row in range(3)] == seats


def test_database_defaults_go_to_objects_with_keys_that_are_converted(session: Any, engine: Any) -> None:
    class Host(dbm.declarative_base()):  # type: ignore[misc]
        address = peewee.IPField(primary_key=True)
        state = peewee.CharField(constraints=[peewee.SQL("DEFAULT 'new'")])

    class Word(dbm.declarative_base()):  # type: ignore[misc]
        word = Lower(primary_key=True)
        state = peewee.CharField(constraints=[peewee.SQL("DEFAULT 'new'")])

    dbm.install_tables(engine, models=[Host, Word])
    items = [Host(address=f"10.0.0.{number}") for number in (3, 1, 2)] + [Word(word=word) for word in ("B", "A")]
    session.add_all(items)
    session.commit()
    assert [item.state for item in items] == ["new"] * 5


def test_an_explicit_none_overrides_a_python_default(session: Any, engine: Any) -> None:
    items = [Defaulted(name="one"), Defaulted(name="two", mood=None)]
    session.add_all(items)
    session.commit()
    assert [item.mood for item in items] == ["good", None]
    assert rows(engine, "SELECT mood FROM defaulteds ORDER BY id") == [("good",), (None,)]


def test_values_that_a_flush_fills_in_leave_the_object_clean(session: Any) -> None:
    item = Defaulted(name="one")
    session.add(item)
    session.flush()
    assert session.dirty == []
    assert session.is_modified(item) is False


def test_values_that_a_flush_filled_in_are_gone_after_a_rollback(session: Any) -> None:
    item = Defaulted(name="one")
    session.add(item)
    session.flush()
    session.rollback()
    assert (item.id, item.state, item.rank) == (None, None, None)
    session.add(item)
    session.commit()
    assert (item.state, item.rank) == ("new", 42)


# Updates


def test_only_changed_columns_are_updated(session: Any, statements: Callable[[], Any]) -> None:
    person = Person(name="a", age=1)
    session.add(person)
    session.commit()
    person.age = 2
    with statements() as ran:
        session.commit()
    update = next(sql for sql in ran if sql.startswith("UPDATE"))
    assert as_sqlite(update) == 'UPDATE "people" SET "age" = ? WHERE "id" = ?'


@pytest.mark.parametrize(
    ("name", "value"),
    [("name", "a"), ("age", 1), ("born", datetime.date(2000, 1, 1)), ("tags", ["x", {"y": [1]}]), ("score", 0)],
)
def test_setting_an_equal_value_sends_nothing(
    session: Any, statements: Callable[[], Any], name: str, value: Any
) -> None:
    session.add(Person(id=1, name="a", age=1, born=datetime.date(2000, 1, 1), tags=["x", {"y": [1]}]))
    session.commit()
    session.expunge_all()
    person = session.get(Person, 1)
    assert getattr(person, name) == value
    with statements() as ran:
        setattr(person, name, value)
        assert session.is_modified(person) is False
        assert session.dirty == []
        session.commit()
    assert ran == []


def test_a_value_that_is_changed_and_changed_back_sends_nothing(session: Any, statements: Callable[[], Any]) -> None:
    person = Person(name="a", tags=["x"])
    session.add(person)
    session.commit()
    person.name = "b"
    person.tags.append("y")
    person.name = "a"
    person.tags.remove("y")
    with statements() as ran:
        assert session.dirty == []
        session.commit()
    assert ran == []


def test_setting_the_same_parent_again_sends_nothing(session: Any, statements: Callable[[], Any]) -> None:
    note = Note(person=Person(name="a"))
    session.add(note)
    session.commit()
    with statements() as ran:
        note.person = note.person
        note.person = note.person_id
        session.commit()
    assert ran == []


def test_a_value_of_another_type_is_a_change(session: Any, engine: Any) -> None:
    item = Everything(data={"a": 1})
    session.add(item)
    session.commit()
    item.data = {"a": True}
    session.commit()
    assert rows(engine, "SELECT data FROM everythings") in ([('{"a": true}',)], [('{"a":true}',)])


def test_updates_are_grouped_by_the_columns_that_changed(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    make_people(engine, 6)
    for number, person in enumerate(session.query(Person).order_by(Person.id).all()):
        if number % 2:
            person.name = f"n{number}"
        else:
            person.age = number
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["UPDATE", "UPDATE"]
    assert rows(engine, "SELECT name, age FROM people ORDER BY id") == [
        ("p1", 0), ("n1", None), ("p3", 2), ("n3", None), ("p5", 4), ("n5", None),
    ]  # fmt: skip


def test_deletes_go_in_chunks(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    make_people(engine, 2 * engine.batch + 200)
    for person in session.query(Person).where(Person.id != 7).all():
        session.delete(person)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["DELETE"] * 3
    assert rows(engine, "SELECT id FROM people") == [(7,)]


@pytest.mark.databases("sqlite")
def test_values_of_many_rows_go_by_the_adapters_of_sqlite3_as_those_of_one_do(session: Any, engine: Any) -> None:
    day, key = datetime.date(2020, 2, 1), (datetime.date, sqlite3.PrepareProtocol)
    former = sqlite3.adapters[key]
    sqlite3.register_adapter(datetime.date, lambda day: day.strftime("%d.%m.%Y"))
    try:
        session.add_all(Person(name="one of many", born=day) for _ in range(2))
        session.flush()
        session.add(Person(name="alone", born=day))
        session.commit()
    finally:
        sqlite3.adapters[key] = former
    assert rows(engine, "SELECT DISTINCT born FROM people") == [("01.02.2020",)]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("count", [1, 2])
def test_a_row_that_its_table_ignores_is_an_error(engine: Any, session: dbm.Session, count: int) -> None:
    class Tag(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

    engine.execute_sql("CREATE TABLE tags (id INTEGER PRIMARY KEY, name TEXT UNIQUE ON CONFLICT IGNORE)")
    session.add(Tag(name="there"))
    session.commit()
    tags = [Tag(name="there"), Tag(name="new")][:count]
    session.add_all(tags)
    with pytest.raises(dbm.FlushError, match="tags"):
        session.commit()
    assert [tag.id for tag in tags] == [None] * count
    assert session.new == tags
    tags[0].name = "another"
    session.commit()
    assert session.query(Tag).count() == count + 1


# SQL expressions as values


def test_an_expression_as_a_value_is_computed_by_the_database_and_read_back(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    person = Person(name="a", score=1)
    session.add(person)
    session.commit()
    engine.execute_sql("UPDATE people SET score = 10")
    person.score = Person.score + 1
    with statements() as ran:
        session.flush()
        assert person.score == 11
    assert writes(ran) == ["UPDATE"]
    reads = [sql for sql in ran if sql.startswith("SELECT")]
    assert len(reads) == (0 if engine.returns_updated else 1)
    session.commit()
    assert rows(engine, "SELECT score FROM people") == [(11,)]


def test_expressions_and_values_go_together(session: Any, engine: Any) -> None:
    make_people(engine, 3)
    people = session.query(Person).order_by(Person.id).all()
    for person in people:
        person.score = Person.score + person.id
        person.name = f"new {person.id}"
    session.commit()
    assert [person.score for person in people] == [1, 2, 3]
    assert rows(engine, "SELECT name, score FROM people ORDER BY id") == [("new 1", 1), ("new 2", 2), ("new 3", 3)]


def test_an_expression_in_a_new_row_is_read_back(session: Any, engine: Any) -> None:
    people = [Person(name=peewee.fn.UPPER("jo"), score=2), Person(name="b", score=peewee.SQL("20 + 1"))]
    session.add_all(people)
    session.commit()
    assert (people[0].name, people[1].score) == ("JO", 21)
    assert rows(engine, "SELECT name, score FROM people ORDER BY id") == [("JO", 2), ("b", 21)]


def test_a_subquery_as_a_value_is_read_back(session: Any, engine: Any) -> None:
    make_people(engine, 3)
    person = session.get(Person, 1)
    other = Person.alias()
    person.age = other.select(peewee.fn.COUNT(other.id))
    session.commit()
    assert person.age == 3


def test_a_field_of_a_users_own_may_let_sql_make_its_values(engine: Any, session: dbm.Session) -> None:
    class Upper(peewee.CharField):  # type: ignore[misc]
        def db_value(self, value: Any) -> Any:
            return peewee.fn.UPPER(value)

    class Sign(dbm.declarative_base()):  # type: ignore[misc]
        text = Upper(null=True)

    dbm.install_tables(engine, models=[Sign])
    stop, go, blank = Sign(text="stop"), Sign(text="go"), Sign()
    session.add_all([stop, go, blank])
    session.commit()
    assert [stop.text, go.text, blank.text] == ["STOP", "GO", None]
    stop.text, go.text = "halt", None
    session.commit()
    assert rows(engine, "SELECT signs.text FROM signs ORDER BY signs.id") == [("HALT",), (None,), (None,)]
    assert (stop.text, go.text) == ("HALT", None)


def test_an_expression_that_is_rolled_back_gives_the_former_value(session: Any) -> None:
    person = Person(score=1)
    session.add(person)
    session.commit()
    person.score = Person.score + 1
    session.flush()
    assert person.score == 2
    session.rollback()
    assert person.score == 1


def test_an_expression_whose_flush_fails_stays_to_be_flushed_again(session: Any, engine: Any) -> None:
    person = Person(score=1)
    session.add(person)
    session.commit()
    person.score = Person.score + 1
    clash = [Person(email="a@x"), Person(email="a@x")]
    session.add_all(clash)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    session.expunge(clash[1])
    session.commit()
    assert person.score == 2
    assert rows(engine, "SELECT score FROM people WHERE id = 1") == [(2,)]


@pytest.mark.parametrize("has_object", [True, False])
def test_a_foreign_key_can_be_set_to_an_expression(session: Any, engine: Any, has_object: bool) -> None:
    one, two = Node(name="1"), Node(name="2")
    child = Node(name="child", parent=one)
    session.add_all([one, two, child])
    session.commit()
    if not has_object:
        session.expunge(child)
        child = session.get(Node, child.id)
    child.parent = expression = peewee.SQL(str(two.id))
    assert child.parent is child.parent_id is expression
    session.commit()
    assert child.parent is two
    assert rows(engine, "SELECT parent_id FROM nodes WHERE name = 'child'") == [(two.id,)]


# Values come back exactly


VALUES = [
    ("integer", -(2**31)),
    ("integer", 0),
    ("big", 2**63 - 1),
    ("number", 0.1),
    ("number", 1e300),
    ("number", 1.0),
    ("price", decimal.Decimal("12345.67")),
    ("price", decimal.Decimal("-0.01")),
    ("flag", True),
    ("flag", False),
    ("char", ""),
    ("char", 'O\'Brien "李雷" 🦊 %s ? \n'),
    ("text", "x" * 100_000),
    ("blob", b"\x00\xff bytes"),
    ("blob", b""),
    ("code", uuid.UUID(int=2**127 + 5)),
    ("binary_code", uuid.UUID(int=5)),
    ("moment", datetime.datetime(2020, 2, 29, 23, 59, 59, 999_999)),
    ("moment", datetime.datetime(1, 1, 1)),
    ("day", datetime.date(9999, 12, 31)),
    ("clock", datetime.time(0, 0)),
    ("clock", datetime.time(23, 59, 59, 1)),
    ("stamp", datetime.datetime(2001, 2, 3, 4, 5, 6)),
    ("address", "192.168.0.1"),
    ("data", {"a": [1, 2.5, None, True, {"ü": "\u2028"}]}),
    ("data", []),
    ("data", "text"),
    ("data", 0),
    ("lower", "Jo"),
    ("words", {"b", "a"}),
]


def comes_back_from_an_insert(session: Any, other: Any, name: str, value: Any) -> None:
    item = Everything(**{name: value})
    session.add(item)
    session.commit()
    assert (getattr(item, name), type(getattr(item, name))) == (value, type(value)) or name == "data"
    found = getattr(other.get(Everything, item.id), name)
    assert found == value
    assert isinstance(found, type(value))
    assert session.is_modified(item) is False


def comes_back_from_an_update(session: Any, other: Any, name: str, value: Any) -> None:
    item = Everything()
    session.add(item)
    session.commit()
    setattr(item, name, value)
    session.commit()
    assert getattr(other.get(Everything, item.id), name) == value
    setattr(item, name, None)
    session.commit()
    other.rollback()
    assert other.get(Everything, item.id).__data__[name] is None


def is_no_change_when_set_again(session: Any, other: Any, name: str, value: Any) -> None:
    item = Everything(**{name: value})
    session.add(item)
    session.commit()
    session.expunge_all()
    item = session.get(Everything, item.id)
    setattr(item, name, getattr(item, name))
    assert session.dirty == []


exactly = pytest.mark.parametrize(
    "check", [comes_back_from_an_insert, comes_back_from_an_update, is_no_change_when_set_again]
)


@exactly
@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_value_comes_back_as_it_was_set(
    session: Any, other: Any, name: str, value: Any, check: Callable[..., None]
) -> None:
    check(session, other, name, value)


IN_ONE_BATCH = {
    **{name: [value for kind, value in VALUES if kind == name] for name, _ in VALUES},
    "integer": [1, -(2**31), 2**31 - 1, 0],
    "big": [1, -(2**63), 2**63 - 1, 0],
    "number": [1.0, 0.1, 1e300, -1e-300, 1 / 3, 1e15 + 0.3],
    "price": [decimal.Decimal(text) for text in ("1", "0.01", "-12345678.9", "1E+3")],
    "char": ["", "a", "a ", "A", "Ä", "🦊", "x" * 255, "7", "\\", "'", "NULL", "null", "{}", '"', "a,b"],
    "text": ["", " ", "a", "x" * 100_000, "\n", "1e3", "{1,2}", "%s", "\u200b"],
    "blob": [b"", b"a", bytes(range(256)), b"\\x00", b"x" * 100_000],
    "moment": [
        datetime.datetime(2020, 2, 29),
        datetime.datetime(2020, 2, 29, 1, 2, 3, 4),
        datetime.datetime(1, 1, 1),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999),
    ],
    "clock": [datetime.time(0), datetime.time(1, 2, 3), datetime.time(23, 59, 59, 999_999)],
    "data": [{}, [], "", "a", 0, 1.5, True, False, [None], {"a": "'\\"}, "[1]", 2**53, {"ü": [{"b": {}}]}],
}


@pytest.mark.parametrize("verb", ["insert", "update"])
@pytest.mark.parametrize("name", IN_ONE_BATCH)
@pytest.mark.parametrize("is_narrow", [True, False])  # on PostgreSQL these go in different ways
def test_values_that_go_in_one_batch_come_back_each_as_it_was_set(
    session: Any, other: Any, statements: Callable[[], Any], name: str, verb: str, is_narrow: bool
) -> None:
    session._execution.database.narrow = 100 if is_narrow else 0
    for values in ([None, *IN_ONE_BATCH[name], None], [*reversed(IN_ONE_BATCH[name]), None]):
        items = [Everything() for _ in values]
        if verb == "update":
            session.add_all(items)
            session.commit()
        for item, value in zip(items, values):
            setattr(item, name, value)
        session.add_all(items)
        with statements() as ran:
            session.commit()
        if verb == "insert":
            assert writes(ran) == ["INSERT"]
        found = [other.get(Everything, item.id).__data__[name] for item in items]
        assert found == [Everything(**{name: value}).__data__[name] for value in values]
        assert [type(value) for value in found] == [type(item.__data__[name]) for item in items]


@exactly
@pytest.mark.databases("sqlite", "postgresql")
def test_an_infinite_number_comes_back_as_it_was_set(session: Any, other: Any, check: Callable[..., None]) -> None:
    check(session, other, "number", float("inf"))


with_zones = pytest.mark.parametrize(
    ("name", "value"),
    [
        ("moment", datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.timezone.utc)),
        ("clock", datetime.time(12, tzinfo=datetime.timezone.utc)),
    ],
)


@exactly
@with_zones
@pytest.mark.databases("sqlite")
def test_a_time_with_a_zone_comes_back_as_it_was_set(
    session: Any, other: Any, name: str, value: Any, check: Callable[..., None]
) -> None:
    check(session, other, name, value)


@with_zones
@pytest.mark.databases("servers")
def test_a_time_with_a_zone_is_refused_where_the_column_would_take_it_off(session: Any, name: str, value: Any) -> None:
    item = Everything(**{name: value})
    session.add(item)
    with pytest.raises(peewee.DataError, match=rf"Everything\.{name} .*no time zones.*inserting <Everything") as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]


def test_a_value_that_the_column_converts_is_converted_by_the_flush(session: Any) -> None:
    item = Everything(integer="7", day=datetime.datetime(2020, 1, 2, 3), flag=1, number=2)
    session.add(item)
    session.commit()
    assert (item.integer, item.day, item.flag, item.number) == (7, datetime.date(2020, 1, 2), True, 2.0)
    assert type(item.flag) is bool
    assert type(item.number) is float


def test_a_value_that_the_column_cuts_or_rounds_is_what_its_row_has(engine: Any, session: Any, other: Any) -> None:
    class Cut(dbm.declarative_base()):  # type: ignore[misc]
        code = peewee.FixedCharField(max_length=3)
        price = peewee.DecimalField(max_digits=8, decimal_places=2, auto_round=True)

    dbm.install_tables(engine, models=[Cut])
    item = Cut(code="abcd", price=decimal.Decimal("1.256"))
    session.add(item)
    session.commit()
    assert (item.code, item.price) == ("abc", decimal.Decimal("1.26"))
    found = other.get(Cut, item.id)
    assert (found.code, found.price) == (item.code, item.price)


@pytest.mark.databases("sqlite", "mariadb", "mysql")  # PostgreSQL has booleans that are no numbers
def test_a_bool_is_a_decimal_as_it_is_an_int(session: Any, other: Any) -> None:
    item = Everything(price=True, integer=True)
    session.add(item)
    session.commit()
    assert (repr(item.price), repr(item.integer)) == ("Decimal('1')", "1")
    assert other.get(Everything, item.id).price == 1


def test_bytes_that_are_given_as_a_memoryview_are_saved_and_can_be_read(session: Any, other: Any) -> None:
    item = Everything(blob=memoryview(b"abc"))
    session.add(item)
    session.commit()
    assert bytes(item.blob) == b"abc"
    assert other.get(Everything, item.id).blob == b"abc"


def test_a_bytearray_that_is_changed_in_place_is_saved(session: Any, engine: Any) -> None:
    item = Everything(blob=bytearray(b"abc"))
    session.add(item)
    session.commit()
    item.blob[0] = ord("x")
    session.commit()
    assert [bytes(value) for (value,) in rows(engine, "SELECT everythings.blob FROM everythings")] == [b"xbc"]


def test_bits_that_are_set_in_place_are_saved(session: Any, other: Any) -> None:
    item = Everything()
    session.add(item)
    session.commit()
    item.bits.set_bit(3)
    session.commit()
    item.bits.set_bit(9)
    session.commit()
    found = other.get(Everything, item.id).bits
    assert [number for number in range(16) if found.is_set(number)] == [3, 9]


def test_bits_that_are_rolled_back_are_as_before(session: Any) -> None:
    item = Everything()
    item.bits = b"\x01"
    session.add(item)
    session.commit()
    item.bits.set_bit(1)
    session.rollback()
    assert [number for number in range(8) if item.bits.is_set(number)] == [0]


def test_reading_bits_sends_nothing(session: Any, statements: Callable[[], Any]) -> None:
    item = Everything(bits=b"\x01")
    session.add(item)
    session.commit()
    with statements() as ran:
        assert item.bits.is_set(0)
        assert session.dirty == []
        session.commit()
    assert ran == []


def test_a_value_of_a_users_own_field_that_is_changed_in_place_is_saved(session: Any, engine: Any) -> None:
    item = Everything(words={"a"})
    session.add(item)
    session.commit()
    item.words.add("b")
    assert session.dirty == [item]
    session.commit()
    assert rows(engine, "SELECT words FROM everythings") == [("a b",)]


def test_a_value_of_a_users_own_field_that_is_changed_in_place_is_rolled_back(session: Any) -> None:
    item = Everything(words={"a"})
    session.add(item)
    session.commit()
    item.words.add("b")
    session.rollback()
    assert item.words == {"a"}


def test_a_value_that_a_column_can_not_hold_is_refused_and_names_the_object(session: Any, engine: Any) -> None:
    item = Everything(integer="seven", char="the name")
    session.add(item)
    with pytest.raises((peewee.DataError, ValueError), match="Everything"):
        session.flush()
    item.integer = 7
    session.commit()
    assert rows(engine, "SELECT everythings.integer FROM everythings") == [(7,)]


def test_a_field_of_a_users_own_may_make_something_of_null(engine: Any, session: dbm.Session) -> None:
    class Blank(peewee.TextField):  # type: ignore[misc]
        def db_value(self, value: Any) -> Any:
            return value or None

        def python_value(self, value: Any) -> Any:
            return value or ""

    class Card(dbm.declarative_base()):  # type: ignore[misc]
        text = Blank(null=True)

    dbm.install_tables(engine, models=[Card])
    session.add(Card(text=""))
    session.commit()
    assert session.execute("SELECT text FROM cards").scalar() is None
    session.expunge_all()
    assert session.query(Card).one().text == ""
