"""A flush that fails changes nothing: rows and objects are as before, and the error names the culprit."""

from __future__ import annotations

import datetime
import decimal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person, verbs

from tent.data import dbm

Own = dbm.declarative_base()
defers_foreign_keys = pytest.mark.databases("sqlite", "postgresql")
ends_at_deadlock = pytest.mark.databases("mariadb", "mysql")


class Item(Own):
    """A row with all kinds of constraints."""

    code = peewee.CharField(unique=True)
    price = peewee.IntegerField(constraints=[peewee.Check("price > 0")], default=1)
    label = peewee.CharField(default="")
    amount = peewee.DecimalField(max_digits=8, null=True)
    token = peewee.UUIDField(null=True)
    day = peewee.DateField(null=True)
    moment = peewee.DateTimeField(null=True)
    weight = peewee.FloatField(null=True)
    data = peewee.JSONField(default=dict)
    scan = peewee.BlobField(null=True)
    seen = peewee.TimestampField(null=True, default=None, resolution=1_000)


class Part(Own):
    """Refers to an item that must not go."""

    item = peewee.ForeignKeyField(Item, on_delete="RESTRICT")


class Late(Own):
    """Refers to an item, which the database checks at the commit."""

    item = peewee.ForeignKeyField(Item, deferrable="INITIALLY DEFERRED")


class Versioned(Own):
    code = peewee.CharField(unique=True)
    text = peewee.TextField(default="")
    version = dbm.VersionField()


class VersionedPart(Own):
    owner = peewee.ForeignKeyField(Versioned, on_delete="RESTRICT")


@pytest.fixture(autouse=True)
def _tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Own)


def saved(session: dbm.Session, *instances: Any) -> Any:
    """Return objects that have rows."""
    session.add_all(instances)
    session.commit()
    return instances if len(instances) > 1 else instances[0]


# Objects and rows as before


def test_a_new_object_is_pending_as_before(session: dbm.Session) -> None:
    saved(session, Item(code="a"))
    double = Item(code="a", data={"x": 1})
    session.add(double)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert (session.state(double), double.id, double.data) == ("pending", None, {"x": 1})
    assert session.new == [double]
    session.rollback()


def test_the_keys_that_the_flush_gave_are_gone(session: dbm.Session) -> None:
    node, note = Node(name="n"), Note(person=Person(name="Jo"))
    bad = Item(code=None)
    session.add_all([node, note, bad])
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert (node.id, note.id, note.person.id, note.person_id) == (None, None, None, None)
    assert {id(each) for each in session.new} == {id(each) for each in (node, note, note.person, bad)}
    session.rollback()


def test_a_changed_object_is_dirty_as_before(session: dbm.Session) -> None:
    good, bad = saved(session, Item(code="a"), Item(code="b"))
    good.label, good.data = "changed", {"x": 1}
    bad.code = "a"
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert (good.label, good.data, bad.code) == ("changed", {"x": 1}, "a")
    assert {id(each) for each in session.dirty} == {id(good), id(bad)}
    session.rollback()
    assert (good.label, good.data, bad.code) == ("", {}, "b")


def test_a_deleted_object_is_marked_as_before(session: dbm.Session) -> None:
    item, other_item = saved(session, Item(code="a"), Item(code="b"))
    saved(session, Part(item=item))
    session.delete(item)
    session.delete(other_item)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert {id(each) for each in session.deleted} == {id(item), id(other_item)}
    assert item in session
    session.rollback()
    assert session.query(Item).count() == 2


def test_the_rows_are_as_before(session: dbm.Session, other: dbm.Session) -> None:
    kept, gone = saved(session, Item(code="a", label="x"), Item(code="b"))
    session.add(Item(code="new"))
    kept.label = "changed"
    session.delete(gone)
    session.add(Item(code="a"))
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert other.query(Item.code, Item.label).order_by(Item.id).all() == [("a", "x"), ("b", "")]
    session.rollback()


def test_the_version_is_as_before(session: dbm.Session) -> None:
    instance = saved(session, Versioned(code="a"))
    instance.code = "b"
    session.add(Versioned(code="b"))
    session.add(Item(code=None))
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert instance.version == 1
    session.rollback()


def test_an_object_that_came_along_in_the_failed_flush_is_transient_again(session: dbm.Session) -> None:
    saved(session, Person(email="jo@example.org"))
    note = saved(session, Note(person=Person(name="Al")))
    al, double = note.person, Person(email="jo@example.org")
    note.person = double
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert session.state(double) == "transient"
    note.person = al
    session.commit()
    assert session.query(Person).count() == 2


def test_the_session_reads_on(session: dbm.Session) -> None:
    item = saved(session, Item(code="a"))
    session.add(Item(code="a"))
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    with session.no_autoflush:
        assert session.query(Item).all() == [item]
    assert session.get(Item, item.id) is item
    session.rollback()


