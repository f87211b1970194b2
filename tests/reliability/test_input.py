"""Bad input: a value comes back as it went in, or is refused with an error that names it; no string is taken for SQL.

The strings are those of the Big List of Naughty Strings, more of the same kinds, and hypothesis' own.
"""

from __future__ import annotations

import datetime
import decimal
import json
import os
import random
import re
import sqlite3
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import peewee
import pytest
from hypothesis import strategies as st

from tent.data import dbm
from tent.data.orm.config import read_config
from tent.data.orm.errors import shown

Own = dbm.declarative_base()
Report = Callable[..., None]


class Thing(Own):
    """A place for a value of each kind."""

    name = peewee.CharField(max_length=500, null=True)
    text = peewee.TextField(null=True)
    data = peewee.JSONField(null=True)
    blob = peewee.BlobField(null=True)


class Word(Own):
    """Has text for its key."""

    word = peewee.CharField(primary_key=True, max_length=500)


class Use(Own):
    word = peewee.ForeignKeyField(Word, backref="uses")


class Number(Own):
    """A column of each type that has values which a database, a driver or Python can't hold."""

    integer = peewee.IntegerField(null=True)
    big = peewee.BigIntegerField(null=True)
    ratio = peewee.FloatField(null=True)
    price = peewee.DecimalField(max_digits=10, decimal_places=3, null=True)
    is_so = peewee.BooleanField(null=True)
    day = peewee.DateField(null=True)
    moment = peewee.DateTimeField(null=True)
    hour = peewee.TimeField(null=True)
    stamp = peewee.TimestampField(null=True, default=None)
    token = peewee.UUIDField(null=True)
    short = peewee.CharField(max_length=20, null=True)
    text = peewee.TextField(null=True)
    blob = peewee.BlobField(null=True)
    data = peewee.JSONField(null=True)


class Victim(Own):
    """What an injection would change or drop."""

    name = peewee.CharField()


SURROGATE = re.compile("[\ud800-\udfff]")
INJECTIONS = [
    "'; DROP TABLE victims; --",
    '"; DROP TABLE victims; --',
    "`; DROP TABLE victims; --",
    "1; DROP TABLE victims",
    "1 OR 1=1",
    "' OR '1'='1",
    "') OR 1=1 --",
    "x') UNION SELECT 1, name FROM victims --",
    "\\'; DROP TABLE victims; --",
    "\\\\'; DROP TABLE victims; --",
    "$$; DROP TABLE victims; $$",
    "E'\\'; DROP TABLE victims; --",
    "/* */ DELETE FROM victims",
    "%s; DELETE FROM victims",
    "?; DELETE FROM victims",
    ":name; DELETE FROM victims",
    "id; DELETE FROM victims",
    "name = 'x' WHERE 1=1; --",
    "\u02bc; DROP TABLE victims; --",  # folded to an apostrophe by some
    "\xbf'; DROP TABLE victims; --",  # half a character of GBK, which takes a backslash with it
]
MORE = [
    *("a\0b", "\0", "\ud800", "x\udfffy", "\ud83d\ude00", "\ufeff", "\ufffe", "\uffff", "\U0010ffff", "\x85", "\u2028"),
    *("%", "%%", "%s", "%(name)s", "?", "??", ":name", "$1", "{}", "{0}", "[]", "_", "%_", "\\", "\\\\", "\\%", "\\_"),
    *(
        "'",
        "''",
        '"',
        '""',
        "`",
        "``",
        "\\'",
        '\\"',
        "E'\\''",
        "$$",
        "--",
        "/*",
        "*/",
        "#",
        ";",
        "NULL",
        "null",
        "None",
    ),
    *(
        "0x1F",
        "1e400",
        "-1",
        "007",
        "1_000",
        "Infinity",
        "NaN",
        '{"a": 1}',
        "[1]",
        '"a"',
        "true",
        "\x1a",
        "\x7f",
        "\x1b",
    ),
    *(
        " a",
        "a ",
        " ",
        "\t",
        "\r\n",
        "é",
        "e\u0301",
        "İ",
        "ß",
        "ſ",
        "\u200b",
        "\u202e",
        "😀",
        "👨‍👩‍👧",
        "../../etc/passwd",
    ),
    *("con", "C:\\x", "sqlite_x", "rowid", "id", "select", "é" * 250, "a" * 500, *INJECTIONS),
]
STRINGS = list(dict.fromkeys([*json.loads(Path(__file__).with_name("naughty_strings.json").read_text()), *MORE]))
texts = st.text(st.characters(exclude_categories=()), max_size=40)  # half surrogate pairs included
if_servers = pytest.mark.databases("servers")


@pytest.fixture
def engine(bare_engine: Any) -> Any:
    dbm.install_tables(bare_engine, models=Own)
    with dbm.transaction(bare_engine) as session:
        session.add_all([Victim(name=name) for name in ("Ann", "Bob", "Cid")])
    return bare_engine


