"""Rows that are read a column at a time have what Peewee gives each value, whatever lies between the usual ones."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import peewee
import pytest

from tent.data import dbm
from tent.data.orm.mapper import mapper_of
from tent.data.orm.rows import columns_of, dicts


class Doubled(peewee.IntegerField):  # type: ignore[type-arg]
    """A field whose conversion is its user's own, and makes something of NULL."""

    def db_value(self, value: Any) -> Any:
        return None if value is None else value // 2

    def python_value(self, value: Any) -> Any:
        return -1 if value is None else value * 2


class Shelf(dbm.Base):
    at = peewee.DateTimeField(null=True)
    day = peewee.DateField(null=True)
    hour = peewee.TimeField(null=True)
    price = peewee.DecimalField(12, 4, null=True)
    note = peewee.JSONField(null=True)
    open = peewee.BooleanField(null=True)
    token = peewee.UUIDField(null=True)
    twice = Doubled(null=True)
    own = peewee.JSONField(null=True, loads=lambda text: ["own", json.loads(text)])


USUAL: dict[str, Any] = {
    "at": "2024-01-02 03:04:05.678901",
    "day": "2024-01-02",
    "hour": "03:04:05",
    "price": 2.25,
    "note": '{"a": [1, 2.5, null], "b": "ü"}',
    "open": 1,
    "token": "12345678123456781234567812345678",
    "twice": 4,
    "own": "[1]",
}
UNUSUAL: dict[str, list[Any]] = {
    "at": ["2024-01-02", "2024-01-02 03:04", "tomorrow", "", 12, "2024-01-02 03:04:05+02:00", "2024-13-01 00:00:00"],
    "day": ["2024-01-02 03:04:05", "02.01.2024", "", 5],
    "hour": ["03:04:05.5", "3 o'clock", "2024-01-02 03:04:05", ""],
    "price": [0, 10**15, "1.10", -0.5, 0.0, -0.0, 2.5],
    "note": [' {"a": 1}', '{"a": 1} ', "[1]\n", '{"a": 1', "", "null", "1 2", "NaN", '"x"', 7, "\ufeff[1]", "nothing"],
    "open": [0, 2, ""],
    "token": ["12345678-1234-5678-1234-567812345678"],
    "twice": [0],
    "own": ['{"a": 1}'],
}


@pytest.fixture
def engine(tmp_path: Any) -> Any:
    engine = dbm.connect({"driver": "sqlite", "path": str(tmp_path / "rows.db")})
    dbm.install_tables(engine, models=[Shelf])
    yield engine
    engine.close_all()


def put(engine: Any, rows: list[dict[str, Any]]) -> None:
    """Write rows past all conversions."""
    for row in rows:
        marks = ", ".join("?" * len(row))
        engine.execute_sql(f"INSERT INTO shelfs ({', '.join(map(repr, row))}) VALUES ({marks})", list(row.values()))


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


@pytest.mark.parametrize("name", USUAL)
@pytest.mark.parametrize("count", [1, 2, 60])
@pytest.mark.parametrize("place", ["alone", "first", "last", "with NULL", "none"])
def test_each_value_is_as_if_it_were_read_by_itself(engine: Any, name: str, count: int, place: str) -> None:
    column = mapper_of(Shelf, engine).by_name[name]
    for unusual in [*UNUSUAL[name], None]:
        values: list[Any] = [USUAL[name]] * (count - 1)
        values = {
            "alone": [unusual],
            "first": [unusual, *values],
            "last": [*values, unusual],
            "with NULL": [None, *values, unusual, None],
            "none": [None] * count,
        }[place]
        expected = [None if v is None and not column.nulls[0] else column.decode(v) for v in values]
        found = list(column.read(tuple(values)))
        assert len(found) == len(expected) and all(map(same, found, expected))


@pytest.mark.parametrize("count", [1, 2, 700])
def test_objects_have_the_values_of_their_rows(engine: Any, count: int) -> None:
    put(engine, [USUAL] * count)
    with dbm.open_session(engine) as session:
        shelves = session.query(Shelf).order_by(Shelf.id).all()
        assert [shelf.id for shelf in shelves] == list(range(1, count + 1))
        for shelf in shelves:
            assert shelf.at == datetime.datetime(2024, 1, 2, 3, 4, 5, 678901)
            assert shelf.day == datetime.date(2024, 1, 2)
            assert shelf.hour == datetime.time(3, 4, 5)
            assert same(shelf.price, decimal.Decimal("2.25"))
            assert shelf.note == {"a": [1, 2.5, None], "b": "ü"}
            assert shelf.open is True
            assert shelf.token == uuid.UUID(USUAL["token"])
            assert shelf.twice == 8
            assert shelf.own == ["own", [1]]
        assert not session.dirty


def test_each_object_has_a_value_of_its_own(engine: Any) -> None:
    put(engine, [USUAL] * 20)
    with dbm.open_session(engine) as session:
        first, *others = session.query(Shelf).all()
        first.note["a"].append(3)
        assert [other.note["a"] for other in others] == [[1, 2.5, None]] * 19
        assert session.dirty == [first]
        session.rollback()


@pytest.mark.parametrize("width", range(1, 14))
def test_dicts_of_any_width(width: int) -> None:
    names = [f"n{i}" for i in range(width)]
    rows = [tuple(range(i, i + width)) for i in range(5)]
    assert dicts(names, columns_of(rows)) == [dict(zip(names, row)) for row in rows]


def test_a_key_that_is_converted(engine: Any) -> None:
    class Parcel(dbm.declarative_base()):  # type: ignore[misc]
        token = peewee.UUIDField(primary_key=True)
        label = peewee.CharField()

    dbm.install_tables(engine, models=[Parcel])
    tokens = [uuid.UUID(int=number) for number in range(30)]
    with dbm.open_session(engine) as session:
        session.add_all([Parcel(token=token, label="x") for token in tokens])
        session.commit()
    with dbm.open_session(engine) as session:
        parcels = session.query(Parcel).order_by(Parcel.token).all()
        assert [parcel.token for parcel in parcels] == tokens
        assert all(session.get(Parcel, token) is parcel for token, parcel in zip(tokens, parcels))
        assert session.query(Parcel).limit(2).all()[0] in parcels


def test_an_object_of_a_row_has_a_dict_for_related_ones_when_it_is_asked_for(engine: Any) -> None:
    put(engine, [USUAL] * 10)
    with dbm.open_session(engine) as session:
        one, other = session.query(Shelf).limit(2)
        assert "__rel__" not in vars(one)
        assert one.__rel__ == {} and one.__rel__ is one.__rel__
        assert one.__rel__ is not other.__rel__
        assert Shelf.__rel__ is None