# Another try


def test_the_flush_can_be_repeated_after_mending(session: dbm.Session, other: dbm.Session) -> None:
    saved(session, Item(code="a"))
    good, bad = Item(code="b"), Item(code="a")
    session.add_all([good, bad])
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    bad.code = "c"
    session.commit()
    first, *others = other.query(Item.id, Item.code).order_by(Item.id).all()
    assert first == (1, "a")
    assert others == [(good.id, "b"), (bad.id, "c")]


def test_the_flush_fails_again_without_mending(session: dbm.Session) -> None:
    saved(session, Item(code="a"))
    session.add(Item(code="a"))
    for _ in range(3):
        with pytest.raises(peewee.IntegrityError, match=r"(?s)items[._]code.*inserting <Item"):
            session.commit()
    session.rollback()
    assert session.query(Item).count() == 1


def test_a_changed_object_can_be_mended(session: dbm.Session, other: dbm.Session) -> None:
    _, bad = saved(session, Item(code="a"), Item(code="b"))
    bad.code, bad.label = "a", "changed"
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    bad.code = "c"
    session.commit()
    assert other.query(Item.code, Item.label).order_by(Item.id).all() == [("a", ""), ("c", "changed")]


def test_the_culprit_can_be_expunged(session: dbm.Session, other: dbm.Session) -> None:
    saved(session, Item(code="a"))
    double = Item(code="a")
    session.add_all([double, Item(code="b")])
    with pytest.raises(peewee.IntegrityError) as caught:
        session.commit()
    session.expunge(caught.value.object)  # type: ignore[attr-defined]
    session.commit()
    assert other.query(Item.code).order_by(Item.id).all() == [("a",), ("b",)]


def test_changes_after_the_failure_are_kept(session: dbm.Session, other: dbm.Session) -> None:
    item = saved(session, Item(code="a"))
    double = Item(code="a")
    session.add(double)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    item.label = "changed"
    session.add(Item(code="b"))
    double.code = "c"
    session.commit()
    assert other.query(Item.code, Item.label).order_by(Item.code).all() == [("a", "changed"), ("b", ""), ("c", "")]


# Wherever it fails


def test_a_first_flush_that_fails_leaves_no_transaction(session: dbm.Session) -> None:
    session.add(Item(code=None))
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert not session.in_transaction()
    session.rollback()


def test_a_later_flush_that_fails_leaves_what_was_flushed(session: dbm.Session, other: dbm.Session) -> None:
    session.add(Item(code="a"))
    session.flush()
    double = Item(code="a")
    session.add(double)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert session.in_transaction()
    session.expunge(double)
    session.commit()
    assert other.query(Item.code).all() == [("a",)]


def test_a_flush_that_fails_within_begin_leaves_the_transaction(session: dbm.Session, other: dbm.Session) -> None:
    with session.begin():
        session.execute("INSERT INTO items (code, price, label, data) VALUES ('a', 1, '', '{}')")
        double = Item(code="a")
        session.add(double)
        with pytest.raises(peewee.IntegrityError):
            session.flush()
        assert session.in_transaction()
        double.code = "b"
    assert other.query(Item.code).order_by(Item.id).all() == [("a",), ("b",)]


def test_a_flush_that_fails_within_a_savepoint_leaves_the_savepoint(session: dbm.Session, other: dbm.Session) -> None:
    session.add(Item(code="a"))
    nested = session.begin_nested()
    session.add(Item(code="b"))
    session.flush()
    double = Item(code="a")
    session.add(double)
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert nested.is_active
    assert session.new == [double]
    nested.rollback()
    assert session.new == []
    session.commit()
    assert other.query(Item.code).all() == [("a",)]


def test_a_flush_that_fails_in_begin_nested_sets_no_savepoint(session: dbm.Session) -> None:
    session.add(Item(code=None))
    with pytest.raises(peewee.IntegrityError):
        session.begin_nested()
    assert not session.in_nested_transaction()
    assert not session.in_transaction()
    session.rollback()


def test_a_rollback_after_a_failed_flush_undoes_the_transaction(session: dbm.Session) -> None:
    item = saved(session, Item(code="a"))
    item.label = "flushed"
    session.flush()
    item.label = "changed"
    session.add(Item(code="a"))
    with pytest.raises(peewee.IntegrityError):
        session.flush()
    assert item.label == "changed"
    session.rollback()
    assert (item.label, session.new, session.query(Item.label).scalar()) == ("", [], "")