@pytest.fixture
def session(engine: Any) -> Iterator[dbm.Session]:
    """A session; what was tried in it has harmed nothing, and left it as usable as it was."""
    with dbm.open_session(engine) as session:
        yield session
        assert_unharmed(session)


def assert_unharmed(session: dbm.Session) -> None:
    session.rollback()
    assert (session.new, session.dirty, session.deleted) == ([], [], [])
    assert session.query(Victim.name).order_by(Victim.id).all() == [("Ann",), ("Bob",), ("Cid",)]


def try_all(check: Callable[[Any], Any], strategy: Any, seed: int, examples: int) -> None:
    """Let hypothesis try to break something, by a seed."""
    options = hypothesis.settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )

    @hypothesis.seed(seed)
    @options
    @hypothesis.given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


def can_hold(database: str, value: str) -> bool:
    """Tell whether a database has text with these characters: none has half a surrogate pair."""
    return not SURROGATE.search(value) and not (database == "postgresql" and "\0" in value)


def saved(session: dbm.Session, make: Callable[[], Any]) -> Any:
    """Return a new object, written; or the error with which it was refused, and is pending as before."""
    instance = make()
    session.add(instance)
    try:
        session.flush()
    except peewee.DataError as error:
        assert session.state(instance) == "pending"
        session.expunge_all()
        return error
    return instance


def assert_named(error: Any, model: Any, field: str, value: Any) -> None:
    """See that an error names model, field and value, and is short whatever the value is."""
    message = str(error)
    assert f"{model.__name__}.{field} (" in message
    assert repr(value)[:30] in message
    assert error.object is not None
    assert len(message) < 1_000


# Strings as values


def come_back_or_are_refused(session: dbm.Session, database: str, value: str) -> bool:
    """Try a string in each kind of column, and return whether it could be written."""
    is_held = can_hold(database, value)
    kinds = {"name": value, "text": value, "data": {"value": [value], f"{value}+": {value: value}}}
    for field, given in kinds.items():
        found = saved(session, lambda: Thing(**{field: given}))
        assert isinstance(found, Thing) == is_held, f"{field} {value!r}: {found}"
        if not is_held:
            assert_named(found, Thing, field, given)
            continue
        key = found.id
        session.commit()
        session.expunge_all()
        assert getattr(session.get(Thing, key), field) == given
        session.commit()
    blob = value.encode(errors="surrogatepass")
    key = saved(session, lambda: Thing(blob=blob)).id
    session.commit()
    session.expunge_all()
    assert session.get(Thing, key).blob == blob  # type: ignore[union-attr]
    return is_held


def test_a_naughty_string_comes_back_from_each_kind_of_column(
    session: dbm.Session, database: str, report: Report
) -> None:
    held = [come_back_or_are_refused(session, database, value) for value in STRINGS]
    report(strings=len(STRINGS), refused=held.count(False))


def test_any_string_comes_back_from_each_kind_of_column(
    session: dbm.Session, database: str, seed: int, is_long: bool, report: Report
) -> None:
    examples = 20_000 if is_long else 60
    try_all(lambda value: come_back_or_are_refused(session, database, value), texts, seed, examples)
    report(examples=examples)


def test_a_naughty_string_can_be_a_key(session: dbm.Session, database: str) -> None:
    for value in STRINGS:
        found = saved(session, lambda: Use(word=Word(word=value)))
        if not can_hold(database, value):
            assert_named(found, Word, "word", value)
            continue
        session.commit()
        session.expunge_all()
        word = session.get(Word, value)
        assert word is not None and word.word == value
        assert session.get(Word, {"word": value}) is word
        use = session.query(Use).filter_by(word=value).one()
        assert use.word is word
        assert list(word.uses) == [use]
        session.delete(use)
        session.delete(word)
        session.commit()
        assert session.get(Word, value) is None


def test_the_row_of_a_refused_value_is_not_half_there(session: dbm.Session) -> None:
    good, bad = Thing(name="good"), Thing(name="bad", text="half \ud800")
    session.add_all([good, bad])
    with pytest.raises(peewee.DataError, match=r"Thing\.text \(TextField\) can't hold 'half \\ud800'"):
        session.commit()
    assert (good.id, bad.id) == (None, None)
    with session.no_autoflush:
        assert session.scalar("SELECT COUNT(*) FROM things") == 0
    bad.text = "whole"
    session.commit()
    assert session.query(Thing.name).order_by(Thing.name).all() == [("bad",), ("good",)]


# Strings in filters: each finds what Python finds, or the database can't hold the string

