"""After commit and close objects can be read as before; what closing loses it warns of; what two sessions see."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person, verbs

from tent.data import dbm


def saved(session: dbm.Session, **values: Any) -> Person:
    """Return a person who has a row."""
    person = Person(**values)
    session.add(person)
    session.commit()
    return person


# Reading


def test_objects_can_be_read_after_commit_without_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    note = Note(person=Person(name="Jo", tags=["a"]), text="hi")
    session.add(note)
    session.commit()
    with statements() as ran:
        assert (note.text, note.person.name, note.person.tags, note.person_id) == ("hi", "Jo", ["a"], 1)
    assert ran == []


def test_objects_can_be_read_after_close_without_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    note = Note(person=Person(name="Jo", tags=["a"]), text="hi")
    session.add(note)
    session.commit()
    session.close()
    with statements() as ran:
        assert (note.text, note.person.name, note.person.tags, note.person_id) == ("hi", "Jo", ["a"], 1)
        assert (note.person.age, note.person.score) == (None, 0)
    assert ran == []


def test_loaded_objects_can_be_read_after_close(session: dbm.Session, statements: Callable[[], Any]) -> None:
    saved(session, name="Jo", age=3)
    session.expunge_all()
    person = session.query(Person).one()
    session.close()
    with statements() as ran:
        assert (person.name, person.age, person.tags, person.email) == ("Jo", 3, [], None)
    assert ran == []


def test_an_object_whose_delete_was_committed_can_be_read(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    session.commit()
    with statements() as ran:
        assert (person.id, person.name) == (1, "Jo")
    assert ran == []


def test_an_attribute_can_be_read_in_any_state_without_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = Person(name="Jo")
    with statements() as ran:
        seen = [person.name]
        session.add(person)
        seen.append(person.name)
        session.flush()
        seen.append(person.name)
        session.delete(person)
        seen.append(person.name)
        session.flush()
        seen.append(person.name)
        session.rollback()
        seen.append(person.name)
    assert seen == ["Jo"] * 6
    assert verbs(ran) == ["BEGIN", "INSERT", "SAVEPOINT", "DELETE", "RELEASE", "ROLLBACK"]


def test_a_relation_of_a_detached_object_says_what_to_do(session: dbm.Session) -> None:
    session.add(Note(person=Person(name="Jo")))
    session.commit()
    session.expunge_all()
    note = session.query(Note).one()
    session.close()
    with pytest.raises(dbm.DetachedInstanceError, match=r"<Note id=1 .*is detached.*'person' can't be loaded.*add"):
        note.person  # noqa: B018
    assert note.person_id == 1


def test_a_backref_of_a_detached_object_says_what_to_do(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.close()
    with pytest.raises(dbm.DetachedInstanceError, match=r"<Person id=1 .*is detached.*'notes' can't be loaded"):
        person.notes  # noqa: B018


def test_a_relation_that_was_followed_can_be_followed_after_close(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    session.add(Note(person=Person(name="Jo")))
    session.commit()
    session.expunge_all()
    note = session.query(Note).one()
    person = note.person
    session.close()
    with statements() as ran:
        assert note.person is person
    assert ran == []


def test_a_relation_that_is_null_can_be_followed_after_close(session: dbm.Session) -> None:
    session.add(Node(name="root"))
    session.commit()
    session.expunge_all()
    root = session.query(Node).one()
    session.close()
    assert root.parent is None


def test_a_column_that_was_not_selected_says_so(session: dbm.Session) -> None:
    saved(session, name="Jo", age=3)
    session.expunge_all()
    (person,) = session.execute(Person.select(Person.id, Person.name))
    session.close()
    assert person.name == "Jo"
    with pytest.raises(dbm.UnloadedColumnError, match=r"Person\.age was not loaded.*Select 'age'"):
        person.age  # noqa: B018


# Closing


def test_a_closed_session_has_let_go_of_all(session: dbm.Session) -> None:
    person, pending = saved(session, name="Jo"), Person()
    session.add(pending)
    session.rollback()
    session.close()
    assert (session.state(person), session.state(pending)) == ("detached", "transient")
    assert (len(session.identity_map), session.new, session.dirty, session.deleted) == (0, [], [], [])


def test_a_closed_session_can_be_used_again(session: dbm.Session) -> None:
    saved(session, name="Jo")
    session.close()
    again = session.query(Person).one()
    again.name = "Joe"
    session.commit()
    assert session.query(Person.name).scalar() == "Joe"


def test_an_object_can_go_back_to_its_session_with_changes(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.close()
    person.name = "Joe"
    session.add(person)
    session.commit()
    assert session.query(Person.name).all() == [("Joe",)]


def test_closing_rolls_back(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    new = Person(name="new")
    session.add(new)
    session.flush()
    with pytest.warns(dbm.UnsavedChangesWarning):
        session.close()
    assert (person.name, new.id, session.state(new)) == ("Jo", None, "transient")
    assert not session.in_transaction()
    assert session.query(Person.name).all() == [("Jo",)]


def test_closing_twice_is_fine(session: dbm.Session, statements: Callable[[], Any]) -> None:
    saved(session, name="Jo")
    with statements() as ran:
        session.close()
        session.close()
    assert ran == []


def test_leaving_a_with_block_closes_without_commit(engine: Any) -> None:
    with dbm.open_session(engine) as session:
        person = saved(session, name="Jo")
        session.add(Person(name="Al"))
        session.rollback()
    assert session.state(person) == "detached"
    assert session.query(Person.name).all() == [("Jo",)]


def test_an_iteration_that_was_not_finished_is_refused_after_close(session: dbm.Session) -> None:
    session.add_all([Person(name=name) for name in "abc"])
    session.commit()
    rows = iter(session.query(Person).yield_per(1))
    assert next(rows).name == "a"
    session.close()
    with pytest.raises(dbm.ResourceClosedError, match="closed"):
        next(rows)


def test_a_result_that_was_read_before_gives_detached_objects(session: dbm.Session) -> None:
    session.add_all([Person(name=name) for name in "abc"])
    session.commit()
    result = session.execute(Person.select())
    session.close()
    assert [person.name for person in result] == ["a", "b", "c"]
    assert {session.state(person) for person in result} == {"detached"}


def test_objects_of_a_session_that_is_gone_can_go_to_another(engine: Any, other: dbm.Session) -> None:
    session = dbm.open_session(engine)
    person = saved(session, name="Jo", tags=["a"])
    person.name = "Joe"
    person.tags.append("b")
    pending = Person(name="new")
    session.add(pending)
    del session
    gc.collect()
    assert [other.state(each) for each in (person, pending)] == ["detached", "transient"]
    other.add_all([person, pending])
    other.commit()
    assert other.query(Person.name, Person.tags).order_by(Person.id).all() == [("Joe", ["a", "b"]), ("new", [])]


def test_a_session_that_is_gone_in_a_transaction_has_rolled_back(engine: Any, other: dbm.Session) -> None:
    session = dbm.open_session(engine)
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.flush()
    del session
    gc.collect()
    assert person.name == "Jo"
    other.add(person)
    person.name = "Jack"
    other.commit()
    assert other.query(Person.name).all() == [("Jack",)]


# The warning


@pytest.mark.parametrize("flushed", [False, True])
def test_closing_with_changes_warns_with_their_number(session: dbm.Session, flushed: bool) -> None:
    changed, deleted = saved(session, name="Jo"), saved(session, name="Al")
    changed.name = "Joe"
    session.delete(deleted)
    session.add(Person(name="Bo"))
    if flushed:
        session.flush()
    with pytest.warns(dbm.UnsavedChangesWarning, match=r"\b3\b.*session\.commit\(\)") as caught:
        session.close()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_flushed_and_unflushed_changes_of_an_object_count_once(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.flush()
    person.age = 3
    with pytest.warns(dbm.UnsavedChangesWarning, match=r"\b1\b"):
        session.close()


WRITES: dict[str, Callable[[dbm.Session], Any]] = {
    "update": lambda session: session.query(Person).update({Person.name: "Joe"}),
    "insert": lambda session: session.execute(Person.insert(name="Joe")),
    "sql": lambda session: session.execute("DELETE FROM people"),
    "sql in a savepoint": lambda session: (session.begin_nested(), session.execute("DELETE FROM people")),
}


@pytest.mark.parametrize("write", WRITES)
def test_closing_after_statements_that_no_commit_has_saved_warns(session: dbm.Session, write: str) -> None:
    saved(session, name="Jo")
    WRITES[write](session)
    with pytest.warns(dbm.UnsavedChangesWarning, match=r"what statements have written.*session\.commit\(\)"):
        session.close()


SETS = {"sqlite": "ANALYZE people", "postgresql": "SET LOCAL lock_timeout = 1000"}


def test_closing_after_statements_that_wrote_nothing_does_not_warn(session: dbm.Session) -> None:
    saved(session, name="Jo", email="jo@x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.begin()
        session.execute("SELECT * FROM people")
        session.execute(SETS.get(session.engine.kind, "SET @here = 1"))
        with pytest.raises(peewee.IntegrityError), session.begin_nested():
            session.execute("INSERT INTO people (email, score, tags) VALUES ('jo@x', 0, '[]')")
        session.close()
        WRITES["update"](session)
        session.commit()
        session.close()
        WRITES["update"](session)
        session.rollback()
        session.close()


def test_leaving_a_with_block_with_changes_warns(engine: Any) -> None:
    with pytest.warns(dbm.UnsavedChangesWarning, match=r"\b2\b") as caught:
        with dbm.open_session(engine) as session:
            session.add_all([Person(name="Jo"), Person(name="Al")])
    assert caught[0].filename == __file__


def test_leaving_a_with_block_with_an_error_does_not_warn(engine: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError), dbm.open_session(engine) as session:
            session.add(Person(name="Jo"))
            raise KeyError
    assert session.new == []


def test_closing_in_a_finally_clause_with_an_error_does_not_warn(engine: Any) -> None:
    session = dbm.open_session(engine)

    def work() -> None:
        try:
            session.add(Person(name="Jo"))
            raise KeyError
        finally:
            session.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError):
            work()
    assert session.new == []


def test_a_with_block_within_an_except_clause_warns_all_the_same(engine: Any) -> None:
    with pytest.warns(dbm.UnsavedChangesWarning, match=r"\b1\b"):
        try:
            raise KeyError
        except KeyError:
            with dbm.open_session(engine) as session:
                session.add(Person(name="the error, logged"))


@pytest.mark.parametrize("end", ["commit", "rollback", "expunge_all"])
def test_closing_without_changes_does_not_warn(session: dbm.Session, end: str) -> None:
    session.add(Person(name="Jo"))
    getattr(session, end)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.close()
    assert session.new == []


def test_a_change_that_was_taken_back_does_not_warn(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    person.name = "Jo"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.close()
    assert person.name == "Jo"


def test_a_session_that_only_read_does_not_warn(session: dbm.Session) -> None:
    saved(session, tags=["a"])
    session.expunge_all()
    assert session.query(Person).one().tags == ["a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.close()
    assert len(session.identity_map) == 0


# Two sessions


def test_a_session_sees_the_commit_of_another_in_its_next_query(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    elsewhere = other.query(Person).one()
    person.name = "Joe"
    session.commit()
    assert elsewhere.name == "Jo"
    assert other.query(Person).one() is elsewhere
    assert elsewhere.name == "Joe"


def test_a_session_sees_the_commit_of_another_by_get_in_a_new_transaction(
    session: dbm.Session, other: dbm.Session
) -> None:
    person = saved(session, name="Jo")
    elsewhere = other.get(Person, person.id)
    assert elsewhere is not None
    person.name = "Joe"
    session.commit()
    other.commit()
    assert elsewhere.name == "Jo"
    assert other.get(Person, person.id) is elsewhere
    assert elsewhere.name == "Joe"


@pytest.mark.databases("file", "servers")
def test_a_session_does_not_see_what_another_has_not_committed(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    elsewhere = other.query(Person).one()
    person.name = "Joe"
    session.flush()
    assert other.query(Person).one().name == "Jo"
    session.commit()
    assert other.query(Person).one() is elsewhere
    assert elsewhere.name == "Joe"


def test_changes_to_different_columns_of_a_row_both_survive(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo", age=3)
    elsewhere = other.query(Person).one()
    person.name = "Joe"
    elsewhere.age = 4
    session.commit()
    other.commit()
    assert session.query(Person.name, Person.age).all() == [("Joe", 4)]


def test_the_last_change_to_a_column_wins(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    elsewhere = other.query(Person).one()
    person.name = "first"
    elsewhere.name = "second"
    session.commit()
    other.commit()
    assert session.query(Person.name).all() == [("second",)]