def test_a_flush_costs_two_statements_more_only_within_a_transaction(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    with statements() as ran:
        session.add(Item(code="a"))
        session.flush()
        session.add(Item(code="b"))
        session.flush()
    assert verbs(ran) == ["BEGIN", "INSERT", "SAVEPOINT", "INSERT", "RELEASE"]
    session.rollback()


# What the error says


def test_a_unique_violation_names_object_table_and_constraint(session: dbm.Session) -> None:
    saved(session, Item(code="a"))
    double = Item(code="a", label="double")
    session.add(double)
    with pytest.raises(
        peewee.IntegrityError, match=r"(?s)items[._]code.*inserting <Item .*label='double'.*items"
    ) as caught:
        session.flush()
    assert type(caught.value) is peewee.IntegrityError
    assert caught.value.object is double  # type: ignore[attr-defined]
    session.rollback()


def test_a_not_null_violation_names_object_table_and_constraint(session: dbm.Session) -> None:
    bad = Item(label="bad")
    session.add(bad)
    with pytest.raises(
        peewee.IntegrityError, match=r"(?is)(?=.*\bnull\b).*\bcode\b.*inserting <Item .*label='bad'.*items"
    ) as caught:
        session.flush()
    assert caught.value.object is bad  # type: ignore[attr-defined]
    session.rollback()


def test_a_check_violation_names_object_table_and_constraint(session: dbm.Session) -> None:
    item = saved(session, Item(code="a"))
    item.price = -1
    with pytest.raises(peewee.IntegrityError, match=r"(?is)constraint.*price.*updating <Item id=1 .*items") as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]
    session.rollback()


def test_a_missing_parent_names_object_table_and_constraint(session: dbm.Session) -> None:
    part = Part(item=99)
    session.add(part)
    with pytest.raises(
        peewee.IntegrityError, match=r"(?is)foreign key constraint.*inserting <Part id=None item=99>.*parts"
    ) as caught:
        session.flush()
    assert caught.value.object is part  # type: ignore[attr-defined]
    session.rollback()


def test_a_delete_that_is_refused_names_object_table_and_constraint(session: dbm.Session) -> None:
    item = Item(code="a")
    saved(session, Part(item=item))
    session.delete(item)
    with pytest.raises(
        peewee.IntegrityError, match=r"(?is)foreign key constraint.*deleting <Item id=1 .*items"
    ) as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]
    session.rollback()


@pytest.mark.parametrize("place", [0, 3, 9])
def test_the_culprit_of_several_new_objects_is_named(session: dbm.Session, place: int) -> None:
    saved(session, Item(code="taken"))
    items = [Item(code=f"c{number}") for number in range(10)]
    items[place].code = "taken"
    session.add_all(items)
    with pytest.raises(peewee.IntegrityError, match="code='taken'") as caught:
        session.flush()
    assert caught.value.object is items[place]  # type: ignore[attr-defined]
    session.rollback()


def test_of_two_new_objects_that_clash_one_is_named(session: dbm.Session) -> None:
    items = [Item(code=code) for code in "abca"]
    session.add_all(items)
    with pytest.raises(peewee.IntegrityError, match="code='a'") as caught:
        session.flush()
    assert caught.value.object in (items[0], items[3])  # type: ignore[attr-defined]
    session.rollback()


@pytest.mark.parametrize("place", [0, 3, 9])
def test_the_culprit_of_several_changed_objects_is_named(session: dbm.Session, place: int) -> None:
    items = [Item(code=f"c{number}") for number in range(10)]
    saved(session, *items)
    for item in items:
        item.price = 2
    items[place].price = -2
    with pytest.raises(peewee.IntegrityError, match=rf"(?is)constraint.*price.*<Item id={place + 1} ") as caught:
        session.flush()
    assert caught.value.object is items[place]  # type: ignore[attr-defined]
    assert session.query(Item).get(1) is items[0]
    session.rollback()


@pytest.mark.parametrize("place", [0, 3, 9])
def test_the_culprit_of_several_deleted_objects_is_named(session: dbm.Session, place: int) -> None:
    items = [Item(code=f"c{number}") for number in range(10)]
    saved(session, *items)
    saved(session, Part(item=items[place]))
    for item in items:
        session.delete(item)
    with pytest.raises(peewee.IntegrityError, match=rf"(?is)foreign key.*<Item id={place + 1} ") as caught:
        session.flush()
    assert caught.value.object is items[place]  # type: ignore[attr-defined]
    session.rollback()


def test_the_culprit_of_several_changed_objects_with_versions_is_named(session: dbm.Session) -> None:
    instances = [Versioned(code=code) for code in ("taken", "b", "c", "d")]
    saved(session, *instances)
    instances[1].code, instances[2].code, instances[3].code = "x", "taken", "y"
    with pytest.raises(peewee.IntegrityError, match=r"versioneds[._]code") as caught:
        session.flush()
    assert caught.value.object is instances[2]  # type: ignore[attr-defined]
    assert [instance.version for instance in instances] == [1, 1, 1, 1]
    session.rollback()


