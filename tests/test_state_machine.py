"""Two sessions on one database do anything in any order; plain dicts say what has to come of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import (
    Model,
    Node,
    Note,
    Person,
    StateMachine,
    install_tables_with_keys_that_do_not_come_again,
    run_sql,
)
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tent.data import dbm

Tables = dict[type, dict[int, dict[str, Any]]]

COLUMNS: dict[type, tuple[str, ...]] = {
    Person: ("name", "email", "age"),
    Note: ("text", "person"),
    Node: ("name", "parent"),
}
REFERENCES = {"person": Person, "parent": Node}
READ_ALL = {
    Person: "SELECT id, name, email, age FROM people",
    Note: "SELECT id, text, person_id FROM notes",
    Node: "SELECT id, name, parent_id FROM nodes",
}


class Known:
    """An object of a session, and what is expected of it."""

    def __init__(self, instance: Any, row: dict[str, Any]) -> None:
        self.instance = instance
        self.model = type(instance)
        self.row = row  # what its row has; of a new object, what it was given
        self.changes: dict[str, Any] = {}
        self.new = False
        self.marked = False
        self.inserted: int | None = None  # how many transactions and savepoints were open at its insert
        self.deleted: int | None = None

    @property
    def is_there(self) -> bool:
        return self.deleted is None

    def effective(self) -> dict[str, Any]:
        """Return the changes that a flush will write."""
        return {name: value for name, value in self.changes.items() if is_new(value) or key(value) != self.row[name]}

    def refers_to(self, target: Known) -> bool:
        return any(value is target for value in (self.row if self.new else self.changes).values())


def is_new(value: Any) -> bool:
    return isinstance(value, Known) and value.new


def key(value: Any) -> Any:
    """Return a foreign key as the row has it."""
    return value.instance.id if isinstance(value, Known) else value


class Side:
    """A session and what is expected of it."""

    def __init__(self, engine: Any) -> None:
        self.session = dbm.open_session(engine)
        self.known: list[Known] = []
        self.scopes: list[tuple[Any, Tables]] = []  # savepoints with the tables before them; the first is no savepoint
        self.tables: Tables | None = None  # in a transaction: the tables as the session has them

    def of(self, model: type) -> list[Known]:
        return [known for known in self.known if known.model is model and known.is_there and not known.marked]

    def has_unflushed(self) -> bool:
        return any(known.new or known.marked or known.changes for known in self.known if known.is_there)


class TwoSessions(StateMachine):
    def __init__(self, engine: Any, outside: Any) -> None:
        super().__init__()
        self.engine = engine
        self.is_shared = outside is None  # in memory, sessions share a connection: one sees what the other has flushed
        self.outside = outside or engine
        self.committed: Tables = {model: {} for model in COLUMNS}
        self.sides = [Side(self.engine), Side(self.engine)]
        self.side = self.sides[0]
        self.leftovers: list[Any] = []

    def teardown(self) -> None:
        for side in self.sides:
            side.session.rollback()
            side.session.close()
        with self.engine.atomic():
            for sql in ("DELETE FROM notes", "DELETE FROM people", "UPDATE nodes SET parent_id = NULL"):
                run_sql(self.engine, sql)
            run_sql(self.engine, "DELETE FROM nodes")

    @initialize()
    def start_with_rows_that_both_sessions_have(self) -> None:
        people = [Person(name="n", email=email) for email in ("a", "b", None)]
        root = Node(name="root")
        self.add(*people, root)
        self.add(Note(text="t", person=people[0]), Note(text="t", person=people[1]), Node(name="leaf", parent=root))
        self.commit()
        self.side = self.sides[1]
        for model, rows in self.committed.items():
            for number in rows:
                self.load(model, number)

    # What is expected

    def view(self, side: Side) -> Tables:
        sides = [side, *self.sides] if self.is_shared else [side]
        return next((one.tables for one in sides if one.tables is not None), self.committed)

    def may_write(self) -> bool:
        return all(side.tables is None for side in self.sides if side is not self.side)

    def may_flush(self) -> bool:
        return self.may_write() or not self.side.has_unflushed()

    def begin(self) -> None:
        if self.side.tables is None:
            self.side.tables = copy.deepcopy(self.committed)
            self.side.scopes.append((None, {}))

    def after_flush(self) -> tuple[Tables, list[type[Exception]]]:
        """Return the tables as a flush leaves them, new rows by numbers below 0; or the errors that it may raise."""
        tables, errors = copy.deepcopy(self.view(self.side)), []
        living = [known for known in self.side.known if known.is_there]
        for known in living:
            rows, number = tables[known.model], known.instance.id
            if (known.marked or known.effective()) and number not in rows:
                errors.append(dbm.StaleDataError)
            elif known.effective() and not known.marked:
                rows[number] = {**rows[number], **known.effective()}
            elif known.new:
                rows[-1 - len(rows)] = known.row
        for known in living:
            if known.marked:
                tables[known.model].pop(known.instance.id, None)
        for number, row in list(tables[Note].items()):
            if not is_new(row["person"]) and key(row["person"]) not in tables[Person]:
                del tables[Note][number]  # ON DELETE CASCADE
        emails = [row["email"] for row in tables[Person].values() if row["email"] is not None]
        parents = [row["parent"] for row in tables[Node].values() if not is_new(row["parent"])]
        if len(emails) > len(set(emails)) or not set(map(key, parents)) <= {None, *tables[Node]}:
            errors.append(peewee.IntegrityError)
        return tables, errors

    def flush_by(self, call: Callable[[], Any]) -> bool:
        """Make a call that flushes, check that it fails if it has to, and return whether it was done."""
        tables, errors = self.after_flush()
        if errors:
            before = self.books()
            with pytest.raises(tuple(errors)):
                call()
            assert self.books() == before
            self.rollback()
            return False
        call()
        self.note_flush(tables)
        return True

    def books(self) -> list[list[int]]:
        session = self.side.session
        return [sorted(map(id, books)) for books in (session.new, session.dirty, session.deleted)]

    def note_flush(self, tables: Tables) -> None:
        side = self.side
        living = [known for known in side.known if known.is_there]
        if any(known.new or known.marked or known.effective() for known in living):
            self.begin()
            side.tables = tables
        level = len(side.scopes)
        for known in living:
            if known.new:
                assert known.instance.id not in {None, *tables[known.model]}
                known.new, known.inserted = False, level
                tables[known.model][known.instance.id] = known.row
            if known.marked:
                known.marked, known.deleted = False, level
            known.changes = {}
        for model, rows in tables.items():
            kept = {number: {name: key(value) for name, value in row.items()} for number, row in rows.items()}
            tables[model] = {number: row for number, row in kept.items() if number > 0}
        for known in living:
            known.row = dict(tables[known.model].get(known.instance.id, known.row))

    def note_rollback(self, side: Side, level: int, tables: Tables) -> None:
        """Note that all was undone that was done with this many, or more, transactions and savepoints open."""
        kept = []
        for known in side.known:
            if known.new or (known.inserted is not None and known.inserted >= level):
                assert side.session.state(known.instance) == "transient"
                assert known.instance.id is None
                self.leftovers.append(known.instance)
                continue
            known.changes, known.marked = {}, False
            if known.deleted is not None and known.deleted >= level:
                known.deleted = None
            if known.is_there:
                row = tables[known.model].get(known.instance.id)
                assert side.session.state(known.instance) == "persistent"
                if row is not None:
                    assert shown(known.instance) == row
            kept.append(known)
        side.known = kept

    # What is done

    def add(self, *instances: Any) -> None:
        for instance in instances:
            row = {name: getattr(instance, name) for name in COLUMNS[type(instance)]}
            row = {name: self.known_as(value) for name, value in row.items()}
            known = Known(instance, row)
            known.new = True
            self.side.session.add(instance)
            self.side.known.append(known)

    def known_as(self, value: Any) -> Any:
        if not isinstance(value, peewee.Model):
            return value
        return next(known for known in self.side.known if known.instance is value)

    @rule()
    def go_to_the_other_session(self) -> None:
        self.side = self.sides[self.side is self.sides[0]]

    @rule(name=st.sampled_from("xyz"), email=st.sampled_from([None, None, "a", "b", "c"]))
    def add_person(self, name: str, email: str | None) -> None:
        self.add(Person(name=name, email=email))

    @rule(data=st.data(), model=st.sampled_from([Note, Node, Node]))
    def add_child(self, data: st.DataObject, model: Any) -> None:
        parents = self.side.of(Person if model is Note else Node)
        if not parents:
            return
        parent = data.draw(st.sampled_from(parents)).instance
        self.add(Note(text="t", person=parent) if model is Note else Node(name="n", parent=parent))

    @precondition(lambda self: self.leftovers)
    @rule()
    def add_what_was_rolled_back(self) -> None:
        instance = self.leftovers.pop()
        if isinstance(instance, Person):
            self.add(instance)

    @rule(data=st.data(), value=st.sampled_from([None, "a", "b", "c"]), column=st.sampled_from(["email", "name"]))
    def change_person(self, data: st.DataObject, column: str, value: Any) -> None:
        self.change(data, Person, column, value)

    @rule(data=st.data(), age=st.integers(1, 3))
    def change_age(self, data: st.DataObject, age: int) -> None:
        self.change(data, Person, "age", age)

    @rule(data=st.data())
    def swap_emails(self, data: st.DataObject) -> None:
        people = self.side.of(Person)
        if len(people) < 2:
            return
        one, two = data.draw(st.permutations(people))[:2]
        first, second = one.instance.email, two.instance.email
        self.set(one, "email", second)
        self.set(two, "email", first)

    @rule(data=st.data(), model=st.sampled_from([Note, Node]))
    def move_child(self, data: st.DataObject, model: Any) -> None:
        name = COLUMNS[model][1]
        targets: list[Any] = [*self.side.of(REFERENCES[name])]
        if model is Node:
            targets.append(None)
        if targets:
            self.change(data, model, name, data.draw(st.sampled_from(targets)))

    def change(self, data: st.DataObject, model: type, name: str, value: Any) -> None:
        if self.side.of(model):
            self.set(data.draw(st.sampled_from(self.side.of(model))), name, value)

    def set(self, known: Known, name: str, value: Any) -> None:
        setattr(known.instance, name, value.instance if isinstance(value, Known) else value)
        if known.new:
            known.row[name] = value
        elif name in known.changes or is_new(value) or key(value) != known.row[name]:
            known.changes[name] = value

    @rule(data=st.data(), model=st.sampled_from(list(COLUMNS)))
    def delete(self, data: st.DataObject, model: type) -> None:
        free = [k for k in self.side.of(model) if not any(other.refers_to(k) for other in self.side.known)]
        if not free:
            return
        known = data.draw(st.sampled_from(free))
        if model is Person and not known.new:
            self.delete_notes_of(known)
        self.side.session.delete(known.instance)
        if known.new:
            self.side.known.remove(known)
            assert self.side.session.state(known.instance) == "transient"
        else:
            known.marked = True

    def delete_notes_of(self, person: Known) -> None:
        with self.side.session.no_autoflush:
            notes = self.side.session.query(Note).where(Note.person == person.instance.id).all()
        for note in notes:
            known = next((k for k in self.side.known if k.instance is note), None)
            if known is None:
                known = Known(note, shown(note))
                self.side.known.append(known)
            if "person" not in known.changes:
                self.side.session.delete(note)
                known.marked = True

    @rule(data=st.data(), model=st.sampled_from(list(COLUMNS)))
    def get(self, data: st.DataObject, model: type) -> None:
        rows = self.view(self.side)[model]
        number = data.draw(st.sampled_from([*sorted(rows), 0]))
        known = next((k for k in self.side.known if k.model is model and k.instance.id == number and k.is_there), None)
        found = self.side.session.get(model, number)
        if number == 0 or (known is not None and known.marked):
            assert found is None
        elif known is not None:
            assert found is known.instance
        else:
            assert shown(found) == rows[number]
            self.side.known.append(Known(found, dict(rows[number])))

    def load(self, model: type, number: int) -> None:
        found = self.side.session.get(model, number)
        self.side.known.append(Known(found, shown(found)))

    @precondition(lambda self: self.may_flush())
    @rule(model=st.sampled_from(list(COLUMNS)))
    def query(self, model: Any) -> None:
        found: list[Any] = []
        session = self.side.session
        if self.flush_by(lambda: found.extend(session.query(model).order_by(model.id))):
            rows = self.view(self.side)[model]
            assert {instance.id: shown(instance) for instance in found} == rows
            assert session.query(model).count() == len(rows)

    @precondition(lambda self: self.may_flush())
    @rule()
    def flush(self) -> None:
        self.flush_by(self.side.session.flush)

    @precondition(lambda self: self.may_flush())
    @rule()
    def commit(self) -> None:
        side = self.side
        if not self.flush_by(side.session.commit):
            return
        if side.tables is not None:
            self.committed = side.tables
        side.tables = None
        side.scopes.clear()
        for known in side.known:
            known.inserted = None
            assert side.session.state(known.instance) == ("persistent" if known.is_there else "detached")
        side.known = [known for known in side.known if known.is_there]
        assert not side.session.in_transaction()

    @rule()
    def rollback(self) -> None:
        side = self.side
        side.session.rollback()
        side.tables = None
        self.note_rollback(side, 0, self.view(side))
        side.scopes.clear()
        assert not side.session.in_transaction()
        assert self.books() == [[], [], []]

    @precondition(lambda self: self.may_write() and len(self.side.scopes) < 4)
    @rule()
    def begin_nested(self) -> None:
        savepoints: list[Any] = []
        session = self.side.session
        if self.flush_by(lambda: savepoints.append(session.begin_nested())):
            self.begin()
            assert self.side.tables is not None
            self.side.scopes.append((savepoints[0], copy.deepcopy(self.side.tables)))

    @precondition(lambda self: len(self.side.scopes) > 1)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        side = self.side
        place = data.draw(st.integers(1, len(side.scopes) - 1))
        if not self.flush_by(side.scopes[place][0].commit):
            return
        del side.scopes[place:]
        for known in side.known:
            known.inserted = None if known.inserted is None else min(known.inserted, place)
            known.deleted = None if known.deleted is None else min(known.deleted, place)

    @precondition(lambda self: len(self.side.scopes) > 1)
    @rule(data=st.data())
    def roll_back_to_a_savepoint(self, data: st.DataObject) -> None:
        side = self.side
        place = data.draw(st.integers(1, len(side.scopes) - 1))
        savepoint, tables = side.scopes[place]
        savepoint.rollback()
        side.tables = tables
        del side.scopes[place:]
        self.note_rollback(side, place + 1, tables)
        assert self.books() == [[], [], []]

    @precondition(lambda self: not self.side.has_unflushed() and self.side.known)
    @rule(data=st.data())
    def expunge(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from(self.side.known))
        self.side.session.expunge(known.instance)
        assert known.instance not in self.side.session
        self.side.known.remove(known)

    @precondition(lambda self: self.committed[Note] and all(side.tables is None for side in self.sides))
    @rule(data=st.data(), model=st.sampled_from([Note, Note, Person]))
    def another_program_writes(self, data: st.DataObject, model: type) -> None:
        number = data.draw(st.sampled_from(sorted(self.committed[model])))
        if model is Note:
            run_sql(self.outside, "DELETE FROM notes WHERE id = ?", [number])
            del self.committed[Note][number]
        else:
            run_sql(self.outside, "UPDATE people SET age = 9 WHERE id = ?", [number])
            self.committed[Person][number]["age"] = 9

    @rule()
    def close(self) -> None:
        self.rollback()
        self.side.session.close()
        assert all(self.side.session.state(known.instance) == "detached" for known in self.side.known)
        self.side.known.clear()

    # What must hold at all times

    @invariant()
    def each_session_shows_what_is_expected(self) -> None:
        for side in self.sides:
            for model in COLUMNS:
                self.check(side, model)

    def check(self, side: Side, model: Any) -> None:
        rows = self.view(side)[model]
        with side.session.no_autoflush:
            found = {instance.id: instance for instance in side.session.query(model)}
        assert set(found) == set(rows)
        by_id = {id(known.instance): known for known in side.known}
        for number, instance in found.items():
            known = by_id.get(id(instance))
            changes = {}
            if known is not None and not known.new:
                known.row = dict(rows[number])
                changes = {name: key(value) for name, value in known.changes.items()}
            assert shown(instance) == {**rows[number], **changes}
        for known in [known for known in side.known if known.model is model and known.is_there]:
            if known.new:
                assert known.instance in side.session.new
            elif known.instance.id not in rows and not known.changes and not known.marked:
                side.session.expunge(known.instance)  # another session has deleted its row
                side.known.remove(known)
            elif known.instance.id in rows:
                assert found[known.instance.id] is known.instance
                assert side.session.is_modified(known.instance) == bool(known.effective())

    @precondition(lambda self: not self.is_shared)
    @invariant()
    def others_see_what_was_committed(self) -> None:
        for model, sql in READ_ALL.items():
            rows = run_sql(self.outside, sql).fetchall()
            assert {row[0]: dict(zip(COLUMNS[model], row[1:])) for row in rows} == self.committed[model]


def shown(instance: Any) -> dict[str, Any]:
    """What an object's columns show; of a foreign key, the key."""
    names = COLUMNS[type(instance)]
    return {name: getattr(instance, f"{name}_id" if name in REFERENCES else name) for name in names}


def test_two_sessions_do_what_plain_dicts_do(
    database: str, swift_engine: Any, outside: Any, run_machine: Callable[..., None]
) -> None:
    install_tables_with_keys_that_do_not_come_again(swift_engine, Model)
    others = None if database == "memory" else outside
    run_machine(lambda: TwoSessions(swift_engine, others), examples=40, stateful_step_count=30, derandomize=False)
