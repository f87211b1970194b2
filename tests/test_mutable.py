"""JSON values that are changed in place: noticed at any depth, saved, rolled back, and otherwise like plain ones."""

from __future__ import annotations

import collections
import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Person, run_sql
from hypothesis import given, settings
from hypothesis import strategies as st

from tent.data import dbm
from tent.data.orm import mutable

Model = dbm.declarative_base()


class Box(Model):
    content = peewee.JSONField(null=True)
    other = peewee.JSONField(null=True)


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


@pytest.fixture
def box(session: Any) -> Box:
    """A box as a session loads it."""
    session.add(Box(content={"a": {"b": [1, {"c": "d"}]}, "list": [3, 1, 2]}))
    session.commit()
    session.expunge_all()
    return session.query(Box).first()  # type: ignore[no-any-return]


def saved(engine: Any, column: str = "content") -> list[Any]:
    """What the database has, parsed."""
    return [json.loads(text) for (text,) in engine.execute_sql(f"SELECT {column} FROM boxes ORDER BY id").fetchall()]


# Changes are noticed


CHANGES: list[Callable[[Any], Any]] = [
    lambda content: content.update(x=1),
    lambda content: content.__setitem__("x", 1),
    lambda content: content.pop("a"),
    lambda content: content.popitem(),
    lambda content: content.clear(),
    lambda content: content.setdefault("x", []).append(1),
    lambda content: content.__ior__({"x": 1}),
    lambda content: content.__delitem__("a"),
    lambda content: content["a"].update(x=1),
    lambda content: content["a"]["b"].append(1),
    lambda content: content["a"]["b"][1].update(c="e"),
    lambda content: content["a"]["b"][1].pop("c"),
    lambda content: content["list"].sort(),
    lambda content: content["list"].reverse(),
    lambda content: content["list"].insert(0, 9),
    lambda content: content["list"].remove(3),
    lambda content: content["list"].pop(),
    lambda content: content["list"].extend([4, {"x": 1}]),
    lambda content: content["list"].clear(),
    lambda content: content["list"].__iadd__([4]),
    lambda content: content["list"].__imul__(2),
    lambda content: content["list"].__setitem__(0, 4),
    lambda content: content["list"].__setitem__(slice(0, 2), [4]),
    lambda content: content["list"].__delitem__(slice(0, 2)),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_saved_by_one_update(
    session: Any, engine: Any, box: Box, statements: Callable[[], Any], change: Callable[[Any], Any]
) -> None:
    expected = copy.deepcopy(box.content)
    change(expected)
    change(box.content)
    assert session.dirty == [box]
    with statements() as ran:
        session.commit()
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "UPDATE", "COMMIT"]
    assert saved(engine) == [expected]
    assert box.content == expected


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_rolled_back(session: Any, box: Box, change: Callable[[Any], Any]) -> None:
    before = copy.deepcopy(box.content)
    change(box.content)
    session.flush()
    box.content["again"] = [1]
    session.rollback()
    assert box.content == before
    assert session.dirty == []