def test_the_culprit_of_several_deleted_objects_with_versions_is_named(session: dbm.Session) -> None:
    instances = [Versioned(code=code) for code in "abc"]
    saved(session, *instances)
    saved(session, VersionedPart(owner=instances[1]))
    for instance in instances:
        session.delete(instance)
    with pytest.raises(peewee.IntegrityError, match=r"(?i)foreign key") as caught:
        session.flush()
    assert caught.value.object is instances[1]  # type: ignore[attr-defined]
    session.rollback()


LONG = "x" * 1_500_000  # a few of which are too long for one statement of MariaDB's


@pytest.mark.parametrize("values", [{"text": peewee.fn.UPPER("ab")}, {"text": LONG}], ids=["computed", "long"])
def test_the_culprit_of_new_objects_that_go_in_several_statements_is_named(
    session: dbm.Session, values: dict[str, Any]
) -> None:
    saved(session, Versioned(code="taken"))
    instances = [Versioned(code=code, **values) for code in ("a", "b", "c", "taken", "d")]
    session.add_all(instances)
    with pytest.raises(peewee.IntegrityError, match=r"code='taken'") as caught:
        session.flush()
    assert caught.value.object is instances[3]  # type: ignore[attr-defined]
    session.rollback()


@pytest.mark.parametrize("values", [{"text": peewee.fn.UPPER("ab")}, {"text": LONG}], ids=["computed", "long"])
def test_the_culprit_of_changed_objects_that_go_in_several_statements_is_named(
    session: dbm.Session, values: dict[str, Any]
) -> None:
    instances = [Versioned(code=code) for code in ("a", "b", "c", "d", "taken")]
    saved(session, *instances)
    for instance, code in zip(instances, ("A", "B", "C", "taken")):
        instance.code, instance.text = code, values["text"]
    with pytest.raises(peewee.IntegrityError, match=r"code='taken'") as caught:
        session.flush()
    assert caught.value.object is instances[3]  # type: ignore[attr-defined]
    session.rollback()


def test_the_cause_is_the_drivers_error(engine: Any, session: dbm.Session) -> None:
    session.add(Item())
    with pytest.raises(peewee.IntegrityError) as caught:
        session.flush()
    driver = {"sqlite": "sqlite3", "postgresql": "psycopg"}.get(engine.kind, "pymysql")
    cause = caught.value.__cause__ or caught.value.orig  # type: ignore[attr-defined]
    assert type(cause).__module__.split(".")[0] == driver
    session.rollback()


# Values of a wrong type


WRONG = [
    ("price", "cheap"),
    ("price", [1]),
    ("price", {"a": 1}),
    ("price", 2**63),
    ("weight", "heavy"),
    ("weight", [1]),
    ("amount", "much"),
    ("token", "no uuid"),
    ("token", 3.5),
    ("day", "someday"),
    ("day", 17),
    ("moment", "now"),
    ("moment", 17),
    ("data", {"a": {1, 2}}),
    ("data", object()),
    ("scan", 1.5),
    ("scan", [1]),
    ("seen", 2**50),
    ("seen", "soon"),
    ("label", "half a \ud83e"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda each: ascii(each)[:20])
def test_a_value_of_a_wrong_type_names_model_column_and_value(session: dbm.Session, name: str, value: Any) -> None:
    item = Item(code="a")
    setattr(item, name, value)
    session.add(item)
    with pytest.raises(peewee.DataError) as caught:
        session.flush()
    message = str(caught.value)
    assert f"Item.{name} " in message
    assert repr(value)[:40] in message
    assert caught.value.object is item  # type: ignore[attr-defined]
    assert session.new == [item]
    session.rollback()


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda each: ascii(each)[:20])
def test_a_value_of_a_wrong_type_in_an_update_names_model_column_and_value(
    session: dbm.Session, name: str, value: Any
) -> None:
    item, other_item = saved(session, Item(code="a"), Item(code="b"))
    setattr(item, name, value)
    other_item.label = "fine"
    with pytest.raises(peewee.DataError, match=rf"Item\.{name} ") as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]
    session.rollback()


