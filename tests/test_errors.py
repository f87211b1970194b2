"""The exceptions: their tree, their pickles, and what is refused with which of them."""

from __future__ import annotations

import builtins
import pickle
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Node, Person

from tent.data import dbm
from tent.data.orm import errors

OWN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == errors.__name__
]
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


# The tree


def drawn_parents() -> dict[str, str]:
    """Read the tree in the module's docstring: the parent of each class, by name."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([ │├└─]*)([A-Z]\w+)\b", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        above = [(other, parent) for other, parent in above if other < depth]
        if above:
            parents[name] = above[-1][1]
        above.append((depth, name))
    return parents


def test_the_tree_in_the_docstring_has_every_class() -> None:
    assert set(drawn_parents()) == {kind.__name__ for kind in OWN}


@pytest.mark.parametrize("name", sorted(drawn_parents()))
def test_each_class_is_where_the_tree_draws_it(name: str) -> None:
    parent = drawn_parents()[name]
    kind = getattr(errors, name)
    assert kind.__bases__[0] is (getattr(errors, parent, None) or getattr(builtins, parent))


def test_the_second_bases_are_those_that_the_tree_tells_of() -> None:
    also = dict(re.findall(r"(\w+) .*\(also an? (\w+)\)", errors.__doc__ or ""))
    assert also == {"DBConfigurationException": "ValueError", "ArgumentError": "TypeError"}
    for name, second in also.items():
        assert issubclass(getattr(errors, name), getattr(builtins, second))


def test_every_class_is_at_the_door() -> None:
    names = {kind.__name__ for kind in OWN}
    assert names <= set(dbm.__all__)
    assert all(getattr(dbm, name) is getattr(errors, name) for name in names)


def test_one_except_clause_catches_all_but_what_the_database_refuses() -> None:
    for kind in OWN:
        assert issubclass(kind, (dbm.DataLayerError, Warning))
        assert not issubclass(kind, peewee.PeeweeException)


# Pickles


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", OWN)
def test_each_exception_pickles(kind: type[Exception], protocol: int) -> None:
    error = pickle.loads(pickle.dumps(kind("what happened"), protocol))
    assert type(error) is kind
    assert str(error) == "what happened"


def test_a_stale_data_error_of_a_session_pickles(session: Any, engine: Any) -> None:
    session.add(Person(id=1))
    session.commit()
    engine.execute_sql("DELETE FROM people")
    session.get(Person, 1)
    person = Person(id=1, name="a")
    session.add(person)
    session.commit()
    engine.execute_sql("DELETE FROM people")
    person.name = "b"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (type(twin), str(twin)) == (dbm.StaleDataError, str(caught.value))


def test_a_circular_dependency_error_pickles_with_its_cycle_as_text() -> None:
    error = dbm.CircularDependencyError("A needs B", [Node(name="a"), Node(name="b")])
    twin = pickle.loads(pickle.dumps(error))
    assert str(twin) == "A needs B"
    assert len(twin.cycle) == 2


def test_a_configuration_error_pickles_with_its_config() -> None:
    with pytest.raises(dbm.DBConfigurationException) as caught:
        dbm.connect({"driver": "sqlit", "path": ":memory:"})
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (str(twin), twin.config) == (str(caught.value), caught.value.config)


def test_an_integrity_error_of_a_flush_pickles(session: Any) -> None:
    session.add_all([Person(email="a@x"), Person(email="a@x")])
    with pytest.raises(peewee.IntegrityError) as caught:
        session.flush()
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (type(twin), str(twin)) == (peewee.IntegrityError, str(caught.value))
    session.rollback()


# Objects that are none


TAKES_AN_OBJECT: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda session, thing: session.add(thing),
    "add_all": lambda session, thing: session.add_all([thing]),
    "delete": lambda session, thing: session.delete(thing),
    "expunge": lambda session, thing: session.expunge(thing),
    "merge": lambda session, thing: session.merge(thing),
    "refresh": lambda session, thing: session.refresh(thing),
    "expire": lambda session, thing: session.expire(thing),
    "is_modified": lambda session, thing: session.is_modified(thing),
    "state": lambda session, thing: session.state(thing),
    "flag_modified": lambda session, thing: session.flag_modified(thing, "name"),
    "make_transient": lambda session, thing: dbm.make_transient(thing),
}


class Plain(peewee.Model):
    """A model of Peewee's, none of ours."""


@pytest.mark.parametrize("method", TAKES_AN_OBJECT)
@pytest.mark.parametrize("thing", [None, 3, "Jo", [], object(), Plain()], ids=lambda thing: type(thing).__name__)
def test_what_is_no_object_of_a_model_is_refused(session: Any, method: str, thing: Any) -> None:
    with pytest.raises(dbm.UnmappedInstanceError, match="object of a model"):
        TAKES_AN_OBJECT[method](session, thing)


@pytest.mark.parametrize("method", TAKES_AN_OBJECT)
def test_a_class_in_place_of_an_object_is_refused_and_said_so(session: Any, method: str) -> None:
    with pytest.raises(dbm.UnmappedInstanceError, match=r"Person.* is a class.*Person\("):
        TAKES_AN_OBJECT[method](session, Person)


