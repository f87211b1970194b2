"""The order in which a flush writes rows: foreign keys, trees, cycles, unique values, primary keys."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Node, Note, Person
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tent.data import dbm

Model = dbm.declarative_base()


class Team(Model):
    """Refers to a player, who refers to it: a cycle through a nullable key."""

    name = peewee.CharField(unique=True)
    captain = peewee.DeferredForeignKey("Player", null=True)


class Player(Model):
    team = peewee.ForeignKeyField(Team, backref="players")
    name = peewee.CharField(default="")


class Egg(Model):
    """Refers to a hen, which refers to it: a cycle that nothing breaks."""

    hen = peewee.DeferredForeignKey("Hen")


class Hen(Model):
    egg = peewee.ForeignKeyField(Egg)


class Rank(Model):
    """Two unique columns without NULL."""

    title = peewee.CharField(unique=True)
    place = peewee.IntegerField(unique=True)
    holder = peewee.ForeignKeyField(Person, null=True)


class Grade(Model):
    """A unique column that holds one letter."""

    letter = peewee.CharField(max_length=1, unique=True)


class Seat(Model):
    """Two columns that are unique together."""

    row = peewee.IntegerField()
    number = peewee.IntegerField()
    guest = peewee.CharField(null=True)

    class Meta:
        indexes = ((("row", "number"), True),)


class Town(Model):
    """Has a key of meaning."""

    name = peewee.CharField(primary_key=True)
    size = peewee.IntegerField(null=True)
    mayor = peewee.CharField(null=True, default="nobody")
    code = peewee.CharField(null=True, unique=True)


class Pier(Model):
    code = peewee.CharField(unique=True)
    beside = peewee.ForeignKeyField("self", null=True)


class Boat(Model):
    """Goes with its pier, which it knows by its code."""

    pier = peewee.ForeignKeyField(Pier, field="code", null=True, on_update="CASCADE", on_delete="CASCADE")


class Sailor(Model):
    boat = peewee.ForeignKeyField(Boat, null=True, on_delete="SET NULL")


class Flag(Model):
    """Has a key, and nothing else."""

    name = peewee.CharField(primary_key=True)


class Street(Model):
    town = peewee.ForeignKeyField(Town, on_update="CASCADE", backref="streets")
    name = peewee.CharField()


class Letter(Model):
    """Refers to a town by its code."""

    town = peewee.ForeignKeyField(Town, field="code", on_update="CASCADE", null=True)


class Path(Model):
    """Goes with its town, and is renamed with it."""

    town = peewee.ForeignKeyField(Town, on_update="CASCADE", on_delete="CASCADE")


class Stall(Model):
    """Has a key of two columns."""

    row = peewee.IntegerField()
    number = peewee.IntegerField()
    goods = peewee.CharField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("row", "number")


class Parcel(Model):
    """The database gives values to two columns."""

    code = peewee.CharField(primary_key=True)
    state = peewee.CharField(null=True, constraints=[peewee.SQL("DEFAULT 'new'")])
    weight = peewee.IntegerField(constraints=[peewee.SQL("DEFAULT 8")])


class Seen(Model):
    """What a trigger has seen of a person."""

    person = peewee.IntegerField()


class Suit(enum.Enum):
    HEARTS = "hearts"
    SPADES = "spades"


class SuitField(peewee.CharField):
    """A user's own, which knows no other values than its own."""

    def db_value(self, value: Any) -> Any:
        return value.value

    def python_value(self, value: Any) -> Any:
        return Suit(value)


class Trump(Model):
    suit = SuitField(unique=True)


class Card(Model):
    suit = SuitField(primary_key=True)


class Coupon(Model):
    """Has unique values that can be given in several types."""

    code = peewee.UUIDField(unique=True, null=True)
    number = peewee.IntegerField(unique=True, null=True)
    follows = peewee.ForeignKeyField("self", null=True)


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


def rows(engine: Any, sql: str) -> list[Any]:
    """What the database says, asked on no session's connection."""
    return list(engine.execute_sql(sql).fetchall())


def writes(ran: list[str]) -> list[str]:
    """The first word of each statement, and the table that it writes."""
    words = [sql.replace("`", '"').split('"') for sql in ran if not sql.startswith("SELECT")]
    return [f"{first.split()[0]} {rest[0]}" for first, *rest in words if rest]


def create_trigger(engine: Any, event: str, body: str) -> None:
    """Let the database run a body for each row of people that an event is about."""
    if engine.kind == "postgresql":
        engine.execute_sql(
            f"CREATE FUNCTION react() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN new; END $$"
        )
        engine.execute_sql(f"CREATE TRIGGER react {event} ON people FOR EACH ROW EXECUTE FUNCTION react()")
    else:
        engine.execute_sql(f"CREATE TRIGGER react {event} ON people FOR EACH ROW BEGIN {body} END")


# Between tables


def test_a_parent_is_inserted_first_whichever_was_added_first(session: Any, statements: Callable[[], Any]) -> None:
    person = Person(name="Jo")
    note = Note(person=person)
    session.add(note)
    session.add(person)
    with statements() as ran:
        session.flush()
    assert writes(ran) == ["INSERT people", "INSERT notes"]
    assert note.person_id == person.id is not None


def test_a_child_that_was_added_last_gets_its_parents_key(session: Any, engine: Any) -> None:
    person = Person(name="Jo")
    session.add(person)
    session.add(Note(person=person, text="a"))
    session.commit()
    assert rows(engine, "SELECT text, person_id FROM notes") == [("a", person.id)]


def test_a_parent_given_by_a_hand_set_key_is_inserted_first(session: Any, engine: Any) -> None:
    session.add(Note(person=7, text="a"))
    session.add(Person(id=7))
    session.commit()
    assert rows(engine, "SELECT person_id FROM notes") == [(7,)]


