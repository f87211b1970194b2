"""Rows that another session changed or deleted: nothing is lost in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peewee
import pytest
from conftest import Person, as_sqlite, verbs

from tent.data import dbm

Model = dbm.declarative_base()


class Page(Model):
    """A row with a version."""

    title = peewee.CharField(null=True, unique=True)
    text = peewee.TextField(default="")
    version = dbm.VersionField()


class Chapter(Model):
    """A row with a version that refers to others."""

    before = peewee.ForeignKeyField("self", null=True)
    place = peewee.IntegerField(unique=True, null=True)
    version = dbm.VersionField()


class Line(Model):
    page = peewee.ForeignKeyField(Page, backref="lines")


class Loose(Model):
    """A row whose version may be NULL."""

    text = peewee.TextField(default="")
    version = dbm.VersionField(null=True)


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


@pytest.fixture
def page(session: Any) -> Page:
    page = Page(title="a", text="one")
    session.add(page)
    session.commit()
    return page


def rows(engine: Any, sql: str) -> list[Any]:
    """What the database says, asked on no session's connection."""
    return list(engine.execute_sql(sql).fetchall())


# A row that is gone


def test_an_update_of_a_row_that_is_gone_raises_with_the_expected_and_the_found_number(
    session: Any, engine: Any
) -> None:
    people = [Person(name=name) for name in "abc"]
    session.add_all(people)
    session.commit()
    engine.execute_sql("DELETE FROM people WHERE name = 'b'")
    for person in people:
        person.name += "!"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.flush()
    assert caught.value.object is people[1]
    assert "3" in str(caught.value) and "2" in str(caught.value)
    assert repr(people[1]) in str(caught.value)
    session.rollback()
    assert rows(engine, "SELECT name FROM people ORDER BY id") == [("a",), ("c",)]
    assert [person.name for person in people] == ["a", "b", "c"]


def test_a_delete_of_a_row_that_is_gone_raises(session: Any, engine: Any) -> None:
    people = [Person(name=name) for name in "ab"]
    session.add_all(people)
    session.commit()
    engine.execute_sql("DELETE FROM people WHERE name = 'b'")
    for person in people:
        session.delete(person)
    with pytest.raises(dbm.StaleDataError) as caught:
        session.flush()
    assert caught.value.object is people[1]
    assert session.deleted == people
    session.rollback()
    assert rows(engine, "SELECT name FROM people") == [("a",)]


def test_an_update_with_an_expression_of_a_row_that_is_gone_raises(session: Any, engine: Any) -> None:
    person = Person(name="a")
    session.add(person)
    session.commit()
    engine.execute_sql("DELETE FROM people")
    person.score = peewee.SQL("1 + 1")
    with pytest.raises(dbm.StaleDataError) as caught:
        session.flush()
    assert caught.value.object is person


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_new_row_that_gets_the_key_of_a_row_that_is_gone_is_not_taken_for_it(
    session: Any, other: Any, engine: Any, is_deleted: bool
) -> None:
    old = Person(name="old")
    session.add(old)
    session.commit()
    other.delete(other.get(Person, old.id))
    other.commit()
    new = Person(name="new")
    session.add(new)
    if is_deleted:
        session.delete(old)
    else:
        old.name = "changed"
    with pytest.raises(dbm.StaleDataError, match=r"new row.*is gone") as caught:
        session.commit()
    assert caught.value.object is old
    session.expunge(old)
    session.commit()
    assert rows(engine, "SELECT id, name FROM people") == [(1, "new")]
    assert session.get(Person, 1) is new


@pytest.mark.databases("sqlite")
def test_a_new_row_may_get_the_key_of_one_that_the_same_flush_deletes(session: Any, engine: Any) -> None:
    old, new = Person(email="a@x"), Person(email="a@x")
    session.add(old)
    session.commit()
    session.delete(old)
    session.add(new)
    session.commit()
    assert rows(engine, "SELECT id FROM people") == [(1,)]
    assert session.get(Person, 1) is new


def test_a_stale_object_can_be_let_go_of_and_the_rest_committed(session: Any, engine: Any) -> None:
    one, two = Person(name="one"), Person(name="two")
    session.add_all([one, two])
    session.commit()
    engine.execute_sql("DELETE FROM people WHERE name = 'one'")
    one.age = two.age = 3
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    assert (one.age, two.age) == (3, 3)
    session.expunge(one)
    session.commit()
    assert rows(engine, "SELECT name, age FROM people") == [("two", 3)]


def test_two_sessions_that_change_different_columns_of_a_row_both_win(session: Any, other: Any, engine: Any) -> None:
    session.add(Person(id=1, name="a", age=1))
    session.commit()
    other.get(Person, 1).name = "b"
    session.get(Person, 1).age = 2
    session.commit()
    other.commit()
    assert rows(engine, "SELECT name, age FROM people") == [("b", 2)]


