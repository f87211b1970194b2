"""JSON columns and expressions of them: one expression, in the dialect of each engine that it is run on."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import peewee
import pytest

from tent.data import dbm
from tent.data.orm.json_sql import MysqlJSON, PostgresqlJSON, write_json

Model = dbm.declarative_base()

JOE = {"name": "Joe", "age": 30, "ok": True, "no": None, "pi": 1.5, "tags": ["a", "b"], "d": {"x": 1, "z": [1, 2]}}
ANN = {"name": "Ann", "age": 9, "ok": False, "pi": 10.25, "tags": [], "no": "null", "50%": "o'k"}


class Paper(Model):
    title = peewee.CharField()
    content = peewee.JSONField(null=True)
    scan = peewee.BlobField(null=True)


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


@pytest.fixture
def papers(session: dbm.Session) -> None:
    contents = {"joe": JOE, "ann": ANN, "list": [1, "a", {"k": "v"}, [2, 3]], "text": "Joe", "none": None}
    session.add_all(Paper(title=title, content=content) for title, content in contents.items())
    session.commit()


def titles(session: dbm.Session, condition: Any) -> list[str]:
    return sorted(title for (title,) in session.query(Paper.title).filter(condition))


def selected(session: dbm.Session, expression: Any, title: str = "joe") -> Any:
    return session.query(expression).filter(Paper.title == title).scalar()


content = Paper.content


# Conditions

CONDITIONS: dict[str, tuple[Any, str]] = {
    "a dict is equal": (content == JOE, "joe"),
    "a list is equal": (content == [1, "a", {"k": "v"}, [2, 3]], "list"),
    "a str is equal": (content == "Joe", "text"),
    "a dict is not equal": (content != JOE, "ann list text"),
    "null is none": (content == None, "none"),  # noqa: E711
    "a value is not none": (content.is_null(False), "ann joe list text"),
    "it is one of several": (content.in_(["Joe", JOE]), "joe text"),
    "it is none of several": (content.not_in(["Joe", JOE]), "ann list"),
    "a part is a str": (content["name"] == "Joe", "joe"),
    "a part is another str": (content["name"] != "Joe", "ann"),
    "a part is an int": (content["age"] == 30, "joe"),
    "a part is a float": (content["pi"] == 10.25, "ann"),
    "a part is true": (content["ok"] == True, "joe"),  # noqa: E712
    "a part is false": (content["ok"] == False, "ann"),  # noqa: E712
    "a part is a list": (content["tags"] == ["a", "b"], "joe"),
    "a part is an empty list": (content["tags"] == [], "ann"),
    "a part is a dict": (content["d"] == {"x": 1, "z": [1, 2]}, "joe"),
    "a part is missing": (content["tags"].is_null(), "list none text"),
    "a part is there": (content["tags"].is_null(False), "ann joe"),
    "a part that is null is none": (content["no"] == None, "joe list none text"),  # noqa: E711
    "a part that says null is not none": (content["no"] != None, "ann"),  # noqa: E711
    "a part is at a path": (content.path("d", "z", 1) == 2, "joe"),
    "a part is at the end": (content["d"]["z"][-1] == 2, "joe"),
    "a part is at an index": (content[1] == "a", "list"),
    "a part is under a key with a percent sign": (content["50%"] == "o'k", "ann"),
    "a part equals a part": (content["d"]["x"] == content["d"]["z"][0], "joe"),
    "a part is one of several": (content["age"].in_([30, "x", None, [1], True]), "joe"),
    "a part is none of several": (content["name"].not_in(["Joe"]), "ann"),
    "a part is one of none": (content["name"].in_([]), ""),
    "a part as int is greater": (content["age"].as_int() > 10, "joe"),
    "a part as int is between": (content["age"].as_int().between(5, 10), "ann"),
    "a part as float is greater": (content["pi"].as_float() > 9.5, "ann"),
    "a part as text is equal": (content["name"].as_text() == "Joe", "joe"),
    "a part as text is one of several": (content["name"].as_text().in_(["Joe", "x"]), "joe"),
    "a part starts with": (content["name"].startswith("Jo"), "joe"),
    "a part as text contains": (content["name"].as_text().contains("nn"), "ann"),
    "a dict contains a dict": (content.contains({"d": {"z": [2]}}), "joe"),
    "a list contains a list": (content.contains([1, "a"]), "list"),
    "a part contains a str": (content["tags"].contains("b"), "joe"),
    "a part is contained": (content["tags"].contained_by(["a", "b", "c"]), "ann joe"),
    "a key is there": (content.has_key("tags"), "ann joe"),
    "a key of null is there": (content.has_key("no"), "ann joe"),
    "a key of a part is there": (content["d"].has_key("z"), "joe"),
    "all keys are there": (content.has_keys(["no", "d"]), "joe"),
    "one of the keys is there": (content.has_any_keys(["d", "50%", "x"]), "ann joe"),
    "a condition is negated": (~content.contains({"name": "Joe"}) & content.has_key("name"), "ann"),
    "a part is longer": (content["tags"].length() > 1, "joe"),
    "a length is one of several": (content["tags"].length().in_([0, 1]), "ann"),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_finds(session: dbm.Session, papers: None, name: str) -> None:
    condition, expected = CONDITIONS[name]
    assert titles(session, condition) == sorted(expected.split())


def test_filter_by_compares_a_column(session: dbm.Session, papers: None) -> None:
    assert [paper.title for paper in session.query(Paper).filter_by(content=JOE)] == ["joe"]


def test_the_alias_of_a_model_has_its_expressions(session: dbm.Session, papers: None) -> None:
    other = Paper.alias()
    assert session.query(other.title).filter(other.content["name"] == "Joe").scalars() == ["joe"]


def test_a_subquery_can_be_searched(session: dbm.Session, papers: None) -> None:
    names = Paper.select(content["name"]).where(content["age"] == 9)
    assert titles(session, content["name"].in_(names)) == ["ann"]


def test_what_a_condition_compares_is_the_value_of_that_moment(session: dbm.Session, papers: None) -> None:
    wanted = ["a", "b"]
    conditions = [content["tags"] == wanted, content["tags"].contains(wanted)]
    wanted.append("c")
    assert [titles(session, condition) for condition in conditions] == [["joe"], ["joe"]]


def test_keys_can_come_from_an_iterator(session: dbm.Session, papers: None) -> None:
    query = session.query(Paper.title).filter(content.has_keys(iter(["no", "d"])))
    assert [query.scalars(), query.scalars()] == [["joe"], ["joe"]]


def test_a_value_of_an_object_can_be_compared(session: dbm.Session, papers: None) -> None:
    joe = session.query(Paper).filter_by(title="joe").one()
    assert titles(session, content["tags"] == joe.content["tags"]) == ["joe"]


# What is selected

SELECTED: dict[str, tuple[Any, Any]] = {
    "the column": (content, JOE),
    "a str": (content["name"], "Joe"),
    "an int": (content["age"], 30),
    "a bool": (content["ok"], True),
    "null": (content["no"], None),
    "a float": (content["pi"], 1.5),
    "a list": (content["tags"], ["a", "b"]),
    "a dict": (content["d"], {"x": 1, "z": [1, 2]}),
    "a text": (content["name"].as_text(), "Joe"),
    "a text of null": (content["no"].as_text(), None),
    "an int of a text": (content["age"].as_int(), 30),
    "a float of a text": (content["pi"].as_float(), 1.5),
    "a length": (content["tags"].length(), 2),
    "a changed value": (content["tags"].append("c"), JOE | {"tags": ["a", "b", "c"]}),
    "an inserted value": (content["new"].insert(1), JOE | {"new": 1}),
    "a value under another name": (content["tags"].alias("labels"), ["a", "b"]),
    "a length under another name": (content["tags"].length().alias("count"), 2),
    "a changed value under another name": (content["d"].set([1]).alias("changed"), JOE | {"d": [1]}),
    "a case": (peewee.Case(None, [(content["name"] == "Joe", 1)], 0), 1),
}


@pytest.mark.parametrize("name", SELECTED)
def test_a_selection_gives(session: dbm.Session, papers: None, name: str) -> None:
    expression, expected = SELECTED[name]
    found = session.query(Paper.title, expression).filter(Paper.title == "joe").one()[1]
    assert (found, type(found)) == (expected, type(expected))


def test_an_expression_alone_can_be_queried(session: dbm.Session, papers: None) -> None:
    assert selected(session, content["name"]) == "Joe"
    assert selected(session, content["tags"].length()) == 2


def test_an_int_is_as_long_as_a_column_of_integers(session: dbm.Session) -> None:
    session.add(Paper(title="long", content={"number": 3_000_000_000}))
    assert selected(session, content["number"].as_int(), "long") == 3_000_000_000


def test_an_aggregate_takes_a_part_as_int(session: dbm.Session, papers: None) -> None:
    assert session.query(peewee.fn.MAX(content["age"].as_int())).scalar() == 30


def test_rows_are_ordered_by_a_part_as_int(session: dbm.Session, papers: None) -> None:
    query = session.query(Paper.title).filter(content.has_key("age"))
    assert query.order_by(content["age"].as_int().desc()).scalars() == ["joe", "ann"]


def test_rows_are_ordered_by_a_length(session: dbm.Session, papers: None) -> None:
    query = session.query(Paper.title).filter(Paper.title.in_(["joe", "ann"]))
    assert query.order_by(content["tags"].length()).scalars() == ["ann", "joe"]


def test_rows_are_grouped_by_a_part(session: dbm.Session, papers: None) -> None:
    query = session.query(content["ok"], peewee.fn.COUNT(Paper.id)).filter(content.has_key("ok"))
    assert sorted(map(tuple, query.group_by(content["ok"]))) == [(False, 1), (True, 1)]


# What is written

UPDATES: dict[str, tuple[Any, Any]] = {
    "an int set": (content["age"].set(1), JOE | {"age": 1}),
    "a str set": (content["age"].set("é'"), JOE | {"age": "é'"}),
    "true set": (content["age"].set(True), JOE | {"age": True}),
    "null set": (content["age"].set(None), JOE | {"age": None}),
    "a float set": (content["age"].set(1.5), JOE | {"age": 1.5}),
    "a list set": (content["age"].set([1, {"a": None}]), JOE | {"age": [1, {"a": None}]}),
    "a part set in a part": (content["d"]["z"][0].set("x"), JOE | {"d": {"x": 1, "z": ["x", 2]}}),
    "a new part set": (content["50%"].set("100%"), JOE | {"50%": "100%"}),
    "a part set to a part": (content["age"].set(content["tags"]), JOE | {"age": ["a", "b"]}),
    "a part inserted": (content["new"].insert([1]), JOE | {"new": [1]}),
    "a part not inserted again": (content["age"].insert(1), JOE),
    "a part replaced": (content["age"].replace({"a": 1}), JOE | {"age": {"a": 1}}),
    "a missing part not replaced": (content["new"].replace(1), JOE),
    "a dict appended": (content["tags"].append({"a": 1}), JOE | {"tags": ["a", "b", {"a": 1}]}),
    "null appended": (content["tags"].append(None), JOE | {"tags": ["a", "b", None]}),
    "an item removed": (content["tags"][0].remove(), JOE | {"tags": ["b"]}),
    "a missing part removed": (content["new"].remove(), JOE),
    "a dict merged": (content.update({"age": 1, "new": [1]}), JOE | {"age": 1, "new": [1]}),
    "a whole value": ({"a": [1, None, True]}, {"a": [1, None, True]}),
    "a whole str": ("x", "x"),
    "null": (None, None),
    "a part as the whole": (content["d"], JOE["d"]),
    "a value by case": (peewee.Case(Paper.title, [("joe", content.case_value({"c": 1}))], content), {"c": 1}),
    "a change by case": (peewee.Case(None, [(content["age"] == 30, content["age"].set(1))], content), JOE | {"age": 1}),
}


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_leaves(session: dbm.Session, papers: None, name: str) -> None:
    value, expected = UPDATES[name]
    session.query(Paper).filter(Paper.title == "joe").update({content: value})
    assert selected(session, content) == expected


def test_an_update_of_a_part_reaches_the_sessions_object(session: dbm.Session, papers: None) -> None:
    joe = session.query(Paper).filter_by(title="joe").one()
    session.query(Paper).filter(Paper.title == "joe").update({content: content["age"].set(31)})
    assert joe.content == JOE | {"age": 31}


def test_what_an_update_made_equals_the_value_it_stands_for(session: dbm.Session, papers: None) -> None:
    session.query(Paper).filter(Paper.title == "joe").update({content: content["tags"].append({"é": [1, "ü"]})})
    assert titles(session, content["tags"] == ["a", "b", {"é": [1, "ü"]}]) == ["joe"]


def test_an_object_is_saved_with_an_expression(session: dbm.Session, papers: None) -> None:
    joe = session.query(Paper).filter_by(title="joe").one()
    joe.content = content["tags"].append("c")
    session.commit()
    assert joe.content == JOE | {"tags": ["a", "b", "c"]}


def test_objects_are_saved_some_with_an_expression_and_some_with_a_value(session: dbm.Session) -> None:
    one, two = Paper(title="one", content=peewee.SQL("'[7]'")), Paper(title="two", content={"a": 1})
    session.add_all([one, two])
    session.commit()
    assert repr((one.content, two.content)) == "([7], {'a': 1})"  # an expression is equal to anything
    one.content, two.content = content.append(8), [9]
    session.commit()
    assert repr((one.content, two.content)) == "([7, 8], [9])"


@pytest.mark.parametrize("value", [JOE, [], {}, "x", "1", "null", "", "é'\\\"%s", 0, 1.5, True, False, None], ids=repr)
def test_a_saved_value_comes_back(session: dbm.Session, value: Any) -> None:
    session.add(Paper(title="new", content=value))
    session.commit()
    session.expunge_all()
    found = session.query(Paper).one().content
    assert (found, type(found) in (dict, list) or isinstance(found, type(value))) == (value, True)


def test_many_values_come_back(session: dbm.Session) -> None:
    session.execute(Paper.insert_many([{"title": str(n), "content": n and [n]} for n in range(3)]))
    assert session.query(content).order_by(Paper.title).scalars() == [0, [1], [2]]


def test_a_case_writes_a_value_for_each_row(session: dbm.Session, papers: None) -> None:
    values = [("joe", content.case_value(["new"])), ("ann", content.case_value(None))]
    session.execute(Paper.update({content: peewee.Case(Paper.title, values, content)}))
    assert (selected(session, content), selected(session, content, "ann")) == (["new"], None)


def test_a_value_that_is_no_json_is_refused_before_the_statement(session: dbm.Session) -> None:
    session.add(Paper(title="new", content=object()))
    with pytest.raises(peewee.DataError, match=r"Paper\.content"):
        session.flush()


@pytest.mark.parametrize("key", ["Größe", "名", "🦊", "e\u0301", "it's", "a.b", "$", "%s", "?"])
def test_a_key_of_any_characters_is_found(session: dbm.Session, key: str) -> None:
    session.add_all([Paper(title="new", content={key: {key: 1}}), Paper(title="other", content={"x": 1})])
    session.commit()
    assert titles(session, content[key][key] == 1) == ["new"]
    assert titles(session, content.has_key(key)) == ["new"]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"half": "\ud83e"}, {"\ud83e\udd8a": 1}])
def test_a_value_that_would_not_come_back_is_refused(session: dbm.Session, value: Any) -> None:
    paper = Paper(title="new", content=value)
    session.add(paper)
    with pytest.raises(peewee.DataError, match=r"Paper\.content .*can't hold .*inserting <Paper ") as caught:
        session.flush()
    assert caught.value.object is paper  # type: ignore[attr-defined]


def test_a_fields_own_dumps_and_loads_are_used(engine: Any, session: dbm.Session) -> None:
    base = dbm.declarative_base()

    class Parcel(base):  # type: ignore[misc,valid-type]
        content = peewee.JSONField(
            dumps=lambda value: json.dumps([value]), loads=lambda text: ("read", *json.loads(text))
        )

    dbm.install_tables(engine, models=base)
    session.add(Parcel(content=1))
    session.commit()
    assert session.query(Parcel.content).filter(Parcel.content == 1).scalars() == [("read", 1)]


def test_a_blob_comes_back(session: dbm.Session) -> None:
    session.add(Paper(title="new", scan=b"\0\xff%s"))
    session.commit()
    session.expunge_all()
    assert session.query(Paper).filter(Paper.scan == b"\0\xff%s").one().scan == b"\0\xff%s"


# An expression as a thing

COPIES: dict[str, Callable[[Any], Any]] = {
    "copied": copy.copy,
    "cloned": lambda node: node.clone(),
    "copied deeply": copy.deepcopy,
    "pickled": lambda node: pickle.loads(pickle.dumps(node)),
}
EXPRESSIONS = {
    "equal": content["tags"] == ["a", "b"],
    "int": content["age"].as_int() > 10,
    "length": content["tags"].length() > 1,
    "contains": content["tags"].contains("a"),
    "whole": content == JOE,
}


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("how", COPIES)
def test_an_expression_means_the_same_when_it_is(session: dbm.Session, papers: None, how: str, name: str) -> None:
    twin = COPIES[how](EXPRESSIONS[name])
    assert titles(session, Paper.title.in_(["joe", "ann"]) & twin) == ["joe"]


# The dialects, of which no server needs to run


class Postgresql(peewee.PostgresqlDatabase):
    json_methods = PostgresqlJSON

    def get_context_options(self) -> dict[str, Any]:
        return {**super().get_context_options(), "engine": self}


class Mysql(peewee.MySQLDatabase):
    json_methods = MysqlJSON

    def get_context_options(self) -> dict[str, Any]:
        return {**super().get_context_options(), "engine": self}


def test_one_expression_is_in_the_dialect_of_each_engine() -> None:
    expression = content["a"]["b"]
    databases = [Postgresql(None), Mysql(None, mariadb=True), Mysql(None, mariadb=False)]
    sqls = [database.get_sql_context().sql(expression).query()[0] for database in databases]
    assert sqls == [
        '("t1"."content" #> \'{"a","b"}\'::text[])',
        "JSON_COMPACT(json_extract(`t1`.`content`, %s))",
        "CAST(json_extract(`t1`.`content`, %s) AS JSON)",
    ]


def test_a_cast_is_to_the_type_of_each_engine() -> None:
    expression = content["a"].as_int()
    databases = [Postgresql(None), Mysql(None, mariadb=True)]
    sqls = [database.get_sql_context().sql(expression).query()[0] for database in databases]
    assert [sql.rpartition(" AS ")[2] for sql in sqls] == ["BIGINT)", "SIGNED)"]


def test_without_an_engine_an_expression_is_sqlites() -> None:
    assert peewee.Context().sql(content["a"].as_int()).query() == (
        'CAST(("t1"."content" ->> ?) AS INTEGER)',
        ['$."a"'],
    )


@pytest.mark.parametrize(
    "expression",
    [
        content == [1],
        content["a"].append([1]),
        content["a"].contains([1]),
        content.update([1]),
        content.case_value([1]),
    ],
)
def test_postgresqls_driver_gets_the_text_of_a_value(expression: Any) -> None:
    sql, params = Postgresql(None).get_sql_context().sql(expression).query()
    assert "CAST(%s AS JSONB)" in sql
    assert params[0] == "[1]"


def test_expressions_of_a_model_that_is_bound_are_in_its_databases_dialect() -> None:
    with Paper.bind_ctx(Postgresql(None)):
        assert "#>" in peewee.Context().sql(Paper.content["a"]).query()[0]
    assert "->" in peewee.Context().sql(Paper.content["a"]).query()[0]


# How it is written


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@pytest.mark.databases("memory")
@hypothesis.given(JSON)
def test_json_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    assert write_json(value) == json.dumps(value, ensure_ascii=False, allow_nan=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, {(1, 2): 3}, b"x", [object()]])
def test_what_json_has_not_is_refused(session: dbm.Session, value: Any) -> None:
    session.add(Paper(title="odd", content=[value] if not isinstance(value, dict) else value))
    with pytest.raises(peewee.DataError, match=r"Paper\.content"):
        session.commit()


def test_a_value_that_holds_itself_is_refused(session: dbm.Session) -> None:
    circle: list[Any] = []
    circle.append({"circle": circle})
    session.add(Paper(title="circle", content=circle))
    with pytest.raises(peewee.DataError, match=r"Paper.content .*[Cc]ircular"):
        session.commit()
