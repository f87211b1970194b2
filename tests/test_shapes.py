"""Queries whose SQL is kept for their shape give what they would give if each were compiled by Peewee."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest
from conftest import Note, Person

from tent.data import dbm
from tent.data.orm.engine import Engine
from tent.data.orm.mapper import mapper_of

Model = dbm.declarative_base()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Name(str):
    """A string of a class of its own."""


class Reversed(peewee.CharField):  # type: ignore[type-arg]
    """A field that stores its values backwards, and NULL for none."""

    def db_value(self, value: Any) -> Any:
        return None if value is None else value[::-1]

    def python_value(self, value: Any) -> Any:
        return None if value is None else value[::-1]


class Upper(peewee.CharField):  # type: ignore[type-arg]
    """A field whose values SQL makes."""

    def db_value(self, value: Any) -> Any:
        return peewee.fn.UPPER(value)


class Owner(Model):  # type: ignore[misc, valid-type]
    name = peewee.CharField()


class Thing(Model):  # type: ignore[misc, valid-type]
    owner = peewee.ForeignKeyField(Owner, null=True, backref="things")
    name = peewee.CharField(null=True)
    level = peewee.IntegerField(column_name="lvl", null=True)
    ratio = peewee.FloatField(null=True)
    price = peewee.DecimalField(10, 2, null=True)
    at = peewee.DateTimeField(null=True)
    day = peewee.DateField(null=True)
    hour = peewee.TimeField(null=True)
    token = peewee.UUIDField(null=True)
    is_new = peewee.BooleanField(null=True)
    blob = peewee.BlobField(null=True)
    back = Reversed(null=True)
    loud = Upper(null=True)
    facts = peewee.JSONField(null=True)


@pytest.fixture
def things(bare_engine: Any) -> Any:
    dbm.install_tables(bare_engine, models=Model)
    with dbm.open_session(bare_engine) as session:
        owners = [Owner(name=f"owner {number}") for number in range(3)]
        for n in range(24):
            session.add(
                Thing(
                    owner=owners[n % 4] if n % 4 < 3 else None,
                    name=None if n % 7 == 0 else f"thing {n % 5}",
                    level=None if n % 6 == 0 else n % 3,
                    ratio=n / 4,
                    price=decimal.Decimal(n) / 4,
                    at=datetime.datetime(2024, 1, 1 + n, 3, 4, 5, n),
                    day=datetime.date(2024, 1, 1 + n),
                    hour=datetime.time(n, 1),
                    token=uuid.UUID(int=n % 4),
                    is_new=n % 2 == 0,
                    blob=bytes([n]),
                    back=f"abc{n % 3}",
                    facts={"n": n % 3, "list": [n]} if n % 2 else None,
                )
            )
        session.commit()
    return bare_engine


@pytest.fixture
def compiled(monkeypatch: Any) -> Iterator[list[Any]]:
    """The queries that were compiled."""
    found: list[Any] = []
    parse = Engine.parse

    def spy(self: Any, query: Any, **options: Any) -> Any:
        found.append(query)
        return parse(self, query, **options)

    monkeypatch.setattr(Engine, "parse", spy)
    for model in (Owner, Thing, Person, Note):
        model._meta.__dict__.pop("mappers", None)
        model._meta.__dict__.pop("query", None)
    yield found


def values(owner: Any) -> list[Any]:
    """Return what a thing's columns are compared with, and then the like again with other values."""
    return [
        [
            Thing.level == n, Thing.level != n, Thing.level < n, Thing.level <= n, Thing.level > n, Thing.level >= n,
            Thing.name == f"thing {n}", Thing.name % f"thing {n}%", Thing.name ** f"THING {n}%",
            Thing.name.contains(f"{n}"), Thing.name.contains("_"), Thing.name.startswith("th"), Thing.name == Name("x"),
            Thing.ratio > n, Thing.ratio == n + 0.25, Thing.price >= decimal.Decimal(n), Thing.price == n,
            Thing.at > datetime.datetime(2024, 1, 5 + n), Thing.day <= datetime.date(2024, 1, 5 + n),
            Thing.hour == datetime.time(n, 1), Thing.token == uuid.UUID(int=n), Thing.token == str(uuid.UUID(int=n)),
            Thing.is_new == bool(n % 2), Thing.blob == bytes([n]), Thing.back == f"abc{n}", Thing.loud == "a",
            Thing.name.is_null(n % 2 == 0), Thing.name == None, Thing.name != None,  # noqa: E711
            Thing.level.in_([n, n + 1]), Thing.level.in_([]), Thing.level.not_in([n]), Thing.level << (n, 2),
            Thing.level == Level(n), Thing.level.between(0, n), Thing.level == Thing.id, Thing.level + 1 == n,
            Thing.owner == owner, Thing.owner == n, Thing.owner_id == n, Thing.owner.is_null(),
            (Thing.level == n) & (Thing.ratio > n), (Thing.level == n) | (Thing.ratio > 4), ~(Thing.level == n),
            ((Thing.level > 0) & (Thing.ratio > n)) & (Thing.is_new == True), Thing.facts["n"] == n,  # noqa: E712
            Thing.level == Owner.select(peewee.fn.MIN(Owner.id)), peewee.SQL("1 = 1"),
        ]
        for n in (1, 2)
    ]  # fmt: skip


