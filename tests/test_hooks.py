"""Listeners are called at the right time with the right objects; what they do counts, or, if they raise, never was."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import peewee
import pytest
from conftest import run_sql

from tent.data import dbm
from tent.data.orm import hooks

Model = dbm.declarative_base()
Listen = Callable[[Any, str, Any], Any]
Statements = Callable[[], Any]


class Document(Model):
    """A row with a unique value, a value that can change in place, and a version."""

    title = peewee.CharField(unique=True, null=True)
    text = peewee.TextField(default="")
    tags = peewee.JSONField(default=list)
    version = dbm.VersionField()


class Memo(Document):
    """Inherits from another model."""


class Comment(Model):
    document = peewee.ForeignKeyField(Document, backref="comments", null=True, on_delete="CASCADE")
    text = peewee.TextField(default="")


class Entry(Model):
    """A line of a log, which listeners write."""

    text = peewee.TextField(default="")


class SetField(peewee.TextField):
    """A field of a user's own, whose values are sets."""

    def db_value(self, value: Any) -> Any:
        return None if value is None else ",".join(sorted(value))

    def python_value(self, value: Any) -> Any:
        return None if value is None else set(value.split(","))


class Shelf(Model):
    """A row whose key the program gives, and with values of a user's own field."""

    name = peewee.CharField(primary_key=True)
    labels = SetField(default=set)


SESSION_EVENTS = ["before_flush", "after_flush", "before_commit", "after_commit", "after_rollback"]
MODEL_EVENTS = [f"{when}_{verb}" for when in ("before", "after") for verb in ("insert", "update", "delete")]
ENDS = ["after_commit", "after_rollback"]


class Refused(Exception):
    """What the listeners of these tests raise."""


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


@pytest.fixture
def listen() -> Iterator[Listen]:
    """`listen(target, name, function)` is `dbm.listen`, until the end of the test."""
    waiting: list[tuple[Any, str, Any]] = []

    def start(target: Any, name: str, function: Any) -> Any:
        dbm.listen(target, name, function)
        waiting.append((target, name, function))
        return function

    yield start
    for entry in waiting:
        with suppress(dbm.ArgumentError):  # the test may have ended it
            dbm.unlisten(*entry)


def saved(session: dbm.Session, **values: Any) -> Document:
    """Return a document that has a row."""
    document = Document(**values)
    session.add(document)
    session.commit()
    return document


def rows(session: dbm.Session, sql: str) -> list[Any]:
    """Return what the database says to a session, with nothing flushed before."""
    with session.no_autoflush:
        return [tuple(row) for row in session.execute(sql)]


def titles(session: dbm.Session) -> list[Any]:
    return [title for (title,) in rows(session, "SELECT title FROM documents ORDER BY id")]


def log(session: dbm.Session) -> list[str]:
    return [text for (text,) in rows(session, "SELECT text FROM entries ORDER BY id")]


def fire_end(session: dbm.Session, name: str) -> None:
    """End a transaction, so that listeners to `name` are told."""
    session.begin()
    session.commit() if name == "after_commit" else session.rollback()


# When


def test_the_events_of_a_commit_come_in_this_order_around_its_statements(
    session: dbm.Session, listen: Listen, statements: Statements
) -> None:
    with statements() as ran:
        for name in SESSION_EVENTS:
            listen(session, name, lambda session, *, name=name: ran.append(name))
        for name in MODEL_EVENTS:
            listen(Document, name, lambda document, *, name=name: ran.append(name))
        session.add(Document())
        session.commit()
    assert [sql.split()[0] for sql in ran] == [
        "before_commit",
        "BEGIN",
        "before_flush",
        "before_insert",
        "INSERT",
        "after_insert",
        "after_flush",
        "COMMIT",
        "after_commit",
    ]


def test_rows_are_told_of_by_verb_before_any_is_written_and_after_all_are(
    session: dbm.Session, listen: Listen, statements: Statements
) -> None:
    changed, gone = saved(session, title="changed"), saved(session, title="gone")
    with statements() as ran:
        for name in MODEL_EVENTS:
            listen(Document, name, lambda document, *, name=name: ran.append(f"{name} {document.title}"))
        changed.text = "x"
        session.delete(gone)
        session.add_all([Document(title="a"), Document(title="b")])
        session.flush()
    told = [line for line in ran if line.startswith(("before", "after"))]
    rest = ["insert a", "insert b", "update changed", "delete gone"]
    assert told == [f"before_{line}" for line in rest] + [f"after_{line}" for line in rest]
    assert ran[1:5] == told[:4] and ran[-4:] == told[4:]