@pytest.mark.databases("servers")
@pytest.mark.parametrize(("name", "value"), [("price", 2**31), ("label", "x" * 256), ("amount", "1234567.5")])
def test_a_server_refuses_what_is_too_large_for_a_column(session: dbm.Session, name: str, value: Any) -> None:
    item, good = saved(session, Item(code="a"), Item(code="b"))
    setattr(item, name, value)
    setattr(good, name, "7")
    with pytest.raises(
        peewee.DataError, match=rf"(?s)Item\.{name} .*can't hold \S+: \w.*while updating <Item id=1 "
    ) as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]
    session.rollback()
    new = Item(code="c", **{name: value})
    session.add_all([Item(code="d"), new])
    with pytest.raises(peewee.DataError, match=rf"(?s)Item\.{name} .*while inserting <Item .*code='c'") as caught:
        session.flush()
    assert caught.value.object is new  # type: ignore[attr-defined]
    session.rollback()


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(("name", "value"), [("price", 2**31), ("label", "x" * 256)])
def test_sqlite_takes_numbers_of_64_bits_and_text_of_any_length(session: dbm.Session, name: str, value: Any) -> None:
    saved(session, Item(code="a", **{name: value}))
    assert session.query(getattr(Item, name)).scalar() == value


@pytest.mark.databases("postgresql")
def test_postgresql_refuses_text_with_a_zero_byte(session: dbm.Session) -> None:
    item = Item(code="a", label="a\0b")
    session.add(item)
    with pytest.raises(peewee.DataError, match=r"(?s)Item\.label .*NUL.*while inserting <Item ") as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]
    session.rollback()


@pytest.mark.databases("mariadb", "mysql")
def test_mariadb_and_mysql_refuse_an_infinite_number(session: dbm.Session) -> None:
    item = Item(code="a", weight=float("inf"))
    session.add(item)
    with pytest.raises(peewee.DataError, match=r"Item\.weight .*can't hold inf.*while inserting <Item ") as caught:
        session.flush()
    assert caught.value.object is item  # type: ignore[attr-defined]
    session.rollback()


def test_the_object_with_a_value_of_a_wrong_type_is_named_among_several(session: dbm.Session) -> None:
    items = [Item(code=code) for code in "abc"]
    items[1].price = "cheap"
    session.add_all(items)
    with pytest.raises(peewee.DataError, match=r"Item\.price .*'cheap'.*code='b'") as caught:
        session.flush()
    assert caught.value.object is items[1]  # type: ignore[attr-defined]
    items[1].price = 5
    session.commit()
    assert session.query(Item.price).order_by(Item.id).all() == [(1,), (5,), (1,)]


def test_a_timestamp_has_after_the_flush_what_its_row_has(session: dbm.Session) -> None:
    moment = datetime.datetime(2012, 8, 21, 12, 30, 59, 123_456)
    item = saved(session, Item(code="a", seen=moment))
    assert item.seen == moment.replace(microsecond=123_000)
    session.expunge_all()
    assert session.query(Item).one().seen == item.seen


def test_values_of_another_type_that_can_be_converted_are(session: dbm.Session) -> None:
    item = Item(code=7, price="5", amount="1.50", day="2012-08-21", weight="1.5")
    session.add(item)
    session.commit()
    assert (item.code, item.price, item.day, item.weight) == ("7", 5, datetime.date(2012, 8, 21), 1.5)
    session.expunge_all()
    again = session.query(Item).one()
    assert (again.code, again.price, again.amount) == ("7", 5, decimal.Decimal("1.50"))


# The commit itself fails


def test_a_commit_that_fails_loses_nothing(session: dbm.Session, other: dbm.Session) -> None:
    item = saved(session, Item(code="a", data={"x": 1}))
    item.label = "changed"
    item.data["y"] = 2
    late, new = Late(item=99), Item(code="b")
    session.add_all([late, new])
    with pytest.raises(peewee.IntegrityError, match=r"(?i)foreign key"):
        session.commit()
    assert not session.in_transaction()
    assert [session.state(each) for each in (item, late, new)] == ["persistent", "pending", "pending"]
    assert (session.dirty, late.id, new.id) == ([item], None, None)
    assert other.query(Item.code, Item.label).all() == [("a", "")]
    late.item = new
    session.commit()
    assert other.query(Item.code, Item.label, Item.data).order_by(Item.id).all() == [
        ("a", "changed", {"x": 1, "y": 2}),
        ("b", "", {}),
    ]
    assert other.query(Late.item).scalar() == new.id


def test_a_commit_that_fails_can_be_rolled_back(session: dbm.Session) -> None:
    item = saved(session, Item(code="a"))
    item.label = "changed"
    late = Late(item=99)
    session.add(late)
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    session.rollback()
    assert (item.label, session.state(late), session.new, session.dirty) == ("", "transient", [], [])


@defers_foreign_keys
def test_a_commit_that_fails_keeps_what_earlier_flushes_wrote(session: dbm.Session, other: dbm.Session) -> None:
    item, gone = saved(session, Item(code="a"), Item(code="b"))
    item.label = "first"
    session.flush()
    item.price = 2
    session.delete(gone)
    session.flush()
    late = Late(item=99)
    session.add(late)
    session.flush()
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert (item.label, item.price, session.deleted, session.new) == ("first", 2, [gone], [late])
    session.expunge(late)
    session.commit()
    assert other.query(Item.code, Item.label, Item.price).all() == [("a", "first", 2)]