def ids(rows: Any) -> list[Any]:
    return sorted(row.id for row in rows)


def test_conditions_find_what_peewee_finds(things: Any) -> None:
    with dbm.open_session(things) as session:
        for owner in session.query(Owner).all()[:2]:
            for conditions in values(owner):
                for one in conditions:
                    expected = ids(Thing.select().where(one).execute(things))
                    assert ids(session.query(Thing).where(one).all()) == expected
                    assert ids(session.query(Thing).filter(Thing.id > 4, one)) == [n for n in expected if n > 4]
                    assert ids(session.query(Thing).filter(one).where(Thing.id > 4)) == [n for n in expected if n > 4]
                    assert session.query(Thing).filter(one).count() == len(expected)
                    assert session.query(Thing).filter(one).exists() == bool(expected)


def test_conditions_of_names_find_what_peewee_finds(things: Any) -> None:
    with dbm.open_session(things) as session:
        owners = session.query(Owner).order_by(Owner.id).all()
        for names in [
            {"level": 1}, {"level": 2}, {"level": None}, {"lvl": 1}, {"level": Level.HIGH}, {"level": "1"},
            {"name": "thing 1", "level": 1}, {"name": None, "level": 1}, {"name": Name("thing 1")}, {"level": True},
            {"owner": owners[0]}, {"owner": owners[1].id}, {"owner": None}, {"back": "abc1"},
            {"token": uuid.UUID(int=1)}, {"is_new": False}, {"blob": b"\x01"}, {"price": decimal.Decimal("1.25")},
            {"day": datetime.date(2024, 1, 4)}, {},
        ]:  # fmt: skip
            fields = {Thing._meta.combined[name]: value for name, value in names.items()}
            wanted = [field == value for field, value in fields.items()]
            expected = ids(Thing.select().where(*wanted).execute(things) if wanted else Thing.select().execute(things))
            assert ids(session.query(Thing).filter_by(**names)) == expected
            assert ids(session.query(Thing).filter_by(level=1).filter_by(**names)) == ids(
                Thing.select().where(Thing.level == 1, *wanted).execute(things)
            )


@pytest.mark.parametrize("rows", ["dicts", "tuples", "namedtuples"])
def test_rows_are_those_of_peewee(things: Any, rows: str) -> None:
    selected = [Thing.id, Thing.level.alias("how"), peewee.fn.MAX(Thing.price).alias("most")]
    with dbm.open_session(things) as session:
        for base, peewees in [
            (session.query(Thing), Thing.select()),
            (session.query(Thing).filter_by(level=1), Thing.select().where(Thing.level == 1)),
            (session.query(Thing).filter(Thing.level < 0), Thing.select().where(Thing.level < 0)),
            (session.query(Thing.id, Thing.at, Thing.facts), Thing.select(Thing.id, Thing.at, Thing.facts)),
            (
                session.query(Thing).select(*selected).group_by(Thing.id, Thing.level),
                Thing.select(*selected).group_by(Thing.id, Thing.level),
            ),
            (
                session.query(Thing).select(Thing, Owner).join(Owner),
                Thing.select(Thing, Owner).join(Owner),
            ),
        ]:  # fmt: skip
            found = list(getattr(base.order_by(Thing.id), rows)())
            expected = list(getattr(peewees.order_by(Thing.id), rows)().execute(things))
            assert found == expected
            assert [type(row).__name__ for row in found] == [type(row).__name__ for row in expected]
            for row, other in zip(found, expected):
                each = (row.values(), other.values()) if isinstance(row, dict) else (row, other)
                assert list(map(repr, each[0])) == list(map(repr, each[1])) or isinstance(row, dict)
                assert not isinstance(row, dict) or {n: repr(v) for n, v in row.items()} == {
                    n: repr(v) for n, v in other.items()
                }
                assert getattr(row, "_fields", None) == getattr(other, "_fields", None)