CONTROL = "\u25ca\u25ca"
Find = Callable[[dbm.Session, str], Any]
EXACT: dict[str, Find] = {
    "where": lambda s, v: s.query(Thing).where(Thing.text == v),
    "filter": lambda s, v: s.query(Thing).filter((Thing.text == v) | (Thing.text == v)),
    "filter_by": lambda s, v: s.query(Thing).filter_by(text=v),
    "a keyword of filter": lambda s, v: s.query(Thing).filter(text__eq=v),
    "in_": lambda s, v: s.query(Thing).where(Thing.text.in_([v, "\u25cb"])),
    "not_in": lambda s, v: s.query(Thing).where(Thing.text.not_in([f"x{v}y", CONTROL])),
    "an expression": lambda s, v: s.query(Thing).where(Thing.text.concat("\u25cb") == f"{v}\u25cb"),
    "a subquery": lambda s, v: s.query(Thing).where(Thing.id.in_(Thing.select(Thing.id).where(Thing.text == v))),
    "a part of JSON": lambda s, v: s.query(Thing).where(Thing.data["value"] == v),
    "an item of JSON": lambda s, v: s.query(Thing).where(Thing.data["list"].contains([v])),
    "parameters": lambda s, v: [s.get(Thing, key) for (key,) in s.execute("SELECT id FROM things WHERE text = ?", [v])],
    "named parameters": lambda s, v: [
        s.get(Thing, key) for (key,) in s.execute("SELECT id FROM things WHERE text = :v", {"v": v})
    ],
    "Peewee's select": lambda s, v: s.execute(Thing.select().where(Thing.text == v)),
    "Peewee's raw": lambda s, v: s.execute(Thing.raw(f"SELECT * FROM things WHERE text = {s.engine.param}", v)),
}
ALIKE: dict[str, Find] = {
    "startswith": lambda s, v: s.query(Thing).where(Thing.text.startswith(f"x{v}")),
    "endswith": lambda s, v: s.query(Thing).where(Thing.text.endswith(f"{v}y")),
    "contains": lambda s, v: s.query(Thing).where(Thing.text.contains(f"x{v}y")),
    "a keyword": lambda s, v: s.query(Thing).filter(text__contains=f"x{v}y"),
}


def filters_take_it_for_a_value(session: dbm.Session, database: str, value: str) -> None:
    """Try a string in each filter, with rows that have it, have it in the middle, and have it not."""
    is_held = can_hold(database, value)
    rows = [value, f"x{value}y", CONTROL]
    session.query(Thing).delete()
    if is_held:
        session.add_all([Thing(text=text, data={"value": text, "list": [text]}) for text in rows])
    session.commit()
    # SQLite's LIKE ends at a NUL; see below
    alike = {} if "\0" in value and session.engine.kind == "sqlite" else ALIKE
    for expected, filters in ((value, EXACT), (f"x{value}y", alike)):
        for name, find in filters.items():
            if is_held:
                assert [thing.text for thing in find(session, value)] == [expected], f"{name} {value!r}"
            elif name not in ("a part of JSON", "an item of JSON"):
                with pytest.raises(peewee.DataError):
                    list(find(session, value))
                session.rollback()


def test_a_filter_takes_a_naughty_string_for_a_value(session: dbm.Session, database: str) -> None:
    for value in STRINGS:
        if value not in ("", CONTROL):
            filters_take_it_for_a_value(session, database, value)


def test_a_filter_takes_any_string_for_a_value(
    session: dbm.Session, database: str, seed: int, is_long: bool, report: Report
) -> None:
    examples = 5_000 if is_long else 40
    try_all(lambda value: filters_take_it_for_a_value(session, database, value), texts.filter(bool), seed, examples)
    report(examples=examples)


@pytest.mark.databases("sqlite")
def test_sqlites_like_ends_at_a_nul(session: dbm.Session) -> None:
    session.add_all([Thing(text="a\0b"), Thing(text="a\0c")])
    session.commit()
    assert session.query(Thing).where(Thing.text == "a\0b").count() == 1
    assert session.query(Thing).where(Thing.text.startswith("a\0b")).count() == 2


def is_plain_key(database: str, key: str) -> bool:
    """Tell whether a path of JSON finds a key: SQLite before 3.45 and MariaDB look for it as it is spelled there."""
    if database == "postgresql" or (database in ("memory", "file") and sqlite3.sqlite_version_info >= (3, 46)):
        return True
    return not re.search(r'["\\\0-\x1f\x7f]', key) and not key.startswith("-")


def test_a_naughty_string_as_a_key_of_json_finds_its_row_and_no_other(session: dbm.Session, database: str) -> None:
    for key in filter(None, STRINGS):
        if not can_hold(database, key) or "\0" in key:
            continue
        session.query(Thing).delete()
        session.add_all([Thing(name="it", data={key: 1}), Thing(name="other", data={f"{key}+": 1, "\u25ca": [key]})])
        session.commit()
        found = [
            [thing.name for thing in session.query(Thing).where(condition)]
            for condition in (Thing.data[key] == 1, Thing.data.has_key(key), Thing.data[key].as_int() == 1)
        ]
        expected = [["it"]] * 3
        assert found == expected or not is_plain_key(database, key), f"{key!r}: {found}"
        assert all(names in ([], ["it"]) for names in found), f"{key!r}: {found}"