def test_a_rollback_tells_only_of_itself_and_after_it_is_done(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    document.title = "b"
    session.flush()
    told: list[Any] = []
    for name in SESSION_EVENTS:
        listen(session, name, lambda s, *, name=name: told.append((name, s.in_transaction(), document.title)))
    session.rollback()
    assert told == [("after_rollback", False, "a")]


def test_a_rollback_of_changes_that_were_not_flushed_is_told(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(session, "after_rollback", told.append)
    session.add(Document())
    session.rollback()
    assert told == [session]


def test_a_rollback_of_nothing_is_not_told(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(session, "after_rollback", told.append)
    session.rollback()
    assert told == []


def test_closing_a_session_with_an_open_transaction_tells_of_the_rollback(engine: Any, listen: Listen) -> None:
    told: list[Any] = []
    session = dbm.open_session(engine)
    listen(session, "after_rollback", told.append)
    session.begin()
    session.close()
    session.close()
    assert told == [session]


def test_a_commit_of_nothing_is_told_and_no_flush(session: dbm.Session, listen: Listen, statements: Statements) -> None:
    told: list[str] = []
    for name in SESSION_EVENTS:
        listen(session, name, lambda session, *, name=name: told.append(name))
    with statements() as ran:
        session.commit()
    assert (told, ran) == (["before_commit", "after_commit"], [])


def test_a_value_that_was_set_to_what_it_was_is_no_update(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    told: list[Any] = []
    listen(Document, "before_update", told.append)
    listen(Document, "after_update", told.append)
    document.title = "b"
    document.title = "a"
    session.commit()
    assert told == []


def test_an_autoflush_is_told_as_a_flush(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []
    listen(session, "before_flush", lambda session: told.append("before"))
    listen(session, "after_flush", lambda session: told.append("after"))
    session.add(Document())
    assert session.query(Document).count() == 1
    assert told == ["before", "after"]


def test_a_savepoint_tells_of_its_flushes_and_of_no_end(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []
    for name in SESSION_EVENTS:
        listen(session, name, lambda session, *, name=name: told.append(name))
    with session.begin_nested():
        session.add(Document())
    savepoint = session.begin_nested()
    savepoint.rollback()
    assert told == ["before_flush", "after_flush"]
    session.commit()
    assert told[2:] == ["before_commit", "after_commit"]


def test_a_begin_block_tells_of_its_commit_or_of_its_rollback(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []
    for name in ENDS:
        listen(session, name, lambda session, *, name=name: told.append(name))
    with session.begin():
        pass
    with pytest.raises(Refused), session.begin():
        raise Refused
    assert told == ENDS


def test_bulk_statements_and_rows_that_the_database_deletes_are_not_told_of(
    session: dbm.Session, listen: Listen
) -> None:
    document = saved(session, title="a")
    session.add(Comment(document=document))
    session.commit()
    told: list[Any] = []
    for name in MODEL_EVENTS:
        listen(Model, name, told.append)
    session.query(Document).update({"text": "x"})
    session.query(Document).delete()
    session.commit()
    assert told == [] and rows(session, "SELECT count(*) FROM comments") == [(0,)]


# With which objects


def test_before_an_insert_there_is_no_key_and_after_it_there_is(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    for name in ("before_insert", "after_insert"):
        listen(Document, name, lambda one: told.append((one.id, one.version, session.state(one))))
    session.add(Document())
    session.flush()
    assert told == [(None, 1, "pending"), (1, 1, "persistent")]


def test_before_an_update_the_row_is_as_before_and_after_it_as_the_object(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    told: list[Any] = []
    for name in ("before_update", "after_update"):
        listen(Document, name, lambda one: told.append((titles(session), one.version, session.is_modified(one))))
    document.title = "b"
    session.flush()
    assert told == [(["a"], 1, True), (["b"], 2, False)]


def test_before_a_delete_the_row_is_there_and_after_it_gone(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    told: list[Any] = []
    for name in ("before_delete", "after_delete"):
        listen(Document, name, lambda one: told.append((titles(session), one is document, session.state(one))))
    session.delete(document)
    session.flush()
    assert told == [(["a"], True, "persistent"), ([], True, "deleted")]


def test_an_object_that_comes_along_is_told_of(session: dbm.Session, listen: Listen) -> None:
    comment = Comment(document=Document(title="a"))
    told: list[Any] = []
    listen(Model, "before_insert", told.append)
    session.add(comment)
    session.flush()
    assert sorted(map(repr, map(type, told))) == sorted(map(repr, [Comment, Document]))


def test_an_object_that_only_the_flush_finds_is_told_of(session: dbm.Session, listen: Listen) -> None:
    comment = Comment()
    session.add(comment)
    comment.document = document = Document(title="a")
    told: list[Any] = []
    listen(Document, "before_insert", told.append)
    session.flush()
    assert len(told) == 1 and told[0] is document


def test_after_a_flush_the_session_lists_what_it_wrote(session: dbm.Session, listen: Listen) -> None:
    changed, gone = saved(session, title="changed"), saved(session, title="gone")
    found: list[Any] = []
    listen(session, "after_flush", lambda session: found.append((session.new, session.dirty, session.deleted)))
    new = Document(title="new")
    session.add(new)
    changed.text = "x"
    session.delete(gone)
    session.flush()
    assert found == [([new], [changed], [gone])]
    assert (session.new, session.dirty, session.deleted) == ([], [], [])


def test_after_an_insert_the_session_lists_it_as_new_too(session: dbm.Session, listen: Listen) -> None:
    found: list[Any] = []
    listen(Document, "after_insert", lambda document: found.append(session.new))
    document = Document()
    session.add(document)
    session.flush()
    assert found == [[document]]


def test_the_session_lists_no_object_twice_after_a_flush(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    found: list[Any] = []

    def change(session: dbm.Session) -> None:
        if document.text == "x":
            document.text = "y"
            found.append(session.dirty)

    listen(session, "after_flush", change)
    document.text = "x"
    session.flush()
    assert found == [[document]]


def test_a_row_switch_is_told_as_a_delete_and_an_insert(session: dbm.Session, listen: Listen) -> None:
    old = saved(session, title="a")
    new = Document(id=old.id, title="b")
    told: list[Any] = []
    for name in MODEL_EVENTS:
        listen(Document, name, lambda one, *, name=name: told.append((name, one.title)))
    session.delete(old)
    session.add(new)
    session.commit()
    assert told == [("before_insert", "b"), ("before_delete", "a"), ("after_insert", "b"), ("after_delete", "a")]


def test_a_cycle_that_a_second_update_closes_is_told_as_inserts(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []
    for name in ("after_insert", "after_update"):
        listen(Model, name, lambda one, *, name=name: told.append(name))
    document = Document()
    session.add_all([Comment(document=document), Comment(document=document)])
    session.commit()
    assert told == ["after_insert"] * 3


def test_after_a_commit_the_objects_are_persistent_and_no_transaction_is_open(
    session: dbm.Session, listen: Listen
) -> None:
    document = Document()
    found: list[Any] = []
    listen(session, "after_commit", lambda s: found.append((s.state(document), s.in_transaction(), document.id)))
    session.add(document)
    session.commit()
    assert found == [("persistent", False, 1)]


# What listeners do before a flush is part of it


@pytest.mark.parametrize("name", ["before_flush", "before_insert", "before_commit"])
def test_a_change_of_a_new_object_is_written(session: dbm.Session, listen: Listen, name: str) -> None:
    document = Document(tags=["a"])

    def change(_: Any) -> None:
        document.title = "changed"
        document.tags.append("b")

    listen(Document if name == "before_insert" else session, name, change)
    session.add(document)
    session.commit()
    session.expunge_all()
    [found] = session.query(Document)
    assert (found.title, found.tags) == ("changed", ["a", "b"])


def test_a_change_in_before_update_is_written_with_the_others_in_one_statement(
    session: dbm.Session, listen: Listen, statements: Statements
) -> None:
    document = saved(session, title="a")
    listen(Document, "before_update", lambda document: setattr(document, "text", f"was {document.title}"))
    document.title = "b"
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "UPDATE", "COMMIT"]
    assert rows(session, "SELECT title, text, version FROM documents") == [("b", "was b", 2)]


def test_a_listener_that_takes_the_change_back_leaves_nothing_to_write(
    session: dbm.Session, listen: Listen, statements: Statements
) -> None:
    document = saved(session, title="a")
    listen(session, "before_flush", lambda session: setattr(document, "title", "a"))
    document.title = "b"
    with statements() as ran:
        session.commit()
    assert (len(ran), document.version, session.dirty) == (2, 1, [])  # BEGIN and COMMIT


@pytest.mark.parametrize("name", ["before_flush", "before_insert", "before_commit"])
def test_an_object_that_is_added_before_is_inserted_by_the_same_flush(
    session: dbm.Session, listen: Listen, name: str
) -> None:
    listen(Document if name == "before_insert" else session, name, lambda _: session.add(Entry(text="added")))
    flushes: list[Any] = []
    listen(session, "after_flush", flushes.append)
    session.add(Document())
    session.commit()
    assert (log(session), len(flushes)) == (["added"], 1)


def test_an_object_that_a_listener_adds_is_told_of_too(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(Document, "before_insert", lambda document: session.add(Entry(text="a")))
    listen(Entry, "before_insert", lambda entry: told.append(entry.text))
    session.add(Document())
    session.flush()
    assert told == ["a"]


def test_a_clean_object_that_a_listener_changes_is_told_of_and_updated_too(
    session: dbm.Session, listen: Listen
) -> None:
    clean = saved(session, title="a")
    told: list[Any] = []
    listen(Comment, "before_insert", lambda comment: setattr(clean, "title", "b"))
    listen(Document, "before_update", lambda document: told.append(document.title))
    session.add(Comment())
    session.flush()
    assert (told, titles(session)) == (["b"], ["b"])


def test_an_object_is_told_of_once_though_listeners_change_it_again(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    told: list[Any] = []

    def count(document: Document) -> None:
        told.append(document.text)
        document.text += "x"

    listen(Document, "before_update", count)
    listen(Entry, "before_insert", lambda entry: setattr(document, "text", document.text + "y"))
    document.title = "b"
    session.add(Entry())
    session.flush()
    assert told == ["y"] and document.text == "yx"


def test_a_delete_before_a_flush_is_part_of_it(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    listen(Entry, "before_insert", lambda entry: session.delete(document))
    session.add(Entry())
    session.flush()
    assert titles(session) == []


def test_before_delete_may_delete_what_belongs_to_the_object(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    comment = Comment(document=document)
    session.add(comment)
    session.commit()
    told: list[Any] = []
    listen(Document, "before_delete", lambda document: session.delete(comment))
    listen(Comment, "before_delete", told.append)
    session.delete(document)
    session.commit()
    assert told == [comment] and session.state(comment) == "detached"


def test_before_delete_may_keep_the_row_by_adding_the_object_again(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")

    def hide(document: Document) -> None:
        session.add(document)
        document.text = "hidden"

    listen(Document, "before_delete", hide)
    session.delete(document)
    session.commit()
    assert rows(session, "SELECT title, text FROM documents") == [("a", "hidden")]
    assert session.state(document) == "persistent"


def test_a_new_object_that_a_listener_lets_go_of_is_not_inserted(session: dbm.Session, listen: Listen) -> None:
    document = Document()
    listen(session, "before_flush", lambda session: session.expunge(document))
    session.add(document)
    session.commit()
    assert (titles(session), session.state(document)) == ([], "transient")


def test_before_flush_may_make_a_row_switch(session: dbm.Session, listen: Listen, statements: Statements) -> None:
    old = saved(session, title="a")
    listen(session, "before_flush", lambda session: session.delete(old))
    session.add(Document(id=old.id, title="b"))
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "UPDATE", "COMMIT"]
    assert titles(session) == ["b"]


def test_listeners_that_add_without_end_fail_the_flush_with_the_cause(session: dbm.Session, listen: Listen) -> None:
    document = Document()
    listen(Document, "before_insert", lambda document: session.add(Document()))
    session.add(document)
    with pytest.raises(dbm.FlushError, match=r"1000 rounds.*Let before_insert"):
        session.flush()
    assert [one is document for one in session.new] == [True]
    assert not session.in_transaction() and titles(session) == []


# What listeners do after a flush is written by the next one


@pytest.mark.parametrize("name", ["after_flush", "after_insert"])
def test_what_is_added_after_a_flush_waits_for_the_next(session: dbm.Session, listen: Listen, name: str) -> None:
    added: list[Any] = []

    def add(_: Any) -> None:
        if not added:
            added.append(Entry(text="later"))
            session.add(added[0])

    listen(Document if name == "after_insert" else session, name, add)
    session.add(Document())
    session.flush()
    assert session.new == added and log(session) == []
    session.flush()
    assert log(session) == ["later"]


def test_a_commit_flushes_until_nothing_is_left(session: dbm.Session, listen: Listen, other: dbm.Session) -> None:
    def count(session: dbm.Session) -> None:
        if len(log(session)) < 5:
            session.add(Entry(text="x"))

    listen(session, "after_flush", count)
    session.add(Document())
    session.commit()
    assert log(other) == ["x"] * 5


def test_a_change_after_a_flush_of_what_it_wrote_is_kept_and_committed(
    session: dbm.Session, listen: Listen, other: dbm.Session
) -> None:
    clean = saved(session, title="clean")

    def change(document: Document) -> None:
        document.text = f"number {document.id}"
        clean.text = "changed"

    listen(Document, "after_insert", change)
    session.add(Document(title="new"))
    session.commit()
    assert rows(other, "SELECT text FROM documents ORDER BY id") == [("changed",), ("number 2",)]


def test_a_delete_after_a_flush_is_committed(session: dbm.Session, listen: Listen, other: dbm.Session) -> None:
    listen(Document, "after_insert", lambda document: session.delete(document))
    session.add(Document())
    session.commit()
    assert titles(other) == []


def test_a_commit_that_listeners_never_let_end_gives_up_with_the_cause(session: dbm.Session, listen: Listen) -> None:
    document = Document(title="a")
    endless = listen(session, "after_flush", lambda session: session.add(Entry()))
    session.add(document)
    with pytest.raises(dbm.FlushError, match=r"After 100 flushes .*before_flush"):
        session.commit()
    session.rollback()
    assert (titles(session), log(session), session.state(document)) == ([], [], "transient")
    dbm.unlisten(session, "after_flush", endless)
    session.add(document)
    session.commit()
    assert titles(session) == ["a"]


def test_what_is_added_after_a_flush_belongs_before_the_savepoint_that_asked_for_it(
    session: dbm.Session, listen: Listen
) -> None:
    listen(Document, "after_insert", lambda document: session.add(Entry(text=document.title)))
    session.add(Document(title="a"))
    savepoint = session.begin_nested()
    savepoint.rollback()
    session.commit()
    assert (titles(session), log(session)) == (["a"], ["a"])


# Targets


def test_a_listener_of_a_session_hears_no_other(session: dbm.Session, other: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(session, "after_commit", told.append)
    other.commit()
    session.commit()
    assert told == [session]


def test_a_listener_of_an_engine_hears_all_its_sessions_and_comes_first(
    engine: Any, session: dbm.Session, other: dbm.Session, listen: Listen
) -> None:
    told: list[Any] = []
    listen(session, "before_commit", lambda s: told.append(("session", s)))
    listen(engine, "before_commit", lambda s: told.append(("engine", s)))
    session.commit()
    other.commit()
    with dbm.open_session(engine) as later:
        later.commit()
    assert told == [("engine", session), ("session", session), ("engine", other), ("engine", later)]


def test_a_listener_of_an_engine_hears_no_other_engine(engine: Any, listen: Listen) -> None:
    told: list[Any] = []
    listen(engine, "after_commit", told.append)
    with dbm.open_session(dbm.connect("sqlite:///:memory:")) as session:
        session.commit()
    assert told == []


def test_a_transaction_of_the_engine_is_heard(engine: Any, listen: Listen) -> None:
    told: list[str] = []
    for name in ("before_flush", "after_commit"):
        listen(engine, name, lambda session, *, name=name: told.append(name))
    with dbm.transaction(engine) as session:
        session.add(Document())
    dbm.run_transaction(engine, lambda session: session.add(Document()))
    assert told == ["before_flush", "after_commit"] * 2


def test_a_listener_of_a_model_hears_its_subclasses_and_no_other_model(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(Document, "before_insert", lambda one: told.append(type(one)))
    session.add_all([Document(), Memo(), Entry()])
    session.commit()
    assert told == [Document, Memo]


def test_a_listener_of_a_subclass_does_not_hear_the_model_above(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(Memo, "before_insert", lambda one: told.append(type(one)))
    session.add_all([Document(), Memo()])
    session.commit()
    assert told == [Memo]


def test_the_listeners_of_a_base_class_come_first(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []
    listen(Memo, "before_insert", lambda one: told.append("Memo"))
    listen(Document, "before_insert", lambda one: told.append("Document"))
    listen(Model, "before_insert", lambda one: told.append("Model"))
    session.add(Memo())
    session.commit()
    assert told == ["Model", "Document", "Memo"]


def test_a_listener_of_a_base_class_hears_a_model_that_was_made_later(engine: Any, listen: Listen) -> None:
    base = dbm.declarative_base()
    told: list[Any] = []
    listen(base, "before_insert", lambda one: told.append(type(one)))

    class Late(base):  # type: ignore[valid-type, misc]
        pass

    dbm.install_tables(engine, models=base)
    with dbm.transaction(engine) as session:
        session.add(Late())
    assert told == [Late]


def test_a_listener_of_a_model_hears_all_engines(engine: Any, session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []
    listen(Document, "before_insert", lambda one: told.append(one.title))
    second = dbm.connect("sqlite:///:memory:")
    dbm.install_tables(second, models=Model)
    session.add(Document(title="first"))
    session.commit()
    with dbm.transaction(second) as elsewhere:
        elsewhere.add(Document(title="second"))
    assert told == ["first", "second"]


def test_several_listeners_are_called_in_the_order_in_which_they_came(session: dbm.Session, listen: Listen) -> None:
    told: list[int] = []
    for number in range(3):
        listen(session, "before_commit", lambda session, *, number=number: told.append(number))
    session.commit()
    assert told == [0, 1, 2]


def test_one_that_begins_to_listen_in_the_middle_of_an_event_hears_the_next(
    session: dbm.Session, listen: Listen
) -> None:
    told: list[Any] = []
    listen(session, "before_commit", lambda session: listen(session, "before_commit", told.append))
    session.commit()
    assert told == []
    session.commit()
    assert told == [session]


@pytest.mark.parametrize("target", ["Person", None, peewee.Model, Exception, Document(title="an object")])
def test_another_target_is_refused_with_those_that_there_are(target: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="Listen to a session, to an engine"):
        dbm.listen(target, "before_flush", print)


def test_a_scoped_session_and_the_class_of_sessions_are_no_targets(engine: Any) -> None:
    for target in (dbm.scoped_session(engine), dbm.Session):
        with pytest.raises(dbm.ArgumentError, match="Listen to a session, to an engine"):
            dbm.listen(target, "before_flush", print)


def test_an_event_that_there_is_not_is_refused_with_those_that_there_are(engine: Any, session: dbm.Session) -> None:
    for target in (engine, session):
        with pytest.raises(
            dbm.ArgumentError, match=r"no event 'before_flsh' \(did you mean 'before_flush'\?\)"
        ) as caught:
            dbm.listen(target, "before_flsh", print)
        assert all(repr(name) in str(caught.value) for name in SESSION_EVENTS)
    with pytest.raises(dbm.ArgumentError, match=r"no event 'befor_insert'.*'before_insert'") as caught:
        dbm.listen(Document, "befor_insert", print)
    assert all(repr(name) in str(caught.value) for name in MODEL_EVENTS)


def test_an_event_of_sessions_is_none_of_a_model(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match="no event 'before_flush'"):
        dbm.listen(Document, "before_flush", print)
    with pytest.raises(dbm.ArgumentError, match="no event 'before_insert'"):
        dbm.listen(session, "before_insert", print)


# Functions


def test_a_session_event_passes_what_sqlalchemy_passes_to_one_that_takes_it(
    session: dbm.Session, listen: Listen
) -> None:
    told: list[Any] = []
    listen(session, "before_flush", lambda session, flush_context, instances: told.append((session, instances)))
    listen(session, "after_flush", lambda session, flush_context: told.append(session))
    session.add(Document())
    session.flush()
    assert told == [(session, None), session]


def test_a_model_event_passes_model_connection_and_object_to_one_that_takes_them(
    session: dbm.Session, listen: Listen
) -> None:
    told: list[Any] = []
    listen(Document, "before_insert", lambda mapper, connection, target: told.append((mapper, connection, target)))
    memo = Memo()
    session.add(memo)
    session.flush()
    [(mapper, connection, target)] = told
    assert mapper is Memo and isinstance(connection, peewee.Database) and target is memo
    assert connection.in_transaction()


@pytest.mark.parametrize("name", SESSION_EVENTS)
def test_a_session_event_passes_the_session_to_one_that_takes_one_argument(
    session: dbm.Session, listen: Listen, name: str
) -> None:
    told: list[Any] = []
    listen(session, name, lambda session: told.append(session))
    session.add(Document())
    session.rollback() if name == "after_rollback" else session.commit()
    assert told == [session]


def test_a_function_may_have_more_arguments_with_defaults(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []

    def hear(document: Document, note: str = "default", *, key: int = 0) -> None:
        told.append((document.title, note, key))

    listen(Document, "before_insert", hear)
    session.add(Document(title="a"))
    session.flush()
    assert told == [("a", "default", 0)]


def test_arguments_with_defaults_keep_them(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(session, "after_flush", lambda session, told=told: told.append(session))
    listen(Document, "after_insert", session.delete)  # (instance, recursive=False, delete_nullable=False)
    session.add(Document())
    session.commit()
    assert told == [session, session] and titles(session) == []


class Hearing:
    """Functions of several makes, that all put what they hear into the list of the class."""

    told: list[Any] = []

    def __init__(self, *heard: Any) -> None:
        self.told += heard

    def __call__(self, heard: Any) -> None:
        self.told.append(heard)

    def method(self, heard: Any) -> None:
        self.told.append(heard)

    @classmethod
    def of_class(cls, heard: Any) -> None:
        cls.told.append(heard)

    @staticmethod
    def static(heard: Any) -> None:
        Hearing.told.append(heard)


class Record:
    def __init__(self, heard: Any) -> None:
        Hearing.told.append(heard)


@pytest.mark.parametrize(
    "function",
    [
        lambda heard: Hearing.told.append(heard),
        Hearing.told.append,
        Hearing(),
        Hearing().method,
        Hearing.of_class,
        Hearing.static,
        Record,
        functools.partial(lambda told, heard: told.append(heard), Hearing.told),
        functools.partial(Hearing.method, Hearing()),
    ],
    ids=["lambda", "builtin", "object", "method", "classmethod", "staticmethod", "class", "partial", "partial method"],
)
def test_whatever_can_be_called_with_one_argument_may_listen(
    session: dbm.Session, listen: Listen, function: Any
) -> None:
    Hearing.told.clear()
    listen(Document, "before_insert", function)
    document = Document()
    session.add(document)
    session.flush()
    assert [heard is document for heard in Hearing.told] == [True]


@pytest.mark.parametrize("kind", [set, collections.deque], ids=["set.add", "deque.append"])
def test_a_builtin_without_a_signature_may_listen(session: dbm.Session, listen: Listen, kind: Any) -> None:
    told = kind()
    listen(session, "before_commit", told.add if kind is set else told.append)
    session.commit()
    assert list(told) == [session]


def test_an_object_without_a_hash_may_listen(session: dbm.Session, listen: Listen) -> None:
    @dataclasses.dataclass
    class Counter:
        count: int = 0

        def __call__(self, session: dbm.Session) -> None:
            self.count += 1

    counter = Counter()
    listen(session, "before_commit", counter)
    session.commit()
    assert counter.count == 1


@pytest.mark.parametrize("function", [lambda: None, lambda a, b: None, lambda *, a: None, "name", None])
def test_a_function_that_takes_other_arguments_is_refused_with_those_that_there_are(
    session: dbm.Session, function: Any
) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"\(session\), or \(session, flush_context, instances\)\."):
        dbm.listen(session, "before_flush", function)
    with pytest.raises(dbm.ArgumentError, match=r"a function that takes \(session\)\."):
        dbm.listen(session, "before_commit", function)
    with pytest.raises(dbm.ArgumentError, match=r"\(target\), or \(mapper, connection, target\)\."):
        dbm.listen(Document, "before_insert", function)


def test_the_decorator_listens_and_returns_the_function(session: dbm.Session) -> None:
    told: list[Any] = []

    @dbm.listens_for(session, "before_commit")
    def hear(session: dbm.Session) -> str:
        told.append(session)
        return "as it was"

    session.commit()
    assert told == [session] and hear(session) == "as it was"


def test_decorators_can_be_stacked(session: dbm.Session) -> None:
    told: list[Any] = []

    @dbm.listens_for(Document, "before_update")
    @dbm.listens_for(Document, "before_insert")
    def hear(document: Document) -> None:
        told.append(document.title)

    document = saved(session, title="a")
    document.title = "b"
    session.commit()
    dbm.unlisten(Document, "before_insert", hear)
    dbm.unlisten(Document, "before_update", hear)
    assert told == ["a", "b"]


def test_one_that_listens_twice_is_called_once(session: dbm.Session, listen: Listen) -> None:
    Hearing.told.clear()
    hearing = Hearing()
    for _ in range(2):
        listen(session, "before_commit", hearing.method)  # each time another method object, which is equal
    session.commit()
    assert Hearing.told == [session]


def test_one_that_listens_to_two_events_is_called_at_both(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    for name in ("before_commit", "after_commit"):
        listen(session, name, told.append)
    session.commit()
    assert told == [session, session]


def test_methods_of_two_objects_are_two_listeners(session: dbm.Session, listen: Listen) -> None:
    first: list[Any] = []
    second: list[Any] = []
    listen(session, "before_commit", first.append)
    listen(session, "before_commit", second.append)
    session.commit()
    assert (first, second) == ([session], [session])


def test_unlisten_ends_it_for_this_target_and_event_only(
    session: dbm.Session, other: dbm.Session, listen: Listen
) -> None:
    told: list[Any] = []
    for target in (session, other):
        listen(target, "before_commit", told.append)
    listen(session, "after_commit", told.append)
    dbm.unlisten(session, "before_commit", told.append)
    session.commit()
    assert told == [session]
    other.commit()
    assert told == [session, other]


def test_unlisten_ends_it_for_subclasses_that_were_told_before(session: dbm.Session, listen: Listen) -> None:
    told: list[Any] = []
    listen(Document, "before_insert", told.append)
    session.add(Memo())
    session.commit()
    dbm.unlisten(Document, "before_insert", told.append)
    session.add(Memo())
    session.commit()
    assert len(told) == 1


def test_a_listener_may_end_itself_in_the_middle_of_an_event(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []

    def once(session: dbm.Session) -> None:
        told.append("once")
        dbm.unlisten(session, "before_commit", once)

    listen(session, "before_commit", once)
    listen(session, "before_commit", lambda session: told.append("always"))
    session.commit()
    session.commit()
    assert told == ["once", "always", "always"]


def test_unlisten_refuses_one_that_does_not_listen(session: dbm.Session) -> None:
    with pytest.raises(dbm.ArgumentError, match="does not listen to 'before_flush'"):
        dbm.unlisten(session, "before_flush", print)
    with pytest.raises(dbm.ArgumentError, match="does not listen to 'before_insert'"):
        dbm.unlisten(Document, "before_insert", print)
    with pytest.raises(dbm.ArgumentError, match="no event"):
        dbm.unlisten(Document, "before", print)


# In the middle of a flush


@pytest.mark.parametrize("name", ["before_flush", "after_flush", *MODEL_EVENTS])
@pytest.mark.parametrize("verb", ["flush", "commit", "rollback", "begin_nested"])
def test_a_flush_or_an_end_within_a_flush_is_refused(
    session: dbm.Session, listen: Listen, name: str, verb: str
) -> None:
    changed, gone = saved(session, title="changed"), saved(session, title="gone")
    refused: list[str] = []

    def call(_: Any) -> None:
        with pytest.raises(dbm.InvalidRequestError, match=r"in the middle of a flush|already flushing") as caught:
            getattr(session, verb)()
        refused.append(str(caught.value))

    listen(session if name.endswith("flush") else Document, name, call)
    session.add(Document(title="new"))
    changed.text = "x"
    session.delete(gone)
    session.commit()
    assert refused and titles(session) == ["changed", "new"]


def test_a_commit_that_is_refused_within_a_flush_is_not_told(session: dbm.Session, listen: Listen) -> None:
    told: list[str] = []

    def commit(session: dbm.Session) -> None:
        with suppress(dbm.InvalidRequestError):
            session.commit()

    listen(session, "before_flush", commit)
    listen(session, "before_commit", lambda session: told.append("before_commit"))
    session.add(Document())
    session.flush()
    assert told == []


@pytest.mark.filterwarnings("ignore::tent.data.orm.errors.UnsavedChangesWarning")
def test_a_close_within_a_flush_is_refused_and_lets_go_of_nothing(session: dbm.Session, listen: Listen) -> None:
    clean, document = saved(session, title="clean"), Document(title="new")

    def close(session: dbm.Session) -> None:
        with pytest.raises(dbm.InvalidRequestError, match="in the middle of a flush"):
            session.close()

    listen(session, "before_flush", close)
    session.add(document)
    session.commit()
    assert titles(session) == ["clean", "new"]
    assert clean in session and document in session


def test_a_query_in_a_listener_sees_what_was_flushed_and_does_not_flush_again(
    session: dbm.Session, listen: Listen
) -> None:
    found: list[int] = []
    for name in ("before_flush", "after_flush"):
        listen(session, name, lambda session: found.append(session.query(Document).count()))
    session.add(Document())
    session.flush()
    assert found == [0, 1]


def test_objects_that_a_listener_loads_are_the_sessions_own_and_can_be_changed(
    session: dbm.Session, listen: Listen
) -> None:
    saved(session, title="a")
    session.expunge_all()

    def count(comment: Comment) -> None:
        session.query(Document).filter_by(title="a").one().text += "x"

    listen(Comment, "before_insert", count)
    session.add_all([Comment(), Comment()])
    session.commit()
    assert rows(session, "SELECT text, version FROM documents") == [("xx", 2)]


def test_a_relation_can_be_followed_in_a_listener(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    session.add(Comment(document=document))
    session.commit()
    session.expunge_all()
    found: list[Any] = []
    listen(Comment, "before_update", lambda comment: found.append(comment.document.title))
    session.query(Comment).one().text = "x"
    session.commit()
    assert found == ["a"]


def test_a_listener_that_loads_another_object_with_the_key_of_a_new_one_fails_the_flush(
    session: dbm.Session, other: dbm.Session, listen: Listen
) -> None:
    saved(other, id=7, title="theirs")
    found: list[Any] = []
    listen(session, "before_flush", lambda session: found.extend(session.query(Document)))
    session.add(Document(id=7, title="mine"))
    with pytest.raises(dbm.FlushError, match="has the key of"):
        session.flush()


def test_a_statement_in_a_listener_is_part_of_the_transaction(session: dbm.Session, listen: Listen) -> None:
    def write(_: Any) -> None:
        session.execute(Entry.insert(text="before"))

    listen(Document, "before_insert", write)
    session.add(Document())
    session.flush()
    assert log(session) == ["before"]
    session.rollback()
    assert log(session) == []


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_a_bulk_update_in_a_listener_runs_without_another_flush(
    session: dbm.Session, listen: Listen, name: str
) -> None:
    document = saved(session, title="a")
    listen(session, name, lambda session: session.query(Document).filter_by(title="a").update({"text": "x"}))
    session.add(Entry())
    session.commit()
    assert document.text == "x" and rows(session, "SELECT text FROM documents") == [("x",)]


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_statement_on_the_connection_after_an_insert_is_part_of_the_transaction(
    session: dbm.Session, listen: Listen, is_begun: bool
) -> None:
    def write(mapper: Any, connection: Any, target: Any) -> None:
        run_sql(connection, "INSERT INTO entries (text) VALUES (?)", [f"inserted {target.id}"])

    listen(Document, "after_insert", write)
    if is_begun:
        session.begin()
    session.add(Document())
    session.flush()
    assert log(session) == ["inserted 1"]
    session.rollback()
    assert log(session) == []


def test_a_statement_on_the_connection_before_an_insert_is_part_of_the_transaction(
    session: dbm.Session, listen: Listen
) -> None:
    def write(mapper: Any, connection: Any, target: Any) -> None:
        connection.execute_sql("INSERT INTO entries (text) VALUES ('before')")

    listen(Document, "before_insert", write)
    session.add(Document())
    session.flush()
    session.rollback()
    assert log(session) == []


def test_a_query_on_the_connection_reads_what_the_flush_has_written(session: dbm.Session, listen: Listen) -> None:
    found: list[Any] = []
    listen(
        Document,
        "after_insert",
        lambda mapper, connection, target: found.append(list(connection.execute_sql("SELECT title FROM documents"))),
    )
    session.add(Document(title="a"))
    session.flush()
    assert found == [[("a",)]]


# After the end of a transaction


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.add(Entry()),
        lambda session: session.query(Document).all(),
        lambda session: session.get(Document, 1),
        lambda session: session.execute("SELECT 1"),
        lambda session: session.flush(),
        lambda session: session.commit(),
        lambda session: session.begin(),
        lambda session: session.begin_nested(),
        lambda session: list(session.query(Document).yield_per(1)),
        lambda session: session.query(Document).update({"text": "x"}),
    ],
    ids=["add", "query", "get", "sql", "flush", "commit", "begin", "begin_nested", "yield_per", "bulk"],
)
def test_the_session_cant_be_used_until_the_listeners_have_returned(
    session: dbm.Session, listen: Listen, name: str, use: Callable[[Any], Any]
) -> None:
    refused: list[str] = []

    def hear(session: dbm.Session) -> None:
        with pytest.raises(dbm.InvalidRequestError) as caught:
            use(session)
        refused.append(str(caught.value))

    listen(session, name, hear)
    fire_end(session, name)
    assert len(refused) == 1
    assert ("committed" if name == "after_commit" else "rolled back") in refused[0] and "before_commit" in refused[0]
    session.add(Entry(text="afterwards"))
    if name == "after_rollback":
        session.commit()
    assert session.query(Entry).count() == 1
    dbm.unlisten(session, name, hear)


@pytest.mark.parametrize("name", ENDS)
def test_columns_can_be_read_at_the_end_of_a_transaction(session: dbm.Session, listen: Listen, name: str) -> None:
    document = saved(session, title="a", tags=["b"])
    found: list[Any] = []
    listen(session, name, lambda session: found.append((document.title, document.tags, session.state(document))))
    fire_end(session, name)
    assert found == [("a", ["b"], "persistent")]


def test_another_session_can_be_used_after_a_commit(engine: Any, session: dbm.Session, listen: Listen) -> None:
    def note(session: dbm.Session) -> None:
        with dbm.transaction(engine) as second:
            second.add(Entry(text="committed"))

    listen(session, "after_commit", note)
    session.add(Document())
    session.commit()
    dbm.unlisten(session, "after_commit", note)
    assert log(session) == ["committed"]


def test_a_change_made_after_a_commit_is_kept_for_the_next(
    session: dbm.Session, other: dbm.Session, listen: Listen
) -> None:
    document = saved(session, title="a")
    listen(session, "after_commit", lambda session: setattr(document, "title", "b"))
    session.commit()
    assert session.dirty == [document] and titles(other) == ["a"]
    session.commit()
    assert titles(other) == ["b"]


def test_a_rollback_after_a_commit_is_refused(session: dbm.Session, listen: Listen) -> None:
    document = saved(session, title="a")
    refused: list[bool] = []

    def roll_back(session: dbm.Session) -> None:
        document.title = "b"
        with suppress(dbm.InvalidRequestError):
            session.rollback()

    def use(session: dbm.Session) -> None:
        try:
            session.query(Document).all()
        except dbm.InvalidRequestError:
            refused.append(True)

    listen(session, "after_commit", roll_back)
    listen(session, "after_commit", use)
    session.commit()
    assert refused == [True]


@pytest.mark.parametrize("name", ENDS)
def test_one_that_raises_at_the_end_raises_to_the_caller_and_the_end_stays(
    session: dbm.Session, other: dbm.Session, listen: Listen, name: str
) -> None:
    def refuse(session: dbm.Session) -> None:
        raise Refused

    listen(session, name, refuse)
    session.add(Document(title="a"))
    with pytest.raises(Refused):
        session.commit() if name == "after_commit" else session.rollback()
    assert titles(other) == (["a"] if name == "after_commit" else [])
    dbm.unlisten(session, name, refuse)
    assert not session.in_transaction() and session.new == []
    session.add(Document(title="b"))
    session.commit()
    assert titles(other)[-1] == "b"


def test_run_transaction_does_not_repeat_work_that_is_committed(
    engine: Any, session: dbm.Session, listen: Listen
) -> None:
    def refuse(session: dbm.Session) -> None:
        raise peewee.OperationalError("database is locked")

    listen(engine, "after_commit", refuse)
    with pytest.raises(peewee.OperationalError):
        dbm.run_transaction(engine, lambda session: session.add(Entry(text="once")), attempts=3)
    assert log(session) == ["once"]


def test_a_commit_in_before_commit_is_refused(session: dbm.Session, listen: Listen) -> None:
    listen(session, "before_commit", lambda session: session.commit())
    session.add(Document())
    with pytest.raises(dbm.InvalidRequestError):
        session.commit()


def test_before_commit_may_query_and_flush(session: dbm.Session, listen: Listen, other: dbm.Session) -> None:
    found: list[int] = []

    def prepare(session: dbm.Session) -> None:
        found.append(session.query(Document).count())
        session.add(Entry(text="prepared"))
        session.flush()

    listen(session, "before_commit", prepare)
    session.add(Document())
    session.commit()
    assert (found, log(other)) == ([1], ["prepared"])


# One that raises leaves everything as it was


@pytest.fixture
def work(session: dbm.Session) -> SimpleNamespace:
    """A session with something of each kind to write, and something clean."""
    changed = saved(session, title="changed", tags=["a", {"b": [1]}])
    gone, clean = saved(session, title="gone", text="x"), saved(session, title="clean", tags=["c"])
    new = Document(title="new", tags=["a"])
    comment = Comment(document=new)
    session.add(comment)
    changed.title = "renamed"
    changed.tags[1]["b"].append(2)
    gone.text = "y"
    session.delete(gone)
    return SimpleNamespace(changed=changed, gone=gone, clean=clean, new=new, comment=comment)


def facts(session: dbm.Session, work: SimpleNamespace) -> Any:
    """Return all that can be said of a session and its objects."""
    books = [sorted(map(id, book)) for book in (session.new, session.dirty, session.deleted)]
    objects = [
        (
            name,
            session.state(one),
            one in session,
            session.is_modified(one),
            {column: getattr(one, column) for column in sorted(one._meta.fields) if column != "document"},
        )
        for name, one in vars(work).items()
    ]
    keys = sorted((model.__name__, key) for model, key in session.identity_map)
    return books, repr(objects), keys, work.comment.document is work.new, work.comment.document_id


def everything(session: dbm.Session) -> list[Any]:
    """Return what the tables have."""
    return [
        rows(session, "SELECT id, title, text, tags, version FROM documents ORDER BY id"),
        rows(session, "SELECT document_id, text FROM comments ORDER BY id"),
        log(session),
    ]


def meddle(session: dbm.Session, work: SimpleNamespace) -> None:
    """Change, add and delete something of each kind."""
    for one in (work.new, work.changed, work.clean):
        one.text = "meddled"
        one.tags.append("meddled")
    work.changed.tags[1]["b"].clear()
    work.comment.document = None
    session.add(Entry(text="meddled"))
    session.add(Comment(document=work.clean))


def test_the_work_of_these_tests_succeeds_when_nobody_listens(session: dbm.Session, work: SimpleNamespace) -> None:
    session.commit()
    check_success(session, work)


def check_success(session: dbm.Session, work: SimpleNamespace) -> None:
    assert titles(session) == ["renamed", "clean", "new"]
    assert [document.tags for document in session.query(Document).order_by(Document.id)] == [
        ["a", {"b": [1, 2]}],
        ["c"],
        ["a"],
    ]
    assert [document.text for document in session.query(Document)] == [""] * 3
    assert (work.changed.version, work.new.version, work.clean.version) == (2, 1, 1)
    assert work.comment.document_id == work.new.id is not None
    assert (session.state(work.gone), log(session)) == ("detached", [])


RAISING = ["before_flush", "after_flush", *MODEL_EVENTS]


def raising(
    session: dbm.Session, listen: Listen, name: str, act: Callable[[], Any], model: Any = Document
) -> Callable[[], None]:
    """Have a listener act and raise, and return the function that ends it."""

    def refuse(_: Any) -> None:
        act()
        raise Refused(name)

    target = session if name.endswith("flush") else model
    listen(target, name, refuse)
    return lambda: dbm.unlisten(target, name, refuse)


@pytest.mark.parametrize("is_begun", [False, True], ids=["first flush", "later flush"])
@pytest.mark.parametrize("name", RAISING)
def test_one_that_raises_leaves_rows_and_objects_as_they_were(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, name: str, is_begun: bool
) -> None:
    if is_begun:
        session.begin()
    end = raising(session, listen, name, lambda: None)
    before = facts(session, work), everything(session)
    with pytest.raises(Refused, match=name):
        session.flush()
    assert (facts(session, work), everything(session)) == before
    assert session.in_transaction() == is_begun
    end()
    session.commit()
    check_success(session, work)


@pytest.mark.parametrize("is_begun", [False, True], ids=["first flush", "later flush"])
@pytest.mark.parametrize("name", RAISING)
def test_one_that_changes_and_adds_and_raises_leaves_all_as_it_was(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, name: str, is_begun: bool
) -> None:
    if is_begun:
        session.begin()
    end = raising(session, listen, name, lambda: meddle(session, work))
    before = facts(session, work), everything(session)
    with pytest.raises(Refused):
        session.flush()
    assert (facts(session, work), everything(session)) == before
    end()
    session.commit()
    check_success(session, work)


@pytest.mark.parametrize("name", RAISING)
@pytest.mark.parametrize("what", ["new", "changed", "clean"])
def test_one_that_deletes_and_raises_leaves_all_as_it_was(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, name: str, what: str
) -> None:
    end = raising(session, listen, name, lambda: session.delete(getattr(work, what)))
    before = facts(session, work), everything(session)
    with pytest.raises(Refused):
        session.flush()
    assert (facts(session, work), everything(session)) == before
    end()
    session.commit()
    check_success(session, work)


@pytest.mark.parametrize("name", RAISING)
@pytest.mark.parametrize("what", ["new", "changed"])
def test_one_that_lets_go_of_an_object_and_raises_leaves_all_as_it_was(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, name: str, what: str
) -> None:
    end = raising(session, listen, name, lambda: session.expunge(getattr(work, what)))
    before = facts(session, work), everything(session)
    with pytest.raises(Refused):
        session.flush()
    assert (facts(session, work), everything(session)) == before
    end()
    session.commit()
    check_success(session, work)


def test_one_that_drops_the_delete_and_raises_leaves_it_to_be_done(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    end = raising(session, listen, "before_flush", lambda: session.add(work.gone))
    before = facts(session, work)
    with pytest.raises(Refused):
        session.flush()
    assert facts(session, work) == before
    end()
    session.commit()
    check_success(session, work)


def test_letting_go_of_all_objects_within_a_flush_is_refused(session: dbm.Session, listen: Listen) -> None:
    listen(session, "before_flush", lambda session: session.expunge_all())
    session.add(Document())
    with pytest.raises(dbm.InvalidRequestError, match="in the middle of a flush"):
        session.flush()
    assert len(session.new) == 1


def test_one_that_lets_go_of_clean_objects_and_raises_leaves_them_in_the_session(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    raising(session, listen, "before_flush", lambda: session.expunge(work.clean))
    before = facts(session, work)
    with pytest.raises(Refused):
        session.flush()
    assert facts(session, work) == before


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_one_that_merges_and_raises_leaves_the_session_without_the_copy(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, name: str
) -> None:
    def merge() -> None:
        session.merge(Document(id=work.clean.id, text="merged"))
        session.merge(Document(title="merged"))

    raising(session, listen, name, merge)
    before = facts(session, work), everything(session)
    with pytest.raises(Refused):
        session.flush()
    assert (facts(session, work), everything(session)) == before


@pytest.mark.parametrize("is_changed", [False, True], ids=["clean", "changed"])
@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_one_that_changes_a_key_and_raises_leaves_the_object_under_its_key(
    session: dbm.Session, listen: Listen, name: str, is_changed: bool
) -> None:
    shelf = Shelf(name="a", labels={"x"})
    session.add(shelf)
    session.commit()
    if is_changed:
        shelf.labels = {"y"}
    session.add(Entry())
    end = raising(session, listen, name, lambda: setattr(shelf, "name", "b"))
    with pytest.raises(Refused):
        session.flush()
    assert shelf.name == "a" and session.is_modified(shelf) == is_changed
    assert session.identity_map[Shelf, "a"] is shelf and (Shelf, "b") not in session.identity_map
    end()
    session.commit()
    assert rows(session, "SELECT name, labels FROM shelfs") == [("a", "y" if is_changed else "x")]


def test_an_object_deleted_and_added_again_that_a_listener_let_go_of_is_persistent_after_a_rollback(
    session: dbm.Session, listen: Listen
) -> None:
    document = saved(session, title="a")
    session.delete(document)
    session.flush()
    session.add(document)
    raising(session, listen, "before_flush", lambda: session.expunge(document))
    with pytest.raises(Refused):
        session.flush()
    assert session.state(document) == "pending"
    session.rollback()
    assert (session.state(document), titles(session)) == ("persistent", ["a"])


def test_a_flush_that_a_listener_refused_within_a_savepoint_can_be_rolled_back_to_it(
    session: dbm.Session, listen: Listen
) -> None:
    document = saved(session, title="a")
    document.title = "b"
    savepoint = session.begin_nested()
    document.title = "c"
    end = raising(session, listen, "after_update", lambda: setattr(document, "text", "meddled"))
    with pytest.raises(Refused):
        session.flush()
    assert (document.title, document.text, document.version) == ("c", "", 2)
    end()
    savepoint.rollback()
    assert (document.title, document.version) == ("b", 2)
    session.commit()
    assert titles(session) == ["b"]


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_one_that_flags_an_attribute_and_raises_leaves_its_value(
    session: dbm.Session, listen: Listen, name: str
) -> None:
    document = saved(session, text="a")
    raising(session, listen, name, lambda: session.flag_modified(document, "text"))
    session.add(Entry())
    with pytest.raises(Refused):
        session.flush()
    assert document.text == "a"


def test_a_flagged_attribute_has_its_value_after_a_rollback(session: dbm.Session) -> None:
    document = saved(session, text="a")
    session.flag_modified(document, "text")
    session.rollback()
    assert document.text == "a"


def test_a_json_value_that_became_an_equal_one_of_another_type_is_restored(
    session: dbm.Session, listen: Listen
) -> None:
    document = Document(tags=[1])
    session.add(document)
    raising(session, listen, "before_flush", lambda: document.tags.__setitem__(0, True))
    with pytest.raises(Refused):
        session.flush()
    assert repr(document.tags) == "[1]"


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "changed"])
def test_a_value_of_a_users_own_field_that_was_changed_in_place_is_restored(
    session: dbm.Session, listen: Listen, is_new: bool
) -> None:
    shelf = Shelf(name="a", labels={"x"})
    session.add(shelf)
    if not is_new:
        session.commit()
        shelf.labels.add("y")
    before = set(shelf.labels)
    raising(session, listen, "before_flush", lambda: shelf.labels.add("meddled"))
    with pytest.raises(Refused):
        session.flush()
    assert shelf.labels == before


def test_an_object_that_a_listener_added_before_it_raised_is_transient(session: dbm.Session, listen: Listen) -> None:
    entry = Entry(text="a")
    end = raising(session, listen, "after_insert", lambda: None, model=Entry)
    listen(session, "before_flush", lambda session: session.add(entry))
    session.add(Document())
    with pytest.raises(Refused):
        session.flush()
    assert (session.state(entry), entry.id, entry.text) == ("transient", None, "a")
    end()
    session.commit()
    assert log(session) == ["a"]


def test_a_new_object_that_refers_to_a_pending_one_does_not_stay_when_the_listener_raises(
    session: dbm.Session, listen: Listen
) -> None:
    document = Document(title="a")
    end = raising(session, listen, "before_flush", lambda: document.comments.add(Comment(text="meddled")))
    session.add(document)
    with pytest.raises(Refused):
        session.flush()
    end()
    session.commit()
    assert rows(session, "SELECT count(*) FROM comments") == [(0,)]


def test_get_finds_a_pending_object_whose_key_a_listener_used_before_it_raised(
    session: dbm.Session, listen: Listen
) -> None:
    document = Document(id=7)
    raising(session, listen, "before_flush", lambda: session.add(Document(id=7)))
    session.add(document)
    with pytest.raises(Refused):
        session.flush()
    with session.no_autoflush:
        assert session.get(Document, 7) is document


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_a_row_switch_that_a_listener_refuses_is_undone(session: dbm.Session, listen: Listen, name: str) -> None:
    old = saved(session, title="a")
    new = Document(id=old.id, title="b")
    end = raising(session, listen, name, lambda: setattr(new, "title", "meddled"))
    session.delete(old)
    session.add(new)
    with pytest.raises(Refused):
        session.flush()
    assert (session.new, session.deleted, new.title, new.version) == ([new], [old], "b", 1)
    assert session.identity_map[Document, old.id] is old and titles(session) == ["a"]
    end()
    session.commit()
    assert rows(session, "SELECT title, version FROM documents") == [("b", 2)]


@pytest.mark.parametrize("is_begun", [False, True], ids=["first flush", "later flush"])
def test_a_flush_that_the_database_refuses_takes_back_what_listeners_did(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, is_begun: bool
) -> None:
    if is_begun:
        session.begin()

    def collide(session: dbm.Session) -> None:
        meddle(session, work)
        work.new.title = "clean"

    listen(session, "before_flush", collide)
    before = facts(session, work), everything(session)
    with pytest.raises(peewee.IntegrityError, match="title"):
        session.flush()
    assert (facts(session, work), everything(session)) == before
    dbm.unlisten(session, "before_flush", collide)
    session.commit()
    check_success(session, work)


def test_a_row_that_was_changed_meanwhile_takes_back_what_listeners_did(
    session: dbm.Session, other: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    other.execute("UPDATE documents SET version = 7 WHERE title = 'changed'")
    other.commit()
    listen(session, "before_flush", lambda session: meddle(session, work))
    before = facts(session, work), everything(session)
    with pytest.raises(dbm.StaleDataError) as caught:
        session.flush()
    assert caught.value.object is work.changed
    assert (facts(session, work), everything(session)) == before


def test_a_refused_commit_keeps_the_changes_and_can_be_rolled_back(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    raising(session, listen, "after_flush", lambda: meddle(session, work))
    with pytest.raises(Refused):
        session.commit()
    session.rollback()
    assert (work.changed.title, work.changed.tags, work.gone.text) == ("changed", ["a", {"b": [1]}], "x")
    assert [session.state(one) for one in (work.new, work.comment, work.gone)] == [
        "transient",
        "transient",
        "persistent",
    ]
    assert titles(session) == ["changed", "gone", "clean"]


def test_a_savepoint_whose_listener_raises_keeps_what_was_before(session: dbm.Session, listen: Listen) -> None:
    outer, inner = Document(title="outer"), Document(title="inner")
    session.add(outer)
    with pytest.raises(Refused), session.begin_nested():
        end = raising(session, listen, "after_insert", lambda: None)
        session.add(inner)
    end()
    session.commit()
    assert titles(session) == ["outer"]
    assert (session.state(outer), session.state(inner)) == ("persistent", "transient")


def test_a_query_whose_autoflush_a_listener_refuses_raises_the_listeners_error(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    end = raising(session, listen, "before_flush", lambda: meddle(session, work))
    before = facts(session, work)
    with pytest.raises(Refused):
        session.query(Document).all()
    assert facts(session, work) == before
    end()
    assert session.query(Document).count() == 3


def test_a_listener_interrupted_by_ctrl_c_leaves_all_as_it_was(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    def interrupt(session: dbm.Session) -> None:
        meddle(session, work)
        raise KeyboardInterrupt

    listen(session, "after_flush", interrupt)
    before = facts(session, work), everything(session)
    with pytest.raises(KeyboardInterrupt):
        session.flush()
    assert (facts(session, work), everything(session)) == before


def test_the_error_of_a_listener_stays_the_same_object(session: dbm.Session, listen: Listen) -> None:
    error = Refused("as it was")

    def refuse(session: dbm.Session) -> None:
        raise error

    listen(session, "after_flush", refuse)
    session.add(Document())
    with pytest.raises(Refused) as caught:
        session.commit()
    assert caught.value is error and error.args == ("as it was",)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda session: session.execute("INSERT INTO entries (text) VALUES ('meddled')")),
        pytest.param(lambda session: session.execute(Document.update(text="meddled"))),
    ],
    ids=["SQL", "Peewee"],
)
@pytest.mark.parametrize("is_begun", [False, True], ids=["first flush", "later flush"])
@pytest.mark.parametrize("name", ["before_flush", "before_insert"])
def test_one_that_writes_rows_before_and_raises_leaves_them_as_they_were(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, write: Any, is_begun: bool, name: str
) -> None:
    if is_begun:
        session.begin()
    end = raising(session, listen, name, lambda: write(session))
    before = facts(session, work), everything(session), session.in_transaction()
    with pytest.raises(Refused):
        session.flush()
    assert (facts(session, work), everything(session), session.in_transaction()) == before
    end()
    session.commit()
    check_success(session, work)


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.execute("INSERT INTO entries (text) VALUES ('meddled')"),
        lambda session: session.execute(Document.update(text="meddled")),
        lambda session: session.execute(Document.delete()),
    ],
    ids=["SQL", "update", "delete"],
)
@pytest.mark.parametrize("is_begun", [False, True], ids=["first flush", "later flush"])
@pytest.mark.parametrize("name", ["after_flush", "after_update"])
def test_one_that_writes_rows_after_and_raises_leaves_them_as_they_were(
    session: dbm.Session, listen: Listen, work: SimpleNamespace, write: Any, is_begun: bool, name: str
) -> None:
    if is_begun:
        session.begin()
    end = raising(session, listen, name, lambda: write(session))
    before = facts(session, work), everything(session), session.in_transaction()
    with pytest.raises(Refused):
        session.flush()
    assert (facts(session, work), everything(session), session.in_transaction()) == before
    end()
    session.commit()
    check_success(session, work)


def test_one_that_writes_on_the_connection_before_an_insert_and_raises_leaves_the_rows_as_they_were(
    session: dbm.Session, listen: Listen
) -> None:
    def refuse(mapper: Any, connection: Any, target: Any) -> None:
        connection.execute_sql("INSERT INTO entries (text) VALUES ('meddled')")
        raise Refused

    listen(Document, "before_insert", refuse)
    session.add(Document())
    with pytest.raises(Refused):
        session.flush()
    assert log(session) == []


def test_a_listener_that_used_the_connection_and_raised_gives_it_back(
    engine: Any, session: dbm.Session, listen: Listen
) -> None:
    def refuse(mapper: Any, connection: Any, target: Any) -> None:
        connection.execute_sql("SELECT 1").fetchall()
        raise Refused

    listen(Document, "before_insert", refuse)
    session.add(Document())
    with pytest.raises(Refused):
        session.flush()
    session.rollback()
    assert session._transaction.database.is_closed()


def test_before_commit_that_raises_writes_nothing_and_ends_nothing(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    def refuse(session: dbm.Session) -> None:
        raise Refused

    told: list[str] = []
    listen(session, "before_commit", refuse)
    for name in ENDS:
        listen(session, name, lambda session, *, name=name: told.append(name))
    before = facts(session, work), everything(session)
    with pytest.raises(Refused):
        session.commit()
    assert (facts(session, work), everything(session), told) == (*before, [])


def test_after_flush_is_not_told_of_a_flush_that_failed(session: dbm.Session, listen: Listen) -> None:
    saved(session, title="a")
    told: list[str] = []
    for name in ("after_flush", "after_commit"):
        listen(session, name, lambda session, *, name=name: told.append(name))
    listen(Document, "after_insert", lambda document: told.append("after_insert"))
    session.add(Document(title="a"))
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert told == []


def test_after_the_rollback_of_a_failed_flush_the_objects_are_as_they_were(
    session: dbm.Session, listen: Listen, work: SimpleNamespace
) -> None:
    found: list[Any] = []
    before = facts(session, work)
    listen(session, "after_rollback", lambda session: found.append(facts(session, work)))
    raising(session, listen, "after_flush", lambda: meddle(session, work))
    with pytest.raises(Refused):
        session.flush()
    assert found == [before]


def test_a_listener_of_the_rollback_does_not_hide_why_a_flush_failed(session: dbm.Session, listen: Listen) -> None:
    saved(session, title="a")

    def refuse(session: dbm.Session) -> None:
        raise Refused

    listen(session, "after_rollback", refuse)
    session.add(Document(title="a"))
    with pytest.raises(peewee.IntegrityError):
        session.flush()


# When nobody listens


def test_listeners_cost_no_statement(
    session: dbm.Session, listen: Listen, statements: Statements, work: SimpleNamespace
) -> None:
    with statements() as ran:
        session.flush()
    session.rollback()
    session.add(work.comment)
    work.changed.title = "renamed"
    work.changed.tags[1]["b"].append(2)
    work.gone.text = "y"
    session.delete(work.gone)
    for name in SESSION_EVENTS:
        listen(session, name, lambda session: None)
    for name in MODEL_EVENTS:
        listen(Model, name, lambda one: None)
    with statements() as ran_with_listeners:
        session.flush()
    assert ran_with_listeners == ran


def test_when_nobody_listens_to_a_model_any_more_flushes_cost_what_they_did_before(
    session: dbm.Session, listen: Listen
) -> None:
    dbm.unlisten(Document, "before_insert", listen(Document, "before_insert", print))
    assert not hooks.models.own


def test_the_listeners_of_a_session_go_with_it(engine: Any) -> None:
    session = dbm.open_session(engine)
    dbm.listen(session, "before_flush", print)
    reference = weakref.ref(session)
    session.close()
    del session
    gc.collect()
    assert reference() is None


# Transactions that end, and objects that move, while listeners are told


ENDINGS = {
    "sqlite": "INSERT INTO entries (text) VALUES ('x')",  # a trigger refuses it with RAISE(ROLLBACK)
    "postgresql": "SELECT pg_terminate_backend(pg_backend_pid())",
    "mariadb": "KILL CONNECTION_ID()",
    "mysql": "KILL CONNECTION_ID()",
}


@pytest.mark.parametrize("is_raised", [True, False])
def test_a_transaction_that_the_database_ends_under_a_listener_takes_the_flush_with_it(
    session: dbm.Session, engine: Any, listen: Listen, is_raised: bool
) -> None:
    if engine.kind == "sqlite":
        engine.execute_sql("CREATE TRIGGER no BEFORE INSERT ON entries BEGIN SELECT RAISE(ROLLBACK, 'no'); END")

    def write(session: dbm.Session) -> None:
        session.execute("UPDATE entries SET text = 'begun'")
        with nullcontext() if is_raised else suppress(peewee.PeeweeException):
            session.execute(ENDINGS[engine.kind])

    listen(session, "before_flush", write)
    document = Document(title="a")
    session.add(document)
    its_own = peewee.IntegrityError if engine.kind == "sqlite" else peewee.OperationalError
    with pytest.raises(its_own if is_raised else dbm.InvalidRequestError, match=r"^no|is lost|ended the transact"):
        session.commit()
    assert (session.new, session.in_transaction(), titles(session)) == ([document], False, [])
    dbm.unlisten(session, "before_flush", write)
    session.commit()
    assert titles(session) == ["a"]


@pytest.mark.databases("postgresql")
def test_an_error_that_a_listener_swallows_fails_the_flush_on_postgresql(session: dbm.Session, listen: Listen) -> None:
    # After an error PostgreSQL takes no more statements in the transaction, unless a savepoint is undone.
    def write(session: dbm.Session) -> None:
        with suppress(peewee.PeeweeException):
            session.execute("INSERT INTO entries (text) VALUES (NULL)")

    listen(session, "before_flush", write)
    document = Document(title="a")
    session.add(document)
    with pytest.raises(peewee.InternalError, match="has failed, and PostgreSQL takes no more after that"):
        session.commit()
    assert (session.new, session.in_transaction(), titles(session)) == ([document], False, [])
    dbm.unlisten(session, "before_flush", write)
    session.commit()
    assert titles(session) == ["a"]


def test_an_error_that_a_listener_meets_in_a_savepoint_of_the_connection_can_be_swallowed(
    session: dbm.Session, listen: Listen
) -> None:
    def write(mapper: Any, connection: Any, target: Any) -> None:
        with suppress(peewee.PeeweeException), connection.savepoint():
            connection.execute_sql("INSERT INTO entries (text) VALUES (NULL)")

    listen(Document, "after_insert", write)
    session.add(Document(title="a"))
    session.commit()
    assert titles(session) == ["a"]


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_a_savepoint_is_not_rolled_back_within_a_flush(session: dbm.Session, listen: Listen, name: str) -> None:
    outer, inner = Document(title="outer"), Document(title="inner")
    session.add(outer)
    savepoint = session.begin_nested()
    session.add(inner)
    listen(session, name, lambda _: savepoint.rollback())
    with pytest.raises(dbm.InvalidRequestError, match="in the middle of a flush"):
        session.flush()
    assert (session.state(outer), session.new) == ("persistent", [inner])


def test_in_a_flush_there_is_no_savepoint_of_the_programs(session: dbm.Session, listen: Listen) -> None:
    found: list[bool] = []
    listen(session, "before_flush", lambda session: found.append(session.in_nested_transaction()))
    session.add(Document())
    session.flush()
    assert found == [False]


def test_a_detached_object_that_a_listener_adds_has_its_changes_still_when_the_flush_fails(
    session: dbm.Session, listen: Listen
) -> None:
    detached = saved(session, title="a")
    session.expunge(detached)
    detached.text = "changed"

    def add(session: dbm.Session) -> None:
        session.add(detached)
        raise Refused

    listen(session, "before_flush", add)
    session.add(Document(title="b"))
    with pytest.raises(Refused):
        session.flush()
    assert (session.state(detached), detached.text) == ("detached", "changed")
    assert session.is_modified(detached)


def test_an_object_that_a_listener_expunged_and_read_again_is_one_object_when_the_flush_fails(
    session: dbm.Session, listen: Listen
) -> None:
    document = saved(session, title="a")
    others: list[Any] = []

    def read_again(session: dbm.Session) -> None:
        session.expunge(document)
        others.append(session.get(Document, document.id))
        raise Refused

    listen(session, "before_flush", read_again)
    session.add(Document(title="b"))
    with pytest.raises(Refused):
        session.flush()
    assert session.get(Document, document.id) is document
    assert session.state(others[0]) == "detached"


def test_what_a_listener_read_of_its_own_statement_is_in_doubt_when_the_flush_fails(
    session: dbm.Session, listen: Listen
) -> None:
    saved(session, title="a", text="row")
    session.expunge_all()
    session.execute("UPDATE documents SET version = version")
    found: list[Any] = []

    def write(session: dbm.Session) -> None:
        session.execute("UPDATE documents SET text = 'undone'")
        found.append(session.query(Document).one())
        raise Refused

    listen(session, "before_flush", write)
    session.add(Entry())
    with pytest.raises(Refused):
        session.flush()
    dbm.unlisten(session, "before_flush", write)
    found[0].text = "undone"
    session.flush()
    assert rows(session, "SELECT text FROM documents") == [("undone",)]