def test_order_limit_and_offset(things: Any) -> None:
    everything = list(range(1, 25))
    with dbm.open_session(things) as session:
        query = session.query(Thing)
        for order, expected in [
            ((Thing.id,), everything),
            ((Thing.id.asc(),), everything),
            ((Thing.id.desc(),), everything[::-1]),
            ((-Thing.id,), everything[::-1]),
            ((Thing.is_new.desc(), Thing.id), everything[::2] + everything[1::2]),
            ((Thing.ratio * 0, Thing.id), None),
            ((Thing.level.asc(nulls="first"), Thing.id), None),
        ]:
            ordered = query.order_by(*order)
            every = [thing.id for thing in ordered]
            assert every == (expected or [t.id for t in Thing.select().order_by(*order).execute(things)])
            for start, stop in [(0, 3), (2, 4), (23, 30), (5, None), (0, 0), (3, 3)]:
                assert [thing.id for thing in ordered[start:stop]] == every[start:stop]
            assert [thing.id for thing in ordered.limit(4).offset(2)] == every[2:6]
            assert [thing.id for thing in ordered.offset(2).limit(4)] == every[2:6]
            assert [thing.id for thing in ordered.offset(20)] == every[20:]
            assert [ordered.count(), ordered.limit(5).offset(2).count(), ordered.limit(9).offset(20).count()] == [
                24,
                5,
                4,
            ]
            assert [ordered.exists(), ordered.offset(24).limit(1).exists()] == [True, False]
            assert [thing.id for thing in ordered.paginate(2, 5)] == every[5:10]
            assert [thing.id for thing in ordered.order_by(None).order_by(Thing.id)] == everything
            first = ordered.first()
            assert first is not None and first.id == every[0]


def test_one_shape_is_compiled_once(things: Any, compiled: list[Any]) -> None:
    with dbm.open_session(things) as session:
        for n in range(4):
            session.query(Thing).filter_by(level=n).order_by(Thing.id.desc()).limit(3 + n).offset(n).all()
            session.query(Thing).filter(Thing.level > n, Thing.name == f"x{n}").first()
            session.query(Thing).filter((Thing.level > n) & (Thing.name == f"x{n}")).first()
            list(session.query(Thing).filter_by(level=n).dicts())
            list(session.query(Thing).filter_by(level=n).tuples())
            session.query(Thing).filter_by(level=n).all()
            session.query(Thing.id, Thing.name).filter_by(level=n).all()
            session.query(Thing).filter_by(name=None).all()
            session.query(Thing).filter_by(level=n).limit(2).count()
            session.query(Thing).filter_by(level=n).exists()
    queries = [query for query in compiled if isinstance(query, peewee.Select)]
    assert len(queries) == 7


def test_only_so_many_shapes_are_kept(things: Any) -> None:
    kept = mapper_of(Thing, things).shapes._kept
    with dbm.open_session(things) as session:
        for n in range(1_100):
            orders = [Thing.id if n >> bit & 1 else Thing.level for bit in range(11)]
            session.query(Thing).order_by(*orders).limit(1).all()
            assert len(kept) <= 500


def test_what_is_no_plain_query_is_compiled_each_time(things: Any, compiled: list[Any]) -> None:
    other = Thing.alias()
    with dbm.open_session(things) as session:
        plain = session.query(Thing).filter_by(level=1)
        for query in [
            plain.distinct(),
            plain.join(Owner),
            plain.group_by(Thing.id),
            plain.with_related(Thing.owner),
            plain.select(Thing.id),
            plain.order_by(peewee.fn.RAND() if isinstance(things, peewee.MySQLDatabase) else peewee.fn.RANDOM()),
            plain.limit(peewee.Value(3)),
            plain.with_cte(Thing.select().cte("things_of_it")),
            plain.objects(),
            plain.alias("t9"),
            session.query(other).filter_by(level=1),
            plain.orwhere(Thing.level == 2),
        ]:
            compiled.clear()
            query.all()
            assert compiled and not query._is_plain
            assert plain._is_plain and plain._where_clause is None


