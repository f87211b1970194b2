"""Query: Peewee's select in a session, with SQLAlchemy's verbs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person
from peewee import JOIN, fn

from tent.data import dbm

Statements = Callable[[], Any]


@pytest.fixture
def people(session: dbm.Session) -> list[Person]:
    """Three people, in the session and committed."""
    people = [
        Person(name="Ann", email="ann@x", age=30, tags=["a", "b"]),
        Person(name="Bob", email="bob@x", age=20, tags=[]),
        Person(name="Cid", email="cid@x", age=40),
    ]
    session.add_all(people)
    session.commit()
    return people


@pytest.fixture
def notes(session: dbm.Session, people: list[Person]) -> list[Note]:
    """Two notes of Ann and one of Bob; Cid has none."""
    ann, bob, _ = people
    notes = [Note(person=ann, text="one"), Note(person=ann, text="two"), Note(person=bob, text="three")]
    session.add_all(notes)
    session.commit()
    return notes


@pytest.fixture
def tree(session: dbm.Session) -> list[Node]:
    """A root with two children."""
    root = Node(name="root")
    nodes = [root, Node(name="left", parent=root), Node(name="right", parent=root)]
    session.add_all(nodes)
    session.commit()
    return nodes


def names(people: Any) -> list[str]:
    return [person.name for person in people]


# What a query gives


def test_a_query_for_a_model_gives_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    found = session.query(Person).order_by(Person.id).all()
    assert [a is b for a, b in zip(found, people)] == [True, True, True]


def test_a_query_for_columns_gives_named_rows(session: dbm.Session, people: list[Person]) -> None:
    row = session.query(Person.id, Person.name).order_by(Person.name).first()
    assert row == (people[0].id, "Ann")
    assert (row.id, row.name) == (people[0].id, "Ann")


def test_a_query_for_one_column_gives_rows_of_one(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person.name).order_by(Person.name).all() == [("Ann",), ("Bob",), ("Cid",)]


def test_a_query_for_two_models_gives_rows_of_objects(session: dbm.Session, notes: list[Note]) -> None:
    rows = session.query(Person, Note).join(Note).order_by(Note.id).all()
    assert [(row.Person.name, row.Note.text) for row in rows] == [("Ann", "one"), ("Ann", "two"), ("Bob", "three")]
    assert [row[1] is note for row, note in zip(rows, notes)] == [True, True, True]


def test_a_query_for_a_model_and_a_column_gives_rows_of_both(session: dbm.Session, notes: list[Note]) -> None:
    rows = session.query(Note, Person.name).join(Person).order_by(Note.id).all()
    assert [(row.Note, row.name) for row in rows] == [(notes[0], "Ann"), (notes[1], "Ann"), (notes[2], "Bob")]


def test_rows_name_an_expression_after_its_alias_or_function(session: dbm.Session, people: list[Person]) -> None:
    row = session.query(fn.UPPER(Person.name), (Person.age + 1).alias("next")).order_by(Person.name).first()
    assert (row.upper, row.next) == ("ANN", 31)


def test_rows_name_a_subquery_after_its_alias(session: dbm.Session, notes: list[Note]) -> None:
    count = Note.select(fn.COUNT(Note.id)).where(Note.person == Person.id)
    row = session.query(Person.name, count.alias("written")).order_by(Person.name).first()
    assert row is not None and (row.name, row.written) == ("Ann", 2)


def test_two_columns_of_one_name_have_two_names_in_a_row(session: dbm.Session, notes: list[Note]) -> None:
    row = session.query(Note.id, Person.id).join(Person).order_by(Note.id).first()
    assert row._fields == ("id", "id_2")
    assert row == (notes[0].id, notes[0].person_id)


def test_the_columns_of_rows_have_their_python_values(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person.tags).filter_by(name="Ann").scalar() == ["a", "b"]


def test_the_columns_of_a_query_for_rows_can_be_replaced_and_extended(
    session: dbm.Session, people: list[Person]
) -> None:
    query = session.query(Person.id).order_by(Person.id)
    for other in (query.select(Person.name, Person.age), query.columns(Person.name, Person.age)):
        assert other.first() == ("Ann", 30)
    assert query.select_extend(Person.name).first() == (people[0].id, "Ann")
    assert query.first() == (people[0].id,)


def test_the_columns_of_a_query_for_objects_can_be_replaced(engine: Any, people: list[Person]) -> None:
    with dbm.open_session(engine) as session:
        query = session.query(Person).order_by(Person.name)
        for other in (query.select(Person.id, Person.name), query.columns(Person.id, Person.name)):
            ann = other.first()
            assert (ann.id, ann.name) == (people[0].id, "Ann")
            with pytest.raises(dbm.UnloadedColumnError):
                _ = ann.age


def test_a_query_without_anything_to_query_is_refused(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match="what to query"):
        session.query()


@pytest.mark.parametrize("nonsense", ["people", 3, object()])
def test_a_query_for_what_is_no_model_or_column_is_refused(session: dbm.Session, nonsense: Any) -> None:
    with pytest.raises(dbm.ArgumentError):
        session.query(nonsense)


# Aliases and joins


def test_an_alias_gives_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    other = Person.alias()
    assert session.query(other).filter(other.name == "Ann").one() is people[0]


def test_an_alias_can_be_filtered_by_keyword(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person.alias()).filter_by(name="Bob").one() is people[1]


def test_the_select_of_an_alias_gives_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    other = Person.alias()
    found = session.execute(other.select().where(other.name == "Ann"))
    assert found[0] is people[0]


def test_a_self_join_gives_both_objects(session: dbm.Session, tree: list[Node]) -> None:
    root, left, right = tree
    parent = Node.alias("parent")
    rows = session.query(Node, parent).join(parent, on=(Node.parent == parent.id)).order_by(Node.id).all()
    assert [(row.Node, row.parent) for row in rows] == [(left, root), (right, root)]
    assert rows[0].parent is rows[1].parent is root


def test_an_outer_join_gives_none_for_what_it_did_not_find(session: dbm.Session, notes: list[Note]) -> None:
    rows = session.query(Person, Note).join(Note, JOIN.LEFT_OUTER).order_by(Person.id, Note.id).all()
    assert [row.Note for row in rows] == [*notes, None]
    assert rows[-1].Person.name == "Cid"


def test_an_outer_self_join_gives_none_for_the_root(session: dbm.Session, tree: list[Node]) -> None:
    parent = Node.alias("parent")
    query = session.query(Node, parent).join(parent, JOIN.LEFT_OUTER, on=(Node.parent == parent.id))
    assert [row.parent for row in query.order_by(Node.id)] == [None, tree[0], tree[0]]


def test_columns_of_both_sides_of_a_self_join(session: dbm.Session, tree: list[Node]) -> None:
    parent = Node.alias("parent")
    query = session.query(Node.name, parent.name).join(parent, on=(Node.parent == parent.id)).order_by(Node.id)
    assert query.all() == [("left", "root"), ("right", "root")]


def test_a_join_repeats_the_object_for_each_row(session: dbm.Session, notes: list[Note]) -> None:
    query = session.query(Person).join(Note).order_by(Note.id)
    assert names(query) == ["Ann", "Ann", "Bob"]
    assert query.count() == len(query.all()) == 3


def test_distinct_drops_the_repetitions(session: dbm.Session, notes: list[Note]) -> None:
    assert names(session.query(Person).join(Note).distinct().order_by(Person.name)) == ["Ann", "Bob"]


def test_a_subquery_can_be_a_condition(session: dbm.Session, notes: list[Note]) -> None:
    ann = session.query(Person.id).filter_by(name="Ann")
    assert session.query(Note).filter(Note.person.in_(ann)).count() == 2


def test_a_query_can_be_from_a_subquery(session: dbm.Session, people: list[Person]) -> None:
    young = Person.select().where(Person.age < 35).alias("t1")
    assert names(session.query(Person).from_(young).order_by(young.c.name)) == ["Ann", "Bob"]
    assert session.query(Person).from_(young).count() == len(session.query(Person).from_(young).all()) == 2


# Building: a query is immutable, and the verbs are SQLAlchemy's


def test_each_method_returns_a_new_query(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person)
    built = [
        query.filter(Person.age > 25),
        query.filter_by(name="Ann"),
        query.where(Person.age > 25),
        query.order_by(Person.name),
        query.limit(1),
        query.offset(1),
        query.distinct(),
        query.yield_per(1),
        query.join(Note),
        query.filter(),
    ]
    assert all(other is not query for other in built)
    assert query.sql() == session.query(Person).sql()
    assert len(query.all()) == 3


def test_a_query_that_was_narrowed_is_still_the_wide_one(session: dbm.Session, people: list[Person]) -> None:
    wide = session.query(Person).filter_by(name="Ann")
    narrow = wide.filter(Person.age == 99)
    also = wide.filter_by(age=99)
    assert (narrow.all(), also.all(), wide.all()) == ([], [], [people[0]])


def test_a_query_runs_anew_each_time(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    query = session.query(Person).filter(Person.age > 25)
    with statements() as ran:
        assert len(query.all()) == 2
        session.add(Person(name="Dan", age=50))
        assert len(query.all()) == 3
    assert sum(sql.startswith("SELECT") for sql in ran) == 2
    session.rollback()


def test_building_a_query_runs_no_sql(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    with statements() as ran:
        session.query(Person).join(Note).filter(Person.age > 1).filter_by(text="x").order_by(Person.id).limit(1)
    assert ran == []


def test_order_by_orders(session: dbm.Session, people: list[Person]) -> None:
    assert names(session.query(Person).order_by(Person.age)) == ["Bob", "Ann", "Cid"]
    assert names(session.query(Person).order_by(Person.age.desc())) == ["Cid", "Ann", "Bob"]


def test_order_by_adds_to_the_order(session: dbm.Session, people: list[Person]) -> None:
    session.add(Person(name="Ann", age=10))
    query = session.query(Person).order_by(Person.name).order_by(Person.age.desc())
    assert [(p.name, p.age) for p in query] == [("Ann", 30), ("Ann", 10), ("Bob", 20), ("Cid", 40)]
    session.rollback()


def test_order_by_none_clears_the_order(session: dbm.Session, people: list[Person]) -> None:
    assert "ORDER BY" not in session.query(Person).order_by(Person.name).order_by(None).sql()[0]


def test_filters_add_up(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person).filter(Person.age > 15).filter(Person.age < 35).filter_by(name="Bob")
    assert query.all() == [people[1]]


def test_empty_filters_add_no_condition(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person).filter().filter_by().where()
    assert "WHERE" not in query.sql()[0]
    assert query.count() == 3


def test_peewees_keyword_filters_work(session: dbm.Session, notes: list[Note]) -> None:
    assert names(session.query(Person).filter(name__ilike="b%")) == ["Bob"]
    assert session.query(Note).filter(person__name="Ann").count() == 2


def test_json_columns_can_be_compared(session: dbm.Session, people: list[Person]) -> None:
    assert names(session.query(Person).filter_by(tags=["a", "b"])) == ["Ann"]
    assert names(session.query(Person).filter(Person.tags == ["a", "b"])) == ["Ann"]
    assert names(session.query(Person).filter(Person.tags[0] == "a")) == ["Ann"]


# filter_by


def test_filter_by_none_means_is_null(session: dbm.Session, people: list[Person]) -> None:
    session.add(Person(name=None))
    assert session.query(Person).filter_by(name=None).count() == 1
    assert len(session.query(Person).filter_by(name=None).all()) == 1
    session.rollback()


def test_filter_by_an_object_compares_keys(session: dbm.Session, notes: list[Note], people: list[Person]) -> None:
    assert [note.text for note in session.query(Note).filter_by(person=people[1])] == ["three"]
    assert session.query(Note).filter_by(person=people[0]).count() == 2


def test_filter_by_a_pending_object_flushes_it_first(session: dbm.Session) -> None:
    dan = Person(name="Dan")
    note = Note(person=dan, text="new")
    session.add(note)
    assert session.query(Note).filter_by(person=dan).all() == [note]
    session.rollback()


def test_filter_a_pending_object_flushes_it_first(session: dbm.Session) -> None:
    dan = Person(name="Dan")
    note = Note(person=dan, text="new")
    session.add(note)
    assert session.query(Note).filter(Note.person == dan).order_by(Note.id).all() == [note]
    session.rollback()


def test_filter_by_a_foreign_key_of_none_means_is_null(session: dbm.Session, tree: list[Node]) -> None:
    assert session.query(Node).filter_by(parent=None).all() == [tree[0]]


def test_filter_by_takes_the_name_of_the_column_too(session: dbm.Session, notes: list[Note]) -> None:
    assert session.query(Note).filter_by(person_id=notes[2].person_id).all() == [notes[2]]


def test_filter_by_an_unknown_name_names_it_and_the_columns(session: dbm.Session) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=r"Person has no column 'nmae'.*name, email"):
        session.query(Person).filter_by(nmae="Ann")


def test_filter_by_an_object_of_another_model_is_refused(session: dbm.Session, notes: list[Note]) -> None:
    with pytest.raises(dbm.ArgumentError, match="person is a Person, or its key, not <Note"):
        session.query(Note).filter_by(person=notes[0])


def test_filter_by_several_values_is_refused_with_what_to_write(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"name is one value, not \['Ann', 'Bob'\].*name\.in_"):
        session.query(Person).filter_by(name=["Ann", "Bob"])


@pytest.mark.parametrize("verb", ["where", "filter", "having"])
def test_text_is_no_condition(session: dbm.Session, verb: str) -> None:
    with pytest.raises(dbm.ArgumentError, match=rf"{verb}\(\) takes expressions.*not text: 'age > 5'"):
        getattr(session.query(Person), verb)("age > 5")


@pytest.mark.parametrize("verb", ["where", "filter", "having"])
def test_what_python_makes_of_in_and_is_is_no_condition(session: dbm.Session, verb: str) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"User\.name\.in_"):
        getattr(session.query(Person), verb)(Person.name in ["Zed"])
    with pytest.raises(dbm.ArgumentError, match=r"User\.name\.is_null"):
        getattr(session.query(Person), verb)(Person.name is None)


def test_text_is_no_column_to_group_by(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"group_by\(\) takes columns"):
        session.query(Person.name).group_by("name")


def test_filter_by_after_a_join_is_about_the_joined_model(session: dbm.Session, notes: list[Note]) -> None:
    assert [note.text for note in session.query(Note).join(Person).filter_by(name="Bob")] == ["three"]


def test_filter_by_converts_as_the_column_does(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter_by(id=str(people[0].id)).one() is people[0]
    assert session.query(Person).filter_by(age="30").filter(Person.id > 0).one() is people[0]


def test_filter_by_an_expression_compares_with_it(session: dbm.Session, people: list[Person]) -> None:
    session.add(Person(name="Eve", email="Eve"))
    assert names(session.query(Person).filter_by(name=Person.email)) == ["Eve"]
    session.rollback()


def test_filter_by_values_of_two_types_are_two_queries(session: dbm.Session, people: list[Person]) -> None:
    # The SQL is kept for its shape: `= ?` must not be used again for `IS NULL`.
    session.add(Person(name=None, age=30))
    found = [session.query(Person).filter_by(name=name, age=30).count() for name in ("Ann", None, "Bob", None)]
    assert found == [1, 1, 0, 1]
    session.rollback()


# Asking for rows


def test_first_asks_for_one_row(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    with statements() as ran:
        assert session.query(Person).order_by(Person.age.desc()).first() is people[2]
        assert session.query(Person).filter_by(name="Ann").first() is people[0]
    assert [sql.count("LIMIT") for sql in ran] == [1, 1]


def test_first_of_nothing_is_none(session: dbm.Session) -> None:
    assert session.query(Person).first() is None
    assert session.query(Person.name).first() is None


def test_first_keeps_an_offset_and_a_smaller_limit(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person).order_by(Person.name)
    assert query.offset(1).first() is people[1]
    assert query.limit(0).first() is None


def test_one_gives_the_only_row(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter_by(name="Ann").one() is people[0]
    assert session.query(Person.age).filter(Person.name == "Ann").one() == (30,)


def test_one_of_none_raises_no_result_found(session: dbm.Session, people: list[Person]) -> None:
    with pytest.raises(dbm.NoResultFound, match="No Person was found"):
        session.query(Person).filter_by(name="Zoe").one()


def test_one_of_several_raises_multiple_results_found(session: dbm.Session, people: list[Person]) -> None:
    with pytest.raises(dbm.MultipleResultsFound, match="More than one Person"):
        session.query(Person).one()


def test_one_or_none_gives_none_but_not_several(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter_by(name="Zoe").one_or_none() is None
    with pytest.raises(dbm.MultipleResultsFound):
        session.query(Person).one_or_none()


def test_one_asks_for_two_rows_at_most(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    seen: list[Any] = []
    session.engine.query_hooks.append(lambda event: seen.append((event.sql, list(event.params or ()))))
    session.query(Person).filter(Person.name == "Ann").one()
    session.engine.query_hooks.pop()
    assert seen[-1][0].endswith(f"LIMIT {session.engine.param}")
    assert seen[-1][1] == ["Ann", 2]


def test_one_of_a_query_with_a_limit_keeps_it(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).order_by(Person.age).limit(1).one() is people[1]


def test_scalar_gives_the_first_column(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person.age, Person.name).filter_by(name="Ann").scalar() == 30


def test_scalar_of_a_query_for_objects_is_the_object(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter_by(name="Ann").scalar() is people[0]


def test_scalar_is_none_for_none_and_refuses_several(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person.age).filter_by(name="Zoe").scalar() is None
    with pytest.raises(dbm.MultipleResultsFound):
        session.query(Person.age).scalar()


def test_scalar_gives_an_aggregate(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(fn.COUNT(Person.id)).scalar() == 3
    assert session.query(fn.MAX(Person.age)).scalar() == 40


def test_count_counts_in_the_database(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    with statements() as ran:
        assert session.query(Person).filter(Person.age > 25).count() == 2
    assert len(ran) == 1
    assert "COUNT" in ran[0]


def test_count_counts_the_rows_of_a_limit(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).limit(2).count() == 2
    assert session.query(Person).order_by(Person.id).offset(2).limit(9).count() == 1


def test_count_counts_groups_and_distinct_rows(session: dbm.Session, notes: list[Note]) -> None:
    assert session.query(Note.person).group_by(Note.person).count() == 2
    assert session.query(Note.person).distinct().count() == 2


def test_count_of_rows_with_columns_of_one_name(session: dbm.Session, notes: list[Note]) -> None:
    assert session.query(Person.id, Note.id).join(Note).distinct().count() == 3
    assert session.query(Person.id, Note.person.alias("id")).join(Note).distinct().count() == 2
    assert session.query(Person, Note).join(Note).distinct().count() == 3


def test_exists_is_a_bool(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter_by(name="Ann").exists() is True
    assert session.query(Person).filter_by(name="Zoe").exists() is False
    assert session.query(Person.name).filter(Person.age > 99).exists() is False
    assert session.query(Person).order_by(Person.id).offset(3).limit(1).exists() is False


def test_get_takes_a_key(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    with statements() as ran:
        assert session.query(Person).get(people[0].id) is people[0]
    assert len(ran) <= 1
    assert session.query(Person).get(-1) is None


def test_get_without_a_key_is_peewees(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).where(Person.name == "Bob").get() is people[1]
    assert session.query(Person).where(Person.name == "Zoe").get_or_none() is None
    with pytest.raises(Person.DoesNotExist):
        session.query(Person).where(Person.name == "Zoe").get()


def test_a_query_has_no_len(session: dbm.Session) -> None:
    with pytest.raises(TypeError, match=r"count\(\)"):
        len(session.query(Person))


def test_the_truth_of_a_query_runs_no_sql(session: dbm.Session, statements: Statements) -> None:
    with statements() as ran:
        assert session.query(Person)
    assert ran == []


def test_a_query_flushes_what_is_pending(session: dbm.Session) -> None:
    dan = Person(name="Dan")
    session.add(dan)
    assert session.query(Person).filter_by(name="Dan").first() is dan
    session.rollback()


# Slices


def test_a_slice_is_a_limit_and_an_offset(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    query = session.query(Person).order_by(Person.name)
    with statements() as ran:
        assert query[1:2] == [people[1]]
        assert query[1:] == people[1:]
        assert query[:2] == people[:2]
        assert query[:] == people
        assert query[5:] == []
    assert len(ran) == 5


def test_an_index_gives_one_row(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).order_by(Person.name)[2] is people[2]


def test_an_empty_slice_runs_no_sql(session: dbm.Session, people: list[Person], statements: Statements) -> None:
    with statements() as ran:
        assert (session.query(Person)[0:0], session.query(Person)[2:1]) == ([], [])
    assert ran == []


def test_an_index_past_the_end_raises(session: dbm.Session, people: list[Person]) -> None:
    with pytest.raises(IndexError):
        session.query(Person).order_by(Person.id)[3]


@pytest.mark.parametrize("item", [-1, slice(-1, None), slice(None, -1)])
def test_negative_indexes_raise_without_sql(session: dbm.Session, statements: Statements, item: Any) -> None:
    with statements() as ran, pytest.raises(IndexError, match="negative"):
        session.query(Person)[item]
    assert ran == []


def test_a_slice_of_a_limited_query_stays_within_the_limit(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person).order_by(Person.name).limit(2)
    assert query[0:9] == people[:2]
    assert query[1:9] == people[1:2]
    assert query.offset(1)[1:] == people[2:]
    with pytest.raises(IndexError):
        query[2]


def test_a_slice_can_have_a_step(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).order_by(Person.name)[0:3:2] == [people[0], people[2]]


# After a limit


@pytest.mark.parametrize(
    "verb, call",
    [
        ("filter", lambda query: query.filter(Person.age > 1)),
        ("filter_by", lambda query: query.filter_by(age=1)),
        ("where", lambda query: query.where(Person.age > 1)),
        ("order_by", lambda query: query.order_by(Person.age)),
        ("join", lambda query: query.join(Note)),
    ],
)
@pytest.mark.parametrize("limited", [lambda query: query.limit(1), lambda query: query.offset(1)])
def test_a_verb_that_would_change_which_rows_a_limit_means_is_refused(
    session: dbm.Session, verb: str, call: Callable[[Any], Any], limited: Callable[[Any], Any]
) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=rf"Call {verb}\(\) first"):
        call(limited(session.query(Person)))


@pytest.mark.parametrize(
    "unfit",
    [
        lambda query: query.limit(1),
        lambda query: query.offset(1),
        lambda query: query.order_by(Person.age),
        lambda query: query.group_by(Person.age),
        lambda query: query.distinct(),
        lambda query: query.join(Note),
        lambda query: query.having(fn.COUNT(Person.id) > 1),
    ],
)
def test_bulk_statements_refuse_what_they_can_not_do(
    session: dbm.Session, people: list[Person], statements: Statements, unfit: Callable[[Any], Any]
) -> None:
    query = unfit(session.query(Person))
    with statements() as ran:
        with pytest.raises(dbm.InvalidRequestError, match=r"update\(\)"):
            query.update({Person.age: 1})
        with pytest.raises(dbm.InvalidRequestError, match=r"delete\(\)"):
            query.delete()
    assert ran == []


# yield_per


def test_yield_per_gives_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    found = list(session.query(Person).order_by(Person.name).yield_per(2))
    assert [a is b for a, b in zip(found, people)] == [True, True, True]


def test_yield_per_reads_a_chunk_at_a_time(file_engine: Any) -> None:
    with dbm.transaction(file_engine) as session:
        session.add_all(Person(name=f"p{number}") for number in range(10))
    with dbm.open_session(file_engine) as session:
        rows = iter(session.query(Person).yield_per(3))
        held = [next(rows)]
        assert len(session.identity_map) == 3
        held.extend(rows)
        assert len(held) == len(session.identity_map) == 10


def test_yield_per_gives_rows_too(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person.name).order_by(Person.name).yield_per(2)
    assert list(query) == [("Ann",), ("Bob",), ("Cid",)]


def test_an_abandoned_iteration_gives_its_connection_back(session: dbm.Session, people: list[Person]) -> None:
    rows = iter(session.query(Person).yield_per(1))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert not session.engine._in_use


@pytest.mark.databases("sqlite", "postgresql")
def test_an_abandoned_iteration_keeps_no_table_locked(session: dbm.Session, people: list[Person]) -> None:
    rows = iter(session.query(Person).yield_per(1))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    session.execute("DROP TABLE notes")  # fails in SQLite while a cursor is open, and would wait on a server
    session.rollback()
    assert session.query(Note).count() == 0


@pytest.mark.databases("mariadb", "mysql")
def test_an_abandoned_iteration_keeps_no_table_locked_where_a_table_is_dropped_for_good(
    session: dbm.Session, people: list[Person]
) -> None:
    rows = iter(session.query(Note.person, Person).join(Person, JOIN.RIGHT_OUTER).yield_per(1))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    session.execute("DROP TABLE notes")
    session.rollback()
    assert "notes" not in session.engine.get_tables()


@pytest.mark.databases("mariadb", "mysql")
@pytest.mark.parametrize("sql", ["DROP TABLE notes", "create table other (id int)", "TRUNCATE notes"])
def test_what_would_commit_a_transaction_by_itself_is_refused_in_one(session: dbm.Session, sql: str) -> None:
    person = Person(name="Jo")
    session.add(person)
    with pytest.raises(dbm.InvalidRequestError, match=r"would commit.*commit\(\) before"):
        session.execute(sql)
    session.rollback()
    assert (session.state(person), session.query(Person).count()) == ("transient", 0)


@pytest.mark.databases("mariadb", "mysql")
def test_a_temporary_table_is_made_in_a_transaction(session: dbm.Session) -> None:
    session.add(Person(name="Jo"))
    session.execute("CREATE TEMPORARY TABLE other (id INT)")
    session.rollback()
    assert session.query(Person).count() == 0


@pytest.mark.databases("sqlite", "postgresql")
def test_a_table_that_was_made_in_a_transaction_is_gone_after_a_rollback(session: dbm.Session) -> None:
    session.add(Person(name="Jo"))
    session.execute("CREATE TABLE other (id INT)")
    session.rollback()
    assert "other" not in session.engine.get_tables()
    assert session.query(Person).count() == 0


def test_an_iteration_in_a_transaction_sees_its_writes(session: dbm.Session, people: list[Person]) -> None:
    session.add(Person(name="Dan"))
    session.flush()
    assert names(session.query(Person).order_by(Person.name).yield_per(2)) == ["Ann", "Bob", "Cid", "Dan"]
    session.rollback()


def test_objects_can_be_changed_and_committed_during_an_iteration(session: dbm.Session, people: list[Person]) -> None:
    for person in session.query(Person).order_by(Person.id).yield_per(1):
        person.age += 1
        session.flush()
    session.commit()
    assert [age for (age,) in session.query(Person.age).order_by(Person.id)] == [31, 21, 41]


def test_an_iteration_of_a_closed_session_is_refused(session: dbm.Session, people: list[Person]) -> None:
    rows = iter(session.query(Person).yield_per(1))
    next(rows)
    session.close()
    with pytest.raises(dbm.ResourceClosedError):
        next(rows)


@pytest.mark.parametrize("count", [0, -1, None, "3"])
def test_yield_per_of_no_number_is_refused(session: dbm.Session, count: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"yield_per\(\)"):
        session.query(Person).yield_per(count)


# Bulk statements agree with the map


def test_update_returns_the_number_of_rows(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter(Person.age > 25).update({Person.score: 7}) == 2
    assert session.query(Person).filter_by(name="Zoe").update({Person.score: 7}) == 0


def test_update_changes_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    session.query(Person).filter(Person.age > 25).update({Person.age: Person.age + 1})
    assert [person.age for person in people] == [31, 20, 41]
    assert session.dirty == []


def test_update_takes_the_names_of_columns(session: dbm.Session, notes: list[Note], people: list[Person]) -> None:
    assert session.query(Note).filter_by(text="three").update({"text": "3", "person_id": people[2].id}) == 1
    assert (notes[2].text, notes[2].person) == ("3", people[2])


def test_update_takes_an_object_for_a_foreign_key(
    session: dbm.Session, notes: list[Note], people: list[Person]
) -> None:
    session.query(Note).filter_by(text="three").update({Note.person: people[2]})
    assert notes[2].person is people[2]


def test_update_and_delete_take_keywords_filters(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter_by(name="Ann").filter(Person.age == 30).update({"score": 1}) == 1
    assert session.query(Person).filter_by(score=1).delete() == 1


def test_update_and_delete_flush_first(session: dbm.Session, people: list[Person]) -> None:
    session.add(Person(name="Dan", age=50))
    people[0].age = 99
    assert session.query(Person).filter(Person.age > 45).update({Person.score: 1}) == 2
    session.add(Person(name="Eve", age=51))
    assert session.query(Person).filter(Person.age > 45).delete() == 3


def test_update_flushes_first_even_without_autoflush(engine: Any) -> None:
    with dbm.open_session(engine, autoflush=False) as session:
        ann = Person(name="Ann", age=1)
        session.add(ann)
        session.commit()
        ann.age, ann.score = 2, 5
        session.query(Person).update({Person.age: 3})
        session.commit()
        assert (ann.age, ann.score) == (3, 5)
        assert session.query(Person.age, Person.score).all() == [(3, 5)]


def test_update_of_an_unknown_column_is_refused(session: dbm.Session, statements: Statements) -> None:
    with statements() as ran, pytest.raises(dbm.ArgumentError, match="'agee'"):
        session.query(Person).update({"agee": 3})
    assert ran == []


def test_an_unknown_strategy_is_refused(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match="'evaluate'"):
        session.query(Person).update({"age": 3}, synchronize_session="evaluate")
    with pytest.raises(dbm.ArgumentError, match="'evaluate'"):
        session.query(Person).delete(synchronize_session="evaluate")


def test_without_synchronizing_the_objects_are_left_as_they_are(session: dbm.Session, people: list[Person]) -> None:
    session.query(Person).filter_by(name="Ann").update({Person.age: 77}, synchronize_session=False)
    assert people[0].age == 30
    session.query(Person).filter_by(name="Bob").delete(synchronize_session=False)
    assert people[1] in session


def test_delete_takes_the_objects_out_of_the_session(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).filter(Person.age > 25).delete() == 2
    assert [person in session for person in people] == [False, True, False]
    assert session.get(Person, people[0].id) is None


@pytest.fixture
def ctrl_c(engine: Any) -> Iterator[Callable[[str], None]]:
    """`ctrl_c("UPDATE")` interrupts the next such statement, when it is done."""
    hooks: list[Any] = []

    def interrupt_at(verb: str) -> None:
        def interrupt(event: peewee.QueryEvent) -> None:
            if event.sql.startswith(verb):
                engine.query_hooks.remove(hooks.pop())
                raise KeyboardInterrupt

        hooks.append(interrupt)
        engine.query_hooks.append(interrupt)

    yield interrupt_at
    assert not hooks


def test_an_update_that_ctrl_c_interrupts_when_it_is_done_is_known_to_the_objects(
    session: dbm.Session, people: list[Person], ctrl_c: Callable[[str], None]
) -> None:
    ctrl_c("UPDATE")
    with pytest.raises(KeyboardInterrupt):
        session.query(Person).update({Person.age: 1})
    assert [person.age for person in people] == [1, 1, 1]
    session.rollback()
    assert [person.age for person in people] == [30, 20, 40]


def test_a_delete_that_ctrl_c_interrupts_when_it_is_done_is_known_to_get(
    session: dbm.Session, people: list[Person], ctrl_c: Callable[[str], None]
) -> None:
    ctrl_c("DELETE")
    with pytest.raises(KeyboardInterrupt):
        session.query(Person).filter_by(name="Ann").delete()
    assert session.get(Person, people[0].id) is None
    session.rollback()
    assert session.get(Person, people[0].id) is people[0]


def test_rollback_undoes_a_bulk_update_on_the_objects(session: dbm.Session, people: list[Person]) -> None:
    session.query(Person).update({Person.age: 1})
    session.rollback()
    assert [person.age for person in people] == [30, 20, 40]


def test_rollback_brings_back_what_a_bulk_delete_took_out(session: dbm.Session, people: list[Person]) -> None:
    session.query(Person).delete()
    session.rollback()
    assert [person in session for person in people] == [True, True, True]
    assert session.query(Person).filter_by(name="Ann").one() is people[0]


def test_a_bulk_update_is_there_after_commit(session: dbm.Session, other: dbm.Session, people: list[Person]) -> None:
    session.query(Person).filter_by(name="Ann").update({Person.age: 31})
    session.commit()
    assert other.query(Person.age).filter_by(name="Ann").scalar() == 31


def test_a_bulk_update_of_many_objects_takes_few_statements(session: dbm.Session, statements: Statements) -> None:
    people = [Person(name=f"p{number}", age=number) for number in range(300)]
    session.add_all(people)
    session.commit()
    with statements() as ran:
        session.query(Person).update({Person.age: Person.age + 1})
    assert len(ran) <= 4
    assert [person.age for person in people] == list(range(1, 301))


def test_a_bulk_update_keeps_an_object_that_no_longer_meets_its_condition(
    session: dbm.Session, people: list[Person]
) -> None:
    assert session.query(Person).filter_by(name="Ann").update({Person.name: "Anne"}) == 1
    assert people[0].name == "Anne"
    assert people[0] in session


def test_peewees_own_update_and_delete_agree_with_the_map(session: dbm.Session, people: list[Person]) -> None:
    assert session.execute(Person.update(age=5).where(Person.name == "Ann")) == 1
    assert people[0].age == 5
    assert session.execute(Person.delete().where(Person.name == "Bob")) == 1
    assert people[1] not in session


def test_peewees_own_insert_gives_the_key(session: dbm.Session) -> None:
    key = session.execute(Person.insert(name="Dan"))
    assert session.get(Person, key).name == "Dan"
    session.rollback()


# Any other query: session.execute, scalars, scalar


def test_sql_takes_parameters_by_position_and_by_name(session: dbm.Session, people: list[Person]) -> None:
    assert session.execute("SELECT name FROM people WHERE age > ? ORDER BY age", [25]).all() == [("Ann",), ("Cid",)]
    assert session.execute("SELECT name FROM people WHERE age = :age", {"age": 20}).one().name == "Bob"


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    ("sql", "params", "found"),
    [
        ("SELECT ARRAY[?, ?]", [1, 2], [1, 2]),
        ("SELECT ARRAY[:one, :two]", {"one": 1, "two": 2}, [1, 2]),
        ("SELECT (ARRAY[3, 4])[?]", [2], 4),
        ("SELECT $$it's ?$$ || $a$?$$%$a$ || ?", ["x"], "it's ??$$%x"),
        (r"SELECT E'it\'s ?' || ?", ["x"], "it's ?x"),
    ],
)
def test_sql_may_have_postgresqls_arrays_and_strings(session: dbm.Session, sql: str, params: Any, found: Any) -> None:
    assert session.scalar(sql, params) == found


@pytest.mark.parametrize(
    ("sql", "params", "found"),
    [
        ("SELECT name FROM people WHERE name = ?", ["Ann"], "Ann"),
        ("SELECT name FROM people WHERE name = :name", {"name": "Ann"}, "Ann"),
        ("SELECT name FROM people WHERE name = :name OR name = :name", {"name": "Ann", "other": 1}, "Ann"),
        ("SELECT '?' FROM people WHERE name = ? -- why?", ["Ann"], "?"),
        ("SELECT ':name %s' FROM people WHERE name = :name", {"name": "Ann"}, ":name %s"),
        ("SELECT '50 %' FROM people WHERE name LIKE 'Ann%'", [], "50 %"),
        ("SELECT '%' FROM people WHERE name = ? AND 5 % 3 = 2", ["Ann"], "%"),
    ],
)
def test_parameters_of_sql_are_written_alike_on_every_database(
    session: dbm.Session, people: list[Person], sql: str, params: Any, found: str
) -> None:
    assert session.scalar(sql, params) == found


def test_sql_gives_named_rows(session: dbm.Session, people: list[Person]) -> None:
    row = session.execute("SELECT id, name AS who FROM people ORDER BY id").first()
    assert (row.id, row.who) == (people[0].id, "Ann")


def test_sql_may_have_columns_without_a_name(session: dbm.Session, people: list[Person]) -> None:
    assert session.execute("SELECT COUNT(*), 1, 1 FROM people").one() == (3, 1, 1)


def test_sql_flushes_what_is_pending(session: dbm.Session) -> None:
    session.add(Person(name="Dan"))
    assert session.scalar("SELECT name FROM people") == "Dan"
    session.rollback()


def test_sql_that_writes_is_part_of_the_transaction(session: dbm.Session, people: list[Person]) -> None:
    assert session.execute("UPDATE people SET score = ?", [9]).rowcount == 3
    assert session.in_transaction()
    session.rollback()
    assert session.scalar("SELECT MAX(score) FROM people") == 0


@pytest.mark.databases("postgresql")
def test_sql_of_several_statements_is_part_of_the_transaction_if_one_may_write(
    session: dbm.Session, people: list[Person]
) -> None:
    session.execute("SELECT 1; DELETE FROM people")
    session.rollback()
    assert session.query(Person).count() == 3


def test_sql_that_ends_a_transaction_after_another_statement_is_refused(session: dbm.Session) -> None:
    with pytest.raises(dbm.InvalidRequestError, match="behind the session's back"):
        session.execute("SELECT 1; COMMIT")


@pytest.mark.parametrize(
    "sql", ["WITH t AS (SELECT 1 AS n) SELECT n FROM t", "-- why\nSELECT 1", "VALUES (1)", "SELECT 1;"]
)
def test_sql_that_only_reads_begins_no_transaction(session: dbm.Session, sql: str) -> None:
    assert session.scalar(sql) == 1
    assert not session.in_transaction()


def test_a_raw_query_on_a_model_gives_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    found = session.execute(Person.raw("SELECT * FROM people WHERE name = ?", "Ann")).one()
    assert found is people[0]


def test_a_raw_query_adds_what_it_computes_to_the_objects(session: dbm.Session, people: list[Person]) -> None:
    found = session.execute(Person.raw("SELECT *, age * 2 AS twice FROM people WHERE name = 'Ann'")).one()
    assert (found is people[0], found.twice) == (True, 60)


@pytest.mark.parametrize("operation", ["union", "union_all", "__or__", "__add__"])
def test_a_union_gives_the_sessions_objects(session: dbm.Session, people: list[Person], operation: str) -> None:
    young, old = Person.select().where(Person.age < 25), Person.select().where(Person.age > 35)
    found = session.execute(getattr(young, operation)(old)).all()
    assert {id(person) for person in found} == {id(people[1]), id(people[2])}


def test_a_union_of_the_sessions_queries_runs_in_the_session(session: dbm.Session, people: list[Person]) -> None:
    young, old = session.query(Person).filter(Person.age < 25), session.query(Person).filter(Person.age > 35)
    assert {id(person) for person in session.execute(young | old)} == {id(people[1]), id(people[2])}
    assert {id(person) for person in young | old} == {id(people[1]), id(people[2])}


@pytest.mark.parametrize("operation", ["union", "union_all", "intersect", "except_"])
def test_a_union_has_the_verbs_of_a_query(session: dbm.Session, people: list[Person], operation: str) -> None:
    young, most = session.query(Person).filter(Person.age < 25), session.query(Person).filter(Person.age < 35)
    found = {"union": ["Ann", "Bob"], "union_all": ["Ann", "Bob", "Bob"], "intersect": ["Bob"], "except_": ["Ann"]}
    both = getattr(most, operation)(young)
    expected = found[operation]
    assert sorted(names(both.all())) == expected
    assert both.count() == len(expected)
    assert both.first() in people
    if len(expected) == 1:
        assert both.one() is both.one_or_none() is next(one for one in people if one.name == expected[0])
    else:
        with pytest.raises(dbm.MultipleResultsFound):
            both.one()
    assert both.union(session.query(Person)).count() == 3


def test_a_union_of_queries_for_rows_gives_rows(session: dbm.Session, people: list[Person]) -> None:
    young = session.query(Person.name, Person.age).filter(Person.age < 25)
    both = young | session.query(Person.name, Person.age).filter(Person.age > 35)
    assert sorted((row.name, row.age) for row in both) == [("Bob", 20), ("Cid", 40)]
    assert sorted(both.scalars()) == ["Bob", "Cid"]


def test_a_union_runs_anew_each_time(session: dbm.Session, people: list[Person]) -> None:
    both = session.query(Person).filter(Person.age < 25) | session.query(Person).filter(Person.age > 35)
    assert len(both.all()) == 2
    session.add(Person(name="Dan", age=50))
    assert len(both.all()) == len(list(both)) == 3


def test_a_query_without_a_model_runs_too(session: dbm.Session, people: list[Person]) -> None:
    table = peewee.Table("people", ["id", "name"])
    found = session.execute(table.select(table.name).where(table.id == people[0].id)).all()
    assert found == [{"name": "Ann"}]


def test_scalars_give_the_first_column(session: dbm.Session, people: list[Person]) -> None:
    assert session.scalars(session.query(Person.name, Person.age).order_by(Person.age)).all() == ["Bob", "Ann", "Cid"]
    assert session.scalars("SELECT name FROM people ORDER BY age").all() == ["Bob", "Ann", "Cid"]
    assert session.scalars(Person.select(Person.name).order_by(Person.age).tuples()).all() == ["Bob", "Ann", "Cid"]
    assert session.scalars(Person.select(Person.name).order_by(Person.age).dicts()).all() == ["Bob", "Ann", "Cid"]


def test_scalars_of_a_query_for_objects_are_the_objects(session: dbm.Session, people: list[Person]) -> None:
    assert session.scalars(Person.select().order_by(Person.id)).all() == people


def test_scalar_of_any_query_is_the_first_value(session: dbm.Session, people: list[Person]) -> None:
    table = peewee.Table("people", ["id", "name"])
    assert session.scalar(Person.select(fn.COUNT(Person.id))) == 3
    assert session.scalar(table.select(fn.COUNT(table.id))) == 3
    assert session.scalar("SELECT 1 WHERE 1 = 0") is None


def test_execute_refuses_parameters_of_a_query_that_has_its_own(session: dbm.Session) -> None:
    for query in (Person.insert(), Person.select(), Person.update(age=0), session.query(Person)):
        with pytest.raises(dbm.ArgumentError, match=r"insert_many\(rows\)"):
            session.execute(query, [{"name": "Joe"}, {"name": "Kim"}])
    assert session.query(Person).count() == 0


def test_a_result_has_the_verbs_of_sqlalchemys(session: dbm.Session, people: list[Person]) -> None:
    objects = session.execute(Person.select().order_by(Person.id))
    assert objects.scalars().all() == people
    assert objects.mappings().first() == {"Person": people[0]}
    rows = session.execute("SELECT name, age FROM people ORDER BY age")
    assert rows.scalars().all() == ["Bob", "Ann", "Cid"]
    assert rows.mappings().all()[0] == {"name": "Bob", "age": 20}
    one = session.execute("SELECT age FROM people WHERE name = :name", {"name": "Bob"})
    assert (one.scalar_one(), one.scalar_one_or_none()) == (20, 20)
    none = session.execute("SELECT age FROM people WHERE name = 'Zed'")
    assert none.scalar_one_or_none() is None
    with pytest.raises(dbm.NoResultFound):
        none.scalar_one()
    with pytest.raises(dbm.MultipleResultsFound):
        rows.scalar_one()


def test_execute_refuses_what_is_no_query(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match="takes a Peewee query or SQL"):
        session.execute(Person)


def test_a_query_is_executed_anew_by_each_session(
    session: dbm.Session, other: dbm.Session, people: list[Person]
) -> None:
    query = Person.select().where(Person.name == "Ann")
    assert session.execute(query).one() is people[0]
    theirs = other.execute(query).one()
    assert (theirs is people[0], theirs.id) == (False, people[0].id)
    assert session.execute(query).one() is people[0]


def test_a_result_is_a_sequence(session: dbm.Session, people: list[Person]) -> None:
    result = session.execute(Person.select().order_by(Person.id))
    assert (len(result), result[1], list(result)) == (3, people[1], people)
    assert (result.first(), result.all()) == (people[0], people)
    with pytest.raises(dbm.MultipleResultsFound):
        result.one()


# Peewee's own ways


def test_an_aggregate_with_a_group(session: dbm.Session, notes: list[Note]) -> None:
    query = (
        session.query(Person.name, fn.COUNT(Note.id).alias("notes"))
        .join(Note, JOIN.LEFT_OUTER)
        .group_by(Person.id)
        .order_by(Person.name)
    )
    assert query.all() == [("Ann", 2), ("Bob", 1), ("Cid", 0)]
    assert query.having(fn.COUNT(Note.id) > 1).all() == [("Ann", 2)]


def test_an_aggregate_beside_an_object(session: dbm.Session, notes: list[Note], people: list[Person]) -> None:
    query = session.query(Person, fn.COUNT(Note.id).alias("notes")).join(Note, JOIN.LEFT_OUTER).group_by(Person.id)
    assert [(row.Person, row.notes) for row in query.order_by(Person.id)] == list(zip(people, [2, 1, 0]))


def test_peewees_select_puts_an_aggregate_on_the_object(session: dbm.Session, notes: list[Note]) -> None:
    query = Person.select(Person, fn.COUNT(Note.id).alias("count")).join(Note).group_by(Person.id).order_by(Person.id)
    assert [(person.name, person.count) for person in session.execute(query)] == [("Ann", 2), ("Bob", 1)]
    assert session.dirty == []


def test_rows_can_be_dicts_tuples_and_named_tuples(session: dbm.Session, people: list[Person]) -> None:
    query = session.query(Person.id, Person.name).filter_by(name="Ann")
    key = people[0].id
    assert query.dicts().all() == [{"id": key, "name": "Ann"}]
    assert query.tuples().all() == [(key, "Ann")]
    assert query.namedtuples().first().name == "Ann"
    assert session.query(Person).filter_by(name="Ann").dicts().one()["tags"] == ["a", "b"]


def test_objects_are_the_sessions_objects(session: dbm.Session, people: list[Person]) -> None:
    found = session.query(Person).filter_by(name="Ann").objects().first()
    assert found is people[0]


def test_objects_of_another_class_are_made_by_it(session: dbm.Session, people: list[Person]) -> None:
    found = session.query(Person.id, Person.name).filter_by(name="Ann").objects(dict).first()
    assert found == {"id": people[0].id, "name": "Ann"}


def test_a_joined_object_of_peewees_select_is_the_sessions(
    session: dbm.Session, notes: list[Note], people: list[Person], statements: Statements
) -> None:
    with statements() as ran:
        found = session.execute(Note.select(Note, Person).join(Person).order_by(Note.id)).all()
        assert [note.person is person for note, person in zip(found, [people[0], people[0], people[1]])] == [True] * 3
    assert len(ran) == 1
    assert found == notes


def test_a_join_loads_the_related_objects(engine: Any, notes: list[Note], statements: Statements) -> None:
    with dbm.open_session(engine) as session, statements() as ran:
        found = session.execute(Note.select(Note, Person).join(Person).order_by(Note.id)).all()
        assert [note.person.name for note in found] == ["Ann", "Ann", "Bob"]
        assert found[0].person is found[1].person is session.get(Person, found[0].person_id)
    assert len(ran) == 1


def test_a_self_join_of_peewees_select_loads_the_parent(engine: Any, tree: list[Node], statements: Statements) -> None:
    parent = Node.alias()
    query = Node.select(Node, parent).join(parent, JOIN.LEFT_OUTER, on=(Node.parent == parent.id)).order_by(Node.id)
    with dbm.open_session(engine) as session, statements() as ran:
        root, left, right = session.execute(query)
        assert (left.parent is root, right.parent is root, root.parent) == (True, True, None)
    assert len(ran) == 1


def test_with_related_loads_the_sessions_objects(
    session: dbm.Session, notes: list[Note], statements: Statements
) -> None:
    with statements() as ran:
        ann, bob, cid = session.query(Person).with_related(Person.notes).order_by(Person.id)
        assert [list(person.notes) for person in (ann, bob, cid)] == [notes[:2], notes[2:], []]
        assert ann.notes[0] is notes[0]
    assert len(ran) == 2


def test_with_related_loads_a_foreign_key(engine: Any, notes: list[Note], statements: Statements) -> None:
    with dbm.open_session(engine) as session, statements() as ran:
        found = session.query(Note).with_related(Note.person).order_by(Note.id).all()
        assert [note.person.name for note in found] == ["Ann", "Ann", "Bob"]
        assert found[0].person is found[1].person
    assert len(ran) == 2


def test_prefetch_loads_the_sessions_objects(session: dbm.Session, notes: list[Note], statements: Statements) -> None:
    with statements() as ran:
        ann, bob, cid = session.query(Person).order_by(Person.id).prefetch(session.query(Note).order_by(Note.id))
        assert [list(person.notes) for person in (ann, bob, cid)] == [notes[:2], notes[2:], []]
        assert ann.notes[0] is notes[0]
    assert len(ran) == 2


def test_what_was_prefetched_takes_no_more_sql(engine: Any, notes: list[Note], statements: Statements) -> None:
    with dbm.open_session(engine) as session:
        found = session.query(Person).order_by(Person.id.desc()).prefetch(session.query(Note))
        with statements() as ran:
            assert [len(list(person.notes)) for person in found] == [0, 1, 2]
        assert ran == []


def test_prefetch_takes_a_model(session: dbm.Session, notes: list[Note]) -> None:
    ann, bob, cid = session.query(Person).order_by(Person.id).prefetch(Note)
    assert [len(person.notes) for person in (ann, bob, cid)] == [2, 1, 0]
    assert bob.notes[0] is notes[2]


def test_paginate_and_peek_are_peewees(session: dbm.Session, people: list[Person]) -> None:
    assert session.query(Person).order_by(Person.name).paginate(2, 2).all() == [people[2]]
    assert session.query(Person).order_by(Person.name).peek() is people[0]


def test_a_common_table_expression_works(session: dbm.Session, tree: list[Node]) -> None:
    base = Node.select(Node.id, peewee.Value(0).alias("depth")).where(Node.parent.is_null()).cte("t", recursive=True)
    step = Node.select(Node.id, base.c.depth + 1).join(base, on=(Node.parent == base.c.id))
    whole = base.union_all(step)
    query = session.query(Node.name, whole.c.depth).join(whole, on=(Node.id == whole.c.id)).with_cte(whole)
    assert query.order_by(Node.id).all() == [("root", 0), ("left", 1), ("right", 1)]


def test_a_window_function_works(session: dbm.Session, people: list[Person]) -> None:
    rank = fn.RANK().over(order_by=[Person.age])
    assert session.query(Person.name, rank.alias("rank")).order_by(Person.name).all() == [
        ("Ann", 2),
        ("Bob", 1),
        ("Cid", 3),
    ]


def test_a_function_of_a_case_or_a_window_can_be_queried_alone(session: dbm.Session, people: list[Person]) -> None:
    grown = peewee.Case(None, [(Person.age > 25, 1)], 0)
    assert session.query(fn.SUM(grown)).scalar() == 2
    ranks = session.query(fn.RANK().over(order_by=[Person.age]).alias("rank")).all()
    assert sorted(row.rank for row in ranks) == [1, 2, 3]


def test_case_can_be_queried(session: dbm.Session, people: list[Person]) -> None:
    size = peewee.Case(None, [(Person.age > 25, "old")], "young")
    assert session.query(Person.name, size.alias("size")).order_by(Person.name).all()[1] == ("Bob", "young")


# Some of the columns


def test_an_object_of_some_columns_has_those(engine: Any, people: list[Person]) -> None:
    with dbm.open_session(engine) as session:
        ann = session.execute(Person.select(Person.id, Person.name).order_by(Person.id)).first()
        assert (ann.id, ann.name) == (people[0].id, "Ann")


def test_a_column_that_was_not_selected_raises(engine: Any, people: list[Person], statements: Statements) -> None:
    with dbm.open_session(engine) as session:
        ann = session.query(Person).select(Person.id, Person.name).order_by(Person.id).first()
        with statements() as ran, pytest.raises(dbm.UnloadedColumnError, match=r"Person\.age was not loaded"):
            _ = ann.age
        assert ran == []


def test_an_object_without_its_key_can_be_shown_and_is_equal_to_none(
    session: dbm.Session, people: list[Person]
) -> None:
    ann, bob, _ = session.execute(Person.select(Person.name)).all()
    assert "name='Ann'" in repr(ann)
    assert str(ann) == "None"
    assert ann != bob
    assert len({ann, bob}) == 2
    with pytest.raises(dbm.UnloadedColumnError, match=r"Select 'id' too\."):
        _ = ann.id


def test_peewee_puts_what_a_query_computes_on_its_own_objects(engine: Any, people: list[Person]) -> None:
    query = Person.select(Person, fn.UPPER(Person.name).alias("loud")).order_by(Person.name)
    assert [person.loud for person in query.execute(engine)] == ["ANN", "BOB", "CID"]
    with engine.bind_ctx([Person]):
        assert [person.loud for person in query] == ["ANN", "BOB", "CID"]
        raw = Person.raw("SELECT id, 'x' AS mark FROM people")
        assert [person.mark for person in raw] == ["x", "x", "x"]
    with pytest.raises(TypeError, match="no column 'loud'"):
        Person(loud="ANN")


def test_a_whole_query_completes_an_object_of_some_columns(engine: Any, people: list[Person]) -> None:
    with dbm.open_session(engine) as session:
        ann = session.query(Person).select(Person.id, Person.name).order_by(Person.id).first()
        assert session.get(Person, ann.id) is ann
        assert ann.age == 30


def test_refresh_completes_an_object_of_some_columns(engine: Any, people: list[Person]) -> None:
    with dbm.open_session(engine) as session:
        ann = session.query(Person).select(Person.id).order_by(Person.id).first()
        session.refresh(ann)
        assert (ann.name, ann.age) == ("Ann", 30)


def test_a_change_of_an_object_of_some_columns_is_all_that_is_written(engine: Any, people: list[Person]) -> None:
    with dbm.transaction(engine) as session:
        ann = session.query(Person).select(Person.id, Person.name).order_by(Person.id).first()
        ann.name = "Anne"
    with dbm.open_session(engine) as session:
        assert session.query(Person.name, Person.age, Person.tags).order_by(Person.id).first() == (
            "Anne",
            30,
            ["a", "b"],
        )


def test_a_column_that_was_not_selected_can_be_set(engine: Any, people: list[Person]) -> None:
    with dbm.transaction(engine) as session:
        session.query(Person).select(Person.id).order_by(Person.id).first().age = 31
    with dbm.open_session(engine) as session:
        assert session.get(Person, people[0].id).age == 31


def test_some_columns_of_an_object_in_the_map_are_the_same_object(session: dbm.Session, people: list[Person]) -> None:
    ann = session.query(Person).select(Person.id, Person.name).order_by(Person.id).first()
    assert (ann is people[0], ann.age) == (True, 30)


def test_a_query_never_drops_unsaved_changes(session: dbm.Session, other: dbm.Session, people: list[Person]) -> None:
    with session.no_autoflush:
        people[0].name = "Anne"
        found = session.query(Person).order_by(Person.id).first()
        assert (found is people[0], found.name, session.dirty) == (True, "Anne", [people[0]])
    session.rollback()


# The SQL of the hot path is kept


def test_filter_by_and_first_compile_their_sql_once(
    session: dbm.Session, people: list[Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    session.query(Person).filter_by(name="Ann").first()
    monkeypatch.setattr(peewee.Context, "sql", lambda *args: pytest.fail("compiled again"))
    assert session.query(Person).filter_by(name="Bob").first() is people[1]
    assert session.query(Person).filter_by(name="Zoe").first() is None


def test_a_commit_in_the_middle_of_streaming_what_the_transaction_wrote_is_refused(session: dbm.Session) -> None:
    session.add_all([Person(name=str(number)) for number in range(5)])
    session.flush()
    rows = iter(session.query(Person).yield_per(2))
    next(rows)
    session.commit()
    with pytest.raises(dbm.ResourceClosedError, match="ended its transaction"):
        list(rows)


def test_a_commit_in_the_middle_of_streaming_committed_rows_is_no_matter(session: dbm.Session) -> None:
    session.add_all([Person(name=str(number)) for number in range(5)])
    session.commit()
    for person in session.query(Person).order_by(Person.id).yield_per(2):
        person.age = 1
        session.commit()
    assert session.query(Person).filter_by(age=1).count() == 5


def test_get_refuses_to_ignore_conditions(session: dbm.Session) -> None:
    with pytest.raises(dbm.InvalidRequestError, match=r"would ignore them: use session\.get\(\)"):
        session.query(Person).filter_by(name="Jo").get(1)


def test_what_was_loaded_eagerly_gives_way_to_a_query_when_something_was_written(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(Note(person=person, text="a"))
    session.commit()
    session.query(Person).with_related(Person.notes).all()
    assert [note.text for note in person.notes] == ["a"]
    session.add(Note(person=person, text="b"))
    session.flush()
    assert [note.text for note in person.notes.order_by(Note.id)] == ["a", "b"]


def test_a_string_in_order_by_is_refused(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"Person\.name"):
        session.query(Person).order_by("name")


def test_an_expression_under_the_name_of_a_column_is_refused(session: dbm.Session) -> None:
    session.add(Person(name="Jo", age=1))
    session.commit()
    with pytest.raises(dbm.ArgumentError, match="another alias"):
        session.execute(Person.select(Person, (Person.age + 100).alias("age")))
    assert session.dirty == []


def test_a_missing_table_is_said_with_the_remedy(session: dbm.Session) -> None:
    class Forgotten(dbm.declarative_base()):  # type: ignore[misc]
        pass

    with pytest.raises(peewee.DatabaseError, match=r"(?s)forgottens.*install_tables.*SELECT"):
        session.query(Forgotten).order_by(Forgotten.id).all()


def test_an_unfinished_stream_keeps_no_old_snapshot(file_engine: Any) -> None:
    with dbm.open_session(file_engine) as session:
        session.add_all([Person(name=str(number)) for number in range(10)])
        session.flush()
        rows = iter(session.query(Person).yield_per(2))
        next(rows)
        session.commit()
        with closing(sqlite3.connect(file_engine.database)) as other:  # on the engine's own connection it would be seen
            with other:
                other.execute("INSERT INTO people (name, score, tags) VALUES ('new', 0, '[]')")
        assert session.query(Person).count() == 11
        rows.close()  # type: ignore[attr-defined]


def test_a_missing_table_is_said_with_the_remedy_by_get_and_filter_by_too(session: dbm.Session) -> None:
    class Omitted(dbm.declarative_base()):  # type: ignore[misc]
        pass

    with pytest.raises(peewee.DatabaseError, match=r"(?s)omitteds.*install_tables.*reading Omitted with the key 1"):
        session.get(Omitted, 1)
    with pytest.raises(peewee.DatabaseError, match=r"(?s)omitteds.*install_tables.*running .SELECT"):
        session.query(Omitted).filter_by(id=1).first()


def test_what_was_loaded_eagerly_gives_way_to_a_query_after_a_bulk_statement(session: dbm.Session) -> None:
    person = Person(name="Jo")
    session.add(Note(person=person, text="a"))
    session.commit()
    session.query(Person).with_related(Person.notes).all()
    session.execute(Note.insert(person=person.id, text="b"))
    assert sorted(note.text for note in person.notes) == ["a", "b"]


def test_get_reads_again_what_a_bulk_delete_may_have_taken_along(session: dbm.Session) -> None:
    person = Person(name="Jo")
    note = Note(person=person)
    session.add(note)
    session.commit()
    number = note.id
    assert session.get(Note, number) is note
    session.query(Person).delete()
    assert session.get(Note, number) is None
