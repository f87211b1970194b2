"""Rollback gives rows and objects what they had before, without SQL; savepoints do so for their part."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person, StateMachine, collected, run_sql
from hypothesis import stateful
from hypothesis import strategies as st

from tent.data import dbm


def saved(session: dbm.Session, **values: Any) -> Person:
    """Return a person who has a row."""
    person = Person(**values)
    session.add(person)
    session.commit()
    return person


@pytest.fixture
def only_rollback(engine: Any) -> Callable[[], Any]:
    """`with only_rollback():` fails if anything but the end of the transaction or savepoint runs."""

    @contextmanager
    def check() -> Iterator[None]:
        with collected(engine) as ran:
            yield
        assert {sql.split()[0] for sql in ran} <= {"ROLLBACK", "RELEASE"}

    return check


# New objects


def test_a_pending_object_is_transient_after_a_rollback(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    person = Person(name="Jo", tags=["a"])
    session.add(person)
    with only_rollback():
        session.rollback()
        assert (session.state(person), person.name, person.tags) == ("transient", "Jo", ["a"])
    assert session.new == [] and person not in session


def test_a_flushed_new_object_is_transient_after_a_rollback(
    session: dbm.Session, only_rollback: Callable[[], Any]
) -> None:
    person = Person(name="Jo", tags=["a"])
    session.add(person)
    session.flush()
    assert person.id == 1
    with only_rollback():
        session.rollback()
        assert (session.state(person), person.id) == ("transient", None)
        assert (person.name, person.tags, person.score) == ("Jo", ["a"], 0)
    assert len(session.identity_map) == 0


def test_a_new_object_keeps_what_was_set_after_the_flush(session: dbm.Session) -> None:
    person = Person(name="Jo", tags=["a"])
    session.add(person)
    session.flush()
    person.name = "Joe"
    session.flush()
    person.tags.append("b")
    person.age = 3
    session.rollback()
    assert (session.state(person), person.id) == ("transient", None)
    assert (person.name, person.tags, person.age) == ("Joe", ["a", "b"], 3)


def test_a_key_that_the_user_gave_stays(session: dbm.Session) -> None:
    person = Person(id=7, name="Jo")
    session.add(person)
    session.flush()
    session.rollback()
    assert (session.state(person), person.id) == ("transient", 7)


def test_a_rolled_back_object_can_be_added_again(session: dbm.Session, other: dbm.Session) -> None:
    first, second = Person(name="first"), Person(name="second")
    session.add_all([first, second])
    session.flush()
    session.rollback()
    session.add(second)
    session.commit()
    assert other.query(Person.id, Person.name).all() == [(second.id, "second")]
    assert session.get(Person, second.id) is second


@pytest.mark.databases("sqlite")
def test_a_generated_key_that_was_rolled_back_comes_again(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    session.rollback()
    session.add(person)
    session.commit()
    assert person.id == 1


@pytest.mark.databases("servers")
def test_a_generated_key_that_was_rolled_back_does_not_come_again(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    session.rollback()
    session.add(person)
    session.commit()
    assert person.id > 1


def test_the_foreign_key_of_a_rolled_back_object_is_gone_and_its_object_stays(session: dbm.Session) -> None:
    person = Person(name="Jo")
    note = Note(person=person)
    session.add(note)
    session.flush()
    number = note.person_id
    assert number == person.id
    session.rollback()
    assert note.person_id is None
    assert note.person is person
    session.add(Person(name="Al"))
    session.flush()
    session.add(note)
    session.commit()
    assert note.person_id == person.id != number


def test_a_new_object_that_was_deleted_is_transient_after_a_rollback(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    session.delete(person)
    session.flush()
    session.rollback()
    assert (session.state(person), person.id, person.name) == ("transient", None, "Jo")
    assert session.query(Person).count() == 0


def test_a_new_object_that_was_marked_for_delete_is_transient_after_a_rollback(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    session.delete(person)
    session.rollback()
    assert (session.state(person), session.deleted) == ("transient", [])


@pytest.mark.parametrize("verb", ["expunge", "expunge_all"])
def test_a_new_object_that_was_let_go_of_is_transient_after_a_rollback(session: dbm.Session, verb: str) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    session.expunge(person) if verb == "expunge" else session.expunge_all()
    session.rollback()
    assert (session.state(person), person.id, person.name) == ("transient", None, "Jo")
    session.add(person)
    session.commit()
    assert session.query(Person.name).all() == [("Jo",)]


# Changed objects


def test_an_unflushed_change_is_undone(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    person = saved(session, name="Jo", age=3)
    person.name, person.age = "Joe", None
    with only_rollback():
        session.rollback()
        assert (person.name, person.age) == ("Jo", 3)
    assert session.dirty == [] and not session.is_modified(person)


def test_a_flushed_change_is_undone(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.flush()
    with only_rollback():
        session.rollback()
        assert person.name == "Jo"
    assert session.query(Person.name).scalar() == "Jo"


def test_changes_of_several_flushes_are_undone(session: dbm.Session) -> None:
    person = saved(session, name="Jo", age=3)
    for name in ("a", "b"):
        person.name = name
        session.flush()
    person.age = 4
    session.flush()
    person.name = "c"
    session.rollback()
    assert (person.name, person.age, session.dirty) == ("Jo", 3, [])


def test_a_change_after_a_rollback_is_saved(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo", tags=["a"])
    person.name = "Joe"
    session.flush()
    session.rollback()
    person.name = "Joe"
    person.tags.append("b")
    session.commit()
    assert other.query(Person.name, Person.tags).all() == [("Joe", ["a", "b"])]


def test_an_object_loaded_in_the_transaction_is_restored(session: dbm.Session) -> None:
    saved(session, name="Jo")
    session.expunge_all()
    session.begin()
    person = session.query(Person).one()
    person.name = "Joe"
    session.flush()
    session.rollback()
    assert (person.name, session.state(person)) == ("Jo", "persistent")


def test_a_json_value_changed_in_place_is_restored(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    person = saved(session, tags=["a", {"b": [1]}])
    person.tags[1]["b"].append(2)
    person.tags.append("c")
    with only_rollback():
        session.rollback()
        assert person.tags == ["a", {"b": [1]}]
    assert session.dirty == []


def test_a_json_value_that_was_flushed_is_restored(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    person = saved(session, tags=["a", {"b": [1]}])
    person.tags[1]["b"].append(2)
    session.flush()
    person.tags.clear()
    with only_rollback():
        session.rollback()
        assert person.tags == ["a", {"b": [1]}]


def test_a_json_value_that_was_replaced_is_restored(session: dbm.Session) -> None:
    person = saved(session, tags=["a"])
    person.tags = {"other": 1}
    session.flush()
    person.tags["other"] = 2
    session.rollback()
    assert person.tags == ["a"]
    person.tags.append("b")
    session.commit()
    assert session.query(Person.tags).scalar() == ["a", "b"]


def test_a_foreign_key_is_restored_with_its_object(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    note = Note(person=jo)
    session.add(note)
    session.commit()
    note.person = al
    session.flush()
    with only_rollback():
        session.rollback()
        assert note.person_id == jo.id
        assert note.person is jo


def test_a_foreign_key_to_a_new_object_is_restored(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    root = Node(name="root")
    leaf = Node(name="leaf", parent=root)
    session.add(leaf)
    session.commit()
    new = Node(name="new", parent=root)
    leaf.parent = new
    with only_rollback():
        session.rollback()
        assert leaf.parent is root
    leaf.parent = new
    session.flush()
    assert leaf.parent_id == new.id
    with only_rollback():
        session.rollback()
        assert leaf.parent_id == root.id
        assert leaf.parent is root
    assert session.state(new) == "transient"


def test_a_foreign_key_that_was_null_is_null_again(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    leaf = Node(name="leaf")
    session.add(leaf)
    session.commit()
    leaf.parent = Node(name="root")
    session.flush()
    with only_rollback():
        session.rollback()
        assert (leaf.parent_id, leaf.parent) == (None, None)


def test_a_rollback_costs_what_changed(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add_all([Person(name=str(number)) for number in range(50)])
    session.commit()
    loaded = session.query(Person).all()
    loaded[7].name = "x"
    session.flush()
    with statements() as ran:
        session.rollback()
        assert [person.name for person in loaded] == [str(number) for number in range(50)]
    assert ran == ["ROLLBACK"]


def test_work_that_was_committed_is_not_touched(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    gone = saved(session, name="Al")
    person.name = "Joe"
    session.delete(gone)
    session.commit()
    person.age = 3
    session.rollback()
    assert (person.name, person.age, session.state(person)) == ("Joe", None, "persistent")
    assert session.state(gone) == "detached"
    assert session.query(Person.name).all() == [("Joe",)]


# Deleted objects


def test_a_mark_for_delete_is_dropped(session: dbm.Session) -> None:
    person = saved(session)
    session.delete(person)
    session.rollback()
    assert session.deleted == [] and person in session
    session.commit()
    assert session.query(Person).count() == 1


def test_a_deleted_object_is_back(session: dbm.Session, only_rollback: Callable[[], Any]) -> None:
    person = saved(session, name="Jo")
    key = person.id
    session.delete(person)
    session.flush()
    with only_rollback():
        session.rollback()
        assert (session.state(person), person.id, person.name) == ("persistent", key, "Jo")
    assert session.get(Person, key) is person
    assert session.query(Person).one() is person


def test_a_deleted_object_that_had_changes_is_back_without_them(session: dbm.Session) -> None:
    person = saved(session, name="Jo", tags=["a"])
    person.name = "Joe"
    person.tags.append("b")
    session.delete(person)
    session.flush()
    session.rollback()
    assert (person.name, person.tags) == ("Jo", ["a"])
    assert session.dirty == []


def test_a_change_of_a_deleted_object_is_undone_too(session: dbm.Session) -> None:
    person = saved(session, name="Jo", tags=["a"])
    session.delete(person)
    session.flush()
    person.name = "Joe"
    person.tags = ["b"]
    session.rollback()
    assert (session.state(person), person.name, person.tags) == ("persistent", "Jo", ["a"])


def test_an_object_deleted_and_added_again_is_persistent_after_a_rollback(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    key = person.id
    session.delete(person)
    session.flush()
    session.add(person)
    person.name = "Joe"
    session.flush()
    session.rollback()
    assert (session.state(person), person.id, person.name) == ("persistent", key, "Jo")
    assert session.get(Person, key) is person


def test_an_object_deleted_and_pending_again_is_persistent_after_a_rollback(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    session.flush()
    session.add(person)
    person.name = "Joe"
    session.rollback()
    assert (session.state(person), person.name, session.new) == ("persistent", "Jo", [])


def test_an_object_deleted_added_and_deleted_again_is_persistent_after_a_rollback(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    session.flush()
    session.add(person)
    session.delete(person)
    session.flush()
    assert session.query(Person).count() == 0
    session.rollback()
    assert (session.state(person), person.name) == ("persistent", "Jo")
    assert session.query(Person).one() is person


def test_what_the_database_deleted_through_on_delete_is_there_after_a_rollback(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    note = Note(person=person, text="hi")
    session.add(note)
    session.commit()
    session.delete(person)
    session.flush()
    session.rollback()
    assert session.query(Note).one() is note
    assert (session.state(note), note.person) == ("persistent", person)


# Keys


@pytest.fixture
def keyed(engine: Any) -> Any:
    """A model whose keys are given."""

    class Keyed(dbm.declarative_base()):  # type: ignore[misc]
        key = peewee.CharField(primary_key=True)
        value = peewee.TextField(default="")

    dbm.install_tables(engine, models=[Keyed])
    return Keyed


def test_a_change_of_the_key_is_undone_after_several_flushes(session: dbm.Session, keyed: Any) -> None:
    instance = keyed(key="a")
    session.add(instance)
    session.commit()
    for key in "bcd":
        instance.key = key
        session.flush()
    session.rollback()
    assert instance.key == "a"
    assert session.get(keyed, "a") is instance
    assert [session.get(keyed, key) for key in "bcd"] == [None, None, None]


def test_a_newcomer_that_took_the_key_of_a_deleted_object_leaves(session: dbm.Session, keyed: Any) -> None:
    former, newcomer = keyed(key="a", value="former"), keyed(key="a", value="newcomer")
    session.add(former)
    session.commit()
    session.delete(former)
    session.flush()
    session.add(newcomer)
    session.flush()
    assert session.get(keyed, "a") is newcomer
    session.rollback()
    assert (session.state(former), session.state(newcomer)) == ("persistent", "transient")
    assert session.get(keyed, "a") is former
    assert (former.value, newcomer.value) == ("former", "newcomer")


def test_a_newcomer_that_took_over_the_row_of_a_deleted_object_leaves(session: dbm.Session, keyed: Any) -> None:
    former, newcomer = keyed(key="a", value="former"), keyed(key="a", value="newcomer")
    session.add(former)
    session.commit()
    session.delete(former)
    session.add(newcomer)
    session.flush()
    assert session.query(keyed.value).all() == [("newcomer",)]
    session.rollback()
    assert (session.state(former), session.state(newcomer)) == ("persistent", "transient")
    assert session.query(keyed).one() is former
    assert former.value == "former"


def test_a_newcomer_that_took_a_key_that_was_left_leaves(session: dbm.Session, keyed: Any) -> None:
    former, newcomer = keyed(key="a"), keyed(key="a")
    session.add(former)
    session.commit()
    former.key = "b"
    session.flush()
    session.add(newcomer)
    session.flush()
    session.rollback()
    assert session.get(keyed, "a") is former
    assert session.state(newcomer) == "transient"


def test_an_object_that_get_found_gone_is_persistent_again_after_a_rollback(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.execute("DELETE FROM people")
    assert session.get(Person, person.id, with_for_update=True) is None
    session.rollback()
    assert session.state(person) == "persistent"
    assert session.get(Person, person.id) is person


# Savepoints


def test_a_savepoint_writes_what_came_before_it(session: dbm.Session) -> None:
    with dbm.open_session(session.engine, autoflush=False) as session:
        person = Person(name="Jo")
        session.add(person)
        nested = session.begin_nested()
        assert session.new == []
        person.name = "Joe"
        nested.rollback()
        assert (session.state(person), person.name) == ("persistent", "Jo")
        session.commit()
        assert session.query(Person.name).all() == [("Jo",)]


def test_rolling_a_savepoint_back_undoes_only_what_is_in_it(
    session: dbm.Session, only_rollback: Callable[[], Any]
) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    jo.name = "before"
    nested = session.begin_nested()
    al.name = "inside"
    bo = Person(name="Bo")
    session.add(bo)
    session.flush()
    with only_rollback():
        nested.rollback()
        assert (jo.name, al.name) == ("before", "Al")
        assert (session.state(bo), bo.id) == ("transient", None)
    session.commit()
    assert session.query(Person.name).order_by(Person.id).all() == [("before",), ("Al",)]


def test_a_savepoint_restores_the_value_of_its_beginning(session: dbm.Session) -> None:
    person = saved(session, name="committed", tags=["committed"])
    person.name, person.tags = "flushed", ["flushed"]
    nested = session.begin_nested()
    person.name = "inside"
    person.tags.append("inside")
    session.flush()
    person.name = "inside too"
    nested.rollback()
    assert (person.name, person.tags) == ("flushed", ["flushed"])
    session.rollback()
    assert (person.name, person.tags) == ("committed", ["committed"])


def test_a_delete_within_a_savepoint_is_undone(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    nested = session.begin_nested()
    session.delete(person)
    session.flush()
    nested.rollback()
    assert session.state(person) == "persistent"
    session.commit()
    assert session.query(Person).one() is person


def test_a_delete_before_a_savepoint_stays(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    nested = session.begin_nested()
    nested.rollback()
    assert session.state(person) == "deleted"
    session.commit()
    assert session.query(Person).count() == 0


def test_an_object_deleted_before_a_savepoint_and_added_within_is_deleted_again(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    nested = session.begin_nested()
    session.add(person)
    session.flush()
    nested.rollback()
    assert session.query(Person).count() == 0
    session.rollback()
    assert session.state(person) == "persistent"
    assert session.query(Person).one() is person


def test_an_object_deleted_before_a_savepoint_and_added_and_deleted_within_is_deleted(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    nested = session.begin_nested()
    session.add(person)
    session.flush()
    session.delete(person)
    session.flush()
    nested.rollback()
    assert session.state(person) == "deleted"
    session.rollback()
    assert session.state(person) == "persistent"
    assert session.query(Person).one() is person


def test_a_new_object_that_is_deleted_within_a_savepoint_is_back_after_it(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    nested = session.begin_nested()
    key = person.id
    session.delete(person)
    session.flush()
    nested.rollback()
    assert (session.state(person), person.id) == ("persistent", key)
    session.commit()
    assert session.query(Person).one() is person


def test_releasing_a_savepoint_changes_nothing_on_objects(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = saved(session, name="Jo")
    nested = session.begin_nested()
    person.name = "Joe"
    session.flush()
    with statements() as ran:
        nested.commit()
        assert person.name == "Joe"
        assert session.get(Person, person.id) is person
    assert [sql.split()[0] for sql in ran] == ["RELEASE"]


def test_what_a_released_savepoint_did_is_undone_by_the_rollback(session: dbm.Session, keyed: Any) -> None:
    changed, deleted, rekeyed, new = keyed(key="c"), keyed(key="d"), keyed(key="r"), keyed(key="n")
    session.add_all([changed, deleted, rekeyed])
    session.commit()
    with session.begin_nested():
        changed.value = "changed"
        session.delete(deleted)
        rekeyed.key = "s"
        session.add(new)
    session.rollback()
    states = [session.state(each) for each in (changed, deleted, rekeyed, new)]
    assert states == ["persistent", "persistent", "persistent", "transient"]
    assert (changed.value, rekeyed.key) == ("", "r")
    assert session.get(keyed, "r") is rekeyed and session.get(keyed, "s") is None
    assert session.query(keyed).count() == 3


def test_what_a_released_savepoint_did_is_undone_by_the_one_around_it(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    outer = session.begin_nested()
    person.name = "outer"
    inner = session.begin_nested()
    person.name = "inner"
    new = Person(name="new")
    session.add(new)
    inner.commit()
    outer.rollback()
    assert (person.name, session.state(new)) == ("Jo", "transient")
    session.commit()
    assert session.query(Person.name).all() == [("Jo",)]


def test_savepoints_three_deep_are_undone_one_by_one(session: dbm.Session) -> None:
    person = saved(session, name="0", tags=[0])
    handles = []
    for depth in (1, 2, 3):
        handles.append(session.begin_nested())
        person.name = str(depth)
        person.tags.append(depth)
        session.flush()
    assert session.in_nested_transaction()
    seen = [(person.name, list(person.tags))]
    for handle in reversed(handles):
        handle.rollback()
        seen.append((person.name, list(person.tags)))
    assert seen == [("3", [0, 1, 2, 3]), ("2", [0, 1, 2]), ("1", [0, 1]), ("0", [0])]
    assert not session.in_nested_transaction() and session.in_transaction()


def test_rolling_an_outer_savepoint_back_ends_the_inner_ones(session: dbm.Session) -> None:
    person = saved(session, name="0")
    handles = []
    for depth in (1, 2, 3):
        handles.append(session.begin_nested())
        person.name = str(depth)
    handles[1].rollback()
    assert person.name == "1"
    assert [handle.is_active for handle in handles] == [True, False, False]
    with pytest.raises(dbm.ResourceClosedError, match="This transaction is closed"):
        handles[2].rollback()
    session.commit()
    assert session.query(Person.name).scalar() == "1"


def test_releasing_an_outer_savepoint_releases_the_inner_ones(session: dbm.Session) -> None:
    person = saved(session, name="0")
    outer = session.begin_nested()
    inner = session.begin_nested()
    person.name = "inside"
    outer.commit()
    assert not inner.is_active
    session.rollback()
    assert person.name == "0"


def test_the_sessions_commit_ends_all_savepoints(session: dbm.Session, other: dbm.Session) -> None:
    outer = session.begin_nested()
    session.add(Person(name="outer"))
    inner = session.begin_nested()
    session.add(Person(name="inner"))
    session.commit()
    assert not (outer.is_active or inner.is_active or session.in_transaction())
    assert other.query(Person.name).all() == [("outer",), ("inner",)]


def test_the_sessions_rollback_ends_all_savepoints(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    handles = [session.begin_nested(), session.begin_nested()]
    person.name = "Joe"
    session.flush()
    session.rollback()
    assert [handle.is_active for handle in handles] == [False, False]
    assert (person.name, session.in_transaction()) == ("Jo", False)


def test_a_nested_block_releases_its_savepoint(session: dbm.Session) -> None:
    with session.begin_nested() as nested:
        session.add(Person(name="Jo"))
    assert not nested.is_active and session.new == []
    assert session.in_transaction()
    session.commit()
    assert session.query(Person.name).all() == [("Jo",)]


def test_an_error_in_a_nested_block_loses_only_the_savepoint(session: dbm.Session) -> None:
    jo = saved(session, name="Jo")
    jo.name = "Joe"
    with pytest.raises(KeyError), session.begin_nested():
        session.add(Person(name="Al"))
        jo.age = 3
        raise KeyError
    assert (jo.name, jo.age, session.new) == ("Joe", None, [])
    session.commit()
    assert session.query(Person.name, Person.age).all() == [("Joe", None)]


def test_a_flush_that_fails_in_a_nested_block_loses_only_the_savepoint(session: dbm.Session) -> None:
    session.add(Person(name="Jo", email="jo@example.org"))
    session.flush()
    double = Person(name="Al", email="jo@example.org")
    with pytest.raises(peewee.IntegrityError):
        with session.begin_nested():
            session.add(double)
    assert session.state(double) == "transient"
    session.add(Person(name="Bo"))
    session.commit()
    assert session.query(Person.name).order_by(Person.id).all() == [("Jo",), ("Bo",)]


@pytest.mark.databases("sqlite")
def test_a_savepoint_that_the_database_ended_ends_the_transaction(session: dbm.Session) -> None:
    """SQLite ends the whole transaction, savepoints included, on OR ROLLBACK."""
    person = saved(session, name="Jo", email="jo@example.org")
    person.age = 3
    nested = session.begin_nested()
    person.name = "Joe"
    session.flush()
    with pytest.raises(peewee.IntegrityError):
        session.execute("INSERT OR ROLLBACK INTO people (email, score, tags) VALUES ('jo@example.org', 0, '[]')")
    with pytest.raises(dbm.ResourceClosedError):
        nested.rollback()
    session.rollback()
    assert (person.name, person.age) == ("Jo", None)
    person.name = "Joe"
    session.commit()
    assert session.query(Person.name, Person.age).all() == [("Joe", None)]


@pytest.mark.databases("mariadb", "mysql")
def test_a_savepoint_that_a_deadlock_ended_ends_the_transaction(session: dbm.Session, other: dbm.Session) -> None:
    """The whole transaction is rolled back of the one that has written less."""
    person = saved(session, name="Jo")
    session.execute(Person.insert_many([{"name": "many"}] * 20))
    session.commit()
    other.execute("UPDATE people SET score = 1 WHERE id > ?", [person.id])  # by the key: else it locks all rows
    person.age = 3
    nested = session.begin_nested()
    person.name = "Joe"
    session.flush()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.execute, "UPDATE people SET score = 2 WHERE id = ?", [person.id])
        with pytest.raises(peewee.OperationalError, match=r"(?i)deadlock"):
            session.execute("UPDATE people SET score = 3 WHERE id > ?", [person.id])
        waiting.result()
    other.rollback()
    with pytest.raises(dbm.ResourceClosedError):
        nested.rollback()
    session.rollback()
    assert (person.name, person.age) == ("Jo", None)
    person.name = "Joe"
    session.commit()
    assert session.query(Person.name, Person.age, Person.score).filter_by(id=person.id).all() == [("Joe", None, 0)]


# Any operations, in any order


Things = dbm.declarative_base()


class Thing(Things):
    """A row with a given key, a number that must not be negative, and a list."""

    key = peewee.CharField(primary_key=True)
    number = peewee.IntegerField(constraints=[peewee.Check("number >= 0")])
    items = peewee.JSONField(default=list)


class Numbered(Things):
    """The same, with a key that the database generates."""

    key = peewee.CharField()
    number = peewee.IntegerField(constraints=[peewee.Check("number >= 0")])
    items = peewee.JSONField(default=list)


Values = dict[str, Any]


class Known:
    """What the oracle knows of a thing: its values, those of its row, and how it stands to the session."""

    def __init__(self, thing: Any, values: Values) -> None:
        self.thing = thing
        self.values = values
        self.state = "transient"
        self.is_marked = False

    def kept(self) -> tuple[str, Values]:
        return self.state, dict(self.values)


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, -1])  # mostly such as the CHECK lets pass
CHANGEABLE = ("transient", "pending", "persistent")


def there_is_one(*states: str) -> Any:
    """Let a rule wait until there is a thing in one of these states."""
    return stateful.precondition(lambda self: any(known.state in states for known in self.known.values()))


class Machine(StateMachine):
    """Operations of a session, next to a few dicts that say what they should do.

    `rows` are the rows as this session sees them, and `saved` is a stack: what they were, and what the objects were, at
    the beginning of the transaction and of each savepoint.
    """

    model: Any = Thing
    can_be_added: tuple[str, ...] = (*CHANGEABLE, "deleted", "detached")

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine
        self.session = dbm.open_session(engine)
        self.known: dict[str, Known] = {}
        self.rows: dict[str, Values] = {}
        self.saved: list[tuple[dict[str, Values], dict[str, tuple[str, Values]]]] = []
        self.handles: list[Any] = []
        self.remember()

    def teardown(self) -> None:
        self.session.rollback()
        self.session.close()
        run_sql(self.engine, f"DELETE FROM {self.model._meta.table_name}")

    # The oracle

    def remember(self) -> None:
        self.saved.append((dict(self.rows), {key: known.kept() for key, known in self.known.items()}))

    def dirty(self) -> set[str]:
        return {
            key
            for key, known in self.known.items()
            if known.state == "persistent" and not known.is_marked and known.values != self.rows[key]
        }

    def would_fail(self) -> bool:
        written = self.dirty() | {key for key, known in self.known.items() if known.state == "pending"}
        return any(self.known[key].values["number"] < 0 for key in written)

    def flushes(self, verb: Callable[[], Any]) -> bool:
        """Call what flushes, and tell whether the flush went well; if not, nothing has changed."""
        if self.would_fail():
            with pytest.raises(peewee.IntegrityError, match=r"(?i)constraint.*number"):
                verb()
            return False
        verb()
        for key, known in self.known.items():
            if known.is_marked:
                known.is_marked, known.state = False, "deleted"
                del self.rows[key]
            elif known.state in ("pending", "persistent"):
                known.state = "persistent"
                self.rows[key] = dict(known.values)
        return True

    def restore(self, depth: int) -> None:
        rows, objects = self.saved[depth]
        self.rows = dict(rows)
        for key, known in self.known.items():
            state, values = objects.get(key, ("transient", known.values))
            if state == "persistent":
                known.state, known.values = state, dict(values)
            elif state == "deleted":  # it has no row that its values could disagree with
                known.state = state
            elif state == "detached":
                known.state = "detached" if known.state == "detached" else "transient"
            else:
                known.state = "transient"
            known.is_marked = False
        del self.saved[depth + 1 :]

    def named(self, data: st.DataObject, *states: str) -> Known:
        """Draw one of the things in these states."""
        keys = [key for key, known in self.known.items() if known.state in states]
        return self.known[data.draw(st.sampled_from(keys), label="thing")]

    # Operations

    @stateful.initialize()
    def begin_with_two(self) -> None:
        for number in (1, 2):
            self.make(number, [number], add=True)
        self.commit()

    @stateful.precondition(lambda self: len(self.known) < 4)
    @stateful.rule(number=NUMBERS, items=st.lists(st.integers(0, 2), max_size=2), add=st.booleans())
    def make(self, number: int, items: list[int], add: bool) -> None:
        key = chr(ord("a") + len(self.known))
        thing = self.model(key=key, number=number, items=list(items))
        self.known[key] = Known(thing, {"number": number, "items": items})
        if add:
            self.session.add(self.known[key].thing)
            self.known[key].state = "pending"

    @stateful.precondition(lambda self: any(known.state in self.can_be_added for known in self.known.values()))
    @stateful.rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        known = self.named(data, *self.can_be_added)
        self.session.add(known.thing)
        known.is_marked = False
        if known.state != "persistent":
            known.state = "pending"

    @there_is_one("persistent")
    @stateful.rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        known = self.named(data, "persistent")
        self.session.delete(known.thing)
        known.is_marked = True

    @there_is_one(*CHANGEABLE)
    @stateful.rule(data=st.data(), number=NUMBERS)
    def set_number(self, data: st.DataObject, number: int) -> None:
        known = self.named(data, *CHANGEABLE)
        known.thing.number = known.values["number"] = number

    @there_is_one(*CHANGEABLE)
    @stateful.rule(data=st.data(), item=st.integers(0, 2))
    def append(self, data: st.DataObject, item: int) -> None:
        known = self.named(data, *CHANGEABLE)
        known.thing.items.append(item)
        known.values["items"] = [*known.values["items"], item]

    @there_is_one(*CHANGEABLE)
    @stateful.rule(data=st.data(), items=st.lists(st.integers(0, 2), max_size=2))
    def replace(self, data: st.DataObject, items: list[int]) -> None:
        known = self.named(data, *CHANGEABLE)
        known.thing.items, known.values["items"] = list(items), items

    @stateful.rule()
    def flush(self) -> None:
        self.flushes(self.session.flush)

    @stateful.rule()
    def query(self) -> None:
        if self.flushes(lambda: self.session.query(self.model).count()):
            found = {thing.key: thing for thing in self.session.query(self.model)}
            assert {key: id(thing) for key, thing in found.items()} == {
                key: id(known.thing) for key, known in self.known.items() if known.state == "persistent"
            }

    @stateful.rule()
    def commit(self) -> None:
        if self.flushes(self.session.commit):
            for known in self.known.values():
                if known.state == "deleted":
                    known.state = "detached"
            self.saved.clear()
            self.handles.clear()
            self.remember()

    @stateful.rule()
    def rollback(self) -> None:
        self.session.rollback()
        self.restore(0)
        self.handles.clear()

    @stateful.precondition(lambda self: len(self.handles) < 4)
    @stateful.rule()
    def savepoint(self) -> None:
        if self.flushes(lambda: self.handles.append(self.session.begin_nested())):
            self.remember()

    @stateful.precondition(lambda self: self.handles)
    @stateful.rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        depth = data.draw(st.integers(0, len(self.handles) - 1), label="depth")
        if self.flushes(self.handles[depth].commit):
            del self.handles[depth:], self.saved[depth + 1 :]

    @stateful.precondition(lambda self: self.handles)
    @stateful.rule(data=st.data())
    def rollback_to(self, data: st.DataObject) -> None:
        depth = data.draw(st.integers(0, len(self.handles) - 1), label="depth")
        with collected(self.engine) as ran:
            self.handles[depth].rollback()
        assert {sql.split()[0] for sql in ran} <= {"ROLLBACK", "RELEASE"}
        self.restore(depth + 1)
        del self.handles[depth:], self.saved[depth + 1 :]

    # What must hold after each of them

    @stateful.invariant()
    def rows_agree(self) -> None:
        fields = (self.model.key, self.model.number, self.model.items)
        with self.session.no_autoflush:
            found = self.session.execute(self.model.select(*fields).dicts())
            assert {row.pop("key"): row for row in found} == self.rows

    @stateful.invariant()
    def objects_agree(self) -> None:
        with collected(self.engine) as ran:
            for known in self.known.values():
                assert {"number": known.thing.number, "items": known.thing.items} == known.values
        assert ran == []

    @stateful.invariant()
    def states_agree(self) -> None:
        for known in self.known.values():
            assert self.session.state(known.thing) == known.state

    @stateful.invariant()
    def books_agree(self) -> None:
        books = (self.session.new, self.session.dirty, self.session.deleted)
        new, dirty, deleted = ({thing.key for thing in book} for book in books)
        assert new == {key for key, known in self.known.items() if known.state == "pending"}
        assert dirty == self.dirty()
        assert deleted == {key for key, known in self.known.items() if known.is_marked}


class NumberedMachine(Machine):
    """The same with generated keys: a thing has one while it has a row, and the same one after a rollback."""

    model = Numbered
    can_be_added = CHANGEABLE

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.keys: dict[str, int] = {}

    @stateful.invariant()
    def keys_agree(self) -> None:
        for key, known in self.known.items():
            if known.state in ("pending", "transient"):
                assert known.thing.id is None
                self.keys.pop(key, None)
            elif known.state != "detached":
                assert self.keys.setdefault(key, known.thing.id) == known.thing.id
                assert known.thing.id is not None


@pytest.mark.parametrize("machine", [Machine, NumberedMachine])
def test_any_operations_do_what_dicts_do(swift_engine: Any, machine: Any, run_machine: Callable[..., None]) -> None:
    dbm.install_tables(swift_engine, models=Things)
    run_machine(lambda: machine(swift_engine), examples=150, stateful_step_count=40)


# Ctrl-C


def test_ctrl_c_while_the_connection_is_given_back_leaves_no_object_as_it_was_before_the_rollback(
    session: dbm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = type(session.engine).release

    def interrupted(*args: Any) -> None:
        release(*args)
        raise KeyboardInterrupt

    person = Person(name="Joe")
    session.add(person)
    session.flush()
    monkeypatch.setattr(type(session.engine), "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.rollback()
    monkeypatch.undo()
    assert (session.state(person), person.id) == ("transient", None)


# Rows that were read after something had changed them, and that is rolled back


@pytest.mark.parametrize("way", ["at once", "by way of another value", "after a part was read again"])
def test_a_value_that_was_read_and_undone_is_written_when_it_is_set(session: Any, way: str) -> None:
    session.add(Person(name="row"))
    session.commit()
    session.expunge_all()
    session.query(Person).update({Person.name: "undone"})
    person = session.query(Person).one()
    session.rollback()
    if way == "by way of another value":
        person.name = "other"
    elif way == "after a part was read again":
        assert session.execute(Person.select(Person.id, Person.age)).one() is person
    person.name = "undone"
    session.commit()
    assert session.scalar("SELECT name FROM people") == "undone"


def test_a_json_value_that_was_read_and_undone_is_written_when_it_is_changed_back(session: Any) -> None:
    session.add(Person(tags=["row"]))
    session.commit()
    session.expunge_all()
    session.query(Person).update({Person.tags: ["undone"]})
    person = session.query(Person).one()
    session.rollback()
    person.tags.append("x")
    person.tags.remove("x")
    session.commit()
    assert session.scalar("SELECT tags FROM people") == '["undone"]'


def test_a_value_that_is_read_again_is_the_rows(session: Any) -> None:
    session.add(Person(name="row"))
    session.commit()
    session.expunge_all()
    session.query(Person).update({Person.name: "undone"})
    person = session.query(Person).one()
    session.rollback()
    assert session.get(Person, person.id).name == person.name == "row"
    person.name = "row"
    assert session.dirty == []


def test_a_statement_flushes_what_it_would_write_over_without_autoflush_too(session: Any) -> None:
    person = Person(name="row")
    session.add(person)
    session.commit()
    with session.no_autoflush:
        person.name = "pending"
        session.execute(Person.update(name="bulk"))
    session.rollback()
    assert (person.name, session.is_modified(person)) == ("row", False)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_attribute_that_is_flagged_travels_in_a_pickle(session: Any, protocol: int) -> None:
    person = Person(name="row")
    session.add(person)
    session.commit()
    session.flag_modified(person, "name")
    session.expunge(person)
    twin = pickle.loads(pickle.dumps(person, protocol))
    session.add(twin)
    assert session.dirty == [twin]
    session.rollback()
    assert twin.name == "row"


def test_undoing_flag_modified_gives_the_value_back(session: Any) -> None:
    person = Person(name="row")
    session.add(person)
    session.commit()
    session.flag_modified(person, "name")
    session.rollback()
    assert person.name == "row"


def test_a_column_that_was_not_loaded_is_not_after_a_delete_that_is_rolled_back(session: dbm.Session) -> None:
    saved(session, name="Jo", tags=["a"])
    session.expunge_all()
    (person,) = session.execute(Person.select(Person.id, Person.name))
    session.delete(person)
    session.flush()
    session.rollback()
    assert person.name == "Jo"
    with pytest.raises(dbm.UnloadedColumnError):
        person.tags  # noqa: B018


def test_of_objects_that_one_flush_updates_the_new_one_keeps_its_values_and_the_other_gets_its_own_back(
    session: dbm.Session,
) -> None:
    old = saved(session, name="old")
    new = Person(name="new")
    session.add(new)
    session.flush()
    old.name, new.name = "old, changed", "new, changed"
    session.flush()
    session.rollback()
    assert (old.name, session.state(old)) == ("old", "persistent")
    assert (new.name, new.id, session.state(new)) == ("new, changed", None, "transient")


def test_objects_that_one_flush_deletes_have_all_that_they_had_after_a_rollback(session: dbm.Session) -> None:
    people = [saved(session, name=f"number {n}", tags=[n]) for n in range(3)]
    people[1].name = "changed"
    for person in people:
        session.delete(person)
    session.flush()
    people[2].name = "set after the delete"
    session.rollback()
    assert [(person.name, person.tags, person in session) for person in people] == [
        ("number 0", [0], True),
        ("number 1", [1], True),
        ("number 2", [2], True),
    ]