def test_a_change_runs_no_sql(box: Box, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        box.content["a"]["b"][1]["c"] = "e"
    assert ran == []


def test_a_change_after_a_flush_and_after_a_commit_is_saved_too(session: Any, engine: Any, box: Box) -> None:
    inner = box.content["a"]
    inner["x"] = 1
    session.flush()
    inner["y"] = 2
    session.commit()
    inner["z"] = 3
    session.commit()
    assert saved(engine)[0]["a"] == {"b": [1, {"c": "d"}], "x": 1, "y": 2, "z": 3}


def test_a_change_of_a_value_that_was_added_by_a_change_is_noticed(session: Any, engine: Any, box: Box) -> None:
    box.content["new"] = {"list": [{}]}
    session.commit()
    box.content["new"]["list"][0]["deep"] = True
    session.commit()
    assert saved(engine)[0]["new"] == {"list": [{"deep": True}]}


@pytest.mark.parametrize("value", [{}, [], {"a": []}, [[], {}]])
def test_a_new_objects_value_can_be_changed_before_and_after_its_insert(session: Any, engine: Any, value: Any) -> None:
    box = Box(content=value)
    session.add(box)
    change_any(box.content, "before")
    session.commit()
    change_any(box.content, "after")
    assert session.dirty == [box]
    session.commit()
    assert saved(engine) == [box.content]
    assert "before" in box.content and "after" in box.content


def change_any(value: Any, mark: str) -> None:
    if isinstance(value, dict):
        value[mark] = 1
    else:
        value.append(mark)


def test_a_default_value_is_each_objects_own(session: Any, engine: Any) -> None:
    one, two = Person(name="one"), Person(name="two")
    session.add_all([one, two])
    session.commit()
    one.tags.append("x")
    session.commit()
    assert (one.tags, two.tags, Person().tags) == (["x"], [], [])
    found = engine.execute_sql("SELECT tags FROM people ORDER BY id").fetchall()
    assert [json.loads(text) for (text,) in found] == [["x"], []]


def test_a_change_in_place_keeps_its_object_alive_until_it_is_saved(session: Any, engine: Any) -> None:
    session.add(Box(content={}))
    session.commit()
    session.expunge_all()
    content = session.query(Box).first().content
    content["x"] = 1
    session.commit()
    assert saved(engine) == [{"x": 1}]


def test_a_change_on_a_detached_object_is_saved_once_it_is_added_again(session: Any, engine: Any, box: Box) -> None:
    session.expunge(box)
    box.content["a"]["b"].append("x")
    session.commit()
    assert saved(engine)[0]["a"]["b"] == [1, {"c": "d"}]
    session.add(box)
    session.commit()
    assert saved(engine)[0]["a"]["b"] == [1, {"c": "d"}, "x"]


def test_a_change_in_place_that_another_session_overtook_keeps_what_is_unsaved(
    session: Any, other: Any, engine: Any, box: Box
) -> None:
    box.content["mine"] = 1
    other.get(Box, box.id).content = {"theirs": 1}
    other.commit()
    with session.no_autoflush:
        session.query(Box).all()
    assert box.content["mine"] == 1
    session.rollback()
    assert box.content == {"theirs": 1}


def test_a_value_in_which_nothing_changed_in_the_end_sends_nothing(
    session: Any, box: Box, statements: Callable[[], Any]
) -> None:
    box.content["a"] = box.content["a"]
    box.content["list"].append(4)
    box.content["list"].pop()
    with statements() as ran:
        assert session.is_modified(box) is False
        session.commit()
    assert ran == []


def test_a_change_that_fails_changes_nothing(session: Any, box: Box) -> None:
    with pytest.raises(KeyError):
        box.content.pop("absent")
    with pytest.raises(KeyError):
        del box.content["absent"]
    with pytest.raises(IndexError):
        box.content["list"][7] = 1
    with pytest.raises(ValueError):
        box.content["list"].remove(7)
    assert session.dirty == []


def test_reading_sends_nothing(session: Any, box: Box, statements: Callable[[], Any]) -> None:
    with statements() as ran:
        assert box.content.get("x") is None
        assert [*box.content.items()]
        assert sorted(box.content["list"]) == [1, 2, 3]
        assert box.content["list"][:2] == [3, 1]
        assert box.content | {"x": 1}
        assert session.dirty == []
        session.commit()
    assert ran == []


def test_the_other_columns_are_not_written(session: Any, box: Box, statements: Callable[[], Any]) -> None:
    box.content["x"] = 1
    with statements() as ran:
        session.commit()
    assert ran[1].count("=") == 2


def test_tuples_in_a_value_are_lists_for_the_database_and_can_be_changed_in(session: Any, engine: Any) -> None:
    box = Box(content={"pair": ({"a": 1}, 2)}, other=({"a": 1},))
    session.add(box)
    session.commit()
    box.content["pair"][0]["a"] = 3
    box.other[0]["a"] = 3
    session.commit()
    assert saved(engine) == [{"pair": [{"a": 3}, 2]}]
    assert saved(engine, "other") == [[{"a": 3}]]


def test_a_tuple_that_is_put_into_a_loaded_value_can_be_changed_in(session: Any, engine: Any, box: Box) -> None:
    box.content["pair"] = ({"a": 1}, 2)
    session.commit()
    box.content["pair"][0]["a"] = 3
    session.commit()
    assert saved(engine)[0]["pair"] == [{"a": 3}, 2]


# Savepoints


def test_a_savepoint_takes_back_its_part_of_the_changes(session: Any, engine: Any, box: Box) -> None:
    box.content["list"].append("outer")
    savepoint = session.begin_nested()
    box.content["list"].append("inner")
    session.flush()
    savepoint.rollback()
    assert box.content["list"] == [3, 1, 2, "outer"]
    box.content["list"].append("later")
    session.commit()
    assert saved(engine)[0]["list"] == [3, 1, 2, "outer", "later"]


def test_a_failed_flush_leaves_the_change_to_be_saved(session: Any, engine: Any, box: Box) -> None:
    box.content["x"] = 1
    clash = Box(id=box.id + 1)
    session.add(clash)
    engine.execute_sql(f"INSERT INTO boxes (id) VALUES ({box.id + 1})")
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    session.expunge(clash)
    box.content["y"] = 2
    session.commit()
    row = run_sql(engine, "SELECT content FROM boxes WHERE id = ?", [box.id]).fetchone()
    assert json.loads(row[0]) == box.content
    assert (box.content["x"], box.content["y"]) == (1, 2)


# Values that are shared


def test_what_was_passed_in_is_the_programs_own_after_the_flush(session: Any, engine: Any) -> None:
    given = {"a": [1]}
    box = Box(content=given)
    session.add(box)
    session.commit()
    given["a"].append(2)
    given["b"] = 3
    assert box.content == {"a": [1]}
    assert session.dirty == []
    session.commit()
    assert saved(engine) == [{"a": [1]}]


class Words(peewee.TextField):  # type: ignore[misc]
    """A set of words."""

    def db_value(self, value: Any) -> Any:
        return " ".join(sorted(value))

    def python_value(self, value: Any) -> Any:
        return set(value.split())


class Bag(Model):
    words = Words(default=set)
    content = peewee.JSONField(default=dict)
    data = peewee.BlobField(default=b"")


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("words", {"a"}, lambda words: words.add("b")),
        ("content", collections.OrderedDict(a=1), lambda content: content.update(b=2)),
        ("content", collections.defaultdict(list), lambda content: content["a"].append(1)),
        ("data", bytearray(b"a"), lambda data: data.append(98)),
    ],
)
def test_a_value_that_is_changed_and_assigned_again_is_saved(session: Any, name: str, value: Any, change: Any) -> None:
    bag, given = Bag(), copy.deepcopy(value)
    setattr(bag, name, given)
    session.add(bag)
    session.commit()
    change(given)
    assert getattr(bag, name) == value
    setattr(bag, name, given)
    session.commit()
    change(given)
    setattr(bag, name, given)
    session.commit()
    session.expunge_all()
    assert getattr(session.query(Bag).one(), name) == given
    assert given != value