def test_a_new_parent_of_an_existing_child_is_inserted_before_the_update(
    session: Any, statements: Callable[[], Any]
) -> None:
    note = Note(person=Person(name="old"))
    session.add(note)
    session.commit()
    note.person = Person(name="new")
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT people", "UPDATE notes"]
    assert note.person_id == note.person.id


def test_children_are_deleted_before_their_parents(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    street = Street(town=Town(name="Ulm"), name="Main")
    session.add(street)
    session.commit()
    session.delete(street.town)
    session.delete(street)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["DELETE streets", "DELETE towns"]
    assert rows(engine, "SELECT * FROM towns") == []


def test_children_set_to_none_are_updated_before_their_parent_is_deleted(session: Any, engine: Any) -> None:
    root = Node(name="root")
    child = Node(name="child", parent=root)
    session.add(child)
    session.commit()
    child.parent = None
    session.delete(root)
    session.commit()
    assert rows(engine, "SELECT name, parent_id FROM nodes") == [("child", None)]


def test_children_moved_to_a_new_parent_survive_the_old_one(session: Any, engine: Any) -> None:
    old, new = Person(name="old"), Person(name="new")
    notes = [Note(person=old, text=str(number)) for number in range(3)]
    session.add_all(notes)
    session.commit()
    for note in notes:
        note.person = new
    session.delete(old)
    session.commit()
    assert rows(engine, "SELECT text, person_id FROM notes ORDER BY text") == [(t, new.id) for t in "012"]


def test_children_move_to_a_new_parent_that_takes_the_unique_value_of_the_deleted_one(
    session: Any, engine: Any
) -> None:
    old = Person(email="a@x")
    note = Note(person=old)
    session.add(note)
    session.commit()
    new = Person(email="a@x")
    note.person = new
    session.delete(old)
    session.commit()
    assert rows(engine, "SELECT email, id FROM people") == [("a@x", new.id)]
    assert rows(engine, "SELECT person_id FROM notes") == [(new.id,)]


# Rows of one table


def test_a_tree_is_inserted_level_by_level(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    root = Node(name="root")
    branches = [Node(name=f"b{number}", parent=root) for number in range(3)]
    leaves = [Node(name=f"l{number}", parent=branch) for branch in branches for number in range(4)]
    session.add_all(leaves)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT nodes"] * 3
    assert [leaf.parent_id for leaf in leaves] == [branch.id for branch in branches for _ in range(4)]


def test_a_tree_of_10_000_nodes_is_added_from_its_leaves_in_few_statements(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    level = [Node(name="root")]
    leaves: list[Node] = []
    total = 1
    while total < 10_000:
        level = [Node(name="n", parent=parent) for parent in level for _ in range(10)][: 10_000 - total]
        total += len(level)
        leaves = level
    session.add_all(reversed(leaves))
    orphans = [node for node in session.new if node.parent is None]
    expected = len(session.new)
    with statements() as ran:
        session.commit()
    assert len(orphans) == 1
    assert len(ran) <= 30
    assert rows(engine, "SELECT COUNT(*) FROM nodes") == [(expected,)]
    assert rows(engine, "SELECT COUNT(*) FROM nodes WHERE parent_id IS NULL") == [(1,)]


def test_a_chain_that_is_deeper_than_pythons_stack_is_written_and_deleted(session: Any, engine: Any) -> None:
    node = Node(name="0")
    nodes = [node]
    for number in range(1, 2_000):
        nodes.append(node := Node(name=str(number), parent=node))
    session.add(node)
    session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM nodes WHERE parent_id = id - 1") == [(1_999,)]
    for each in nodes:
        session.delete(each)
    session.commit()
    assert rows(engine, "SELECT COUNT(*) FROM nodes") == [(0,)]


def test_rows_of_one_table_with_hand_set_keys_can_be_added_child_first(session: Any, engine: Any) -> None:
    session.add_all([Node(id=3, name="c", parent=2), Node(id=2, name="b", parent=1), Node(id=1, name="a")])
    session.commit()
    assert rows(engine, "SELECT id, parent_id FROM nodes ORDER BY id") == [(1, None), (2, 1), (3, 2)]


def test_rows_of_one_table_are_deleted_leaf_first(session: Any, engine: Any) -> None:
    root = Node(name="root")
    middle = Node(name="middle", parent=root)
    leaf = Node(name="leaf", parent=middle)
    session.add(leaf)
    session.commit()
    for node in (root, leaf, middle):
        session.delete(node)
    session.commit()
    assert rows(engine, "SELECT * FROM nodes") == []


def test_a_delete_orders_rows_that_were_only_loaded(session: Any, engine: Any, statements: Callable[[], Any]) -> None:
    engine.execute_sql("INSERT INTO nodes (id, name, parent_id) VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2)")
    nodes = session.query(Node).order_by(Node.id).all()
    for node in nodes:
        session.delete(node)
    with statements() as ran:
        session.commit()
    assert not [sql for sql in ran if sql.startswith("SELECT")]
    assert rows(engine, "SELECT * FROM nodes") == []


def test_a_delete_goes_by_the_parent_that_the_row_has_not_the_one_just_set(session: Any, engine: Any) -> None:
    root = Node(name="root")
    child = Node(name="child", parent=root)
    session.add(child)
    session.commit()
    child.parent = None
    session.delete(root)
    session.delete(child)
    session.commit()
    assert rows(engine, "SELECT * FROM nodes") == []


# Cycles


def test_a_row_that_refers_to_itself_gets_its_key_by_a_second_update(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    node = Node(name="self")
    node.parent = node
    session.add(node)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT nodes", "UPDATE nodes"]
    assert rows(engine, "SELECT id, parent_id FROM nodes") == [(node.id, node.id)]
    assert not session.dirty


def test_a_row_with_a_hand_set_key_that_refers_to_itself_needs_no_second_update(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    session.add(Node(id=5, parent=5, name="self"))
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT nodes"]
    assert rows(engine, "SELECT parent_id FROM nodes") == [(5,)]


def test_two_rows_of_one_table_that_refer_to_each_other_are_written(session: Any, engine: Any) -> None:
    one, two = Node(name="one"), Node(name="two")
    one.parent, two.parent = two, one
    session.add(one)
    session.commit()
    assert rows(engine, "SELECT id, parent_id FROM nodes ORDER BY name") == [(one.id, two.id), (two.id, one.id)]
    assert (one.parent_id, two.parent_id) == (two.id, one.id)
    assert not session.dirty


def test_two_rows_with_hand_set_keys_that_refer_to_each_other_are_written(session: Any, engine: Any) -> None:
    session.add_all([Node(id=1, parent=2, name="one"), Node(id=2, parent=1, name="two")])
    session.commit()
    assert rows(engine, "SELECT id, parent_id FROM nodes ORDER BY id") == [(1, 2), (2, 1)]


def test_two_tables_that_refer_to_each_other_are_written_in_three_statements(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    teams = [Team(name=name) for name in "abc"]
    for team in teams:
        team.captain = Player(team=team, name=f"captain of {team.name}")
    session.add_all(teams)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT teams", "INSERT players", "UPDATE teams"]
    found = rows(engine, "SELECT t.name, p.name FROM teams t JOIN players p ON p.id = t.captain_id ORDER BY 1")
    assert found == [(name, f"captain of {name}") for name in "abc"]
    assert not session.dirty


def test_tables_that_refer_to_each_other_need_no_second_update_when_the_rows_do_not(
    session: Any, statements: Callable[[], Any]
) -> None:
    team = Team(name="a")
    session.add_all([Player(team=team), Player(team=team)])
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["INSERT teams", "INSERT players"]


def test_rows_that_refer_to_each_other_can_be_deleted_together(session: Any, engine: Any) -> None:
    team = Team(name="a")
    team.captain = Player(team=team)
    one, two = Node(name="one"), Node(name="two")
    one.parent, two.parent = two, one
    session.add_all([team, one])
    session.commit()
    for instance in (team, team.captain, one, two):
        session.delete(instance)
    session.commit()
    assert rows(engine, "SELECT name FROM teams UNION SELECT name FROM players UNION SELECT name FROM nodes") == []


def test_a_cycle_without_a_nullable_key_is_refused_and_names_models_and_fields(
    session: Any, statements: Callable[[], Any]
) -> None:
    hen = Hen()
    hen.egg = Egg(hen=hen)
    session.add(hen)
    with statements() as ran, pytest.raises(dbm.CircularDependencyError) as caught:
        session.flush()
    for word in ("Hen", "Egg", "egg", "hen"):
        assert word in str(caught.value)
    assert caught.value.cycle[0] is caught.value.cycle[-1]
    assert set(map(id, caught.value.cycle)) == {id(hen), id(hen.egg)}
    assert writes(ran) == []


def test_a_refused_cycle_leaves_the_session_usable(session: Any, engine: Any) -> None:
    hen = Hen()
    egg = Egg(hen=hen)
    hen.egg = egg
    session.add(hen)
    with pytest.raises(dbm.CircularDependencyError):
        session.flush()
    session.rollback()
    session.add(Person(name="Jo"))
    session.commit()
    assert rows(engine, "SELECT name FROM people") == [("Jo",)]
    assert session.state(hen) == session.state(egg) == "transient"


def test_a_rolled_back_cycle_gives_its_objects_their_former_values(session: Any) -> None:
    one, two = Node(name="one"), Node(name="two")
    one.parent, two.parent = two, one
    session.add(one)
    session.flush()
    session.rollback()
    assert one.id is two.id is one.parent_id is two.parent_id is None
    assert one.parent is two and two.parent is one
    session.add(one)
    session.commit()
    assert (one.parent_id, two.parent_id) == (two.id, one.id)


# Order within a table


def test_new_rows_keep_the_order_in_which_they_were_added(session: Any) -> None:
    people = [Person(name=str(number)) for number in range(1_200)]
    session.add_all(people)
    session.commit()
    assert [person.id for person in people] == sorted(person.id for person in people)


def test_updates_go_in_the_order_of_keys(session: Any, engine: Any) -> None:
    session.add_all([Person(id=number, name="a") for number in (1, 2, 3)])
    session.commit()
    create_trigger(engine, "AFTER UPDATE", "INSERT INTO seens (person) VALUES (new.id);")
    for number in (3, 1, 2):
        session.get(Person, number).name = "b"
    session.commit()
    assert rows(engine, "SELECT person FROM seens ORDER BY id") == [(1,), (2,), (3,)]


def test_keys_that_have_no_order_among_them_are_written_all_the_same(session: Any, engine: Any) -> None:
    session.add_all([Town(name="Ulm"), Person(id=1), Stall(row=1, number=2)])
    session.commit()
    session.get(Town, "Ulm").size = 1
    session.get(Person, 1).age = 2
    session.get(Stall, (1, 2)).goods = "figs"
    session.commit()
    assert rows(engine, "SELECT size, age, goods FROM towns, people, stalls") == [(1, 2, "figs")]


# Unique values that are freed and taken in one flush


def test_a_unique_value_can_be_deleted_and_inserted_in_one_commit(session: Any, engine: Any) -> None:
    old = Person(email="a@x", name="old")
    session.add(old)
    session.commit()
    session.delete(old)
    new = Person(email="a@x", name="new")
    session.add(new)
    session.commit()
    assert rows(engine, "SELECT email, name FROM people") == [("a@x", "new")]
    assert session.get(Person, new.id) is new


def test_a_unique_value_of_a_deleted_row_can_be_taken_by_an_update(session: Any, engine: Any) -> None:
    old, other = Person(email="a@x"), Person(email="b@x")
    session.add_all([old, other])
    session.commit()
    other.email = "a@x"
    session.delete(old)
    session.commit()
    assert rows(engine, "SELECT id, email FROM people") == [(other.id, "a@x")]


def test_a_unique_value_that_an_update_frees_can_be_taken_by_a_new_row(session: Any, engine: Any) -> None:
    old = Person(email="a@x", name="old")
    session.add(old)
    session.commit()
    old.email = "b@x"
    session.add(Person(email="a@x", name="new"))
    session.commit()
    assert rows(engine, "SELECT name, email FROM people ORDER BY id") == [("old", "b@x"), ("new", "a@x")]


def test_a_chain_of_unique_values_moves_up(session: Any, engine: Any) -> None:
    people = [Person(email=f"{number}@x") for number in range(5)]
    session.add_all(people)
    session.commit()
    for number, person in enumerate(people):
        person.email = f"{number + 1}@x"
    session.add(Person(email="0@x"))
    session.commit()
    found = rows(engine, "SELECT email FROM people ORDER BY id")
    assert found == [(f"{number}@x",) for number in (1, 2, 3, 4, 5, 0)]


def test_two_rows_can_swap_a_nullable_unique_value(session: Any, engine: Any) -> None:
    one, two = Person(email="1@x"), Person(email="2@x")
    session.add_all([one, two])
    session.commit()
    one.email, two.email = two.email, one.email
    session.commit()
    assert rows(engine, "SELECT email FROM people ORDER BY id") == [("2@x",), ("1@x",)]
    assert (one.email, two.email) == ("2@x", "1@x")


@pytest.mark.parametrize("name", ["title", "place"])
def test_two_rows_can_swap_a_unique_value_that_is_not_nullable(session: Any, engine: Any, name: str) -> None:
    one, two = Rank(title="duke", place=1), Rank(title="earl", place=2)
    session.add_all([one, two])
    session.commit()
    former = getattr(one, name), getattr(two, name)
    setattr(one, name, former[1])
    setattr(two, name, former[0])
    session.commit()
    assert rows(engine, f"SELECT {name} FROM ranks ORDER BY id") == [(former[1],), (former[0],)]


def test_two_rows_can_swap_two_unique_values_at_once(session: Any, engine: Any) -> None:
    one, two = Rank(title="duke", place=1), Rank(title="earl", place=2)
    session.add_all([one, two])
    session.commit()
    one.title, two.title = two.title, one.title
    one.place, two.place = two.place, one.place
    session.commit()
    assert rows(engine, "SELECT title, place FROM ranks ORDER BY id") == [("earl", 2), ("duke", 1)]


def test_two_rows_swap_a_nullable_unique_value_and_their_children_follow(session: Any, engine: Any) -> None:
    one, two = Town(name="Ulm", code="U"), Town(name="Bonn", code="B")
    letters = [Letter(town=one), Letter(town=two)]
    session.add_all(letters)
    session.commit()
    one.code, two.code = "B", "U"
    session.commit()
    assert [(letter.town, letter.town_id) for letter in letters] == [(one, "B"), (two, "U")]
    assert rows(engine, "SELECT town_id FROM letters ORDER BY id") == [("B",), ("U",)]


def test_two_rows_can_swap_a_unique_value_of_one_letter(session: Any, engine: Any) -> None:
    one, two = Grade(letter="A"), Grade(letter="B")
    session.add_all([one, two])
    session.commit()
    one.letter, two.letter = "B", "A"
    session.commit()
    assert rows(engine, "SELECT letter FROM grades ORDER BY id") == [("B",), ("A",)]


@pytest.mark.parametrize("model", [Trump, Card])
def test_a_swap_for_which_a_users_own_field_takes_no_value_on_the_way_is_refused_with_a_remedy(
    session: Any, model: Any
) -> None:
    one, two = model(suit=Suit.HEARTS), model(suit=Suit.SPADES)
    session.add_all([one, two])
    session.commit()
    one.suit, two.suit = two.suit, one.suit
    with pytest.raises(dbm.FlushError, match="Give it another value, flush"):
        session.commit()
    session.rollback()
    assert (one.suit, two.suit) == (Suit.HEARTS, Suit.SPADES)


def test_three_rows_can_pass_a_unique_value_round(session: Any, engine: Any) -> None:
    ranks = [Rank(title=title, place=place) for place, title in enumerate("abc")]
    session.add_all(ranks)
    session.commit()
    for rank, title in zip(ranks, "bca"):
        rank.title = title
    session.commit()
    assert rows(engine, "SELECT title FROM ranks ORDER BY place") == [("b",), ("c",), ("a",)]


def test_rows_can_swap_values_that_are_unique_together(session: Any, engine: Any) -> None:
    one, two = Seat(row=1, number=1, guest="one"), Seat(row=1, number=2, guest="two")
    session.add_all([one, two])
    session.commit()
    one.number, two.number = 2, 1
    session.commit()
    assert rows(engine, "SELECT guest FROM seats ORDER BY row, number") == [("two",), ("one",)]


def test_values_that_are_unique_together_can_be_deleted_and_inserted_in_one_commit(session: Any, engine: Any) -> None:
    old = Seat(row=1, number=1, guest="old")
    session.add_all([old, Seat(row=2, number=1, guest="other")])
    session.commit()
    session.delete(old)
    session.add(Seat(row=1, number=1, guest="new"))
    session.commit()
    assert rows(engine, "SELECT guest FROM seats ORDER BY row") == [("new",), ("other",)]


def test_an_update_that_frees_a_value_and_waits_for_a_new_row_gets_its_key(session: Any, engine: Any) -> None:
    rank = Rank(title="duke", place=1)
    session.add(rank)
    session.commit()
    rank.title, rank.holder = "earl", Person(name="Jo")
    session.add(Rank(title="duke", place=2))
    session.commit()
    found = rows(engine, "SELECT title, name FROM ranks LEFT JOIN people ON people.id = holder_id ORDER BY place")
    assert found == [("earl", "Jo"), ("duke", None)]


def test_the_end_of_a_chain_of_freed_values_waits_for_a_new_row_and_gets_its_key(session: Any, engine: Any) -> None:
    one, two = Rank(title="a", place=1), Rank(title="b", place=2)
    session.add_all([one, two])
    session.commit()
    session.add(Rank(title="a", place=3))
    one.title = "b"
    two.title, two.holder = "c", Person(name="Jo")
    session.commit()
    found = rows(engine, "SELECT title, name FROM ranks LEFT JOIN people ON people.id = holder_id ORDER BY place")
    assert found == [("b", None), ("c", "Jo"), ("a", None)]


def test_a_new_row_that_takes_a_unique_value_from_a_row_which_shall_refer_to_it(session: Any, engine: Any) -> None:
    class Folder(dbm.declarative_base()):  # type: ignore[misc]
        name = peewee.CharField(unique=True)
        inside = peewee.ForeignKeyField("self", null=True)

    dbm.install_tables(engine, models=[Folder])
    old = Folder(name="home")
    session.add(old)
    session.commit()
    new = Folder(name="home")
    old.name, old.inside = "old", new
    session.add(new)
    session.commit()
    assert rows(engine, "SELECT name, inside_id FROM folders ORDER BY id") == [("old", new.id), ("home", None)]


def test_a_grandchild_is_moved_before_the_early_delete_of_what_it_was_in(session: Any, engine: Any) -> None:
    class Box(dbm.declarative_base()):  # type: ignore[misc]
        label = peewee.CharField(unique=True)
        inside = peewee.ForeignKeyField("self", null=True)

    dbm.install_tables(engine, models=[Box])
    top = Box(label="top")
    middle = Box(label="middle", inside=top)
    small = Box(label="small", inside=middle)
    session.add(small)
    session.commit()
    new = Box(label="top")
    small.inside = new
    session.add(new)
    session.delete(top)
    session.delete(middle)
    session.commit()
    assert rows(engine, "SELECT label, inside_id FROM boxes ORDER BY label") == [("small", new.id), ("top", None)]


def test_a_swap_that_is_rolled_back_leaves_rows_and_objects_as_they_were(session: Any, engine: Any) -> None:
    one, two = Person(email="1@x"), Person(email="2@x")
    session.add_all([one, two])
    session.commit()
    one.email, two.email = two.email, one.email
    session.flush()
    session.rollback()
    assert (one.email, two.email) == ("1@x", "2@x")
    assert rows(engine, "SELECT email FROM people ORDER BY id") == [("1@x",), ("2@x",)]


# Primary keys


def test_a_changed_key_is_written_with_the_old_key_in_the_where(session: Any, statements: Callable[[], Any]) -> None:
    town = Town(name="Ulm", size=3)
    session.add(town)
    session.commit()
    town.name = "Neu-Ulm"
    with statements() as ran:
        session.commit()
    assert len([sql for sql in ran if sql.startswith("UPDATE")]) == 1
    assert session.get(Town, "Neu-Ulm") is town
    assert session.get(Town, "Ulm") is None


def test_a_key_that_is_changed_and_then_deleted_is_deleted_by_the_old_one(session: Any, engine: Any) -> None:
    town = Town(name="Ulm")
    session.add(town)
    session.commit()
    town.name = "Bonn"
    session.delete(town)
    session.commit()
    assert rows(engine, "SELECT * FROM towns") == []


def test_a_key_that_is_deleted_and_inserted_becomes_one_update_of_all_columns(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    old = Town(name="Ulm", size=3, mayor="Jo")
    session.add(old)
    session.commit()
    session.delete(old)
    new = Town(name="Ulm")
    session.add(new)
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["UPDATE towns"]
    assert rows(engine, "SELECT name, size, mayor FROM towns") == [("Ulm", None, "nobody")]
    assert session.get(Town, "Ulm") is new
    assert session.state(old) == "detached"


def test_a_row_switch_with_a_composite_key_is_one_update(
    session: Any, engine: Any, statements: Callable[[], Any]
) -> None:
    old = Stall(row=1, number=1, goods="figs")
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(Stall(row=1, number=1, goods="nuts"))
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["UPDATE stalls"]
    assert rows(engine, "SELECT goods FROM stalls") == [("nuts",)]


def test_a_row_switch_that_is_rolled_back_gives_the_old_object_back(session: Any, engine: Any) -> None:
    old = Town(name="Ulm", size=3)
    session.add(old)
    session.commit()
    session.delete(old)
    new = Town(name="Ulm", size=4)
    session.add(new)
    session.flush()
    session.rollback()
    assert session.get(Town, "Ulm") is old
    assert (session.state(old), session.state(new)) == ("persistent", "transient")
    assert (old.size, new.size) == (3, 4)
    assert rows(engine, "SELECT size FROM towns") == [(3,)]


def test_a_row_switch_keeps_the_children_of_the_row(session: Any, engine: Any) -> None:
    old = Town(name="Ulm")
    session.add(Street(town=old, name="Main"))
    session.commit()
    session.delete(old)
    session.add(Town(name="Ulm", size=1))
    session.commit()
    assert rows(engine, "SELECT s.name, t.size FROM streets s JOIN towns t ON t.name = s.town_id") == [("Main", 1)]


def test_children_follow_the_unique_value_of_a_row_that_is_taken_over(session: Any, engine: Any) -> None:
    old = Town(name="Ulm", code="U")
    letter = Letter(town=old)
    session.add_all([old, letter])
    session.commit()
    session.delete(old)
    session.add(new := Town(name="Ulm", code="V"))
    session.commit()
    assert rows(engine, "SELECT town_id FROM letters") == [("V",)]
    assert (letter.town_id, letter.town) == ("V", new)


def test_a_row_switch_that_keeps_a_unique_value_is_written(session: Any, engine: Any) -> None:
    old = Person(id=1, email="a@x", name="old")
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(Person(id=1, email="a@x", name="new"))
    session.commit()
    assert rows(engine, "SELECT id, email, name FROM people") == [(1, "a@x", "new")]


def test_two_row_switches_can_swap_a_unique_value(session: Any, engine: Any) -> None:
    old = [Person(id=1, email="1@x"), Person(id=2, email="2@x")]
    session.add_all(old)
    session.commit()
    for person in old:
        session.delete(person)
    session.add_all([Person(id=1, email="2@x"), Person(id=2, email="1@x")])
    session.commit()
    assert rows(engine, "SELECT id, email FROM people ORDER BY id") == [(1, "2@x"), (2, "1@x")]


@pytest.mark.parametrize("values", [{}, {"weight": 5}, {"state": "sent"}])
def test_a_new_row_with_the_key_of_a_deleted_one_gets_what_the_database_gives_by_default(
    session: Any, engine: Any, values: dict[str, Any]
) -> None:
    old = Parcel(code="a", state="old", weight=1)
    session.add(old)
    session.commit()
    session.delete(old)
    new = Parcel(code="a", **values)
    session.add(new)
    session.flush()
    expected = {"code": "a", "state": "new", "weight": 8, **values}
    assert new.__data__ == expected
    session.rollback()
    assert session.get(Parcel, "a") is old
    session.delete(old)
    session.add(new)
    session.commit()
    assert rows(engine, "SELECT code, state, weight FROM parcels") == [tuple(expected.values())]
    assert session.get(Parcel, "a") is new


def test_a_new_row_that_leaves_nothing_to_the_database_takes_over_the_deleted_one(
    session: Any, statements: Callable[[], Any]
) -> None:
    old = Parcel(code="a")
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(Parcel(code="a", state=None, weight=2))
    with statements() as ran:
        session.commit()
    assert writes(ran) == ["UPDATE parcels"]


def test_a_chain_of_keys_moves_up(session: Any, engine: Any) -> None:
    towns = [Town(name=name, size=size) for size, name in enumerate("abc")]
    session.add_all(towns)
    session.commit()
    for town, name in zip(towns, "bcd"):
        town.name = name
    session.commit()
    assert rows(engine, "SELECT name, size FROM towns ORDER BY name") == [("b", 0), ("c", 1), ("d", 2)]
    assert [session.get(Town, name) for name in "bcd"] == towns
    assert session.get(Town, "a") is None


def test_a_new_row_takes_a_key_that_another_row_leaves(session: Any, engine: Any) -> None:
    old = Town(name="a", size=1)
    session.add(old)
    session.commit()
    old.name = "b"
    new = Town(name="a", size=2)
    session.add(new)
    session.commit()
    assert rows(engine, "SELECT name, size FROM towns ORDER BY name") == [("a", 2), ("b", 1)]
    assert session.get(Town, "a") is new
    assert session.get(Town, "b") is old


def test_two_rows_can_swap_their_keys(session: Any, engine: Any) -> None:
    one, two = Town(name="a", size=1), Town(name="b", size=2)
    session.add_all([one, two])
    session.commit()
    one.name, two.name = "b", "a"
    session.commit()
    assert rows(engine, "SELECT name, size FROM towns ORDER BY name") == [("a", 2), ("b", 1)]
    assert session.get(Town, "a") is two
    assert session.get(Town, "b") is one


def test_two_rows_can_swap_generated_keys(session: Any, engine: Any) -> None:
    one, two = Person(name="one"), Person(name="two")
    session.add_all([one, two])
    session.commit()
    one.id, two.id = two.id, one.id
    session.commit()
    assert rows(engine, "SELECT name FROM people ORDER BY id") == [("two",), ("one",)]


def test_two_rows_can_swap_keys_of_two_columns(session: Any, engine: Any) -> None:
    one, two = Stall(row=1, number=2, goods="one"), Stall(row=2, number=1, goods="two")
    session.add_all([one, two])
    session.commit()
    one.row, one.number, two.row, two.number = 2, 1, 1, 2
    session.commit()
    assert rows(engine, "SELECT row, number, goods FROM stalls ORDER BY row") == [(1, 2, "two"), (2, 1, "one")]
    assert session.get(Stall, (2, 1)) is one


def test_a_swap_of_keys_that_is_rolled_back_is_undone_in_the_map(session: Any) -> None:
    one, two = Town(name="a", size=1), Town(name="b", size=2)
    session.add_all([one, two])
    session.commit()
    one.name, two.name = "b", "a"
    session.flush()
    session.rollback()
    assert (one.name, two.name) == ("a", "b")
    assert session.get(Town, "a") is one
    assert session.get(Town, "b") is two


def test_a_changed_key_reaches_the_children_in_memory(session: Any, engine: Any) -> None:
    town = Town(name="Ulm")
    street = Street(town=town, name="Main")
    session.add(street)
    session.commit()
    town.name = "Bonn"
    session.commit()
    assert rows(engine, "SELECT town_id FROM streets") == [("Bonn",)]
    assert street.town_id == "Bonn"
    assert street.town is town
    assert not session.dirty


def test_a_child_that_is_moved_to_the_town_which_takes_a_name_does_not_follow_the_one_that_leaves_it(
    session: Any, engine: Any
) -> None:
    leaving, taking = Town(name="a"), Town(name="b")
    moved, staying = Street(town=taking, name="Main"), Street(town=leaving, name="High")
    session.add_all([leaving, taking, moved, staying])
    session.commit()
    leaving.name, taking.name, moved.town = "c", "a", taking
    session.add(new := Street(town=taking, name="New"))
    session.commit()
    assert [(street.town, street.town_id) for street in (moved, staying, new)] == [
        (taking, "a"),
        (leaving, "c"),
        (taking, "a"),
    ]
    assert rows(engine, "SELECT town_id FROM streets ORDER BY name") == [("c",), ("a",), ("a",)]


def test_a_child_is_moved_while_two_parents_swap_their_keys(session: Any, engine: Any) -> None:
    one, two = Town(name="a"), Town(name="b")
    streets = [Street(town=one, name="Main"), Street(town=two, name="High")]
    session.add_all([one, two, *streets])
    session.commit()
    streets[0].town = two
    one.name, two.name = "b", "a"
    session.commit()
    assert [street.town_id for street in streets] == ["a", "a"]
    assert rows(engine, "SELECT town_id FROM streets") == [("a",), ("a",)]


def test_a_child_that_follows_into_the_key_of_a_deleted_parent_does_not_go_with_that_one(
    session: Any, engine: Any
) -> None:
    old, new = Town(name="a"), Town(name="b")
    child, gone = Path(town=new), Path(town=old)
    session.add_all([old, new, child, gone])
    session.commit()
    session.delete(old)
    new.name = "a"
    session.commit()
    assert (session.state(child), session.state(gone)) == ("persistent", "detached")
    assert child.town_id == "a"
    assert rows(engine, "SELECT town_id FROM paths") == [("a",)]


def test_a_child_that_is_added_as_its_parent_changes_its_key_gets_the_new_one(session: Any, engine: Any) -> None:
    town = Town(name="Ulm")
    session.add(town)
    session.commit()
    town.name = "Bonn"
    session.add(Street(town=town, name="Main"))
    session.commit()
    assert rows(engine, "SELECT town_id FROM streets") == [("Bonn",)]


def test_a_new_row_without_a_key_is_refused_and_stays_pending(session: Any, engine: Any) -> None:
    town = Town(size=1)
    session.add(town)
    with pytest.raises((dbm.FlushError, peewee.IntegrityError), match="Town"):
        session.flush()
    assert session.state(town) == "pending"
    town.name = "Ulm"
    session.commit()
    assert rows(engine, "SELECT name, size FROM towns") == [("Ulm", 1)]


def test_a_key_that_is_set_to_none_is_refused(session: Any, engine: Any) -> None:
    stall = Stall(row=1, number=1, goods="figs")
    session.add(stall)
    session.commit()
    stall.number = None
    with pytest.raises((dbm.FlushError, peewee.IntegrityError), match="Stall"):
        session.flush()
    session.rollback()
    assert stall.number == 1
    assert rows(engine, "SELECT row, number FROM stalls") == [(1, 1)]


@pytest.mark.databases("sqlite", "postgresql")  # MariaDB's triggers can't do away with a row
def test_an_insert_whose_key_a_trigger_does_away_with_is_refused(session: Any, engine: Any) -> None:
    ignore = {
        "sqlite": "SELECT RAISE(IGNORE) WHERE new.name = 'no';",
        "postgresql": "IF new.name = 'no' THEN RETURN NULL; END IF;",
    }
    create_trigger(engine, "BEFORE INSERT", ignore[engine.kind])
    people = [Person(name="yes"), Person(name="no")]
    session.add_all(people)
    with pytest.raises(dbm.FlushError, match="people"):
        session.flush()
    assert [person.id for person in people] == [None, None]
    assert rows(engine, "SELECT * FROM people") == []
    session.rollback()
    assert [session.state(person) for person in people] == ["transient", "transient"]


# All together


class Item(Model):
    """What a flush has to order: a key of meaning, unique columns, and references to rows of its own table."""

    key = peewee.IntegerField(primary_key=True)
    code = peewee.CharField(unique=True)
    rank = peewee.IntegerField(unique=True)
    row = peewee.IntegerField()
    number = peewee.IntegerField(null=True)
    inside = peewee.ForeignKeyField("self", null=True, on_update="CASCADE")

    class Meta:
        indexes = ((("row", "number"), True),)


Row = dict[str, Any]
Change = tuple[list[Row], list[Row | None]]  # rows before, and the same rows after: None for those that are deleted


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """From one sound state to another; `inside` is the place, in the list after, of the row that is referred to."""
    before = draw_rows(draw, draw(st.integers(0, 5)))
    stays = [draw(st.booleans()) for _ in before]
    rows = iter(draw_rows(draw, sum(stays) + draw(st.integers(0, 3))))
    after = [next(rows) if survives else None for survives in stays] + list(rows)
    if draw(st.booleans()):  # keep the keys
        for number, row in enumerate(after):
            if row is not None:
                row["key"] = before[number]["key"] if number < len(before) else 100 + number
    places = [number for number, row in enumerate(after) if row is not None]
    for number in places:
        after[number] = {**(after[number] or {}), "inside": draw(st.none() | st.sampled_from(places))}
    return before, after


def draw_rows(draw: st.DrawFn, count: int) -> list[Row]:
    keys, codes, ranks = (draw(st.permutations(values)) for values in (range(1, 9), "abcdefgh", range(8)))
    pairs = draw(st.permutations([(row, number) for row in range(2) for number in (1, 2, 3, None)]))
    columns = zip(keys, codes, ranks, pairs)
    rows = [{"key": k, "code": c, "rank": r, "row": row, "number": number} for k, c, r, (row, number) in columns]
    return rows[:count]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=changes())
def test_any_changes_that_end_in_a_sound_state_are_written(engine: Any, change: Change) -> None:
    before, after = change
    dbm.uninstall_tables(engine, models=[Item])  # those of the example before
    dbm.install_tables(engine, models=[Item])
    with dbm.open_session(engine) as session:
        items = [Item(**row) for row in before]
        session.add_all(items)
        session.commit()
        new = [Item() for _ in after[len(before) :]]
        items += new
        for item, row in zip(items, after):
            if row is None:
                session.delete(item)
                continue
            for name, value in row.items():
                setattr(item, name, items[value] if name == "inside" and value is not None else value)
        session.add_all(new)
        session.commit()
        left = [(item, row) for item, row in zip(items, after) if row is not None]
        wanted = [{**row, "inside": None if row["inside"] is None else items[row["inside"]].key} for _, row in left]
        assert [session.get(Item, row["key"]) is item for item, row in left] == [True] * len(left)
        assert [{**item.__data__} for item, _ in left] == wanted
        assert session.dirty == []
    names = ("key", "code", "rank", "row", "number", "inside")
    found = Item.select(*(getattr(Item, name) for name in names)).tuples().execute(engine)
    assert sorted(found) == sorted(tuple(row[name] for name in names) for row in wanted)


@pytest.mark.parametrize(
    ("field", "one", "two"),
    [
        (peewee.DateField, datetime.date(2000, 1, 1), datetime.date(2001, 1, 1)),
        (peewee.DateTimeField, datetime.datetime(2000, 1, 1, 12), datetime.datetime(2001, 1, 1, 12)),
        (peewee.FloatField, 1.5, 2.5),
        (peewee.UUIDField, uuid.UUID(int=1), uuid.UUID(int=2)),
        (peewee.SmallIntegerField, 1, 2),
    ],
)
def test_rows_can_swap_unique_values_of_any_plain_type(session: dbm.Session, field: Any, one: Any, two: Any) -> None:
    class Badge(dbm.declarative_base()):  # type: ignore[misc]
        value = field(unique=True)

    dbm.install_tables(session.engine, models=[Badge])
    first, second = Badge(value=one), Badge(value=two)
    session.add_all([first, second])
    session.commit()
    first.value, second.value = two, one
    session.commit()
    assert session.query(Badge.value).order_by(Badge.id).all() == [(two,), (one,)]


GIVEN = [("code", uuid.UUID(int=1), str(uuid.UUID(int=1))), ("number", 1, "1")]


@pytest.mark.parametrize(("name", "value", "given"), GIVEN)
def test_a_unique_value_can_be_taken_in_another_type(session: Any, name: str, value: Any, given: Any) -> None:
    old, new = Coupon(**{name: value}), Coupon(**{name: given})
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(new)
    session.commit()
    assert getattr(new, name) == value
    assert session.query(Coupon).all() == [new]


def test_two_rows_can_swap_unique_values_that_are_given_in_another_type(session: Any, engine: Any) -> None:
    one, two = Coupon(number=1), Coupon(number=2)
    session.add_all([one, two])
    session.commit()
    one.number, two.number = "2", "1"
    session.commit()
    assert (one.number, two.number) == (2, 1)
    assert rows(engine, "SELECT number FROM coupons ORDER BY id") == [(2,), (1,)]


def test_a_parent_given_by_a_key_of_another_type_is_inserted_first(session: Any, engine: Any) -> None:
    session.add_all([Coupon(id=1, follows="2000"), *[Coupon(id=number) for number in range(2, 2_001)]])
    session.commit()
    assert rows(engine, "SELECT follows_id FROM coupons WHERE id = 1") == [(2000,)]


def test_a_value_that_a_unique_column_can_not_hold_is_refused_by_name(session: Any) -> None:
    old = Coupon(code=uuid.UUID(int=1))
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(Coupon(code="no code"))
    with pytest.raises(peewee.DataError, match=r"Coupon\.code .* can't hold 'no code'"):
        session.commit()


def test_a_row_of_nothing_but_a_key_can_be_deleted_and_added_again(session: Any, engine: Any) -> None:
    old, new = Flag(name="red"), Flag(name="red")
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(new)
    session.commit()
    assert session.query(Flag).one() is new
    assert session.state(old) == "detached"


def test_a_row_of_nothing_but_a_key_that_is_gone_can_not_be_taken_over(session: Any, other: Any) -> None:
    old = Flag(name="red")
    session.add(old)
    session.commit()
    other.delete(other.get(Flag, "red"))
    other.commit()
    session.delete(old)
    session.add(Flag(name="red"))
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    session.rollback()


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_reference_to_what_takes_the_value_of_another_row_is_written(session: Any, engine: Any, how: str) -> None:
    old = Town(name="Ulm", code="U")
    letter = Letter(town=old)
    session.add_all([old, letter])
    session.commit()
    if how == "renamed":
        old.code = "O"
    else:
        session.delete(old)
    letter.town = new = Town(name="Unna", code="U")
    session.add(new)
    session.commit()
    assert rows(engine, "SELECT town_id FROM letters") == [("U",)]
    assert (letter.town, letter.town_id) == (new, "U")
    assert not session.is_modified(letter)


def test_what_refers_to_a_row_that_gives_its_value_away_on_the_way_and_is_deleted_is_known(
    session: Any, engine: Any
) -> None:
    old = Pier(code="A")
    new, boat = Pier(code="B", beside=old), Boat(pier=old)
    sailor = Sailor(boat=boat)
    session.add_all([old, new, sailor])
    session.commit()
    new.code, new.beside = "A", None
    session.delete(old)
    session.commit()
    assert rows(engine, "SELECT boat_id FROM sailors") == [(None,)]
    assert (sailor.boat, session.state(boat)) == (None, "detached")
    assert not session.is_modified(sailor)


def test_a_table_that_refers_to_itself_does_not_change_the_order_of_others(session: dbm.Session) -> None:
    leaf = Node(name="leaf", parent=Node(name="root"))
    people = [Person(name=str(number)) for number in range(4)]
    session.add_all([people[0], leaf, *people[1:]])
    session.commit()
    assert [person.id for person in people] == sorted(person.id for person in people)