@defers_foreign_keys
def test_a_commit_that_fails_does_not_revive_an_object_that_was_added_and_deleted(
    session: dbm.Session, other: dbm.Session
) -> None:
    item, late = Item(code="a"), Late(item=99)
    session.add(item)
    session.flush()
    session.delete(item)
    session.add(late)
    session.flush()
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    session.expunge(late)
    session.commit()
    assert other.query(Item).count() == 0


def test_a_commit_that_fails_keeps_an_object_that_was_deleted_and_added(
    session: dbm.Session, other: dbm.Session
) -> None:
    item = saved(session, Item(code="a"))
    session.delete(item)
    session.flush()
    session.add(item)
    item.label = "again"
    late = Late(item=99)
    session.add(late)
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    session.expunge(late)
    session.commit()
    assert other.query(Item.code, Item.label).all() == [("a", "again")]
    assert session.query(Item).one() is item


@defers_foreign_keys
def test_a_commit_that_fails_in_a_savepoint_loses_nothing(session: dbm.Session, other: dbm.Session) -> None:
    session.add(Item(code="a"))
    session.begin_nested()
    session.add(Item(code="b"))
    late = Late(item=99)
    session.add(late)
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert not session.in_nested_transaction()
    session.expunge(late)
    session.commit()
    assert other.query(Item.code).order_by(Item.code).all() == [("a",), ("b",)]


@pytest.mark.databases("mariadb", "mysql")
def test_a_deferrable_foreign_key_is_checked_at_once_where_the_database_defers_none(session: dbm.Session) -> None:
    late = Late(item=99)
    session.add(late)
    with pytest.raises(
        peewee.IntegrityError, match=r"foreign key constraint.*inserting <Late id=None item=99>"
    ) as caught:
        session.flush()
    assert caught.value.object is late  # type: ignore[attr-defined]
    session.rollback()


def test_deferrable_foreign_keys_in_a_circle_can_be_installed(engine: Any, session: dbm.Session) -> None:
    Circle = dbm.declarative_base()

    class Shell(Circle):  # type: ignore[misc,valid-type]
        kernel = peewee.DeferredForeignKey("Kernel", deferrable="INITIALLY DEFERRED", null=True)

    class Kernel(Circle):  # type: ignore[misc,valid-type]
        shell = peewee.ForeignKeyField(Shell, deferrable="INITIALLY DEFERRED", null=True)

    dbm.install_tables(engine, models=Circle)
    session.add(Shell(kernel=99))
    with pytest.raises(peewee.IntegrityError, match=r"(?i)foreign key"):
        session.commit()
    session.rollback()


def test_a_failed_commit_of_a_begin_block_is_rolled_back(session: dbm.Session) -> None:
    item = saved(session, Item(code="a"))
    late = Late(item=99)
    with pytest.raises(peewee.IntegrityError):
        with session.begin():
            item.label = "changed"
            session.add(late)
    assert (item.label, session.state(late)) == ("", "transient")
    assert not session.in_transaction()


# The database itself ends the transaction


@pytest.mark.databases("sqlite")
def test_changes_outlive_a_transaction_that_the_database_ended(session: dbm.Session, other: dbm.Session) -> None:
    """A trigger's RAISE(ROLLBACK) takes the transaction away from under the flush, savepoint included."""
    session.execute(
        "CREATE TRIGGER no_evil BEFORE INSERT ON items WHEN NEW.code = 'evil' BEGIN SELECT RAISE(ROLLBACK, 'evil'); END"
    )
    session.commit()
    first, evil = Item(code="first"), Item(code="evil")
    session.add(first)
    session.flush()
    session.add(evil)
    with pytest.raises(peewee.IntegrityError, match="evil"):
        session.flush()
    assert not session.in_transaction()
    assert {id(each) for each in session.new} == {id(first), id(evil)}
    evil.code = "good"
    session.commit()
    assert other.query(Item.code).order_by(Item.code).all() == [("first",), ("good",)]


def test_an_interrupt_that_comes_as_the_commit_is_through_leaves_the_objects_committed(
    engine: Any, session: dbm.Session
) -> None:
    def interrupt(event: peewee.QueryEvent) -> None:
        if event.sql == "COMMIT":
            raise KeyboardInterrupt

    person = Person(name="Jo")
    session.add(person)
    engine.query_hooks.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.commit()
    engine.query_hooks.clear()
    assert session.state(person) == "persistent"
    session.commit()
    assert session.query(Person).count() == 1