def test_what_was_assigned_is_the_programs_own_after_the_flush(session: Any, engine: Any, box: Box) -> None:
    given = {"a": [1]}
    box.content = given
    session.commit()
    given["a"].append(2)
    assert box.content == {"a": [1]}
    session.commit()
    assert saved(engine) == [{"a": [1]}]


def test_an_object_shows_what_its_row_has_when_the_assigned_value_is_changed_before_the_flush(
    session: Any, engine: Any, box: Box
) -> None:
    given = {"a": [1]}
    box.content = given
    given["a"].append(2)
    session.commit()
    assert saved(engine) == [box.content]


def test_one_value_given_to_two_columns_and_two_objects_is_a_value_for_each(session: Any, engine: Any) -> None:
    given: list[Any] = []
    one, two = Box(content=given, other=given), Box(content=given)
    session.add_all([one, two])
    session.commit()
    one.content.append("x")
    session.commit()
    assert (one.content, one.other, two.content) == (["x"], [], [])
    assert saved(engine) == [["x"], []]


def test_a_value_assigned_from_another_object_is_a_value_of_its_own(session: Any, engine: Any, box: Box) -> None:
    twin = Box(content=box.content)
    session.add(twin)
    session.commit()
    twin.content["twin"] = True
    session.commit()
    box.content["box"] = True
    session.commit()
    assert "twin" not in box.content
    assert "box" not in twin.content
    assert saved(engine) == [box.content, twin.content]