# Strings as names of tables and columns

NAMED = [value for value in STRINGS if len(value) < 60]


@pytest.mark.parametrize("what", ["table", "column"])
def test_a_naughty_string_can_be_the_name_of(
    engine: Any, what: str, chance: random.Random, is_long: bool, report: Report
) -> None:
    """A database takes it, and everything works; or it is refused, and nothing is made."""
    names = NAMED if is_long else [*chance.sample(NAMED, 15), *chance.sample(INJECTIONS, 10), 'a"b`c', "a%sb", "a?b"]
    refused = 0
    before = sorted(engine.get_tables())
    for name in names:
        try:
            model = model_named(name if what == "table" else "trials", name if what == "column" else "name")
            dbm.install_tables(engine, models=[model])
        except (dbm.InvalidRequestError, peewee.PeeweeException) as error:
            assert "Trial" in str(error)
            refused += 1
        else:
            try_out(engine, model)
            dbm.uninstall_tables(engine, models=[model])
        assert sorted(engine.get_tables()) == before, f"{name!r}"
    with dbm.open_session(engine) as session:
        assert_unharmed(session)
    report(names=len(names), refused=refused)


def model_named(table: str, column: str) -> Any:
    class Trial(dbm.declarative_base()):  # type: ignore[misc]
        __tablename__ = table
        name = peewee.CharField(column_name=column, index=True)

    return Trial


def try_out(engine: Any, model: Any) -> None:
    """Use a model in each kind of statement."""
    with dbm.open_session(engine) as session:
        one, two = model(name="one"), model(name="two")
        session.add_all([one, two])
        session.commit()
        one.name = "changed"
        session.commit()
        session.expire_all()
        assert session.get(model, one.id).name == "changed"
        assert session.query(model).filter_by(name="two").one() is two
        assert session.query(model).where(model.name.startswith("ch")).order_by(model.name).all() == [one]
        assert session.query(model).filter(model.name == "two").update({"name": "also changed"}) == 1
        session.delete(one)
        session.commit()
        assert [found.name for found in session.query(model).yield_per(10)] == ["also changed"]


# Injections: each entry point that takes a string

ENTRIES: dict[str, Find] = {
    "a value of filter_by": lambda s, v: s.query(Victim).filter_by(name=v).all(),
    "a number of filter_by": lambda s, v: s.query(Victim).filter_by(id=v).all(),
    "a keyword of filter_by": lambda s, v: s.query(Victim).filter_by(**{v: 1}).all(),
    "a keyword of filter": lambda s, v: s.query(Victim).filter(**{v: 1}).all(),
    "an operator of filter": lambda s, v: s.query(Victim).filter(**{f"name__{v}": 1}).all(),
    "order_by": lambda s, v: s.query(Victim).order_by(v).all(),
    "the key of get": lambda s, v: s.get(Victim, v),
    "the key of get by name": lambda s, v: s.get(Victim, {"id": v}),
    "a name in the key of get": lambda s, v: s.get(Victim, {v: 1}),
    "a text key of get": lambda s, v: s.get(Word, v),
    "limit": lambda s, v: s.query(Victim).limit(v).all(),
    "offset": lambda s, v: s.query(Victim).limit(1).offset(v).all(),
    "query": lambda s, v: s.query(v).all(),
    "group_by": lambda s, v: s.query(peewee.fn.COUNT(Victim.id)).group_by(v).all(),
    "an alias of a model": lambda s, v: s.query(Victim.alias(v.replace("%", ""))).all(),
    "an alias of a column": lambda s, v: s.query(Victim.id.alias(v.replace("%", ""))).all(),
    "a value of update": lambda s, v: s.query(Victim).where(Victim.id == 0).update({"name": v}),
    "a name in update": lambda s, v: s.query(Victim).update({v: 1}),
    "a parameter": lambda s, v: s.execute("SELECT * FROM victims WHERE name = ?", [v]).all(),
    "a named parameter": lambda s, v: s.execute("SELECT * FROM victims WHERE name = :v", {"v": v}).all(),
    "the name of a parameter": lambda s, v: s.execute("SELECT * FROM victims WHERE name = :v", {"v": 1, v: 2}).all(),
    "a path of JSON": lambda s, v: s.query(Thing).where(Thing.data[v][v] == 1).all(),
    "a key of JSON": lambda s, v: s.query(Thing).where(Thing.data.has_key(v)).all(),
    "keys of JSON": lambda s, v: s.query(Thing).where(Thing.data.has_keys([v, v])).all(),
    "the isolation level of a session": lambda s, v: dbm.open_session(s.engine, isolation_level=v),
    "the isolation level of a transaction": lambda s, v: s.begin(isolation_level=v),
    "the name of a savepoint": lambda s, v: s.begin_nested(v),  # type: ignore[call-arg]  # it takes none
    "a name to expire": lambda s, v: s.flag_modified(s.query(Victim).first(), v),
    "an attribute": lambda s, v: s.add(Victim(**{v: 1})),
    "a driver": lambda s, v: dbm.connect({"driver": v}),
    "the scheme of a URL": lambda s, v: dbm.connect(f"{v}://localhost/x"),
    "the name of a pragma": lambda s, v: dbm.connect({"driver": "sqlite", "path": ":memory:", "pragmas": {v: 1}}),
    "a pragma": lambda s, v: dbm.connect({"driver": "sqlite", "path": ":memory:", "pragmas": {"cache_size": v}}),
    "a pragma of a URL": lambda s, v: dbm.connect(f"sqlite:///:memory:?pragma_cache_size={quote(v, safe='')}"),
    "a timeout": lambda s, v: dbm.connect({"driver": "sqlite", "path": ":memory:", "timeout": v}),
}
# These are no conditions; and MariaDB takes the number at the start of a text
HARMLESS = ("group_by", "an alias of a model", "an alias of a column", "a number of filter_by")
REFUSED = (peewee.PeeweeException, dbm.DataLayerError, AttributeError, TypeError)


