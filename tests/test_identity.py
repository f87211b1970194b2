"""One row is one object: with any kind of key, given as any type, and whatever query the row came by."""

from __future__ import annotations

import datetime
import gc
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person

from tent.data import dbm

UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
DAY = datetime.date(2012, 8, 21)
MOMENT = datetime.datetime(2012, 8, 21, 10, 30)

Keyed = dbm.declarative_base()


class ByNumber(Keyed):
    key = peewee.IntegerField(primary_key=True)
    value = peewee.TextField(default="")


class ByText(Keyed):
    key = peewee.CharField(primary_key=True)
    value = peewee.TextField(default="")


class ByUUID(Keyed):
    key = peewee.UUIDField(primary_key=True)
    value = peewee.TextField(default="")


class ByBinaryUUID(Keyed):
    key = peewee.BinaryUUIDField(primary_key=True)
    value = peewee.TextField(default="")


class ByDay(Keyed):
    key = peewee.DateField(primary_key=True)
    value = peewee.TextField(default="")


class ByMoment(Keyed):
    key = peewee.DateTimeField(primary_key=True)
    value = peewee.TextField(default="")


class ShortBlobField(peewee.BlobField):
    """Bytes in a column that each database can have for a key: MariaDB and MySQL want to know their number."""

    def ddl_datatype(self, ctx: Any) -> Any:
        is_mysql = ctx.state.engine.kind in ("mariadb", "mysql")
        return peewee.SQL("VARBINARY(16)") if is_mysql else super().ddl_datatype(ctx)  # type: ignore[misc]


class ByBytes(Keyed):
    key = ShortBlobField(primary_key=True)
    value = peewee.TextField(default="")


class ByPair(Keyed):
    left = peewee.IntegerField()
    right = peewee.CharField()
    value = peewee.TextField(default="")

    class Meta:
        primary_key = peewee.CompositeKey("left", "right")


class ByOther(Keyed):
    key = peewee.ForeignKeyField(ByNumber, primary_key=True, backref="others")
    value = peewee.TextField(default="")


class ByOthers(Keyed):
    number = peewee.ForeignKeyField(ByNumber)
    text = peewee.ForeignKeyField(ByText)
    value = peewee.TextField(default="")

    class Meta:
        primary_key = peewee.CompositeKey("number", "text")


KINDS = [
    (ByNumber, 7, ["7", 7.0]),
    (ByText, "7", [7]),
    (ByText, "José 🦊", []),
    (ByText, "", []),
    (ByUUID, UUID, [str(UUID), UUID.hex, str(UUID).upper()]),
    (ByBinaryUUID, UUID, [UUID.hex, UUID.bytes]),
    (ByDay, DAY, ["2012-08-21", MOMENT]),
    (ByMoment, MOMENT, ["2012-08-21 10:30:00", "2012-08-21T10:30:00"]),
    (ByBytes, b"\x00\xff", [bytearray(b"\x00\xff"), memoryview(b"\x00\xff")]),
]


@pytest.fixture
def keyed(engine: Any) -> Iterator[dbm.Session]:
    """A session on a database with a table for each kind of key."""
    dbm.install_tables(engine, models=Keyed)
    session = dbm.open_session(engine)
    yield session
    session.rollback()
    session.close()


def people(session: dbm.Session, *names: str) -> list[Person]:
    """Return people who have rows."""
    found = [Person(name=name) for name in names]
    session.add_all(found)
    session.commit()
    return found


# Any kind of key


@pytest.mark.parametrize(("model", "key", "_"), KINDS)
def test_an_inserted_object_is_the_one_of_its_key(keyed: dbm.Session, model: Any, key: Any, _: Any) -> None:
    instance = model(key=key, value="a")
    keyed.add(instance)
    keyed.commit()
    assert keyed.get(model, key) is instance
    assert keyed.query(model).all() == [instance]
    assert keyed.query(model).first() is instance
    assert type(instance.key) is type(key)