# A version


def test_a_version_starts_at_1_and_counts_the_updates(session: Any, engine: Any, page: Page) -> None:
    found = [page.version]
    for text in ("two", "three"):
        page.text = text
        session.commit()
        found.append(page.version)
    assert found == [1, 2, 3]
    assert rows(engine, "SELECT version FROM pages") == [(3,)]


def test_an_update_checks_the_version_and_counts_it_in_one_statement(
    session: Any, page: Page, statements: Callable[[], Any]
) -> None:
    page.text = "two"
    with statements() as ran:
        session.commit()
    assert verbs(ran) == ["BEGIN", "UPDATE", "COMMIT"]
    assert as_sqlite(ran[1]).endswith('WHERE "id" = ? AND "version" = ?')


def test_an_update_over_an_update_of_another_session_raises_and_names_both_versions(
    session: Any, other: Any, engine: Any, page: Page
) -> None:
    other.get(Page, page.id).text = "theirs"
    other.commit()
    page.text = "mine"
    with pytest.raises(dbm.StaleDataError, match=r"version 1\b.*\b2\b") as caught:
        session.commit()
    assert caught.value.object is page
    assert (page.text, page.version) == ("mine", 1)
    assert rows(engine, "SELECT text, version FROM pages") == [("theirs", 2)]


def test_a_delete_over_an_update_of_another_session_raises(session: Any, other: Any, engine: Any, page: Page) -> None:
    other.get(Page, page.id).text = "theirs"
    other.commit()
    session.delete(page)
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is page
    session.rollback()
    assert rows(engine, "SELECT text FROM pages") == [("theirs",)]


@pytest.mark.databases("servers")
@pytest.mark.parametrize(("sql", "says"), [
    ("UPDATE pages SET version = 2", r"loaded with version 1, and its row has 2 now"),
    ("DELETE FROM pages", r"row of <Page id=1 .* is gone"),
])  # fmt: skip
def test_a_stale_row_is_named_in_a_transaction_that_has_read_it_before(
    session: Any, engine: Any, page: Page, sql: str, says: str
) -> None:
    with pytest.raises(dbm.StaleDataError, match=says) as caught:
        with session.begin():
            session.refresh(page)
            engine.execute_sql(sql)
            page.text = "mine"
    assert caught.value.object is page


def test_one_stale_row_among_many_is_found_and_named(session: Any, engine: Any) -> None:
    pages = [Page(text=str(number)) for number in range(20)]
    session.add_all(pages)
    session.commit()
    engine.execute_sql("UPDATE pages SET version = 7 WHERE text = '13'")
    for page in pages:
        page.text += "!"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is pages[13]
    assert {page.version for page in pages} == {1}
    session.rollback()
    assert [page.text for page in pages] == [str(number) for number in range(20)]


def test_after_a_rollback_and_a_new_read_the_count_goes_on(session: Any, other: Any, engine: Any, page: Page) -> None:
    other.get(Page, page.id).text = "theirs"
    other.commit()
    page.text = "mine"
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    session.rollback()
    assert session.get(Page, page.id) is page
    assert (page.text, page.version) == ("theirs", 2)
    page.text = "mine"
    session.commit()
    assert rows(engine, "SELECT text, version FROM pages") == [("mine", 3)]


def test_a_rolled_back_update_gives_the_version_back(session: Any, page: Page) -> None:
    page.text = "two"
    session.flush()
    assert page.version == 2
    session.rollback()
    assert page.version == 1
    page.text = "three"
    session.commit()
    assert page.version == 2


def test_a_failed_flush_gives_the_version_back(session: Any, engine: Any, page: Page) -> None:
    session.add(Page(title="b"))
    session.commit()
    page.text, page.title = "two", "b"
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert page.version == 1
    page.title = "c"
    session.commit()
    assert rows(engine, "SELECT title, version FROM pages WHERE text = 'two'") == [("c", 2)]


def test_a_version_that_is_set_by_hand_is_written_and_the_loaded_one_checked(
    session: Any, engine: Any, page: Page
) -> None:
    page.text, page.version = "two", 10
    session.commit()
    assert rows(engine, "SELECT text, version FROM pages") == [("two", 10)]
    engine.execute_sql("UPDATE pages SET version = 11")
    page.version = 20
    with pytest.raises(dbm.StaleDataError):
        session.commit()