def test_an_interrupt_that_comes_as_a_transaction_has_begun_leaves_none_open(engine: Any, session: dbm.Session) -> None:
    def interrupt(event: peewee.QueryEvent) -> None:
        if event.sql.startswith(("BEGIN", "START")):
            raise KeyboardInterrupt

    session.add(Person(name="Jo"))
    engine.query_hooks.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.commit()
    engine.query_hooks.clear()
    session.commit()
    assert session.query(Person).count() == 1


def test_rows_that_an_interrupt_left_unread_keep_no_transaction_open(engine: Any, session: dbm.Session) -> None:
    def interrupt(event: peewee.QueryEvent) -> None:
        if event.sql.startswith("INSERT"):
            raise KeyboardInterrupt

    session.add(Person(name="Jo"))
    engine.query_hooks.append(interrupt)
    with pytest.raises(KeyboardInterrupt) as kept:
        session.commit()
    engine.query_hooks.clear()
    session.commit()
    assert session.query(Person).count() == 1
    assert kept.traceback


def test_another_session_can_write_after_an_interrupted_commit(engine: Any, session: dbm.Session) -> None:
    def interrupt(event: peewee.QueryEvent) -> None:
        if event.sql == "COMMIT":
            raise KeyboardInterrupt

    session.add(Person(name="Jo"))
    engine.query_hooks.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.commit()
    engine.query_hooks.clear()
    with dbm.transaction(engine) as other:
        other.add(Person(name="Al"))
    assert session.query(Person).count() == 2