@pytest.mark.parametrize(("model", "key", "others"), KINDS)
def test_a_key_may_be_given_as_another_type(
    keyed: dbm.Session, statements: Callable[[], Any], model: Any, key: Any, others: list[Any]
) -> None:
    keyed.add(model(key=key, value="a"))
    keyed.commit()
    keyed.expunge_all()
    instance = keyed.get(model, key)
    with statements() as ran:
        assert [keyed.get(model, other) for other in others] == [instance] * len(others)
        assert all(keyed.get(model, other) is instance for other in others)
    assert ran == []


@pytest.mark.parametrize(("model", "key", "others"), KINDS)
def test_an_object_made_with_a_key_of_another_type_has_the_same_identity(
    keyed: dbm.Session, model: Any, key: Any, others: list[Any]
) -> None:
    for other in others:
        instance = model(key=other)
        keyed.add(instance)
        keyed.flush()
        assert instance.key == key
        assert keyed.query(model).one() is instance
        assert keyed.get(model, key) is instance
        keyed.rollback()


@pytest.mark.parametrize(("model", "key", "_"), KINDS)
def test_a_loaded_object_is_updated_and_deleted_by_its_key(keyed: dbm.Session, model: Any, key: Any, _: Any) -> None:
    keyed.add(model(key=key, value="a"))
    keyed.commit()
    keyed.expunge_all()
    instance = keyed.query(model).one()
    instance.value = "b"
    keyed.commit()
    assert keyed.query(model.value).all() == [("b",)]
    keyed.delete(instance)
    keyed.commit()
    assert keyed.query(model).count() == 0


def test_a_composite_key_is_a_tuple_a_list_or_a_dict(keyed: dbm.Session, statements: Callable[[], Any]) -> None:
    instance = ByPair(left=1, right="a")
    keyed.add(instance)
    keyed.commit()
    keyed.get(ByPair, (1, "a"))
    with statements() as ran:
        for key in ((1, "a"), ("1", "a"), [1, "a"], {"right": "a", "left": 1}, {"left": "1", "right": "a"}):
            assert keyed.get(ByPair, key) is instance
    assert ran == []
    assert keyed.query(ByPair).one() is instance


def test_rows_with_a_part_of_a_key_in_common_are_different_objects(keyed: dbm.Session) -> None:
    first, second = ByPair(left=1, right="a"), ByPair(left=1, right="b")
    keyed.add_all([first, second])
    keyed.commit()
    assert keyed.get(ByPair, (1, "b")) is second
    assert keyed.query(ByPair).order_by(ByPair.right).all() == [first, second]


def test_a_foreign_key_can_be_the_key(keyed: dbm.Session, statements: Callable[[], Any]) -> None:
    number = ByNumber(key=7)
    instance = ByOther(key=number, value="a")
    keyed.add(instance)
    keyed.commit()
    keyed.get(ByOther, 7)
    with statements() as ran:
        assert keyed.get(ByOther, "7") is keyed.get(ByOther, number) is instance
        assert instance.key is number
    assert ran == []
    assert keyed.query(ByOther).one() is instance


def test_foreign_keys_can_be_a_composite_key(keyed: dbm.Session, statements: Callable[[], Any]) -> None:
    number, text = ByNumber(key=7), ByText(key="t")
    instance = ByOthers(number=number, text=text, value="a")
    keyed.add(instance)
    keyed.commit()
    keyed.get(ByOthers, (7, "t"))
    with statements() as ran:
        assert keyed.get(ByOthers, (7, "t")) is keyed.get(ByOthers, (number, text)) is instance
    assert ran == []
    instance.value = "b"
    keyed.commit()
    assert keyed.query(ByOthers.value).scalar() == "b"


def test_a_key_that_comes_from_a_pending_object_identifies(keyed: dbm.Session, engine: Any) -> None:
    class Detail(dbm.declarative_base()):  # type: ignore[misc]
        person = peewee.ForeignKeyField(Person, primary_key=True)
        text = peewee.TextField()

    dbm.install_tables(engine, models=[Detail])
    detail = Detail(person=Person(name="Jo"), text="hi")
    keyed.add(detail)
    keyed.commit()
    assert detail.person_id == detail.person.id
    assert keyed.get(Detail, detail.person.id) is detail


# Whatever query


