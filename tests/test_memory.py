"""Pickles, copies, and what the garbage collector may take: objects that nobody holds, but no change."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person

from tent.data import dbm
from tent.data.orm.mapper import mapper_of

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@contextmanager
def no_collector() -> Iterator[None]:
    """What goes in here goes by its reference count alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def rows(engine: Any, sql: str) -> list[Any]:
    """What the database says, asked on no session's connection."""
    return list(engine.execute_sql(sql).fetchall())


@pytest.fixture
def stored(engine: Any) -> None:
    with dbm.transaction(engine) as session:
        session.add_all([Person(id=number, name=f"p{number}", tags=["x"]) for number in range(1, 6)])
        session.add(Note(person=1, text="n"))


# Pickles


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_new_object_pickles_and_can_be_added_afterwards(session: Any, engine: Any, protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(Person(name="Jo", tags=["x", {"y": 1}]), protocol))
    assert session.state(twin) == "transient"
    session.add(twin)
    session.commit()
    assert rows(engine, "SELECT name FROM people") == [("Jo",)]
    assert twin.tags == ["x", {"y": 1}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_loaded_object_pickles_without_its_session(session: Any, other: Any, stored: None, protocol: int) -> None:
    person = session.get(Person, 1)
    assert person.tags == ["x"]
    twin = pickle.loads(pickle.dumps(person, protocol))
    assert other.state(twin) == "detached"
    assert (twin.id, twin.name, twin.tags) == (1, "p1", ["x"])
    other.add(twin)
    assert other.dirty == []
    assert other.state(twin) == "persistent"
    assert session.state(person) == "persistent"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_edited_object_pickles_with_its_edits(
    session: Any, other: Any, engine: Any, stored: None, protocol: int
) -> None:
    person = session.get(Person, 1)
    person.name = "edited"
    person.tags.append("y")
    twin = pickle.loads(pickle.dumps(person, protocol))
    session.rollback()
    assert other.is_modified(twin)
    other.add(twin)
    assert other.dirty == [twin]
    other.commit()
    assert rows(engine, "SELECT name, tags FROM people WHERE id = 1")[0][0] == "edited"
    assert twin.tags == ["x", "y"]


def test_an_edited_object_that_was_pickled_can_be_rolled_back(session: Any, other: Any, stored: None) -> None:
    person = session.get(Person, 1)
    person.name = "edited"
    twin = pickle.loads(pickle.dumps(person))
    session.rollback()
    other.add(twin)
    other.rollback()
    assert twin.name == "p1"


def test_a_pickled_object_can_be_merged(session: Any, stored: None) -> None:
    person = session.get(Person, 1)
    twin = pickle.loads(pickle.dumps(person))
    twin.name = "edited"
    assert session.merge(twin) is person
    assert person.name == "edited"


def test_a_deleted_object_pickles_as_one_whose_row_is_deleted(session: Any, engine: Any, stored: None) -> None:
    person = session.get(Person, 5)
    session.delete(person)
    session.commit()
    twin = pickle.loads(pickle.dumps(person))
    session.add(twin)
    session.commit()
    assert rows(engine, "SELECT name FROM people WHERE id = 5") == [("p5",)]


def test_related_objects_are_pickled_along(session: Any, stored: None) -> None:
    note = session.query(Note).first()
    assert note.person.name == "p1"
    twin = pickle.loads(pickle.dumps(note))
    assert twin.person.name == "p1"
    assert twin.person is not note.person


def test_a_list_of_objects_pickles_with_the_ties_between_them(session: Any, engine: Any) -> None:
    root = Node(name="root")
    twins = pickle.loads(pickle.dumps([root, Node(name="child", parent=root)]))
    assert twins[1].parent is twins[0]
    session.add_all(twins)
    session.commit()
    assert rows(engine, "SELECT name, parent_id FROM nodes ORDER BY id") == [("root", None), ("child", twins[0].id)]


def test_an_object_that_was_loaded_in_part_and_edited_pickles(session: Any, stored: None) -> None:
    person = session.query(Person).select(Person.id, Person.name).where(Person.id == 1).first()
    person.age = 3
    twin = pickle.loads(pickle.dumps(person))
    session.rollback()
    assert (twin.name, twin.age) == ("p1", 3)
    assert session.is_modified(twin)
    with pytest.raises(dbm.UnloadedColumnError):
        twin.email  # noqa: B018


# Copies


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_new_object_with_the_same_values_but_for_a_generated_key(
    session: Any, engine: Any, stored: None, copied: Any
) -> None:
    person = session.get(Person, 1)
    twin = copied(person)
    assert session.state(twin) == "transient"
    assert (twin.id, twin.name, twin.tags) == (None, "p1", ["x"])
    twin.name = "twin"
    twin.tags.append("y")
    assert session.dirty == []
    session.add(twin)
    session.commit()
    assert (person.name, person.tags) == ("p1", ["x"])
    assert rows(engine, "SELECT name FROM people WHERE id IN (1, ?) ORDER BY id".replace("?", str(twin.id))) == [
        ("p1",),
        ("twin",),
    ]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_an_edited_object_has_the_edits_and_leaves_them(session: Any, stored: None, copied: Any) -> None:
    person = session.get(Person, 1)
    person.name = "edited"
    twin = copied(person)
    assert twin.name == "edited"
    assert session.dirty == [person]
    session.rollback()
    assert (person.name, twin.name) == ("p1", "edited")


def test_a_copy_of_a_pending_object_is_not_pending(session: Any) -> None:
    person = Person(name="Jo", tags=["x"])
    session.add(person)
    twin = copy.copy(person)
    twin.tags.append("y")
    assert session.state(twin) == "transient"
    assert session.new == [person]
    assert person.tags == ["x"]


def test_a_copy_keeps_a_key_that_is_not_generated(session: Any, engine: Any) -> None:
    class Town(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField(primary_key=True)

    dbm.install_tables(engine, models=[Town])
    assert copy.copy(Town(name="Ulm")).name == "Ulm"


@pytest.mark.parametrize("way", ["copy", "make_transient"])
def test_a_new_object_made_of_a_partly_loaded_one_has_defaults_for_the_rest(
    session: Any, stored: None, way: str
) -> None:
    session.expunge_all()
    (person,) = session.execute(Person.select(Person.id, Person.name).where(Person.id == 1))
    twin = copy.copy(person) if way == "copy" else person
    if way == "make_transient":
        dbm.make_transient(person)
    session.add(twin)
    session.commit()
    assert twin.id != 1
    assert (twin.name, twin.score, twin.tags, twin.email) == ("p1", 0, [], None)


def test_a_deep_copy_of_a_value_of_a_users_own_field_is_independent(session: Any, engine: Any) -> None:
    class Words(peewee.TextField):
        def db_value(self, value: Any) -> Any:
            return " ".join(sorted(value))

        def python_value(self, value: Any) -> Any:
            return set(value.split())

    class Page(dbm.declarative_base()):  # type: ignore[misc]
        words = Words()

    dbm.install_tables(engine, models=[Page])
    page = Page(words={"a"})
    session.add(page)
    session.commit()
    twin = copy.deepcopy(page)
    twin.words.add("b")
    assert page.words == {"a"}
    assert session.dirty == []


def test_a_copy_refers_to_the_same_related_object(session: Any, stored: None) -> None:
    note = session.query(Note).first()
    person = note.person
    twin = copy.copy(note)
    assert twin.person is person
    session.add(twin)
    session.commit()
    assert twin.id != note.id
    assert twin.person_id == 1


# What is held, and what is not


def test_a_clean_object_that_nobody_holds_leaves_the_map_at_once(session: Any, stored: None) -> None:
    with no_collector():
        person = session.get(Person, 1)
        assert person.name == "p1"
        reference = weakref.ref(person)
        assert (Person, 1) in session.identity_map
        del person
        assert reference() is None
        assert (Person, 1) not in session.identity_map
        assert len(session.identity_map) == 0


def test_the_objects_of_a_query_that_nobody_holds_are_gone_at_once(session: Any, stored: None) -> None:
    with no_collector():
        references = [weakref.ref(person) for person in session.query(Person).all()]
        assert [reference() for reference in references] == [None] * 5
        references = [weakref.ref(person) for person in session.query(Person).where(Person.id < 9)]
        assert [reference() for reference in references] == [None] * 5


def test_an_object_whose_json_value_was_read_is_freed(session: Any, stored: None) -> None:
    person = session.get(Person, 1)
    assert person.tags == ["x"]
    reference = weakref.ref(person)
    del person
    gc.collect()
    assert reference() is None


def test_an_object_whose_relation_was_followed_goes_at_once(session: Any, stored: None) -> None:
    with no_collector():
        note = session.query(Note).first()
        assert note.person.name == "p1"
        assert note.person.notes.count() == 1
        references = weakref.ref(note), weakref.ref(note.person)
        del note
        assert [reference() for reference in references] == [None, None]


def test_a_transient_object_goes_at_once(session: Any) -> None:
    with no_collector():
        person = Person(name="Jo", tags=["x"])
        assert person.tags == ["x"]
        reference = weakref.ref(person)
        del person
        assert reference() is None


def test_a_detached_object_goes_at_once(session: Any, stored: None) -> None:
    with no_collector():
        person = session.get(Person, 1)
        person.name = "edited"
        session.expunge(person)
        reference = weakref.ref(person)
        del person
        assert reference() is None


def test_a_saved_object_goes_at_once_after_its_commit(session: Any) -> None:
    with no_collector():
        person = Person(name="Jo")
        session.add(person)
        session.commit()
        person.name = "edited"
        session.commit()
        reference = weakref.ref(person)
        del person
        assert reference() is None


def test_a_deleted_object_goes_at_once_after_the_commit(session: Any, stored: None) -> None:
    with no_collector():
        person = session.get(Person, 5)
        session.delete(person)
        session.commit()
        reference = weakref.ref(person)
        del person
        assert reference() is None


def test_a_new_object_that_nobody_holds_is_saved(session: Any, engine: Any) -> None:
    session.add(Person(name="Jo"))
    gc.collect()
    session.commit()
    assert rows(engine, "SELECT name FROM people") == [("Jo",)]


def test_a_changed_object_that_nobody_holds_is_saved(session: Any, engine: Any, stored: None) -> None:
    session.get(Person, 1).name = "edited"
    session.get(Person, 2).tags.append("y")
    gc.collect()
    assert len(session.dirty) == 2
    session.commit()
    found = rows(engine, "SELECT name, tags FROM people WHERE id < 3 ORDER BY id")
    assert found[0][0] == "edited"
    assert "y" in found[1][1]


def test_a_marked_object_that_nobody_holds_is_deleted(session: Any, engine: Any, stored: None) -> None:
    session.delete(session.get(Person, 5))
    gc.collect()
    session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM people WHERE id = 5") == [(0,)]


def test_an_object_that_was_flushed_and_is_held_by_nobody_is_restored_by_a_rollback(
    session: Any, engine: Any, stored: None
) -> None:
    session.get(Person, 1).name = "edited"
    session.flush()
    gc.collect()
    session.rollback()
    assert session.get(Person, 1).name == "p1"
    assert rows(engine, "SELECT name FROM people WHERE id = 1") == [("p1",)]


def test_an_unsaved_foreign_key_holds_the_new_parent(session: Any, engine: Any, stored: None) -> None:
    session.query(Note).first().person = Person(name="new")
    gc.collect()
    session.commit()
    assert rows(engine, "SELECT name FROM people JOIN notes ON people.id = person_id") == [("new",)]


def test_a_value_that_was_handed_out_keeps_its_object(session: Any, engine: Any, stored: None) -> None:
    tags = session.get(Person, 1).tags
    gc.collect()
    tags.append("y")
    session.commit()
    assert "y" in rows(engine, "SELECT tags FROM people WHERE id = 1")[0][0]


# Objects that die midway


def test_the_map_can_be_gone_through_while_its_objects_die(session: Any, stored: None) -> None:
    people = session.query(Person).all()
    found = []
    for identity in session.identity_map:
        found.append(identity)
        people.clear()
    assert found == [(Person, 1)]
    assert dict(session.identity_map) == {}


def test_a_newer_object_of_a_row_stays_in_the_map_when_the_older_one_dies(session: Any, stored: None) -> None:
    older = session.get(Person, 1)
    session.expunge(older)
    newer = session.get(Person, 1)
    del older
    gc.collect()
    assert newer is session.identity_map[Person, 1]


def test_expire_all_flush_rollback_and_close_cope_with_objects_that_are_gone(session: Any, stored: None) -> None:
    for end in (session.expire_all, session.flush, session.rollback, session.commit, session.close):
        people = session.query(Person).all()
        del people[1:]
        gc.collect()
        end()
    assert session.get(Person, 1).name == "p1"


def test_dead_references_are_swept_out_of_the_map(session: Any, engine: Any) -> None:
    with engine.atomic():
        for start in range(1, 20_001, 5_000):
            people = [{"id": number, "name": "p"} for number in range(start, start + 5_000)]
            Person.insert_many(people).execute(engine)
    for start in range(0, 20_000, 500):
        assert len(session.query(Person).where(Person.id > start).limit(500).all()) == 500
    assert len(session.identity_map.rows(Person)) <= 2_000


# Sessions that come and go


def test_1_000_sessions_leave_nothing_behind(engine: Any, stored: None) -> None:
    def work(count: int) -> None:
        for _ in range(count):
            with dbm.open_session(engine) as session:
                person = session.get(Person, 1)
                person.score += 1
                person.tags.append("x") if len(person.tags) < 3 else person.tags.pop()
                session.add(Note(person=person))
                with session.begin_nested():
                    session.query(Note).where(Note.text == "n").all()
                session.rollback()
                session.get(Person, 2).score += 1
                session.commit()

    work(200)  # until the caches of the driver are full
    gc.collect()
    before = len(gc.get_objects())
    work(1_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 200
    assert rows(engine, "SELECT score FROM people WHERE id = 2") == [(1_200,)]


def test_a_session_that_nobody_holds_goes_at_once(engine: Any, stored: None) -> None:
    with no_collector():
        session = dbm.open_session(engine)
        session.query(Person).where(Person.id > 1).all()
        person = session.get(Person, 1)
        person.name = "edited"
        reference = weakref.ref(session)
        del session
        assert reference() is None
        assert person.name == "edited"


def test_the_objects_of_a_session_that_is_gone_can_join_another_one_with_their_edits(
    engine: Any, other: Any, stored: None
) -> None:
    session = dbm.open_session(engine)
    person = session.get(Person, 1)
    person.name = "edited"
    new = Person(name="new")
    session.add(new)
    del session
    gc.collect()
    assert (other.state(person), other.state(new)) == ("detached", "transient")
    other.add_all([person, new])
    other.commit()
    assert rows(engine, "SELECT name FROM people WHERE id IN (1, 6) ORDER BY id") == [("edited",), ("new",)]


def test_a_session_that_is_gone_in_a_transaction_gives_the_database_back(engine: Any, other: Any, stored: None) -> None:
    session = dbm.open_session(engine)
    session.get(Person, 1).name = "edited"
    session.flush()
    assert session.in_transaction()
    del session
    gc.collect()
    other.get(Person, 1).name = "theirs"
    other.commit()
    assert rows(engine, "SELECT name FROM people WHERE id = 1") == [("theirs",)]


def test_an_engine_that_nobody_holds_goes(config: Any) -> None:
    engine = dbm.connect(config)
    dbm.open_session(engine).close()
    engine.close_all()
    reference = weakref.ref(engine)
    del engine
    gc.collect()
    assert reference() is None


# A session holds on to nothing that nobody needs


def test_a_reader_that_follows_relations_again_and_again_keeps_nothing(session: Any) -> None:
    session.add_all([Note(person=Person(name=str(number))) for number in range(5)])
    session.commit()
    for _ in range(20):
        assert all(len(list(person.notes)) == 1 for person in session.query(Person).all())
    gc.collect()
    assert len(session._unit.answers) == 0


def test_a_transaction_that_has_ended_keeps_no_objects(session: Any) -> None:
    with session.begin():
        people = [Person(name=str(number)) for number in range(5)]
        session.add_all(people)
    references = [weakref.ref(person) for person in people]
    del people
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []


def test_an_object_that_is_loaded_again_and_again_is_known_once(session: Any) -> None:
    session.add_all([Note(person=Person(name="one")), Person(name="two")])
    session.commit()
    notes = session.query(Note).all()
    session.delete(session.query(Person).filter_by(name="two").one())
    session.commit()
    for _ in range(20):
        session.query(Note).all()
    indexes = session.identity_map._indexes[Note]
    assert [len(references) for index in indexes.values() for references in index.values()] == [len(notes)]


@pytest.mark.databases("memory")
def test_an_object_that_goes_from_parent_to_parent_is_known_by_few_of_them(session: Any) -> None:
    note = Note(person=Person())
    session.add_all([note, Person(id=1_000_000)])
    session.flush()
    session.delete(session.get(Person, 1_000_000))  # who refers to it is looked for, and noted from now on
    for _ in range(2_500):
        session.flush()
        note.person = Person()
    indexes = session.identity_map._indexes.get(Note, {})
    assert sum(len(references) for index in indexes.values() for references in index.values()) <= 2_000


@pytest.mark.databases("memory")
def test_only_so_many_statements_are_kept_for_the_columns_that_are_written(session: Any, engine: Any) -> None:
    base: Any = dbm.declarative_base()
    names = [f"c{number}" for number in range(11)]
    wide = type("Wide", (base,), {name: peewee.IntegerField(null=True) for name in names} | {"__module__": __name__})
    dbm.install_tables(engine, models=base)
    instance = wide()
    session.add(instance)
    for places in range(1, 2**11):
        session.flush()
        for name in [name for place, name in enumerate(names) if places >> place & 1]:
            setattr(instance, name, places)
    mapper = mapper_of(wide, engine)
    assert len(mapper.statements) <= 1_000
    assert mapper._ordered.cache_info().currsize <= 1_000


def test_a_new_object_that_was_expunged_is_kept_by_no_key(session: Any) -> None:
    person = Person(id=7)
    session.add(person)
    session.expunge(person)
    reference = weakref.ref(person)
    del person
    gc.collect()
    assert reference() is None