def test_an_interrupt_at_the_end_of_a_savepoint_is_what_goes_out(engine: Any, session: dbm.Session) -> None:
    def interrupt(event: peewee.QueryEvent) -> None:
        if event.sql.startswith("RELEASE"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with session.begin_nested():
            session.add(Person(name="Jo"))
            engine.query_hooks.append(interrupt)
    engine.query_hooks.clear()
    session.rollback()
    assert session.query(Person).count() == 0


@pytest.mark.databases("sqlite")
def test_a_bulk_statement_by_which_the_database_ends_the_transaction_loses_no_change(
    engine: Any, session: dbm.Session
) -> None:
    session.execute(
        "CREATE TRIGGER no_way BEFORE UPDATE ON people BEGIN SELECT RAISE(ROLLBACK, 'no way'); END",
    )
    session.commit()
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    with pytest.raises(peewee.IntegrityError, match="no way"):
        session.query(Person).update({"age": 1})
    assert (session.in_transaction(), session.new) == (False, [person])
    session.commit()
    assert session.query(Person).count() == 1


@pytest.mark.databases("file", "servers")
def test_a_session_whose_connection_was_closed_can_be_rolled_back_and_used_again(
    engine: Any, session: dbm.Session
) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.flush()
    engine.close_all()
    with pytest.raises(peewee.PeeweeException, match=r"closed database|connection to the database is lost"):
        session.query(Person).count()
    session.rollback()
    assert session.state(person) == "transient"
    session.add(person)
    session.commit()
    assert session.query(Person).count() == 1


@pytest.mark.databases("sqlite")
def test_a_batch_by_which_the_database_ends_the_transaction_is_not_written_in_part(session: dbm.Session) -> None:
    session.execute(
        "CREATE TRIGGER no_evil BEFORE INSERT ON people WHEN NEW.name = 'evil' "
        "BEGIN SELECT RAISE(ROLLBACK, 'no evil'); END"
    )
    session.commit()
    people = [Person(name="a"), Person(name="evil"), Person(name="b")]
    session.add_all(people)
    with pytest.raises(peewee.IntegrityError, match="no evil"):
        session.commit()
    people[1].name = "good"
    session.commit()
    assert [name for (name,) in session.query(Person.name).order_by(Person.id)] == ["a", "good", "b"]


def test_an_interrupt_while_objects_are_settled_leaves_all_to_be_written_again(
    session: dbm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Person(name="old"), Person(name="new")
    session.add(old)
    session.commit()
    old.name = "changed"
    session.add(new)

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session._unit, "tidy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.commit()
    assert (session.dirty, session.new, new.id) == ([old], [new], None)
    session.commit()
    assert [name for (name,) in session.query(Person.name).order_by(Person.id)] == ["changed", "new"]


# Locks


@pytest.mark.databases("servers")
def test_a_lock_that_is_not_free_is_waited_for_once(
    engine: Any, session: dbm.Session, other: dbm.Session, statements: Callable[[], Any]
) -> None:
    one, two = saved(session, Person(name="one"), Person(name="two"))
    other.execute("UPDATE people SET score = 1 WHERE name = 'two'")
    no_patience = (
        "SET LOCAL lock_timeout = '1ms'" if engine.kind == "postgresql" else "SET innodb_lock_wait_timeout = 0"
    )
    session.begin()
    session.execute(no_patience)
    one.age = two.age = 1
    with (
        statements() as ran,
        pytest.raises(peewee.OperationalError, match=r"(?is)lock.* \(while updating objects in .people"),
    ):
        session.flush()
    assert verbs(ran).count("UPDATE") == 1
    assert session.dirty == [one, two]
    other.rollback()
    session.commit()
    assert other.query(Person.age, Person.score).order_by(Person.id).all() == [(1, 0), (1, 0)]


# A deadlock, at which MariaDB and MySQL end the transaction of the one that has written less


@pytest.fixture
def deadlock(engine: Any, session: dbm.Session) -> Iterator[tuple[Person, Person]]:
    """A person whose row the session has written, and another, whose row it will wait for in vain."""
    mine, theirs = saved(session, Person(name="mine"), Person(name="theirs"))
    mine.age = 1
    session.flush()
    held = threading.Event()

    def write_both() -> None:
        with dbm.open_session(engine) as rival:
            rival.add_all(Person(name=str(number)) for number in range(100))
            rival.flush()
            rival.execute("UPDATE people SET age = 9 WHERE id = ?", [theirs.id])
            held.set()
            rival.execute("UPDATE people SET age = 9 WHERE id = ?", [mine.id])
            rival.rollback()

    thread = threading.Thread(target=write_both)
    thread.start()
    assert held.wait(10)
    yield mine, theirs
    thread.join()


@ends_at_deadlock
def test_changes_outlive_a_transaction_that_a_deadlock_ended(
    session: dbm.Session, other: dbm.Session, deadlock: tuple[Person, Person]
) -> None:
    mine, theirs = deadlock
    theirs.age = 2
    with pytest.raises(peewee.OperationalError, match="Deadlock"):
        session.flush()
    assert not session.in_transaction()
    assert {id(each) for each in session.dirty} == {id(mine), id(theirs)}
    session.commit()
    assert other.query(Person.name, Person.age).order_by(Person.id).all() == [("mine", 1), ("theirs", 2)]


@ends_at_deadlock
def test_a_bulk_statement_that_ends_in_a_deadlock_loses_no_change(
    session: dbm.Session, other: dbm.Session, deadlock: tuple[Person, Person]
) -> None:
    mine, theirs = deadlock
    with pytest.raises(peewee.OperationalError, match="Deadlock"):
        session.query(Person).filter(Person.id == theirs.id).update({"age": 2})
    assert (session.in_transaction(), session.dirty) == (False, [mine])
    session.commit()
    assert other.query(Person.name, Person.age).order_by(Person.id).all() == [("mine", 1), ("theirs", None)]


@ends_at_deadlock
def test_a_batch_that_ends_in_a_deadlock_is_not_written_in_part(
    session: dbm.Session, other: dbm.Session, deadlock: tuple[Person, Person]
) -> None:
    mine, theirs = deadlock
    new = Person(name="new")
    session.add(new)
    mine.age = theirs.age = 2
    with pytest.raises(peewee.OperationalError, match="Deadlock"):
        session.commit()
    assert other.query(Person.age).order_by(Person.id).all() == [(None,), (None,)]
    assert session.new == [new]
    session.commit()
    assert other.query(Person.name, Person.age).order_by(Person.id).all() == [
        ("mine", 2), ("theirs", 2), ("new", None)
    ]  # fmt: skip


def test_ctrl_c_before_a_flush_has_begun_leaves_the_session_usable(
    session: dbm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.add(Person(name="Joe"))
    monkeypatch.setattr("tent.data.orm.flushing.Attempt.__init__", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.flush()
    monkeypatch.undo()
    session.commit()
    assert session.query(Person).count() == 1


def _interrupted(*args: Any) -> None:
    raise KeyboardInterrupt


# What is no error of the database's


def test_a_lack_of_memory_is_no_objects_fault(session: dbm.Session) -> None:
    def fail(event: peewee.QueryEvent) -> None:
        if event.sql.startswith("INSERT"):
            session.engine.query_hooks.remove(fail)
            raise MemoryError

    session.begin()
    session.add(Item(code="a"))
    session.flush()
    session.add(Item(code="b"))
    session.engine.query_hooks.append(fail)
    with session.no_autoflush, pytest.raises(MemoryError):
        session.flush()
    session.commit()
    assert {item.code for item in session.query(Item)} == {"a", "b"}


def test_ctrl_c_while_a_failed_flush_is_undone_leaves_none_of_its_rows(
    session: dbm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    saved(session, Item(code="a"))
    double = Item(code="a")
    session.add(Item(code="b"))
    session.flush()
    session.add_all([Item(code="c"), double])
    monkeypatch.setattr(peewee._savepoint, "rollback", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.flush()
    monkeypatch.undo()
    double.code = "d"
    session.commit()
    assert {item.code for item in session.query(Item)} == {"a", "b", "c", "d"}