def test_the_same_row_gives_the_same_object(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    assert session.get(Person, person.id) is person
    assert session.query(Person).filter_by(name="Jo").first() is person
    assert session.query(Person).filter(Person.name == "Jo").one() is person
    assert session.query(Person)[0] is person
    assert next(iter(session.query(Person).yield_per(1))) is person


def test_after_expunge_all_a_row_gives_a_new_object(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    session.expunge_all()
    again = session.get(Person, person.id)
    assert again is not person
    assert again is not None and again.name == "Jo"


def test_after_close_a_row_gives_a_new_object(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    session.close()
    assert session.get(Person, person.id) is not person


def test_an_object_met_through_an_alias_is_the_same(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    alias = Person.alias()
    assert session.query(alias).filter(alias.name == "Jo").one() is person


def test_an_object_met_through_a_join_is_the_same(session: dbm.Session, statements: Callable[[], Any]) -> None:
    (person,) = people(session, "Jo")
    note = Note(person=person, text="hi")
    session.add(note)
    session.commit()
    with statements() as ran:
        assert session.query(Note, Person).join(Person).all() == [(note, person)]
        row = session.query(Note, Person).join(Person).one()
        assert row[0] is note and row[1] is person
    assert len(ran) == 2


def test_an_object_joined_by_peewee_is_the_same(session: dbm.Session, statements: Callable[[], Any]) -> None:
    (person,) = people(session, "Jo")
    session.add(Note(person=person))
    session.commit()
    session.expunge_all()
    (note,) = session.execute(Note.select(Note, Person).join(Person))
    with statements() as ran:
        assert note.person is session.get(Person, person.id)
    assert ran == []
    assert note.person.name == "Jo"


def test_a_self_join_gives_both_rows_their_objects(session: dbm.Session) -> None:
    root = Node(name="root")
    leaf = Node(name="leaf", parent=root)
    session.add(leaf)
    session.commit()
    parent = Node.alias()
    rows = session.query(Node, parent).join(parent, on=(Node.parent == parent.id)).all()
    assert len(rows) == 1
    assert rows[0][0] is leaf and rows[0][1] is root


def test_an_outer_join_that_finds_nothing_gives_none(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    rows = session.query(Person, Note).join(Note, peewee.JOIN.LEFT_OUTER).all()
    assert rows == [(person, None)]


def test_objects_met_through_raw_sql_are_the_same(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    result = session.execute(Person.raw("SELECT * FROM people WHERE name = ?", "Jo"))
    assert result.one() is person


def test_objects_met_through_a_peewee_select_are_the_same(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    assert session.scalars(Person.select().where(Person.name == "Jo")).one() is person


def test_an_object_met_twice_in_a_result_is_one(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    session.add_all([Note(person=person), Note(person=person)])
    session.commit()
    session.expunge_all()
    first, second = session.query(Note).all()
    assert first is not second
    assert first.person is second.person


def test_a_partial_select_gives_the_object_that_is_known(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    (found,) = session.execute(Person.select(Person.id, Person.name))
    assert found is person and found.email is None


def test_two_sessions_have_two_objects_for_a_row(session: dbm.Session, other: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    again = other.get(Person, person.id)
    assert again is not person
    assert again == person


def test_the_map_tells_what_is_in_it(session: dbm.Session) -> None:
    jo, al = people(session, "Jo", "Al")
    assert len(session.identity_map) == 2
    assert session.identity_map[Person, jo.id] is jo
    assert (Person, al.id) in session.identity_map and (Person, 99) not in session.identity_map
    assert set(session.identity_map) == {(Person, jo.id), (Person, al.id)}


# Weakly and strongly held


def test_a_clean_object_that_nobody_holds_leaves_the_map(session: dbm.Session) -> None:
    people(session, "Jo", "Al")
    gc.collect()
    assert len(session.identity_map) == 0
    assert len(session.query(Person).all()) == 2
    assert len(session.identity_map) == 0


def test_a_clean_object_whose_list_was_read_leaves_the_map(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    assert person.tags == []
    del person
    gc.collect()
    assert len(session.identity_map) == 0


def test_a_pending_object_is_held(session: dbm.Session) -> None:
    session.add(Person(name="Jo"))
    gc.collect()
    session.commit()
    assert session.query(Person.name).all() == [("Jo",)]


def test_a_changed_object_is_held(session: dbm.Session) -> None:
    people(session, "Jo")
    session.query(Person).one().name = "Joe"
    gc.collect()
    session.commit()
    assert session.query(Person.name).all() == [("Joe",)]


def test_an_object_changed_in_place_is_held(session: dbm.Session) -> None:
    people(session, "Jo")
    session.query(Person).one().tags.append("a")
    gc.collect()
    session.commit()
    assert session.query(Person.tags).all() == [(["a"],)]


def test_an_object_marked_for_delete_is_held(session: dbm.Session) -> None:
    people(session, "Jo")
    session.delete(session.query(Person).one())
    gc.collect()
    session.commit()
    assert session.query(Person).count() == 0


def test_a_flushed_object_is_held_until_the_commit(session: dbm.Session) -> None:
    people(session, "Jo")
    session.query(Person).one().name = "Joe"
    session.flush()
    gc.collect()
    assert len(session.identity_map) == 1
    session.rollback()
    assert session.query(Person).one().name == "Jo"


def test_an_object_whose_change_was_committed_is_let_go(session: dbm.Session) -> None:
    people(session, "Jo")
    session.query(Person).one().name = "Joe"
    session.commit()
    gc.collect()
    assert len(session.identity_map) == 0


def test_a_list_that_is_held_holds_its_object(session: dbm.Session) -> None:
    people(session, "Jo")
    tags = session.query(Person).one().tags
    gc.collect()
    tags.append("a")
    session.commit()
    assert session.query(Person.tags).all() == [(["a"],)]


def test_going_through_the_map_stands_objects_that_die_meanwhile(session: dbm.Session) -> None:
    held = people(session, "Jo", "Al", "Bo")
    names = []
    for person in session.identity_map.objects():
        names.append(person.name)
        held.clear()
    assert names[0] == "Jo"
    assert len(names) <= 2


# Keys that change, and keys that clash


def test_a_changed_key_is_found_without_sql_after_the_flush(keyed: dbm.Session, statements: Callable[[], Any]) -> None:
    instance = ByText(key="old")
    keyed.add(instance)
    keyed.commit()
    instance.key = "new"
    keyed.flush()
    with statements() as ran:
        assert keyed.get(ByText, "new") is instance
    assert ran == []
    assert keyed.get(ByText, "old") is None


def test_a_row_that_takes_a_former_key_is_another_object(keyed: dbm.Session) -> None:
    first = ByText(key="old")
    keyed.add(first)
    keyed.commit()
    first.key = "new"
    keyed.flush()
    second = ByText(key="old")
    keyed.add(second)
    keyed.commit()
    assert keyed.get(ByText, "old") is second
    assert keyed.get(ByText, "new") is first


def test_a_key_that_was_flagged_and_changed_is_found_and_rolled_back(keyed: dbm.Session) -> None:
    instance = ByText(key="old")
    keyed.add(instance)
    keyed.commit()
    keyed.flag_modified(instance, "key")
    instance.key = "new"
    keyed.flush()
    assert keyed.get(ByText, "new") is instance
    assert keyed.get(ByText, "old") is None
    keyed.rollback()
    assert keyed.get(ByText, "old") is instance


def test_a_part_of_a_key_that_was_read_and_undone_can_be_changed(keyed: dbm.Session) -> None:
    keyed.add(ByPair(left=1, right="a"))
    keyed.commit()
    keyed.expunge_all()
    keyed.query(ByPair).update({ByPair.value: "undone"})
    instance = keyed.get(ByPair, (1, "a"))
    keyed.rollback()
    instance.left = 2
    keyed.commit()
    assert keyed.get(ByPair, (2, "a")) is instance
    assert keyed.get(ByPair, (1, "a")) is None


def test_a_new_object_with_the_key_of_another_is_refused_before_any_sql(
    keyed: dbm.Session, statements: Callable[[], Any]
) -> None:
    known = ByText(key="k", value="known")
    keyed.add(known)
    keyed.commit()
    keyed.add(ByText(key="k", value="new"))
    with statements() as ran:
        with pytest.raises(
            dbm.FlushError, match=r"<ByText key='k' value='new'> is new.*<ByText key='k' value='known'>"
        ):
            keyed.flush()
    assert ran == []
    assert keyed.get(ByText, "k") is known


def test_two_new_objects_with_one_key_are_refused(keyed: dbm.Session) -> None:
    first, second = ByText(key="k", value="first"), ByText(key="k", value="second")
    keyed.add_all([first, second])
    with pytest.raises((peewee.IntegrityError, dbm.FlushError), match="value='second'"):
        keyed.flush()
    assert keyed.new == [first, second]


def test_two_new_objects_whose_keys_are_one_after_conversion_are_refused(keyed: dbm.Session) -> None:
    first, second = ByNumber(key=7), ByNumber(key="7")
    keyed.add_all([first, second])
    with pytest.raises((peewee.IntegrityError, dbm.FlushError)):
        keyed.flush()
    assert keyed.new == [first, second]


def test_a_generated_key_can_be_converted(engine: Any, session: dbm.Session) -> None:
    class Marked(peewee.AutoField):  # type: ignore[misc]
        def db_value(self, value: Any) -> Any:
            return None if value is None else int(value.removeprefix("no. "))

        def python_value(self, value: Any) -> Any:
            return None if value is None else f"no. {value}"

    class Ticket(dbm.declarative_base()):  # type: ignore[misc]
        number = Marked()
        text = peewee.TextField()

    dbm.install_tables(engine, models=[Ticket])
    for batch in ([Ticket(text="alone")], [Ticket(number="no. 77", text="given")], [Ticket(text=c) for c in "abc"]):
        session.add_all(batch)
        session.commit()
        assert [session.get(Ticket, ticket.number) for ticket in batch] == batch
    assert session.scalar("SELECT MAX(number) FROM tickets") == int(batch[-1].number.removeprefix("no. "))


# Foreign keys


def test_a_foreign_key_is_answered_from_the_map(session: dbm.Session, statements: Callable[[], Any]) -> None:
    (person,) = people(session, "Jo")
    session.add(Note(person=person))
    session.commit()
    (note,) = session.query(Note).all()
    with statements() as ran:
        assert note.person is person
    assert ran == []


def test_a_foreign_key_set_by_key_is_answered_from_the_map(session: dbm.Session, statements: Callable[[], Any]) -> None:
    jo, al = people(session, "Jo", "Al")
    note = Note(person=jo)
    session.add(note)
    session.commit()
    with statements() as ran:
        note.person = al.id
        assert note.person is al
        note.person_id = jo.id
        assert note.person is jo
    assert ran == []


def test_a_foreign_key_that_is_null_runs_no_sql(session: dbm.Session, statements: Callable[[], Any]) -> None:
    session.add(Node(name="root"))
    session.commit()
    session.expunge_all()
    (root,) = session.query(Node).all()
    with statements() as ran:
        assert root.parent is None
    assert ran == []


def test_a_foreign_key_set_by_the_key_of_a_pending_object_gives_that_object(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    person, note = Person(id=5), Note(person=5)
    session.add_all([person, note])
    with statements() as ran:
        assert note.person is person
    assert ran == []


def test_a_foreign_key_reads_its_object_once(session: dbm.Session, statements: Callable[[], Any]) -> None:
    (person,) = people(session, "Jo")
    session.add(Note(person=person))
    session.commit()
    session.expunge_all()
    (note,) = session.query(Note).all()
    with statements() as ran:
        assert note.person is note.person
    assert len(ran) == 1
    assert note.person is session.get(Person, person.id)


def test_a_backref_gives_the_objects_of_the_session(session: dbm.Session) -> None:
    (person,) = people(session, "Jo")
    note = Note(person=person)
    session.add(note)
    session.commit()
    assert [each is note for each in person.notes] == [True]


def test_rows_without_a_key_are_objects_of_their_own(engine: Any, session: dbm.Session) -> None:
    class Log(dbm.declarative_base()):  # type: ignore[misc]
        level = peewee.CharField()
        tags = peewee.JSONField(default=list)

        class Meta:
            primary_key = False

    dbm.install_tables(engine, models=[Log])
    session.add_all([Log(level="a", tags=[1]), Log(level="a", tags=[2])])
    session.commit()
    assert [log.tags for log in session.query(Log)] == [[1], [2]]
    assert {session.state(log) for log in session.query(Log)} == {"detached"}
