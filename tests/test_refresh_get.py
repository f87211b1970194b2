"""What reads a row again: queries, get, refresh; and what they leave alone."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Model, Node, Note, Person, as_sqlite, verbs

from tent.data import dbm


def saved(session: dbm.Session, **values: Any) -> Person:
    """Return a person who has a row."""
    person = Person(**values)
    session.add(person)
    session.commit()
    return person


def change(session: dbm.Session, **values: Any) -> None:
    """Change all people in another session, and commit."""
    session.query(Person).update(values)
    session.commit()


# A query shows what the database says


QUERIES: dict[str, Callable[[dbm.Session], Any]] = {
    "all": lambda s: s.query(Person).all(),
    "first": lambda s: s.query(Person).first(),
    "filter_by": lambda s: s.query(Person).filter_by(id=1).one(),
    "iteration": lambda s: list(s.query(Person)),
    "yield_per": lambda s: list(s.query(Person).yield_per(2)),
    "alias": lambda s: s.query(Person.alias()).all(),
    "rows": lambda s: s.query(Person, Person.id).all(),
    "join": lambda s: s.query(Note, Person).join(Person).all(),
    "Peewee's join": lambda s: s.execute(Note.select(Note, Person).join(Person)),
    "a Peewee select": lambda s: s.execute(Person.select()),
    "a raw query": lambda s: s.execute(Person.raw("SELECT * FROM people")),
    "refresh": lambda s: s.refresh(s.get(Person, 1)),
    "get": lambda s: (s.expire_all(), s.get(Person, 1)),
    "get for update": lambda s: s.get(Person, 1, with_for_update=True),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_what_reads_a_row_refreshes_the_object(session: dbm.Session, other: dbm.Session, kind: str) -> None:
    person = saved(session, name="Jo", age=3, tags=["a"])
    session.add(Note(person=person))
    session.commit()
    assert person.tags == ["a"]
    change(other, name="Joe", age=None, tags=["b"])
    assert (person.name, person.age, person.tags) == ("Jo", 3, ["a"])
    QUERIES[kind](session)
    assert (person.name, person.age, person.tags) == ("Joe", None, ["b"])
    assert session.dirty == []


@pytest.mark.parametrize("kind", [kind for kind in QUERIES if kind != "refresh"])
def test_what_reads_a_row_leaves_unsaved_changes_alone(session: dbm.Session, other: dbm.Session, kind: str) -> None:
    person = saved(session, name="Jo", age=3, tags=["a"])
    session.add(Note(person=person))
    session.commit()
    change(other, name="Joe", age=4, tags=["b"])
    person.name = "mine"
    person.tags.append("mine")
    with session.no_autoflush:
        QUERIES[kind](session)
    assert (person.name, person.age, person.tags) == ("mine", 4, ["a", "mine"])
    session.commit()
    assert other.query(Person.name, Person.age, Person.tags).all() == [("mine", 4, ["a", "mine"])]


def test_a_query_refreshes_within_a_transaction_too(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.begin()
    session.query(Person).all()
    session.execute("UPDATE people SET name = 'Joe'")
    assert person.name == "Jo"
    session.query(Person).all()
    assert person.name == "Joe"


def test_after_a_refresh_a_rollback_gives_the_value_that_was_read(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    change(other, name="Joe")
    person.name = "mine"
    with session.no_autoflush:
        session.query(Person).all()
    session.rollback()
    assert person.name == "Joe"


def test_a_change_to_what_the_row_says_by_now_is_no_change(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    change(other, name="Joe")
    person.name = "Joe"
    with session.no_autoflush:
        session.query(Person).all()
    assert session.dirty == []
    with statements() as ran:
        session.commit()
    assert ran == []


def test_a_refreshed_foreign_key_gives_the_new_object(session: dbm.Session, other: dbm.Session) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    note = Note(person=jo)
    session.add(note)
    session.commit()
    other.query(Note).update({"person": al.id})
    other.commit()
    assert note.person is jo
    session.query(Note).all()
    assert note.person_id == al.id
    assert note.person is al


def test_a_refresh_leaves_an_unsaved_relation_alone(session: dbm.Session) -> None:
    leaf = Node(name="leaf")
    session.add(leaf)
    session.commit()
    leaf.parent = new = Node(name="new")
    with session.no_autoflush:
        session.query(Node).all()
    assert leaf.parent is new
    session.commit()
    assert leaf.parent_id == new.id


def test_a_list_that_was_handed_out_stays_the_objects_own(session: dbm.Session) -> None:
    person = saved(session, tags=["a"])
    tags = person.tags
    session.query(Person).all()
    assert person.tags is tags
    tags.append("b")
    assert session.dirty == [person]
    session.commit()
    assert session.query(Person.tags).scalar() == ["a", "b"]


def test_a_list_that_was_handed_out_gives_way_to_one_that_is_equal_and_another(session: dbm.Session) -> None:
    person = saved(session, tags=[1, {"a": 0}])
    assert person.tags == [1, {"a": 0}]
    session.query(Person).update({Person.tags: [True, {"a": 0.0}]})
    assert repr(person.tags) == "[True, {'a': 0.0}]"
    session.commit()
    person.tags = [1, {"a": 0}]
    session.commit()
    assert repr(session.query(Person.tags).scalar()) == "[1, {'a': 0}]"


@pytest.mark.parametrize("is_read", [True, False])
def test_what_an_equal_value_in_a_row_shows_is_seen(session: dbm.Session, other: dbm.Session, is_read: bool) -> None:
    person = saved(session, tags=[1])
    if is_read:
        assert person.tags == [1]
    change(other, tags=[True])
    session.query(Person).all()
    assert repr(person.tags) == "[True]"


@pytest.mark.databases("sqlite")  # the others keep no zone for each time
def test_the_zone_of_an_equal_time_in_a_row_is_seen(engine: Any, session: dbm.Session, other: dbm.Session) -> None:
    class Event(dbm.declarative_base()):  # type: ignore[misc]
        at = peewee.DateTimeField()

    dbm.install_tables(engine, models=[Event])
    event = Event(at=datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.timezone.utc))
    session.add(event)
    session.commit()
    moved = event.at.astimezone(datetime.timezone(datetime.timedelta(hours=1)))
    other.query(Event).update({Event.at: moved})
    other.commit()
    session.query(Event).all()
    assert str(event.at) == str(moved)


def test_a_dict_that_its_row_has_in_another_order_stays_the_objects(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, tags={"a": [{"b": 1, "c": 2}], "d": 3})
    tags = person.tags
    change(other, tags={"d": 3, "a": [{"c": 2, "b": 1}]})
    session.query(Person).all()
    assert person.tags is tags


def test_a_partial_query_refreshes_what_it_read(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo", age=3)
    change(other, name="Joe", age=4)
    session.execute(Person.select(Person.id, Person.name)).all()
    assert (person.name, person.age) == ("Joe", 3)


# Columns that were left out


def test_a_column_that_was_left_out_says_so(session: dbm.Session, statements: Callable[[], Any]) -> None:
    saved(session, name="Jo", age=3)
    session.expunge_all()
    (person,) = session.execute(Person.select(Person.id, Person.name))
    with statements() as ran:
        assert person.name == "Jo"
        with pytest.raises(dbm.UnloadedColumnError, match=r"Person\.age was not loaded"):
            person.age  # noqa: B018
        with pytest.raises(dbm.UnloadedColumnError, match=r"Person\.tags was not loaded"):
            person.tags  # noqa: B018
    assert ran == []


def test_a_foreign_key_that_was_left_out_says_so(session: dbm.Session) -> None:
    session.add(Note(person=Person()))
    session.commit()
    session.expunge_all()
    (note,) = session.execute(Note.select(Note.id))
    for name in ("person", "person_id"):
        with pytest.raises(dbm.UnloadedColumnError, match=r"Note\.person was not loaded"):
            getattr(note, name)


@pytest.mark.parametrize("kind", ["refresh", "get", "query"])
def test_a_column_that_was_left_out_is_there_after_reading_the_row(session: dbm.Session, kind: str) -> None:
    saved(session, name="Jo", age=3)
    session.expunge_all()
    (person,) = session.execute(Person.select(Person.id, Person.name))
    if kind == "refresh":
        session.refresh(person)
    elif kind == "get":
        assert session.get(Person, person.id) is person
    else:
        assert session.query(Person).one() is person
    assert person.age == 3


def test_a_column_that_was_left_out_can_be_set(session: dbm.Session, statements: Callable[[], Any]) -> None:
    saved(session, name="Jo", age=3)
    session.expunge_all()
    (person,) = session.execute(Person.select(Person.id, Person.name))
    person.age = 4
    with statements() as ran:
        session.flush()
    assert as_sqlite(ran[-1]) == 'UPDATE "people" SET "age" = ? WHERE "id" = ?'
    session.rollback()
    with pytest.raises(dbm.UnloadedColumnError):
        person.age  # noqa: B018
    assert session.query(Person.name, Person.age).all() == [("Jo", 3)]


# refresh


def test_refresh_reads_the_row_now(session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]) -> None:
    person = saved(session, name="Jo")
    change(other, name="Joe")
    with statements() as ran:
        session.refresh(person)
    assert len(ran) == 1 and ran[0].startswith("SELECT")
    assert person.name == "Joe"


def test_refresh_of_a_changed_object_is_refused(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.name = "Joe"
    with pytest.raises(dbm.InvalidRequestError, match=r"unsaved changes \(name\).*discard=True"):
        session.refresh(person)
    assert (person.name, session.dirty) == ("Joe", [person])


def test_refresh_drops_changes_when_told_to(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo", age=3, tags=["a"])
    change(other, age=4)
    person.name = "Joe"
    person.tags.append("b")
    session.refresh(person, discard=True)
    assert (person.name, person.age, person.tags) == ("Jo", 4, ["a"])
    assert session.dirty == []
    session.commit()
    assert other.query(Person.name, Person.tags).all() == [("Jo", ["a"])]


def test_refresh_drops_a_new_key_when_told_to(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    person.id = 9
    with pytest.raises(dbm.InvalidRequestError, match="unsaved changes"):
        session.refresh(person)
    session.refresh(person, discard=True)
    assert person.id == 1
    assert session.get(Person, 1) is person


def test_refresh_of_an_object_whose_row_is_gone_says_so(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    other.query(Person).delete()
    other.commit()
    with pytest.raises(dbm.InvalidRequestError, match=r"<Person id=1 .*can't be refreshed: its row is gone"):
        session.refresh(person)
    assert person.name == "Jo"


@pytest.mark.parametrize("verb", ["refresh", "expire"])
def test_refresh_and_expire_take_a_persistent_object(session: dbm.Session, other: dbm.Session, verb: str) -> None:
    transient, pending, gone, deleted = Person(), Person(), saved(session), saved(session)
    session.add(pending)
    session.expunge(gone)
    session.delete(deleted)
    session.flush()
    session.add(pending := Person())
    for instance, state in ((transient, "transient"), (pending, "pending"), (gone, "detached"), (deleted, "deleted")):
        with pytest.raises(dbm.InvalidRequestError, match=state):
            getattr(session, verb)(instance)
    foreign = other.query(Person).first()
    assert foreign is not None
    with pytest.raises(dbm.InvalidRequestError, match="not in this session"):
        getattr(session, verb)(foreign)


def test_refresh_for_update_begins_a_transaction(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.refresh(person, with_for_update=True)
    assert session.in_transaction()


def test_refresh_and_get_take_their_options_by_name(session: dbm.Session) -> None:
    ann = Person(name="Ann")
    session.add(ann)
    session.commit()
    ann.name = "Anna"
    with pytest.raises(TypeError):
        session.refresh(ann, ["age"])  # type: ignore[misc]  # SQLAlchemy's names of attributes
    with pytest.raises(TypeError):
        session.get(Person, ann.id, ["age"])  # type: ignore[misc]
    assert session.dirty == [ann]


def test_refresh_leaves_other_objects_alone(session: dbm.Session, other: dbm.Session) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    change(other, age=4)
    al.name = "changed"
    with session.no_autoflush:
        session.refresh(jo)
    assert (jo.age, al.age, al.name) == (4, None, "changed")
    assert session.dirty == [al]


# expire


def test_expire_changes_no_attribute_and_runs_no_sql(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    change(other, age=4)
    person.name = "mine"
    with statements() as ran:
        session.expire(person)
        session.expire_all()
        assert (person.name, person.age) == ("mine", None)
    assert ran == []
    assert session.dirty == [person]


def test_get_reads_an_expired_object_again(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    session.get(Person, person.id)
    change(other, name="Joe")
    assert session.get(Person, person.id) is person and person.name == "Jo"
    session.expire(person)
    with statements() as ran:
        assert session.get(Person, person.id) is person
        assert session.get(Person, person.id) is person
    assert len(ran) == 1
    assert person.name == "Joe"


def test_after_expire_all_get_reads_each_object_again(session: dbm.Session, statements: Callable[[], Any]) -> None:
    jo, al = saved(session, name="Jo"), saved(session, name="Al")
    session.query(Person).all()
    session.expire_all()
    with statements() as ran:
        session.get(Person, jo.id)
        session.get(Person, al.id)
        session.get(Person, jo.id)
    assert len(ran) == 2


def test_a_query_that_returns_an_expired_object_refreshes_it(
    session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    change(other, name="Joe")
    session.expire(person)
    with statements() as ran:
        session.query(Person).all()
        assert person.name == "Joe"
        session.get(Person, person.id)
    assert len(ran) == 1


def test_setting_an_expired_attribute_to_its_value_is_no_change(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    session.expire(person)
    with statements() as ran:
        person.name = "Jo"
        session.commit()
    assert ran == []


# get


def test_get_answers_from_the_map_what_was_read_since_the_commit(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = saved(session, name="Jo")
    session.query(Person).all()
    with statements() as ran:
        assert session.get(Person, person.id) is person
    assert ran == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_get_reads_again_after_the_end_of_the_transaction(
    session: dbm.Session, statements: Callable[[], Any], end: str
) -> None:
    person = saved(session, name="Jo")
    session.query(Person).all()
    getattr(session, end)()
    with statements() as ran:
        assert session.get(Person, person.id) is person
        assert session.get(Person, person.id) is person
    assert len(ran) == 1


def test_get_answers_from_the_map_what_was_written_in_the_transaction(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    with statements() as ran:
        assert session.get(Person, 1) is person
    assert ran == []


def test_get_that_misses_runs_one_select(session: dbm.Session, statements: Callable[[], Any]) -> None:
    saved(session, name="Jo")
    session.expunge_all()
    with statements() as ran:
        person = session.get(Person, 1)
    assert person is not None and person.name == "Jo"
    assert len(ran) == 1 and ran[0].startswith("SELECT")


def test_get_of_a_key_without_row_is_none(session: dbm.Session) -> None:
    assert session.get(Person, 99) is None
    assert session.query(Person).get(99) is None


def test_get_does_not_flush(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Person(name="Jo"))
    with statements() as ran:
        session.get(Person, 99)
    assert [sql.split()[0] for sql in ran] == ["SELECT"]
    assert len(session.new) == 1


def test_get_one_gives_the_object_or_raises(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    assert session.get_one(Person, person.id) is person
    with pytest.raises(dbm.NoResultFound, match=r"Person.*99"):
        session.get_one(Person, 99)


def test_get_lets_go_of_an_object_whose_row_is_gone(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    other.query(Person).delete()
    other.commit()
    session.commit()
    assert session.get(Person, person.id) is None
    assert session.state(person) == "detached"
    assert person.name == "Jo"


def test_get_keeps_a_changed_object_whose_row_is_gone(session: dbm.Session, other: dbm.Session) -> None:
    person = saved(session, name="Jo")
    other.query(Person).delete()
    other.commit()
    person.name = "Joe"
    assert session.get(Person, person.id) is None
    assert session.dirty == [person]
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is person
    session.rollback()


def test_get_of_none_is_none_without_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        assert session.get(Person, None) is None
    assert ran == []


@pytest.fixture
def pair(engine: Any) -> Any:
    """A model with a key of two columns."""

    class Pair(dbm.declarative_base()):  # type: ignore[misc]
        left = peewee.IntegerField()
        right = peewee.CharField()

        class Meta:
            primary_key = peewee.CompositeKey("left", "right")

    dbm.install_tables(engine, models=[Pair])
    return Pair


def test_get_takes_a_composite_key_as_tuple_or_dict(session: dbm.Session, pair: Any) -> None:
    instance = pair(left=1, right="a")
    session.add(instance)
    session.commit()
    assert session.get(pair, (1, "a")) is instance
    assert session.get(pair, {"left": 1, "right": "a"}) is instance


@pytest.mark.parametrize("key", [1, (1,), (1, "a", 2), (), "ab", {"left": 1}, {"left": 1, "right": "a", "x": 2}, {}])
def test_get_refuses_a_composite_key_of_other_parts(session: dbm.Session, pair: Any, key: Any) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=r"no key of Pair.*left, right"):
        session.get(pair, key)


def test_get_refuses_several_parts_for_a_key_of_one_column(session: dbm.Session) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=r"no key of Person.* id"):
        session.get(Person, (1, 2))
    with pytest.raises(dbm.InvalidRequestError, match=r"no key of Person.* id"):
        session.get(Person, {"name": "Jo"})


@pytest.mark.parametrize("key", [(None, None), (1, None), {"left": None, "right": "a"}])
def test_get_of_a_composite_key_with_a_none_is_none(session: dbm.Session, pair: Any, key: Any) -> None:
    assert session.get(pair, key) is None


@pytest.mark.parametrize("entity", [Person.name, "people", None, 3, Person(), object, peewee.Model])
def test_get_refuses_what_is_no_model(session: dbm.Session, entity: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="no model"):
        session.get(entity, 1)


@pytest.mark.parametrize("key", ["seven", object(), [1]])
def test_get_of_what_can_be_no_key_names_model_column_and_value(session: dbm.Session, key: Any) -> None:
    with pytest.raises((peewee.DataError, dbm.InvalidRequestError), match="Person") as caught:
        session.get(Person, key)
    assert repr(key)[:20] in str(caught.value)


@pytest.mark.databases("sqlite")
def test_get_of_a_number_that_sqlite_can_not_take_names_model_and_value(session: dbm.Session) -> None:
    with pytest.raises(peewee.DataError, match=r"Person.*9223372036854775808"):
        session.get(Person, 2**63)


@pytest.mark.databases("servers")
@pytest.mark.parametrize("key", [2**31, 2**63, -(2**63) - 1])
def test_get_of_a_number_that_no_key_of_a_server_can_be_is_none(session: dbm.Session, key: int) -> None:
    assert session.get(Person, key) is None


def test_get_of_what_can_be_no_uuid_names_model_column_and_value(session: dbm.Session, engine: Any) -> None:
    class Token(dbm.declarative_base()):  # type: ignore[misc]
        id = peewee.UUIDField(primary_key=True)

    dbm.install_tables(engine, models=[Token])
    with pytest.raises((peewee.DataError, dbm.InvalidRequestError), match=r"Token.*'no uuid'"):
        session.get(Token, "no uuid")


def test_get_for_update_always_reads_in_a_transaction(session: dbm.Session, statements: Callable[[], Any]) -> None:
    person = saved(session, name="Jo")
    session.query(Person).all()
    with statements() as ran:
        assert session.get(Person, person.id, with_for_update=True) is person
        assert session.get(Person, person.id, with_for_update=True) is person
        assert session.get(Person, person.id, with_for_update=False) is person
    assert verbs(ran) == ["BEGIN", "SELECT", "SELECT"]
    assert session.in_transaction()


def test_get_for_update_refuses_a_changed_object_whose_row_has_moved_on(
    session: dbm.Session, other: dbm.Session, engine: Any
) -> None:
    class Counted(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()
        version = dbm.VersionField()

    dbm.install_tables(engine, models=[Counted])
    instance = Counted(name="a")
    session.add(instance)
    session.commit()
    other.get_one(Counted, 1).name = "theirs"
    other.commit()
    instance.name = "mine"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.get(Counted, 1, with_for_update=True)
    assert caught.value.object is instance
    session.rollback()


@pytest.mark.parametrize("read", ["query", "get", "count"])
def test_reading_a_row_again_does_not_hide_that_it_was_changed_meanwhile(
    session: dbm.Session, other: dbm.Session, engine: Any, read: str
) -> None:
    """A refreshed version must not make an unsaved change look as if it came after the change of another session."""

    class Counted(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()
        version = dbm.VersionField()

    dbm.install_tables(engine, models=[Counted])
    instance = Counted(name="a")
    session.add(instance)
    session.commit()
    other.get_one(Counted, 1).name = "theirs"
    other.commit()
    instance.name = "mine"
    with session.no_autoflush:
        {
            "query": lambda: session.query(Counted).all(),
            "get": lambda: session.get(Counted, 1),
            "count": lambda: session.query(Counted).count(),
        }[read]()
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is instance
    session.rollback()
    assert other.query(Counted.name).scalar() == "theirs"


def test_get_and_query_do_not_give_an_object_that_is_marked_for_delete(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    assert session.get(Person, person.id) is None
    session.expire(person)
    assert session.get(Person, person.id) is None
    assert session.deleted == [person]
    assert session.query(Person).all() == []
    assert session.get(Person, person.id) is None


def test_get_gives_an_object_again_whose_delete_was_cancelled(session: dbm.Session) -> None:
    person = saved(session, name="Jo")
    session.delete(person)
    session.add(person)
    assert session.get(Person, person.id) is person


def test_sessions_on_different_engines_know_different_rows(session: dbm.Session) -> None:
    elsewhere = dbm.connect({"driver": "sqlite", "path": ":memory:"})
    dbm.install_tables(elsewhere, models=Model)
    person = saved(session, name="Jo")
    with dbm.open_session(elsewhere) as second:
        assert second.get(Person, person.id) is None
    elsewhere.close_all()