@pytest.mark.parametrize("entry", ENTRIES)
def test_sql_can_not_be_injected_by(session: dbm.Session, entry: str) -> None:
    for value in INJECTIONS:
        try:
            found = ENTRIES[entry](session, value)
        except REFUSED:
            session.rollback()
        else:
            assert found in (None, [], 0) or entry in HARMLESS
        assert_unharmed(session)


@if_servers
@pytest.mark.parametrize("key", ["database", "user", "password"])
def test_sql_can_not_be_injected_by_the_config_of_a_server(config: str, session: dbm.Session, key: str) -> None:
    start, _, rest = config.partition("://")
    _, _, place = rest.partition("@")
    for value in INJECTIONS:
        given = {"user": "tent", "password": "password", "database": "x", key: value}
        place = place.partition("/")[0]
        with pytest.raises(dbm.DBConfigurationException):
            dbm.connect({"driver": start, "host": place, **given})
        assert_unharmed(session)


# Values that are out of range, or of a wrong type


class Shy:
    """An object that no database can hold, and whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("repr failed")


INDIAN = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
VALUES: list[Any] = [
    *(2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**400, 10**5_000, True),
    *(1e308, 5e-324, 0.1, float("inf"), float("-inf"), float("nan"), decimal.Decimal("1.5"), decimal.Decimal("0.001")),
    *(decimal.Decimal("1234567.891"), decimal.Decimal("12345678.9"), decimal.Decimal("NaN"), decimal.Decimal("1E+30")),
    *(datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.time.max, datetime.time.min, datetime.timedelta(1)),
    *(datetime.datetime.min, datetime.datetime.max, datetime.datetime(2012, 8, 21, tzinfo=INDIAN)),
    *(datetime.time(1, 2, tzinfo=INDIAN), "0000-00-00", "2012-02-30", "10000-01-01", "2012-08-21 25:00:00"),
    *(
        "",
        "12",
        " 12 ",
        "1e3",
        "abc",
        "a\0b",
        "a" * 21,
        "\ud800",
        b"",
        b"abc",
        b"\xff",
        bytearray(b"x"),
        memoryview(b"y"),
    ),
    *({"a": 1}, {"a": float("nan")}, {1: 2}, {(1, 2): 3}, {"a": {1, 2}}, [1], (1,), {1}, range(3), 1 + 2j),
    *(uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), int, len, object(), Shy()),
]


def is_known_to_differ(database: str, field: str, value: Any) -> bool:
    """Tell whether the attribute is known to be something else when its row is read again; see the tests below."""
    is_sqlite = database in ("memory", "file")
    return (
        (field in ("ratio", "price") and is_sqlite and value != value)  # NaN
        or (field == "price" and not is_sqlite)  # rounded
        or (field == "moment" and type(value) is datetime.date)
        or (field == "data" and database == "postgresql" and value == 1e308)  # an int
    )


@pytest.mark.parametrize("field", Number._meta.sorted_field_names[1:])
def test_a_value_of_any_type_is_what_its_row_has_or_is_refused_and_named(
    session: dbm.Session, database: str, field: str
) -> None:
    for value in VALUES:
        found = saved(session, lambda: Number(**{field: value}))
        if isinstance(found, peewee.DataError):
            assert f"Number.{field} (" in str(found) or f"<Number id=None {field}=" in str(found)
            assert len(str(found)) < 1_000
        else:
            key, after = found.id, getattr(found, field)
            session.commit()
            session.expunge_all()
            before_and_after = (after, getattr(session.get(Number, key), field))
            assert (
                before_and_after[0] == before_and_after[1]
                or all(each != each for each in before_and_after)  # NaN
                or is_known_to_differ(database, field, value)
            ), f"{value!r}: {before_and_after}"
        assert session.new == []
        session.commit()


WRONG: list[tuple[str, Any]] = [
    *(("integer", value) for value in ({"a": 1}, [1], object(), "abc", b"\xff", float("nan"), float("inf"), 10**400)),
    *(("big", value) for value in (2**63, -(2**63) - 1, 10**5_000)),
    *(("ratio", value) for value in ("heavy", {"a": 1}, 10**400, b"abc")),
    *(("price", value) for value in ("cheap", [1, 2], object())),
    *(("day", value) for value in ("2012-02-30", 17, datetime.timedelta(1))),
    *(("moment", value) for value in ("10000-01-01", b"abc", 1.5)),
    *(("hour", value) for value in ("25:00", 17)),
    *(("stamp", value) for value in (2**62, "soon", [1])),
    *(("token", value) for value in ("abc", 17, b"abc")),
    *(("short", value) for value in ("\ud800", "half \udfff")),
    *(("blob", value) for value in (1, 1.5, [1], {"a": 1}, object())),
    *(("data", value) for value in (float("nan"), {"a": {1}}, {(1, 2): 3}, object(), "\ud800", b"abc", {"\ud800": 1})),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda each: ascii(shown(each))[1:20])
def test_a_value_that_a_column_can_not_hold_is_refused_and_named_everywhere(
    session: dbm.Session, field: str, value: Any
) -> None:
    error = saved(session, lambda: Number(**{field: value}))
    assert isinstance(error, peewee.DataError)
    if value != 10**5_000:  # which Python does not show
        assert_named(error, Number, field, value)


LATEST, EARLIEST = datetime.datetime.max, datetime.datetime.min
RIGHT: list[tuple[str, Any]] = [
    *(("integer", value) for value in (0, -(2**31), 2**31 - 1)),
    *(("big", value) for value in (-(2**63), 2**63 - 1)),
    *(("ratio", value) for value in (0.1, -1.7976931348623157e308, 2.2250738585072014e-308)),
    *(("price", decimal.Decimal(value)) for value in ("-1234567.891", "9999999.999", "0.001")),
    *(("day", value) for value in (EARLIEST.date(), LATEST.date())),
    *(("moment", value) for value in (EARLIEST, LATEST)),
    *(("hour", value) for value in (datetime.time.min, datetime.time.max)),
    *(("token", uuid.UUID(int=value)) for value in (0, 2**128 - 1)),
    *(("blob", value) for value in (b"", b"\0", bytes(range(256)))),
    *(("data", value) for value in (0, "", [], {}, {"": [None, {"\u2028": -(2**63)}]}, 0.1, [[[[[[[[]]]]]]]])),
]


@pytest.mark.parametrize(("field", "value"), RIGHT, ids=lambda each: ascii(shown(each))[1:20])
def test_the_most_that_every_database_holds_comes_back_exactly(session: dbm.Session, field: str, value: Any) -> None:
    key = saved(session, lambda: Number(**{field: value})).id
    session.commit()
    session.expunge_all()
    found = getattr(session.get(Number, key), field)
    assert (found, str(found)) == (value, str(value))
    if field != "data":
        assert session.query(Number.id).filter_by(**{field: value}).all() == [(key,)]


def test_text_for_a_number_in_a_filter_finds_nothing_but_what_mysql_takes_for_a_number(
    session: dbm.Session, database: str
) -> None:
    session.add_all([Number(integer=1), Number(integer=2)])
    session.commit()
    query = session.query(Number.integer).filter_by(integer="1 OR 1=1")
    if database == "postgresql":
        with pytest.raises(peewee.DataError, match="1 OR 1=1"):
            query.all()
        session.rollback()
    else:
        assert query.all() == ([(1,)] if database in ("mariadb", "mysql") else [])


@pytest.mark.databases("sqlite")
def test_sqlite_makes_null_of_nan(session: dbm.Session) -> None:
    session.add(Number(ratio=float("nan")))
    session.commit()
    session.expunge_all()
    assert session.query(Number).one().ratio is None


@pytest.mark.databases("sqlite")
def test_sqlite_has_a_decimal_as_a_float_of_15_digits(session: dbm.Session) -> None:
    session.add(Number(price=decimal.Decimal("12345678901234567890.123")))
    session.commit()
    session.expunge_all()
    assert str(session.query(Number).one().price).startswith("1.2345678901234")


@if_servers
def test_a_server_rounds_decimals_to_their_places(session: dbm.Session) -> None:
    session.add(Number(price=decimal.Decimal("1.23456")))
    session.commit()
    session.expunge_all()
    assert session.query(Number).one().price == decimal.Decimal("1.235")


def test_a_date_for_a_moment_is_its_midnight_when_it_is_read_again(session: dbm.Session) -> None:
    session.add(Number(moment=datetime.date(2012, 8, 21)))
    session.commit()
    session.expunge_all()
    assert session.query(Number).one().moment == datetime.datetime(2012, 8, 21)


@pytest.mark.databases("sqlite")
def test_sqlite_keeps_a_time_zone(session: dbm.Session) -> None:
    moment = datetime.datetime(2012, 8, 21, 1, 2, tzinfo=INDIAN)
    session.add(Number(moment=moment))
    session.commit()
    session.expunge_all()
    assert session.query(Number).one().moment.isoformat() == moment.isoformat()


@if_servers
def test_a_server_refuses_a_time_zone(session: dbm.Session) -> None:
    moment = datetime.datetime(2012, 8, 21, 1, 2, tzinfo=INDIAN)
    assert_named(saved(session, lambda: Number(moment=moment)), Number, "moment", moment)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(("field", "value"), [("text", "a\0b"), ("data", {"a": "\0"}), ("data", {"\0": 1})])
def test_postgresql_takes_no_nul_in_text(session: dbm.Session, field: str, value: Any) -> None:
    assert_named(saved(session, lambda: Number(**{field: value})), Number, field, value)


# Sizes


@pytest.mark.databases("mariadb", "mysql")
def test_a_value_that_makes_a_statement_longer_than_the_server_takes_is_refused_and_named(
    session: dbm.Session,
) -> None:
    session.add(Thing(text="kept"))
    session.flush()
    thing = Thing(blob=b"x" * 9_000_000)
    session.add(thing)
    with pytest.raises(peewee.DataError, match=r"Thing\.blob .*max_allowed_packet") as caught:
        session.flush()
    assert caught.value.object is thing
    thing.blob = b"short"
    session.commit()
    assert session.query(Thing.text, Thing.blob).order_by(Thing.id).all() == [("kept", None), (None, b"short")]


def test_long_values_come_back(session: dbm.Session, database: str, is_long: bool, report: Report) -> None:
    size = 100_000_000 if is_long else 5_000_000
    for field, value in {
        "blob": os.urandom(1_000) * (size // 1_000),
        "text": "aé€😀'\\%" * (size // 14),
        "data": ["aé€😀'\\%" * (size // 20)],
    }.items():
        thing = Thing(**{field: value})
        session.add(thing)
        try:
            session.commit()
        except peewee.DataError as error:  # more than the server takes in one statement
            assert is_long and database in ("mariadb", "mysql"), error
            session.rollback()
            continue
        key = thing.id
        session.expunge_all()
        assert getattr(session.get(Thing, key), field) == value
        session.expunge_all()
    assert session.query(Thing).where(Thing.blob == b"x").count() == 0
    report(megabytes=size // 1_000_000)


def test_a_long_value_that_is_refused_is_cut_short_in_the_message(session: dbm.Session, is_long: bool) -> None:
    value = "a" * (100_000_000 if is_long else 5_000_000) + "\ud800"
    assert_named(saved(session, lambda: Thing(text=value)), Thing, "text", value[:100])


# Configs: nothing but DBConfigurationException, and no password in it

SECRET = "hunter2"
DRIVERS = [
    "sqlite",
    "postgresql",
    "postgres",
    "mysql",
    "mariadb",
    "cockroachdb",
    "sqlit",
    "oracle",
    "",
    "SQLite",
    "\0",
    3,
]
HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    "::1",
    "nowhere.invalid",
    "größe.invalid",
    "[",
    "]",
    "[::1",
    "a b",
    "",
    "/no",
]
PORTS = ["", ":1", ":0", ":-1", ":65535", ":65536", ":x", ":1:1", ":\u0661", ":1e1", ":" + "9" * 5_000]
short = st.text(st.characters(exclude_categories=(), exclude_characters="/\\"), max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | short | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short | st.integers(), inner, max_size=3),
    max_leaves=4,
)
hosts = st.builds("{}{}".format, st.sampled_from(HOSTS), st.sampled_from(PORTS))
passwords = st.builds("{}{}{}".format, short, st.just(SECRET), short)
keys = {
    "path": st.just(":memory:") | short,
    "host": hosts | st.lists(hosts, max_size=2) | anything,
    "port": st.sampled_from([1, 0, -1, 65_535, 65_536, True, "1"]),
    "user": short | anything,
    "database": short | anything,
    "replicas": hosts | anything,
    "pool_size": st.integers() | anything,
    "pool_timeout": st.floats() | anything,
    "pool_recycle": st.floats() | anything,
    "timeout": st.floats(0, 1) | anything,
    "pragmas": st.dictionaries(st.sampled_from(["cache_size", "journal_mode", "encoding"]) | short, anything)
    | anything,
    "echo": st.sampled_from([None, False, "yes", 2]),
    "options": st.dictionaries(
        st.sampled_from(["connect_timeout", "sslmode", "ssl_ca", "application_name", "password", "passwd"]) | short,
        anything,
        max_size=3,
    ),
}


def quoted(text: str) -> str:
    return quote(text, safe="", errors="ignore")


def only(*names: str) -> dict[str, Any]:
    return {name: keys[name] for name in names}


local = st.sampled_from(["127.0.0.1:1", "localhost:1", "[::1]:1", "nowhere.invalid", "127.0.0.1:1,localhost:2"])
mappings = (
    st.fixed_dictionaries(  # those that may be tried
        {"driver": st.sampled_from(["postgresql", "mysql", "mariadb", "cockroachdb"]), "host": local},
        optional={**only("user", "database", "options"), "password": passwords, "pool_size": st.integers(1, 9)},
    )
    | st.fixed_dictionaries({"driver": st.just("sqlite")}, optional=only("path", "timeout", "pragmas", "echo"))
    | st.fixed_dictionaries(  # and any
        {"driver": st.sampled_from(DRIVERS) | anything},
        optional={**keys, "password": passwords, "secret": passwords, "pasword": passwords},
    )
)
queries = st.lists(
    st.builds(
        "{}={}".format,
        st.sampled_from([*keys, "pragma_cache_size", "sslmode", "connect_timeout", "charset"]).filter("echo".__ne__)
        | short,
        st.sampled_from(["1", "-1", "true", "x", "%", "%zz", "%00", "%F0", "\u0661"]) | short,
    ),
    max_size=3,
).map("&".join)
option = st.sampled_from(
    ["", "connect_timeout=1", "sslmode=x", "ssl_disabled=true", "ssl_ca=%00", "passfile=x", "x=%zz"]
)
urls = st.builds(
    "{}://{}:{}@{}/tent?{}".format,
    st.sampled_from(["postgresql", "postgres", "mysql", "mariadb", "cockroachdb"]),
    short.map(quoted),
    passwords.map(quoted),
    local,
    option | queries,
) | st.builds(
    "{}{}{}:{}@{}/{}?{}{}".format,
    st.sampled_from([name for name in DRIVERS if isinstance(name, str)]) | short.filter(lambda text: ":" not in text),
    st.sampled_from(["://", "://", "://", ":", "//", ""]),
    short.map(quoted),
    passwords.map(quoted),
    st.lists(hosts, min_size=1, max_size=2).map(",".join),
    short,
    queries,
    st.sampled_from(["", "", "#", "#x", "\n", "%", "&", "?"]),
)
plain_urls = st.builds("sqlite:///{}?{}".format, st.just(":memory:") | short, queries)


@pytest.mark.parametrize("key", [*keys, "driver", "password"])
@pytest.mark.parametrize("driver", ["sqlite", "postgresql", "mariadb"])
def test_a_number_that_python_does_not_show_is_refused(driver: str, key: str) -> None:
    with pytest.raises(dbm.DBConfigurationException):
        dbm.connect({"driver": driver, "path": ":memory:", "database": "x", "host": "127.0.0.1:1", key: 10**5_000})


def is_opened_or_refused(config: Any, folder: Path) -> str:
    """Connect, but to no file outside of a folder, and return what came of it."""
    try:
        settings = read_config(config)
        path = settings.get("path", ":memory:")
        if path != ":memory:" and Path(path).parent != folder:
            return "elsewhere"
        dbm.connect(config).close_all()
    except dbm.DBConfigurationException as error:
        said = "".join(traceback.format_exception(error)) + repr(error.config) + repr(error)
        assert SECRET not in said
        return "tried" if "The database at" in str(error) else "refused"
    return "opened"


@pytest.mark.parametrize("kind", ["mapping", "url", "url of a file", "anything"])
@pytest.mark.databases("file")
def test_no_config_raises_anything_but_a_refusal_without_its_password(
    kind: str, database: str, seed: int, is_long: bool, tmp_path: Path, monkeypatch: Any, report: Report
) -> None:
    monkeypatch.chdir(tmp_path)
    outcomes: list[str] = []
    configs = {"mapping": mappings, "url": urls, "url of a file": plain_urls, "anything": anything}
    try_all(
        lambda config: outcomes.append(is_opened_or_refused(config, tmp_path)),
        configs[kind],
        seed,
        20_000 if is_long else 300,
    )
    report(**{name: outcomes.count(name) for name in sorted(set(outcomes))})