@pytest.mark.parametrize(("given", "found"), [(None, 2), (50, 50)])
def test_a_row_that_is_written_twice_in_a_flush_counts_once(
    session: Any, engine: Any, given: int | None, found: int
) -> None:
    old = Chapter(place=1)
    session.add(old)
    session.commit()
    new = Chapter(before=old, place=1)
    old.before, old.place = new, 2  # it gives up its place for the new one, and then waits for the key of that
    if given is not None:
        old.version = given
    session.add(new)
    session.commit()
    assert old.version == found
    assert rows(engine, "SELECT place, before_id, version FROM chapters ORDER BY id") == [(2, 2, found), (1, 1, 1)]


def test_no_net_change_does_not_count(session: Any, page: Page, statements: Callable[[], Any]) -> None:
    page.text = "two"
    page.text = "one"
    with statements() as ran:
        session.commit()
    assert ran == []
    assert page.version == 1


def test_a_new_row_that_refers_to_the_object_does_not_count(session: Any, engine: Any, page: Page) -> None:
    session.add(Line(page=page))
    session.commit()
    assert page.version == 1
    assert rows(engine, "SELECT version FROM pages") == [(1,)]


def test_several_flushes_in_a_transaction_count_each(session: Any, engine: Any, page: Page) -> None:
    page.text = "two"
    session.flush()
    page.text = "three"
    session.flush()
    assert page.version == 3
    session.rollback()
    assert (page.version, page.text) == (1, "one")
    assert rows(engine, "SELECT version, text FROM pages") == [(1, "one")]


def test_a_savepoint_that_is_rolled_back_gives_its_part_of_the_count_back(
    session: Any, engine: Any, page: Page
) -> None:
    page.text = "two"
    savepoint = session.begin_nested()
    page.text = "three"
    session.flush()
    assert page.version == 3
    savepoint.rollback()
    assert (page.version, page.text) == (2, "two")
    page.text = "four"
    session.commit()
    assert rows(engine, "SELECT version, text FROM pages") == [(3, "four")]


def test_an_update_of_a_row_whose_version_is_none_is_refused(session: Any, engine: Any) -> None:
    loose = Loose(version=None)
    session.add(loose)
    session.commit()
    loose.text = "two"
    with pytest.raises(dbm.FlushError, match="version") as caught:
        session.flush()
    assert not isinstance(caught.value, dbm.StaleDataError)
    assert rows(engine, "SELECT text FROM looses") == [("",)]
    session.rollback()


def test_a_row_switch_counts_on_so_that_others_notice(session: Any, other: Any, engine: Any, page: Page) -> None:
    theirs = other.get(Page, page.id)
    session.delete(page)
    session.add(Page(id=page.id, text="new"))
    session.commit()
    assert rows(engine, "SELECT text, version FROM pages") == [("new", 2)]
    theirs.text = "theirs"
    with pytest.raises(dbm.StaleDataError):
        other.commit()


def test_a_row_switch_of_a_row_that_another_session_changed_raises(
    session: Any, other: Any, engine: Any, page: Page
) -> None:
    other.get(Page, page.id).text = "theirs"
    other.commit()
    session.delete(page)
    session.add(Page(id=page.id, text="new"))
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    session.rollback()
    assert rows(engine, "SELECT text FROM pages") == [("theirs",)]


def test_a_swap_of_unique_values_counts_each_row_once(session: Any, engine: Any, page: Page) -> None:
    second = Page(title="b")
    session.add(second)
    session.commit()
    page.title, second.title = "b", "a"
    session.commit()
    assert rows(engine, "SELECT title, version FROM pages ORDER BY id") == [("b", 2), ("a", 2)]
    assert (page.version, second.version) == (2, 2)


def test_a_swap_of_unique_values_over_an_update_of_another_session_raises(
    session: Any, other: Any, engine: Any, page: Page
) -> None:
    second = Page(title="b")
    session.add(second)
    session.commit()
    other.get(Page, page.id).text = "theirs"
    other.commit()
    page.title, second.title = "b", "a"
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    session.rollback()
    assert rows(engine, "SELECT title, text FROM pages ORDER BY id") == [("a", "theirs"), ("b", "")]


def test_an_update_with_an_expression_checks_and_counts_the_version(
    session: Any, other: Any, engine: Any, page: Page
) -> None:
    page.text = peewee.SQL("'two'")
    session.commit()
    assert (page.text, page.version) == ("two", 2)
    other.get(Page, page.id).text = "theirs"
    other.commit()
    page.text = peewee.SQL("'three'")
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    assert page.version == 2


def test_run_transaction_repeats_work_that_met_a_changed_row(engine: Any, session: Any, page: Page) -> None:
    attempts = []

    def work(inner: Any) -> None:
        found = inner.get(Page, page.id)
        attempts.append(found.text)
        if len(attempts) == 1:
            inner.execute("UPDATE pages SET version = version + 1")
        found.text = "done"

    dbm.run_transaction(engine, work)
    assert attempts == ["one", "one"]
    assert rows(engine, "SELECT text, version FROM pages") == [("done", 2)]
