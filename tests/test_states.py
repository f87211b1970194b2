"""The states of an object, and the verbs that lead from one to another: add, delete, expunge, merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person, as_sqlite, verbs

from tent.data import dbm


def saved(session: dbm.Session, **values: Any) -> Person:
    """Return a person who has a row."""
    person = Person(**values)
    session.add(person)
    session.commit()
    return person


# States


def test_a_state_follows_the_other(session: dbm.Session) -> None:
    person = Person(name="Jo")
    states = [session.state(person)]
    for step in (
        lambda: session.add(person),
        session.flush,
        session.commit,
        lambda: session.delete(person),
        session.flush,
        session.commit,
    ):
        step()
        states.append(session.state(person))
    assert states == ["transient", "pending", "persistent", "persistent", "persistent", "deleted", "detached"]


def test_adding_runs_no_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        session.add(Person(name="Jo"))
        session.add_all([Person(), Note(person=Person())])
    assert ran == []
    assert len(session.new) == 4


def test_deleting_and_changing_run_no_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    with statements() as ran:
        jo.name = "Joe"
        session.delete(al)
    assert ran == []
    assert (session.dirty, session.deleted) == ([jo], [al])


def test_new_dirty_and_deleted_are_empty_after_a_flush(session: dbm.Session) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    jo.name = "Joe"
    session.delete(al)
    session.add(Person())
    session.flush()
    assert (session.new, session.dirty, session.deleted) == ([], [], [])


def test_a_session_contains_pending_and_persistent_objects(session: dbm.Session) -> None:
    pending, persistent, transient = Person(), saved(session), Person()
    session.add(pending)
    assert [each in session for each in (pending, persistent, transient)] == [True, True, False]


def test_a_session_iterates_over_its_objects(session: dbm.Session) -> None:
    persistent, pending = saved(session), Person()
    session.add(pending)
    assert {id(each) for each in session} == {id(persistent), id(pending)}


def test_expunging_detaches(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.expunge(person)
    assert session.state(person) == "detached"
    assert person not in session


def test_an_object_marked_for_delete_is_in_the_session_until_the_flush(session: dbm.Session) -> None:
    person = saved(session)
    session.delete(person)
    assert person in session and session.deleted == [person]
    session.flush()
    assert person not in session and session.state(person) == "deleted"
    session.commit()
    assert session.state(person) == "detached"


def test_a_deleted_object_that_is_added_is_inserted_again(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    session.flush()
    session.add(person)
    assert session.state(person) == "pending"
    session.commit()
    assert session.state(person) == "persistent"
    assert other.query(Person.name).all() == [("Jo",)]


def test_an_object_that_was_deleted_and_committed_can_be_added(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo", tags=["a"])
    session.delete(person)
    session.commit()
    session.add(person)
    session.commit()
    assert other.query(Person.name, Person.tags).all() == [("Jo", ["a"])]


def test_adding_an_object_that_is_marked_for_delete_cancels_the_delete(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session)
    session.delete(person)
    session.add(person)
    assert (session.deleted, session.new) == ([], [])
    with statements() as ran:
        session.commit()
    assert ran == []
    assert session.query(Person).count() == 1


def test_a_cancelled_delete_keeps_the_changes_of_the_object(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.delete(person)
    assert session.dirty == []
    session.add(person)
    assert session.dirty == [person]
    session.commit()
    assert other.query(Person.name).all() == [("Joe",)]


def test_deleting_a_pending_object_cancels_its_insert(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = Person()
    session.add(person)
    session.delete(person)
    assert session.state(person) == "transient"
    with statements() as ran:
        session.commit()
    assert ran == []


def test_deleting_a_transient_object_is_refused(session: dbm.Session) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=r"<Person id=None .*name='Jo'.* is not persisted"):
        session.delete(Person(name="Jo"))


def test_deleting_an_object_whose_delete_was_committed_is_refused(session: dbm.Session) -> None:
    person = saved(session)
    session.delete(person)
    session.commit()
    with pytest.raises(dbm.InvalidRequestError, match="is not persisted"):
        session.delete(person)


def test_deleting_twice_deletes_once(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = saved(session)
    session.delete(person)
    session.delete(person)
    session.flush()
    with statements() as ran:
        session.delete(person)
        session.flush()
    assert ran == []


def test_make_transient_forgets_the_row(session: dbm.Session) -> None:
    person = saved(session, name="Jo", tags=["a"])
    dbm.make_transient(person)
    assert (session.state(person), person.id, person.name, person.tags) == ("transient", None, "Jo", ["a"])
    assert person not in session


def test_make_transient_helps_to_copy_a_row(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    key = person.id
    dbm.make_transient(person)
    session.add(person)
    session.commit()
    assert person.id != key
    assert session.query(Person.name).all() == [("Jo",), ("Jo",)]


def test_make_transient_can_be_repeated(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    dbm.make_transient(person)
    dbm.make_transient(person)
    assert (session.state(person), person.name) == ("transient", "Jo")


def test_make_transient_of_a_pending_object_takes_it_out(session: dbm.Session) -> None:
    person = Person()
    session.add(person)
    dbm.make_transient(person)
    assert session.new == []


def test_a_rollback_does_not_undo_make_transient(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.flush()
    dbm.make_transient(person)
    session.rollback()
    assert (session.state(person), person.id, person.name) == ("transient", None, "Joe")


def test_a_rollback_leaves_an_object_alone_that_went_to_another_database(session: dbm.Session, tmp_path: Any) -> None:
    elsewhere = dbm.connect({"driver": "sqlite", "path": tmp_path / "elsewhere.db"})
    dbm.install_tables(elsewhere, models=[Person])
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    dbm.make_transient(person)
    with dbm.open_session(elsewhere) as second:
        second.add(person)
        second.commit()
        session.rollback()
        assert (second.state(person), person.id) == ("persistent", 1)
    elsewhere.close_all()


def test_adding_an_object_repeatedly_inserts_it_once(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = Person(name="Jo")
    with statements() as ran:
        session.add(person)
        session.add_all([person, person])
        session.commit()
        session.add(person)
        session.commit()
    assert [sql for sql in ran if sql.startswith("INSERT")] == [ran[1]]
    assert session.query(Person).count() == 1


# Detached objects, and objects of other sessions


def test_changes_made_while_detached_are_saved_after_adding(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo", tags=["a"])
    session.expunge(person)
    person.name = "Joe"
    person.tags.append("b")
    session.add(person)
    assert session.dirty == [person]
    session.commit()
    assert other.query(Person.name, Person.tags).all() == [("Joe", ["a", "b"])]


def test_only_the_columns_changed_while_detached_are_updated(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo", age=3)
    session.expunge(person)
    person.age = 4
    session.add(person)
    with statements() as ran:
        session.flush()
    updates = [as_sqlite(sql) for sql in ran if sql.startswith("UPDATE")]
    assert updates == ['UPDATE "people" SET "age" = ? WHERE "id" = ?']


def test_a_detached_object_without_changes_comes_back_clean(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    session.expunge(person)
    with statements() as ran:
        session.add(person)
        session.commit()
    assert (session.state(person), ran) == ("persistent", [])


def test_a_detached_object_can_go_to_another_session(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.expunge(person)
    other.add(person)
    person.name = "Joe"
    other.commit()
    assert person in other and person not in session
    assert session.query(Person.name).all() == [("Joe",)]


@pytest.mark.parametrize("state", ["persistent", "detached"])
def test_a_change_after_peewees_own_save_is_saved(engine: Any, session: dbm.Session, state: str) -> None:
    person = saved(session, name="Jo")
    if state == "detached":
        session.expunge(person)
    with engine.bind_ctx([Person]):
        person.name = "Joe"
        person.save()
    session.add(person)
    assert session.dirty == []
    person.name = "Jack"
    assert session.dirty == [person]
    session.commit()
    assert session.query(Person.name).all() == [("Jack",)]


@pytest.mark.parametrize("verb", ["add", "delete"])
def test_an_object_of_another_open_session_is_refused(session: dbm.Session, other: dbm.Session, verb: str) -> None:
    person = saved(session, name="Jo")
    with pytest.raises(dbm.InvalidRequestError, match=r"<Person id=1 .*name='Jo'.* is already attached to another"):
        getattr(other, verb)(person)
    assert person in session and person not in other
    assert (other.new, other.deleted, len(other.identity_map)) == ([], [], 0)


def test_a_pending_object_of_another_session_is_refused(session: dbm.Session, other: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(person)
    with pytest.raises(dbm.InvalidRequestError, match="already attached"):
        other.add(person)
    assert (session.new, other.new) == ([person], [])


def test_a_second_object_of_a_row_is_refused(session: dbm.Session) -> None:
    first = saved(session, name="Jo")
    session.expunge(first)
    second = session.get(Person, first.id)
    with pytest.raises(dbm.InvalidRequestError, match=r"another object with its key.*merge"):
        session.add(first)
    assert session.state(first) == "detached"
    assert session.get(Person, first.id) is second


def test_a_second_object_of_a_row_is_refused_for_delete_too(session: dbm.Session) -> None:
    first = saved(session, name="Jo")
    session.expunge(first)
    second = session.get(Person, first.id)
    with pytest.raises(dbm.InvalidRequestError, match="another object with its key"):
        session.delete(first)
    assert session.deleted == [] and second in session


def test_deleting_a_detached_object_deletes_its_row(session: dbm.Session) -> None:
    person = saved(session)
    session.expunge(person)
    session.delete(person)
    assert session.deleted == [person]
    session.commit()
    assert session.query(Person).count() == 0


def test_an_expunged_pending_object_is_transient_and_not_inserted(session: dbm.Session) -> None:
    person = Person()
    session.add(person)
    session.expunge(person)
    session.commit()
    assert session.state(person) == "transient"
    assert session.query(Person).count() == 0


def test_a_rollback_does_not_bring_an_expunged_object_back(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.flush()
    session.expunge(person)
    session.rollback()
    assert session.state(person) == "detached"
    assert session.get(Person, person.id) is not person


def test_expunging_an_object_that_is_marked_for_delete_cancels_the_delete(session: dbm.Session) -> None:
    person = saved(session)
    session.delete(person)
    session.expunge(person)
    session.commit()
    assert session.state(person) == "detached"
    assert session.query(Person).count() == 1


def test_expunging_a_changed_object_leaves_its_row_alone(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    session.expunge(person)
    session.commit()
    assert session.query(Person.name).all() == [("Jo",)]


def test_expunging_a_stranger_is_refused(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(other, name="Jo")
    with pytest.raises(dbm.InvalidRequestError, match=r"is persistent and not in this session"):
        session.expunge(person)
    with pytest.raises(dbm.InvalidRequestError, match=r"is transient and not in this session"):
        session.expunge(Person())
    assert person in other


def test_expunge_all_lets_go_of_all_objects(session: dbm.Session) -> None:
    persistent, pending, marked = saved(session), Person(), saved(session)
    persistent.name = "Joe"
    session.add(pending)
    session.delete(marked)
    session.expunge_all()
    assert [session.state(each) for each in (persistent, pending, marked)] == ["detached", "transient", "detached"]
    assert (session.new, session.dirty, session.deleted, len(session.identity_map)) == ([], [], [], 0)


# Related objects


def test_adding_an_object_adds_the_new_ones_that_it_refers_to(session: dbm.Session) -> None:
    note = Note(person=Person(name="Jo"), text="hi")
    session.add(note)
    assert session.new == [note, note.person]
    session.commit()
    assert note.person_id == note.person.id == 1


def test_objects_are_reached_through_each_other(session: dbm.Session) -> None:
    leaf = Node(name="leaf", parent=Node(name="twig", parent=Node(name="root")))
    session.add(leaf)
    session.commit()
    assert session.query(Node).count() == 3
    assert leaf.parent.parent.name == "root"


def test_an_object_that_is_assigned_after_adding_comes_along_too(session: dbm.Session) -> None:
    node = Node(name="leaf")
    session.add(node)
    node.parent = Node(name="root")
    session.commit()
    assert node.parent_id == node.parent.id
    assert session.state(node.parent) == "persistent"


def test_an_object_that_is_assigned_to_a_persistent_one_comes_along(session: dbm.Session) -> None:
    node = Node(name="leaf")
    session.add(node)
    session.commit()
    node.parent = Node(name="root")
    assert session.dirty == [node]
    session.commit()
    assert session.query(Node.name, Node.parent).order_by(Node.name).all() == [("leaf", node.parent.id), ("root", None)]


def test_a_child_of_a_persistent_object_is_not_added_by_that(session: dbm.Session) -> None:
    note = Note(person=saved(session))
    session.commit()
    assert session.state(note) == "transient"
    assert session.query(Note).count() == 0


def test_a_child_of_a_pending_object_is_not_added_by_that(session: dbm.Session) -> None:
    person = Person()
    note = Note(person=person)
    session.add(person)
    assert session.new == [person] and note not in session


def test_a_related_object_of_another_session_is_refused_before_any_sql(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    person, note = Person(name="Jo"), Note(text="hi")
    other.add(person)
    session.add(note)
    note.person = person
    with statements() as ran:
        with pytest.raises(dbm.InvalidRequestError, match=r"<Note .*person is <Person .*another open session"):
            session.commit()
    assert ran == []
    assert (session.new, other.new) == ([note], [person])
    note.person = Person(name="Al")
    session.commit()
    assert session.query(Note).count() == 1


def test_adding_an_object_whose_related_one_is_elsewhere_is_refused(session: dbm.Session, other: dbm.Session) -> None:
    person = Person()
    other.add(person)
    note = Note(person=person)
    with pytest.raises(dbm.InvalidRequestError, match="another open session"):
        session.add(note)
    assert session.state(note) == "transient"
    assert session.new == []


def test_a_detached_related_object_serves_by_its_key(session: dbm.Session) -> None:
    person = saved(session)
    session.expunge(person)
    note = Note(person=person)
    session.add(note)
    session.commit()
    assert (note.person_id, session.state(person)) == (person.id, "detached")


# Merge


def test_merge_returns_the_sessions_own_object(session: dbm.Session) -> None:
    own = saved(session, name="Jo")
    source = Person(id=own.id, name="Joe")
    assert session.merge(source) is own
    assert own.name == "Joe"
    assert (session.state(source), source.name) == ("transient", "Joe")


def test_merge_without_a_row_makes_a_new_object(session: dbm.Session) -> None:
    source = Person(id=7, name="Jo", tags=["a"])
    own = session.merge(source)
    assert own is not source
    assert (session.state(own), session.state(source)) == ("pending", "transient")
    session.commit()
    assert session.query(Person.id, Person.name, Person.tags).all() == [(7, "Jo", ["a"])]


def test_merge_without_a_key_reads_nothing(session: dbm.Session, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        own = session.merge(Person(name="Jo"))
    assert ran == []
    assert session.new == [own] and own.name == "Jo"


def test_merge_copies_only_what_was_set(session: dbm.Session) -> None:
    own = saved(session, name="Jo", age=3, score=5, tags=["a"])
    session.merge(Person(id=own.id, name="Joe"))
    assert (own.name, own.age, own.score, own.tags) == ("Joe", 3, 5, ["a"])


def test_merge_copies_a_none_that_was_set(session: dbm.Session) -> None:
    own = saved(session, name="Jo", age=3)
    session.merge(Person(id=own.id, name=None))
    assert (own.name, own.age) == (None, 3)


def test_merge_copies_what_was_set_after_construction(session: dbm.Session) -> None:
    own = saved(session, name="Jo", score=5)
    source = Person(id=own.id)
    source.score = 0
    session.merge(source)
    assert (own.name, own.score) == ("Jo", 0)


def test_a_merged_value_is_a_copy(session: dbm.Session) -> None:
    own, source = saved(session), Person(tags=["a"])
    source.id = own.id
    session.merge(source)
    source.tags.append("b")
    assert own.tags == ["a"]


def test_merging_an_object_without_differences_writes_nothing(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    own = saved(session, name="Jo", tags=["a"])
    session.merge(other.get(Person, own.id))
    with statements() as ran:
        session.commit()
    assert ran == []


def test_merge_leaves_the_object_in_its_session(session: dbm.Session, other: dbm.Session) -> None:
    saved(session, name="Jo")
    source = other.get(Person, 1)
    source.name = "Joe"
    assert session.merge(source).name == "Joe"
    assert source in other and other.dirty == [source]
    other.rollback()


def test_merging_an_object_of_the_session_returns_it(session: dbm.Session) -> None:
    pending, persistent = Person(), saved(session)
    session.add(pending)
    assert session.merge(pending) is pending
    assert session.merge(persistent) is persistent


def test_merging_two_objects_of_one_key_gives_one_object(session: dbm.Session) -> None:
    first = session.merge(Person(id=7, name="Jo"))
    second = session.merge(Person(id=7, name="Joe"))
    assert first is second and first.name == "Joe"
    session.commit()
    assert session.query(Person.name).all() == [("Joe",)]


def test_merge_flushes_once_before_it_reads(session: dbm.Session, statements: Callable[[], Any]) -> None:
    own = saved(session, name="Jo")
    session.expire(own)
    session.add(Person(name="Al"))
    with statements() as ran:
        session.merge(Person(id=own.id, name="Joe", email="jo@example.org"))
    assert verbs(ran) == ["BEGIN", "INSERT", "SELECT"]
    assert session.dirty == [own]


def test_merge_without_load_runs_no_sql(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    source = saved(other, name="Jo", tags=["a"])
    with statements() as ran:
        own = session.merge(source, load=False)
    assert ran == []
    assert own is not source
    assert (own.name, own.tags, session.state(own)) == ("Jo", ["a"], "persistent")
    assert session.dirty == []


def test_merge_without_load_refuses_transient_and_changed_objects(session: dbm.Session, other: dbm.Session) -> None:
    changed = saved(other, name="Jo")
    changed.name = "Joe"
    for source in (changed, Person(), Person(id=1)):
        with pytest.raises(dbm.InvalidRequestError, match="load=False"):
            session.merge(source, load=False)
    other.rollback()


@pytest.fixture
def counted(engine: Any) -> Any:
    """A model with a version."""

    class Counted(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField(null=True)
        version = dbm.VersionField()

    dbm.install_tables(engine, models=[Counted])
    return Counted


@pytest.mark.parametrize("loaded", [True, False])
def test_merging_an_outdated_version_is_a_stale_data_error(
    session: dbm.Session, other: dbm.Session, counted: Any, loaded: bool
) -> None:
    own = counted(name="a")
    session.add(own)
    session.commit()
    source = other.get(counted, own.id)
    own.name = "b"
    session.commit()
    if not loaded:
        session.expunge(own)
    source.name = "c"
    with pytest.raises(dbm.StaleDataError, match=r"version 1.*2") as caught:
        session.merge(source)
    assert caught.value.object is source
    assert own.name == "b"
    other.rollback()


def test_merging_an_object_whose_version_was_not_set_compares_no_versions(session: dbm.Session, counted: Any) -> None:
    own = counted(name="a")
    session.add(own)
    session.commit()
    own.name = "b"
    session.commit()
    session.merge(counted(id=own.id, name="c"))
    session.commit()
    assert (own.name, own.version) == ("c", 3)
