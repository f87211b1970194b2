"""Changes are written by a flush, at commit, or before any query of the session; and what a flush does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Note, Person, collected

from tent.data import dbm


def writes(ran: list[str]) -> list[str]:
    """Return the verbs of the statements that write rows."""
    return [verb for sql in ran if (verb := sql.split()[0]) in ("INSERT", "UPDATE", "DELETE")]


# Before any query


def test_a_query_finds_the_pending_object_itself(session: dbm.Session) -> None:
    person = Person(name="Joe Public")
    session.add(person)
    assert session.query(Person).filter_by(name="Joe Public").first() is person


def test_a_query_finds_a_changed_object_by_its_new_value(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.commit()
    person.name = "Joe"
    assert session.query(Person).filter_by(name="Jo").first() is None
    assert session.query(Person).filter_by(name="Joe").first() is person


def test_a_query_does_not_find_an_object_that_is_marked_for_delete(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.commit()
    session.delete(person)
    assert session.query(Person).all() == []


QUERIES: dict[str, Callable[[dbm.Session], Any]] = {
    "all": lambda s: [p.name for p in s.query(Person).all()],
    "iteration": lambda s: [p.name for p in s.query(Person)],
    "yield_per": lambda s: [p.name for p in s.query(Person).yield_per(10)],
    "slice": lambda s: [p.name for p in s.query(Person)[:5]],
    "index": lambda s: [s.query(Person)[0].name],
    "first": lambda s: [s.query(Person).filter(Person.name == "Jo").first().name],
    "filter_by": lambda s: [p.name for p in s.query(Person).filter_by(name="Jo")],
    "one": lambda s: [s.query(Person).one().name],
    "columns": lambda s: [name for (name,) in s.query(Person.name)],
    "scalar": lambda s: [s.query(Person.name).scalar()],
    "count": lambda s: ["Jo"] * s.query(Person).count(),
    "exists": lambda s: ["Jo"] * s.query(Person).exists(),
    "alias": lambda s: [p.name for p in s.query(Person.alias())],
    "subquery": lambda s: [p.name for p in s.query(Person).filter(Person.id.in_(Person.select(Person.id)))],
    "a Peewee select": lambda s: [p.name for p in s.execute(Person.select())],
    "Peewee's tuples": lambda s: [name for (name,) in s.execute(Person.select(Person.name).tuples())],
    "a raw query": lambda s: [p.name for p in s.execute(Person.raw("SELECT * FROM people"))],
    "SQL": lambda s: [row.name for row in s.execute("SELECT name FROM people WHERE name = ?", ["Jo"])],
    "scalars": lambda s: s.scalars("SELECT name FROM people").all(),
    "a scalar of SQL": lambda s: [s.scalar("SELECT name FROM people")],
    "bulk update": lambda s: ["Jo"] * s.query(Person).filter(Person.name == "Jo").update({"age": 3}),
    "bulk delete": lambda s: ["Jo"] * s.query(Person).filter(Person.name == "Jo").delete(),
    "a Peewee update": lambda s: ["Jo"] * s.execute(Person.update(age=3).where(Person.name == "Jo")),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_any_query_writes_pending_objects_first(session: dbm.Session, kind: str) -> None:
    session.add(Person(name="Jo"))
    assert QUERIES[kind](session) == ["Jo"]
    assert session.new == []


def test_a_backref_writes_pending_objects_first(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.commit()
    note = Note(person=person)
    session.add(note)
    assert list(person.notes) == [note]


def test_an_autoflush_writes_what_has_nothing_to_do_with_the_query(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    session.add(Person(name="Jo"))
    with statements() as ran:
        assert session.query(Note).all() == []
    assert writes(ran) == ["INSERT"]
    assert session.new == []


def test_an_autoflush_is_rolled_back_with_the_rest(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.query(Person).all()
    session.rollback()
    assert session.state(person) == "transient"
    assert session.query(Person).count() == 0


@pytest.mark.databases("file", "servers")
def test_other_sessions_see_nothing_of_an_autoflush(session: dbm.Session, other: dbm.Session) -> None:
    session.add(Person(name="Jo"))
    assert session.query(Person).count() == 1
    assert other.query(Person).count() == 0
    session.commit()
    assert other.query(Person).count() == 1


# Turned off


def test_no_autoflush_suspends_it(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Person(name="Jo"))
    with statements() as ran, session.no_autoflush:
        assert session.query(Person).all() == []
        assert session.scalar("SELECT COUNT(*) FROM people") == 0
    assert writes(ran) == []
    assert session.query(Person).count() == 1


def test_no_autoflush_ends_after_an_error_too(session: dbm.Session) -> None:
    session.add(Person(name="Jo"))
    with pytest.raises(KeyError), session.no_autoflush:
        raise KeyError
    assert session.autoflush is True
    assert session.query(Person).count() == 1


def test_no_autoflush_can_be_nested(session: dbm.Session) -> None:
    session.add(Person(name="Jo"))
    with session.no_autoflush:
        with session.no_autoflush:
            pass
        assert session.query(Person).count() == 0


def test_no_autoflush_gives_the_session(session: dbm.Session) -> None:
    with session.no_autoflush as same:
        assert same is session


def test_a_session_can_be_opened_without_autoflush(engine: Any) -> None:
    with dbm.open_session(engine, autoflush=False) as session:
        session.add(Person(name="Jo"))
        assert session.query(Person).count() == 0
        session.flush()
        assert session.query(Person).count() == 1
        session.rollback()


def test_without_autoflush_commit_and_begin_nested_flush_all_the_same(engine: Any) -> None:
    with dbm.open_session(engine, autoflush=False) as session:
        session.add(Person(name="Jo"))
        session.begin_nested()
        assert session.new == []
        session.add(Person(name="Al"))
        session.commit()
        assert session.query(Person).count() == 2


def test_without_autoflush_a_bulk_statement_flushes_all_the_same(engine: Any) -> None:
    with dbm.open_session(engine, autoflush=False) as session:
        session.add(Person(name="Jo"))
        assert session.query(Person).update({"age": 3}) == 1
        session.rollback()


# An autoflush that fails


def test_a_failing_autoflush_names_the_object_and_the_way_out(session: dbm.Session) -> None:
    session.add(Person(name="Jo", email="jo@example.org"))
    session.commit()
    double = Person(name="Joe", email="jo@example.org")
    session.add(double)
    with pytest.raises(
        peewee.IntegrityError, match=r"(?s)people[._]email.*name='Joe'.*query began.*no_autoflush"
    ) as caught:
        session.query(Note).all()
    assert caught.value.object is double  # type: ignore[attr-defined]
    assert session.new == [double]
    session.expunge(double)


def test_a_failing_autoflush_that_is_stale_says_so_too(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.commit()
    session.execute("DELETE FROM people")
    session.commit()
    person.name = "Joe"
    with pytest.raises(dbm.StaleDataError, match=r"query began.*no_autoflush"):
        session.query(Note).all()
    session.rollback()


# What get() knows of pending objects


def test_get_gives_a_pending_object_by_its_key_without_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = Person(id=7, name="Jo")
    session.add(person)
    with statements() as ran:
        assert session.get(Person, 7) is person
        assert session.get(Person, "7") is person
    assert ran == []
    assert session.new == [person]


def test_get_does_not_give_a_pending_object_by_a_key_that_it_had(session: dbm.Session) -> None:
    person = Person(id=7, name="Jo")
    session.add(person)
    person.id = 8
    assert session.get(Person, 7) is None
    session.flush()
    assert session.get(Person, 8) is person


def test_get_gives_no_object_whose_adding_was_cancelled(session: dbm.Session) -> None:
    person = Person(id=7, name="Jo")
    session.add(person)
    session.expunge(person)
    assert session.get(Person, 7) is None


# What a flush costs


def test_a_flush_with_nothing_to_do_runs_nothing(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.query(Person).all()
    with statements() as ran:
        session.flush()
        session.commit()
        session.rollback()
    assert ran == []
    assert not session.in_transaction()


def test_a_value_set_to_what_it_was_is_no_change(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = Person(name="Jo", age=3)
    session.add(person)
    session.commit()
    person.name = "Jo"
    person.age = 4
    person.age = 3
    assert not session.is_modified(person)
    with statements() as ran:
        session.commit()
    assert ran == []


def test_an_equal_json_value_is_no_change(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = Person(tags=["a", {"b": [1]}])
    session.add(person)
    session.commit()
    assert person.tags[0] == "a"
    person.tags = ["a", {"b": [1]}]
    person.tags.append("c")
    person.tags.pop()
    assert session.dirty == []
    with statements() as ran:
        session.commit()
    assert ran == []


def test_a_flush_looks_at_what_changed_and_not_at_what_is_loaded(
    session: dbm.Session, statements: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session.add_all([Person(name=str(number)) for number in range(200)])
    session.commit()
    loaded = session.query(Person).all()
    loaded[7].age = 3
    read: list[Any] = []
    plain = Person.__getattribute__

    def watched(instance: Person, name: str) -> Any:
        read.append(instance)
        return plain(instance, name)

    monkeypatch.setattr(Person, "__getattribute__", watched)
    with statements() as ran:
        session.commit()
    monkeypatch.undo()
    assert {id(instance) for instance in read} == {id(loaded[7])}
    assert writes(ran) == ["UPDATE"]


def test_a_flush_writes_once(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Person(name="Jo"))
    session.flush()
    with statements() as ran:
        session.flush()
        session.query(Person).all()
    assert writes(ran) == []


# A flush within a flush


def test_a_flush_within_a_flush_is_refused(engine: Any, session: dbm.Session) -> None:
    def flush_again(event: Any) -> None:
        if event.sql.startswith("INSERT"):
            with pytest.raises(dbm.InvalidRequestError, match="already flushing"):
                session.flush()

    engine.query_hooks.append(flush_again)
    session.add(Person(name="Jo"))
    with collected(engine) as ran:
        session.commit()
    engine.query_hooks.remove(flush_again)
    assert writes(ran) == ["INSERT"]
    assert session.query(Person).count() == 1


def test_a_query_within_a_flush_does_not_flush_again(engine: Any, session: dbm.Session) -> None:
    counts = []

    def query(event: Any) -> None:
        if event.sql.startswith("INSERT"):
            counts.append(session.query(Note).count())

    engine.query_hooks.append(query)
    session.add(Person(name="Jo"))
    with collected(engine) as ran:
        session.commit()
    engine.query_hooks.remove(query)
    assert (counts, writes(ran)) == ([0], ["INSERT"])
    assert session.query(Person).count() == 1