def test_a_value_assigned_from_another_loaded_object_is_a_value_of_its_own(session: Any, engine: Any, box: Box) -> None:
    twin = Box(content=1)
    session.add(twin)
    session.commit()
    twin.content = box.content
    session.commit()
    twin.content["a"]["twin"] = True
    assert session.dirty == [twin]
    session.commit()
    assert saved(engine) == [box.content, twin.content]
    assert "twin" not in box.content["a"]


def test_a_part_of_a_value_that_is_put_elsewhere_is_a_copy(session: Any, engine: Any, box: Box) -> None:
    box.content["copy"] = box.content["list"]
    box.content["list"].append(4)
    session.commit()
    box.content["copy"].append(5)
    session.commit()
    assert saved(engine)[0]["list"] == [3, 1, 2, 4]
    assert saved(engine)[0]["copy"] == [3, 1, 2, 5]


def test_a_part_that_is_assigned_to_another_column_is_a_value_of_its_own(session: Any, engine: Any, box: Box) -> None:
    box.other = box.content["list"]
    session.commit()
    box.other.append(4)
    session.commit()
    box.content["list"].append(5)
    session.commit()
    assert saved(engine, "other") == [[3, 1, 2, 4]]
    assert saved(engine)[0]["list"] == [3, 1, 2, 5]


def test_a_value_that_was_replaced_is_the_objects_no_more(session: Any, engine: Any, box: Box) -> None:
    former = box.content
    box.content = {"new": 1}
    session.commit()
    former["x"] = 1
    assert session.dirty == []
    assert box.content == {"new": 1}


def test_a_value_that_was_rolled_back_is_the_objects_no_more(session: Any, engine: Any, box: Box) -> None:
    former = box.content
    former["x"] = 1
    session.rollback()
    former["y"] = 1
    session.commit()
    assert "x" not in box.content and "y" not in box.content
    assert saved(engine) == [box.content]


def test_a_refresh_with_the_same_row_leaves_the_value_that_was_handed_out(session: Any, engine: Any, box: Box) -> None:
    held = box.content
    session.commit()
    session.query(Box).all()
    held["x"] = 1
    session.commit()
    assert saved(engine)[0]["x"] == 1


# Like plain ones


def test_values_look_like_plain_ones(box: Box) -> None:
    plain = {"a": {"b": [1, {"c": "d"}]}, "list": [3, 1, 2]}
    content = box.content
    assert isinstance(content, dict) and isinstance(content["list"], list)
    assert content == plain and plain == content
    assert (repr(content), str(content), len(content)) == (repr(plain), str(plain), len(plain))
    assert json.dumps(content) == json.dumps(plain)
    assert content["list"] + [1] == [3, 1, 2, 1]
    assert content["list"] < [4]
    assert {**content} == plain


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_value_comes_back_as_a_plain_one(box: Box, protocol: int) -> None:
    found = pickle.loads(pickle.dumps(box.content, protocol))
    assert found == box.content
    assert type(found) is dict
    assert type(found["a"]["b"]) is list


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: value.copy()])
def test_a_copy_is_plain_and_independent(session: Any, box: Box, copied: Callable[[Any], Any]) -> None:
    twin, items = copied(box.content), copied(box.content["list"])
    twin["x"] = 1
    twin["a"]["b"].append(1)
    items.append(1)
    assert (type(twin), type(items), type(twin["a"])) == (dict, list, dict)
    assert session.dirty == []
    assert box.content == {"a": {"b": [1, {"c": "d"}]}, "list": [3, 1, 2]}


def test_a_value_can_make_another_dict_of_keys(session: Any, box: Box) -> None:
    assert type(box.content).fromkeys("ab", 0) == {"a": 0, "b": 0}
    assert box.content.fromkeys("a") == {"a": None}
    assert session.dirty == []


scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["a", "b", "ä"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from("abcd")
places = st.integers(-4, 4)
spans = st.builds(slice, st.none() | places, st.none() | places, st.sampled_from([None, 1, 2, -1]))

Operation = tuple[str, tuple[Any, ...]]

dict_operations: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("__setitem__"), st.tuples(keys, values)),
    st.tuples(st.sampled_from(["__delitem__", "pop"]), st.tuples(keys)),
    st.tuples(st.sampled_from(["pop", "setdefault"]), st.tuples(keys, values)),
    st.tuples(st.sampled_from(["popitem", "clear", "update"]), st.just(())),
    st.tuples(st.sampled_from(["update", "__ior__"]), st.tuples(st.dictionaries(keys, values, max_size=3))),
    st.tuples(st.just("update"), st.tuples(st.lists(st.tuples(keys, values), max_size=3))),
)
list_operations: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.sampled_from(["append", "remove"]), st.tuples(values)),
    st.tuples(st.sampled_from(["__setitem__", "insert"]), st.tuples(places, values)),
    st.tuples(st.just("__setitem__"), st.tuples(spans, st.lists(values, max_size=3))),
    st.tuples(st.just("__delitem__"), st.tuples(places | spans)),
    st.tuples(st.sampled_from(["extend", "__iadd__"]), st.tuples(st.lists(values, max_size=3))),
    st.tuples(st.just("__imul__"), st.tuples(st.integers(-1, 3))),
    st.tuples(st.just("pop"), st.tuples(places)),
    st.tuples(st.sampled_from(["pop", "clear", "reverse", "sort"]), st.just(())),
)


def do(value: Any, operation: Operation) -> Any:
    """Do it to a copy of the arguments, and return what comes of it: a value, or the kind of the error."""
    name, arguments = operation
    try:
        return getattr(value, name)(*copy.deepcopy(arguments))
    except (LookupError, TypeError, ValueError) as error:
        return type(error)


def all_tied(value: Any) -> bool:
    """Tell whether every dict and list in a value tells of its changes."""
    if isinstance(value, dict):
        return isinstance(value, mutable.MutableDict) and all(map(all_tied, value.values()))
    if isinstance(value, list):
        return isinstance(value, mutable.MutableList) and all(map(all_tied, value))
    return True


def check_like_plain(start: Any, operations: list[Operation]) -> None:
    seen: list[Any] = []
    plain: Any = copy.deepcopy(start)
    tied = mutable.tie(copy.deepcopy(start), object(), "x", lambda root: seen.append(mutable.plain(root.value)))
    for operation in operations:
        before = copy.deepcopy(plain)
        seen.clear()
        assert do(tied, operation) == do(plain, operation)
        assert tied == plain
        assert repr(tied) == repr(plain)
        assert all_tied(tied)
        assert mutable.plain(tied) == plain
        # Whoever keeps the former value is told while it still is the value.
        assert repr(before) in map(repr, seen) or repr(before) == repr(plain)


@settings(deadline=None)
@given(st.dictionaries(keys, values, max_size=4), st.lists(dict_operations, max_size=10))
def test_a_dict_behaves_as_a_plain_one(start: dict[str, Any], operations: list[Operation]) -> None:
    check_like_plain(start, operations)


@settings(deadline=None)
@given(st.lists(values, max_size=4), st.lists(list_operations, max_size=10))
def test_a_list_behaves_as_a_plain_one(start: list[Any], operations: list[Operation]) -> None:
    check_like_plain(start, operations)


def test_every_method_that_changes_a_dict_or_a_list_is_its_own() -> None:
    def told(kind: type, plain: type) -> set[str]:
        return {name for name in dir(plain) if getattr(kind, name) is not getattr(plain, name, None)}

    assert told(mutable.MutableDict, dict) >= {
        "__setitem__", "__delitem__", "__ior__", "update", "setdefault", "pop", "popitem", "clear",
    }  # fmt: skip
    assert told(mutable.MutableList, list) >= {
        "__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "extend", "insert", "pop", "remove", "clear",
        "sort", "reverse",
    }  # fmt: skip