@pytest.mark.parametrize("thing", [None, 3, "Jo", Person])
def test_nothing_but_its_objects_is_in_a_session(session: Any, thing: Any) -> None:
    assert thing not in session


# Arguments that can't be


BAD_ARGUMENTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "get of no model": (lambda session: session.get("Person", 1), "'Person'"),
    "get of an object": (lambda session: session.get(Person(name="Jo"), 1), "Jo"),
    "get of a column": (lambda session: session.get(Person.id, 1), "id"),
    "get_one of no model": (lambda session: session.get_one(int, 1), "int"),
    "query of nothing": (lambda session: session.query(), "query"),
    "query of a number": (lambda session: session.query(3), "query"),
    "execute a number": (lambda session: session.execute(3), "3"),
    "scalars of None": (lambda session: session.scalars(None), "None"),
    "yield_per 0": (lambda session: session.query(Person).yield_per(0), "0"),
    "yield_per a word": (lambda session: session.query(Person).yield_per("many"), "'many'"),
    "synchronize an update": (
        lambda session: session.query(Person).update({"score": 1}, synchronize_session="evaluate"),
        "'evaluate'",
    ),
    "synchronize a delete": (lambda session: session.query(Person).delete(synchronize_session="auto"), "'auto'"),
    "update no column": (lambda session: session.query(Person).update({"nmae": 1}), "'nmae'"),
    "flag no column": (lambda session: session.flag_modified(only_person(session), "nmae"), "'nmae'"),
    "attempts": (lambda session: dbm.run_transaction(session.engine, print, attempts=0), "0"),
    "install no model": (lambda session: dbm.install_tables(session.engine, models=[int]), "int"),
    "install on no engine": (lambda session: dbm.install_tables("tent.db"), "'tent.db'"),
    "uninstall no model": (lambda session: dbm.uninstall_tables(session.engine, models=["Person"]), "'Person'"),
    "open on no engine": (lambda session: dbm.open_session({"driver": "sqlite"}), "driver"),
    "open on Peewee's": (lambda session: dbm.open_session(peewee.SqliteDatabase(":memory:")), "SqliteDatabase"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_an_argument_that_can_not_be_is_refused_at_the_call_and_named(session: Any, case: str) -> None:
    call, named = BAD_ARGUMENTS[case]
    with pytest.raises(dbm.ArgumentError, match=re.escape(named)):
        call(session)


def only_person(session: Any) -> Person:
    session.add(Person(name="Jo"))
    session.commit()
    return session.query(Person).one()  # type: ignore[no-any-return]


def test_a_refused_argument_leaves_the_session_as_it_was(session: Any) -> None:
    session.add(Person(name="Jo"))
    with pytest.raises(dbm.ArgumentError):
        session.add_all([Person(name="Flo"), 3])
    session.commit()
    assert session.query(Person).count() in (1, 2)
    assert not session.in_transaction()


def test_an_unknown_keyword_of_a_constructor_is_a_type_error_that_names_the_columns() -> None:
    with pytest.raises(TypeError, match=r"Person.*'nmae'.*name, email"):
        Person(nmae="Jo")


# What the database refuses


def test_a_refused_row_raises_peewees_error_which_names_object_table_and_constraint(session: Any) -> None:
    session.add_all([Person(name="first", email="a@x"), Person(name="second", email="a@x")])
    with pytest.raises(peewee.IntegrityError) as caught:
        session.flush()
    message = str(caught.value)
    assert re.search(r"(?s)people[._]email.*inserting <Person .*'second'.*into .people", message)
    assert caught.value.object.name == "second"  # type: ignore[attr-defined]
    assert "first" not in message
    session.rollback()


def test_a_refused_update_and_a_refused_delete_name_their_objects(session: Any) -> None:
    one, two = Person(name="one", email="1@x"), Person(name="two", email="2@x")
    root = Node(name="root")
    session.add_all([one, two, Node(name="leaf", parent=root)])
    session.commit()
    two.email = "1@x"
    with pytest.raises(peewee.IntegrityError, match="updating <Person id=2") as caught:
        session.flush()
    assert caught.value.object is two  # type: ignore[attr-defined]
    session.rollback()
    session.delete(root)
    with pytest.raises(peewee.IntegrityError, match="deleting <Node id=1") as caught:
        session.flush()
    assert caught.value.object is root  # type: ignore[attr-defined]
    session.rollback()


class Unshown:
    """A value whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("repr failed")


@pytest.mark.parametrize("value", [pytest.param(10**5_000, id="an int of many digits"), Unshown()])
def test_a_value_that_python_can_not_show_is_refused_as_others_are(session: Any, value: Any) -> None:
    session.add(Person(age=value))
    with pytest.raises(peewee.DataError, match=r"Person\.age .*can't hold <.* object at .*inserting <Person id=None"):
        session.flush()
    session.rollback()


def test_a_long_value_is_cut_before_it_is_shown() -> None:
    value = b"\0" * 10**7
    tracemalloc.start()
    shown = errors.shown(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(shown) == 60
    assert peak < 10**5


def test_an_error_in_a_flush_that_a_query_began_says_so(session: Any) -> None:
    session.add_all([Person(email="a@x"), Person(email="a@x")])
    with pytest.raises(peewee.IntegrityError, match="no_autoflush"):
        session.query(Person).all()
    session.rollback()