def test_what_is_set_on_a_plain_query_counts(things: Any) -> None:
    with dbm.open_session(things) as session:
        session.query(Thing).filter_by(level=1).all()
        query = session.query(Thing).filter_by(level=1)
        query._where = Thing.id == 3
        assert ids(query.all()) == [3]
        query = session.query(Thing.id).filter_by(level=2)
        query.selected_columns = [Thing.name]
        assert query.limit(1).tuples().all()[0][0].startswith("thing")


def test_a_query_is_not_changed_by_what_is_made_of_it(things: Any) -> None:
    with dbm.open_session(things) as session:
        base = session.query(Thing)
        one = base.filter_by(level=1)
        made = [
            base.join(Owner), one.join(Owner).where(Owner.name == "owner 1"), one.order_by(Thing.id), one.limit(2),
            one.where(Thing.ratio > 2), one.dicts(), one.distinct(), one.alias("other"), one.clone(),
        ]  # fmt: skip
        assert len(base.all()) == 24
        assert ids(one.all()) == ids(Thing.select().where(Thing.level == 1).execute(things))
        assert len({hash(query) for query in [base, one, *made]}) == len(made) + 2
        assert str(one) == str(one.clone())


def test_two_queries_of_a_model_in_one_statement_are_two(things: Any) -> None:
    with dbm.open_session(things) as session:
        low = session.query(Thing).filter_by(level=1).select(Thing.id)
        high = session.query(Thing).filter(Thing.ratio > 2).select(Thing.id)
        found = session.query(Thing).where(Thing.id.in_(low), Thing.id.in_(high)).all()
        assert ids(found) == ids(Thing.select().where(Thing.level == 1, Thing.ratio > 2).execute(things))


def test_what_is_pending_is_written_before_its_key_is_compared_with(things: Any) -> None:
    with dbm.open_session(things) as session:
        owner = Owner(name="new")
        thing = Thing(owner=owner, name="new")
        session.add(thing)
        assert session.query(Thing).filter_by(owner=owner).all() == [thing]
        owner = Owner(name="newer")
        thing = Thing(owner=owner, name="newer")
        session.add(thing)
        assert session.query(Thing).where(Thing.owner == owner).tuples().all()[0][0] == thing.id
        session.rollback()


def test_hooks_are_told_of_each_statement(session: dbm.Session, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        for name in ("Joe", "Ann"):
            session.query(Person).filter_by(name=name).first()
            session.query(Person).filter(Person.name == name).dicts().all()
            session.get(Person, 7)
    assert len(ran) == 6


def test_fields_that_are_added_later_are_in_the_queries_that_follow(bare_engine: Any) -> None:
    class Growing(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField()

    with dbm.open_session(bare_engine) as session:
        session.query(Growing)
        Growing._meta.add_field("age", peewee.IntegerField(null=True))
        dbm.install_tables(bare_engine, models=[Growing])
        session.add(Growing(name="x", age=3))
        session.commit()
        assert session.query(Growing).filter_by(name="x").dicts().all()[0]["age"] == 3
        assert session.query(Growing).all()[0].age == 3


def test_held_objects_need_no_sql_whatever_type_their_key_is_given_in(
    session: dbm.Session, statements: Callable[[], Any]
) -> None:
    session.add(Person(name="Joe"))
    session.commit()
    person = session.query(Person).one()
    with statements() as ran:
        for key in (person.id, str(person.id), float(person.id), (person.id,), {"id": person.id}, person.id):
            assert session.get(Person, key) is person
    assert not ran
    with statements() as ran:
        session.expire_all()
        assert session.get(Person, person.id) is person
        assert session.get(Person, person.id) is person
    assert len(ran) == 1
    session.delete(person)
    assert session.get(Person, person.id) is None
    session.rollback()
    assert session.get(Person, person.id) is person


@pytest.mark.parametrize("model", [None, [], 3, "Person", object()])
def test_get_of_what_is_no_model(session: dbm.Session, model: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="is no model"):
        session.get(model, 1)
