"""Versions of other types than a count: a time, a UUID, one that the program sets itself."""

from __future__ import annotations

import datetime
import pickle
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import peewee
import pytest
from conftest import run_sql

from tent.data import dbm
from tent.data.orm import version as versions

Model = dbm.declarative_base()
Statements = Callable[[], Any]


class ETagField(dbm.Version, peewee.UUIDField):
    """A version that says nothing but that it is another one."""

    def following(self, version: uuid.UUID) -> uuid.UUID:
        return uuid.uuid4()


class ManualField(dbm.Version, peewee.CharField):
    """A version that the program sets."""

    def following(self, version: str) -> str:
        return version


class UnfinishedField(dbm.Version, peewee.IntegerField):
    """A version without a rule."""


class Timed(Model):
    name = peewee.CharField(unique=True, null=True)
    text = peewee.TextField(default="one")
    version = dbm.UpdatedAtField()


class Tagged(Model):
    name = peewee.CharField(unique=True, null=True)
    text = peewee.TextField(default="one")
    version = ETagField(default=uuid.uuid4)


class Manual(Model):
    name = peewee.CharField(unique=True, null=True)
    text = peewee.TextField(default="one")
    version = ManualField(default="1")


class Loose(Model):
    text = peewee.TextField(default="one")
    version = dbm.UpdatedAtField(null=True)


class Unfinished(Model):
    text = peewee.TextField(default="one")
    version = UnfinishedField(default=1)


class Counted(Model):
    text = peewee.TextField(default="one")
    version = dbm.VersionField()


NOON = datetime.datetime(2024, 1, 1, 12)
both = pytest.mark.parametrize("model", [Timed, Tagged])


@pytest.fixture(autouse=True)
def tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Model)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime.datetime], None]:
    """`clock(time)` sets the time that an update finds."""

    def set_to(time: datetime.datetime) -> None:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime.datetime:
                return time if tz is None else time.replace(tzinfo=tz)

        module = SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta, date=datetime.date, time=datetime.time)
        monkeypatch.setattr(versions, "datetime", module)

    return set_to


def saved(session: Any, model: Any, **values: Any) -> Any:
    """Return an object that has a row."""
    one = model(**values)
    session.add(one)
    session.commit()
    return one


def change_elsewhere(other: Any, one: Any) -> Any:
    """Change the row of an object in another session, and return the version that it has now."""
    theirs = other.get(type(one), one.id)
    theirs.text = "theirs"
    other.commit()
    return theirs.version


def stored(session: Any, model: Any) -> list[Any]:
    """Return what the rows have, read as no objects."""
    return list(session.execute(model.select(model.text, model.version).order_by(model.id).tuples()))


# An update gives the row another version, and each write checks it


@both
def test_an_update_gives_the_object_and_its_row_another_version(session: Any, model: Any) -> None:
    one = saved(session, model)
    first = one.version
    one.text = "two"
    session.commit()
    assert one.version != first
    assert stored(session, model) == [("two", one.version)]


@both
def test_an_update_checks_and_sets_the_version_in_one_statement(
    session: Any, model: Any, statements: Statements
) -> None:
    one = saved(session, model)
    one.text = "two"
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "UPDATE", "COMMIT"]
    sql = ran[1].replace("`", '"').replace("%s", "?")
    assert sql.endswith('SET "text" = ?, "version" = ? WHERE "id" = ? AND "version" = ?')


@both
def test_many_updates_go_out_together_each_with_its_version(session: Any, model: Any, statements: Statements) -> None:
    several = [model() for _ in range(3)]
    session.add_all(several)
    session.commit()
    former = [one.version for one in several]
    for one in several:
        one.text = "two"
    with statements() as ran:
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "UPDATE", "COMMIT"]
    assert all(one.version != old for one, old in zip(several, former))
    assert stored(session, model) == [("two", one.version) for one in several]


@both
def test_several_flushes_of_a_transaction_give_a_version_each(session: Any, model: Any) -> None:
    one = saved(session, model)
    seen = [one.version]
    for text in ("two", "three"):
        one.text = text
        session.flush()
        seen.append(one.version)
    session.commit()
    assert len(set(seen)) == 3


@both
def test_no_net_change_keeps_the_version(session: Any, model: Any, statements: Statements) -> None:
    one = saved(session, model)
    first = one.version
    one.text = "two"
    one.text = "one"
    with statements() as ran:
        session.commit()
    assert (ran, one.version) == ([], first)


@both
def test_an_update_over_an_update_of_another_session_raises_and_names_both_versions(
    session: Any, other: Any, model: Any
) -> None:
    one = saved(session, model)
    mine, theirs = one.version, change_elsewhere(other, one)
    one.text = "mine"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is one
    assert str(mine) in str(caught.value) and str(theirs) in str(caught.value)
    assert (one.text, one.version) == ("mine", mine)
    session.rollback()
    assert stored(session, model) == [("theirs", theirs)]


@both
def test_a_delete_over_an_update_of_another_session_raises_and_names_both_versions(
    session: Any, other: Any, model: Any
) -> None:
    one = saved(session, model)
    mine, theirs = one.version, change_elsewhere(other, one)
    session.delete(one)
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is one
    assert str(mine) in str(caught.value) and str(theirs) in str(caught.value)
    session.rollback()
    assert stored(session, model) == [("theirs", theirs)]


@both
def test_a_delete_of_the_version_that_the_row_has_succeeds(session: Any, model: Any) -> None:
    one = saved(session, model)
    one.text = "two"
    session.commit()
    session.delete(one)
    session.commit()
    assert stored(session, model) == []


@both
def test_a_stale_row_among_many_is_found(session: Any, other: Any, model: Any) -> None:
    several = [model(text=str(number)) for number in range(10)]
    session.add_all(several)
    session.commit()
    change_elsewhere(other, several[7])
    for one in several:
        one.text += "!"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.commit()
    assert caught.value.object is several[7]
    session.rollback()
    assert [one.text for one in several] == [str(number) for number in range(10)]


@both
def test_after_a_rollback_and_a_new_read_the_change_succeeds(session: Any, other: Any, model: Any) -> None:
    one = saved(session, model)
    theirs = change_elsewhere(other, one)
    one.text = "mine"
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    session.rollback()
    assert session.get(model, one.id) is one and one.version == theirs
    one.text = "mine"
    session.commit()
    assert stored(session, model) == [("mine", one.version)]


@both
def test_a_query_does_not_give_a_changed_object_the_version_of_a_row_that_was_changed_meanwhile(
    session: Any, other: Any, model: Any
) -> None:
    one = saved(session, model)
    mine = one.version
    change_elsewhere(other, one)
    one.text = "mine"
    with session.no_autoflush:
        assert session.query(model).one() is one
    assert one.version == mine
    with pytest.raises(dbm.StaleDataError):
        session.commit()


@both
def test_an_update_with_an_expression_checks_and_sets_the_version(session: Any, other: Any, model: Any) -> None:
    one = saved(session, model)
    first = one.version
    one.text = peewee.SQL("'two'")
    session.commit()
    assert one.version != first and stored(session, model) == [("two", one.version)]
    change_elsewhere(other, one)
    one.text = peewee.SQL("'three'")
    with pytest.raises(dbm.StaleDataError):
        session.commit()


@both
def test_a_version_that_is_set_by_hand_is_written_and_the_loaded_one_checked(
    session: Any, other: Any, model: Any
) -> None:
    one = saved(session, model)
    given = NOON if model is Timed else uuid.uuid4()
    one.version = given
    session.commit()
    assert stored(session, model) == [("one", given)]
    change_elsewhere(other, one)
    one.version = datetime.datetime(2030, 1, 1) if model is Timed else uuid.uuid4()
    with pytest.raises(dbm.StaleDataError):
        session.commit()


def test_a_row_without_a_version_is_not_updated_and_the_error_says_why(session: Any) -> None:
    loose = saved(session, Loose, version=None)
    loose.text = "two"
    with pytest.raises(dbm.FlushError, match="has no version: 'version' is None") as caught:
        session.commit()
    assert not isinstance(caught.value, dbm.StaleDataError)


def test_a_version_without_a_rule_says_what_it_lacks_and_leaves_all_as_it_was(session: Any) -> None:
    one = saved(session, Unfinished)
    one.text = "two"
    with pytest.raises(NotImplementedError, match=r"UnfinishedField is a version, and needs a method `following"):
        session.commit()
    assert (one.text, one.version) == ("two", 1)
    session.rollback()
    assert stored(session, Unfinished) == [("one", 1)]


def test_a_model_with_two_versions_is_refused(session: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="version"):

        class Two(dbm.declarative_base()):  # type: ignore[misc]
            first = dbm.VersionField()
            second = dbm.UpdatedAtField()

        session.query(Two)


# Rollback


@both
def test_a_rollback_gives_the_version_back(session: Any, model: Any) -> None:
    one = saved(session, model)
    first = one.version
    one.text = "two"
    session.flush()
    session.rollback()
    assert (one.text, one.version) == ("one", first)
    one.text = "three"
    session.commit()
    assert stored(session, model) == [("three", one.version)]


@both
def test_a_failed_flush_gives_the_version_back(session: Any, model: Any) -> None:
    saved(session, model, name="a")
    one = saved(session, model, name="b")
    first = one.version
    one.name = "a"
    with pytest.raises(peewee.IntegrityError):
        session.commit()
    assert (one.name, one.version) == ("a", first)
    one.name = "c"
    session.commit()
    assert one.version != first


@both
def test_a_savepoint_that_is_rolled_back_gives_its_version_back(session: Any, model: Any) -> None:
    one = saved(session, model)
    one.text = "two"
    savepoint = session.begin_nested()
    second = one.version
    one.text = "three"
    session.flush()
    assert one.version != second
    savepoint.rollback()
    assert (one.text, one.version) == ("two", second)
    session.commit()
    assert stored(session, model) == [("two", second)]


@both
def test_a_rolled_back_insert_keeps_the_version_that_the_object_was_made_with(session: Any, model: Any) -> None:
    one = model()
    first = one.version
    session.add(one)
    session.flush()
    one.text = "two"
    session.flush()
    assert one.version != first
    session.rollback()
    session.add(one)
    session.commit()
    assert stored(session, model) == [("two", one.version)]


# A row switch


@both
def test_a_row_switch_gives_the_row_another_version_so_that_others_notice(session: Any, other: Any, model: Any) -> None:
    old = saved(session, model)
    theirs = other.get(model, old.id)
    new = model(id=old.id, text="new")
    session.delete(old)
    session.add(new)
    session.commit()
    assert new.version != theirs.version and stored(session, model) == [("new", new.version)]
    theirs.text = "theirs"
    with pytest.raises(dbm.StaleDataError):
        other.commit()


@both
def test_a_row_switch_of_a_row_that_another_session_changed_raises(session: Any, other: Any, model: Any) -> None:
    old = saved(session, model)
    theirs = change_elsewhere(other, old)
    session.delete(old)
    session.add(model(id=old.id, text="new"))
    with pytest.raises(dbm.StaleDataError):
        session.commit()
    session.rollback()
    assert stored(session, model) == [("theirs", theirs)]


@both
def test_a_row_switch_that_is_rolled_back_gives_both_their_versions_back(session: Any, model: Any) -> None:
    old = saved(session, model)
    new = model(id=old.id, text="new")
    before = old.version, new.version
    session.delete(old)
    session.add(new)
    session.flush()
    session.rollback()
    assert (old.version, new.version) == before
    assert stored(session, model) == [("one", old.version)]


# Bulk statements


@pytest.mark.parametrize("model", [Timed, Tagged, Counted])
def test_a_bulk_update_is_noticed_by_other_sessions(session: Any, other: Any, model: Any) -> None:
    one = saved(session, model)
    other.query(model).update({"text": "theirs"})
    other.commit()
    one.text = "mine"
    with pytest.raises(dbm.StaleDataError):
        session.commit()


@both
def test_a_bulk_update_that_sets_the_version_is_seen_by_the_object_and_by_others(
    session: Any, other: Any, model: Any
) -> None:
    one = saved(session, model)
    theirs = other.get(model, one.id)
    given = NOON if model is Timed else uuid.uuid4()
    session.query(model).update({"text": "two", "version": given})
    assert (one.text, one.version) == ("two", given)
    one.text = "three"
    session.commit()
    theirs.text = "theirs"
    with pytest.raises(dbm.StaleDataError):
        other.commit()


@both
def test_a_bulk_update_that_is_rolled_back_gives_the_version_back(session: Any, model: Any) -> None:
    one = saved(session, model)
    first = one.version
    session.query(model).update({"version": NOON if model is Timed else uuid.uuid4()})
    session.rollback()
    assert one.version == first
    one.text = "two"
    session.commit()
    assert stored(session, model) == [("two", one.version)]


# Merge and get


@pytest.mark.parametrize("model", [Timed, Tagged, Manual])
def test_a_copy_with_the_version_of_its_row_can_be_merged(session: Any, other: Any, model: Any) -> None:
    copy = pickle.loads(pickle.dumps(saved(session, model)))
    copy.text = "two"
    merged = other.merge(copy)
    other.commit()
    assert stored(other, model) == [("two", merged.version)]


@both
def test_a_stale_copy_cant_be_merged_and_the_error_names_both_versions(session: Any, other: Any, model: Any) -> None:
    copy = pickle.loads(pickle.dumps(saved(session, model)))
    theirs = change_elsewhere(other, copy)
    copy.text = "mine"
    with pytest.raises(dbm.StaleDataError) as caught:
        session.merge(copy)
    assert caught.value.object is copy
    assert str(copy.version) in str(caught.value) and str(theirs) in str(caught.value)
    assert session.dirty == []


@both
def test_a_new_object_that_says_no_version_is_merged_onto_any(session: Any, other: Any, model: Any) -> None:
    one = saved(session, model)
    change_elsewhere(other, one)
    merged = session.merge(model(id=one.id, text="mine"))
    session.commit()
    assert merged is one and stored(session, model) == [("mine", one.version)]


@both
def test_locking_a_row_that_was_changed_meanwhile_raises_and_names_both_versions(
    session: Any, other: Any, model: Any
) -> None:
    one = saved(session, model)
    session.refresh(one)
    theirs = change_elsewhere(other, one)
    with pytest.raises(dbm.StaleDataError) as caught:
        session.get(model, one.id, with_for_update=True)
    assert caught.value.object is one
    assert str(one.version) in str(caught.value) and str(theirs) in str(caught.value)
    session.rollback()
    assert session.get(model, one.id) is one and one.version == theirs
    assert session.get(model, one.id, with_for_update=True) is one


@both
def test_after_a_rollback_a_row_that_was_changed_meanwhile_can_be_locked(session: Any, other: Any, model: Any) -> None:
    one = saved(session, model)
    theirs = change_elsewhere(other, one)
    session.rollback()
    assert session.get(model, one.id, with_for_update=True) is one
    assert one.version == theirs


@both
def test_locking_a_row_that_is_as_it_was_loaded_gives_its_object(session: Any, model: Any) -> None:
    one = saved(session, model)
    assert session.get(model, one.id, with_for_update=True) is one
    assert session.in_transaction()


# A time


def test_a_new_row_has_the_time_at_which_its_object_was_made(session: Any) -> None:
    before = datetime.datetime.now()
    one = Timed()
    after = datetime.datetime.now()
    session.add(one)
    session.commit()
    assert before <= one.version <= after


def test_an_update_has_the_time_at_which_it_was_written(session: Any, clock: Any) -> None:
    one = saved(session, Timed, version=NOON)
    clock(NOON + datetime.timedelta(hours=1))
    one.text = "two"
    session.commit()
    assert one.version == datetime.datetime(2024, 1, 1, 13)


@pytest.mark.parametrize("back", [datetime.timedelta(0), datetime.timedelta(hours=1)], ids=["stands", "goes back"])
def test_the_time_of_a_row_goes_on_where_the_clock_does_not(session: Any, clock: Any, back: Any) -> None:
    one = saved(session, Timed, version=NOON)
    clock(NOON - back)
    for microseconds in (1, 2, 3):
        one.text += "x"
        session.commit()
        assert one.version == NOON + datetime.timedelta(microseconds=microseconds)


def test_the_time_of_a_row_switch_goes_on_from_the_former_row(session: Any, clock: Any) -> None:
    old = saved(session, Timed, version=NOON)
    clock(NOON - datetime.timedelta(hours=1))
    session.delete(old)
    session.add(Timed(id=old.id))
    session.commit()
    assert stored(session, Timed) == [("one", NOON + datetime.timedelta(microseconds=1))]


def test_a_whole_second_is_the_same_time_when_it_is_read_again(session: Any, other: Any) -> None:
    one = saved(session, Timed, version=NOON)
    theirs = other.get(Timed, one.id)
    theirs.text = "two"
    other.commit()
    assert stored(other, Timed) == [("two", theirs.version)]


@pytest.mark.databases("sqlite")
def test_a_time_with_a_zone_keeps_it(session: Any, other: Any) -> None:
    one = saved(session, Timed, version=NOON.replace(tzinfo=datetime.timezone.utc))
    theirs = other.get(Timed, one.id)
    theirs.text = "two"
    other.commit()
    assert theirs.version.tzinfo == datetime.timezone.utc
    now = datetime.datetime.now(datetime.timezone.utc)
    assert now - datetime.timedelta(minutes=1) < theirs.version <= now


@pytest.mark.databases("servers")
def test_a_time_with_a_zone_is_refused_by_a_server_which_would_take_the_zone_off(session: Any) -> None:
    one = Timed(version=NOON.replace(tzinfo=datetime.timezone.utc))
    session.add(one)
    with pytest.raises(peewee.DataError, match=r"Timed\.version .* no time zones"):
        session.commit()
    one.version = NOON
    session.commit()
    assert stored(session, Timed) == [("one", NOON)]


def test_a_time_given_as_text_is_a_time_after_the_flush(session: Any) -> None:
    one = saved(session, Timed, version="2024-01-01 12:00:00")
    assert one.version == NOON
    one.text = "two"
    session.commit()
    assert one.version > NOON


def test_a_time_given_as_a_date_can_be_followed(session: Any) -> None:
    one = saved(session, Timed, version=datetime.date(2024, 1, 1))
    one.text = "two"
    session.commit()
    assert one.version > NOON


OTHER_NOTATIONS = ["2024-01-01 12:00:00.123", "2024-01-01T12:00:00", "2024-01-01"]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("time", OTHER_NOTATIONS)
def test_a_time_in_the_notation_of_another_program_is_an_error_that_says_so(
    session: Any, engine: Any, time: str
) -> None:
    engine.execute_sql("INSERT INTO timeds (text, version) VALUES ('theirs', ?)", [time])
    one = session.query(Timed).one()
    one.text = "mine"
    with pytest.raises(dbm.StaleDataError, match=f"in the notation of another program, '{time}'") as caught:
        session.commit()
    assert caught.value.object is one


@pytest.mark.databases("servers")
@pytest.mark.parametrize("time", OTHER_NOTATIONS)
def test_a_server_takes_a_time_in_the_notation_of_another_program_for_that_time(
    session: Any, engine: Any, time: str
) -> None:
    run_sql(engine, "INSERT INTO timeds (text, version) VALUES ('theirs', ?)", [time])
    one = session.query(Timed).one()
    assert one.version == datetime.datetime.fromisoformat(time)
    one.text = "mine"
    session.commit()
    assert stored(session, Timed) == [("mine", one.version)]


# One that the program sets


def test_a_version_that_the_program_does_not_set_stays(session: Any) -> None:
    one = saved(session, Manual)
    one.text = "two"
    session.commit()
    assert stored(session, Manual) == [("two", "1")]


def test_a_version_that_the_program_sets_is_checked(session: Any, other: Any) -> None:
    one = saved(session, Manual)
    theirs = other.get(Manual, one.id)
    theirs.text, theirs.version = "theirs", "2"
    other.commit()
    one.text = "mine"
    with pytest.raises(dbm.StaleDataError, match=r"version 1\b.*\b2\b") as caught:
        session.commit()
    assert caught.value.object is one
    session.rollback()
    session.delete(one)
    with pytest.raises(dbm.StaleDataError):
        session.commit()


def test_two_sessions_that_set_no_version_both_win(session: Any, other: Any) -> None:
    one = saved(session, Manual)
    change_elsewhere(other, one)
    one.name = "mine"
    session.commit()
    assert list(session.execute("SELECT name, text, version FROM manuals")) == [("mine", "theirs", "1")]


def test_a_row_switch_keeps_a_version_that_the_program_does_not_set(session: Any) -> None:
    old = saved(session, Manual, version="7")
    new = Manual(id=old.id, text="new")
    session.delete(old)
    session.add(new)
    session.commit()
    assert (new.version, stored(session, Manual)) == ("7", [("new", "7")])


def test_a_row_switch_takes_a_version_that_the_program_sets(session: Any) -> None:
    old = saved(session, Manual, version="7")
    session.delete(old)
    session.add(Manual(id=old.id, text="new", version="8"))
    session.commit()
    assert stored(session, Manual) == [("new", "8")]


def test_a_version_that_the_program_set_is_given_back_by_a_rollback(session: Any) -> None:
    one = saved(session, Manual)
    one.version = "2"
    session.flush()
    session.rollback()
    assert one.version == "1"


# With listeners


def test_before_update_may_set_the_version(session: Any) -> None:
    def count(manual: Manual) -> None:
        manual.version = str(int(manual.version) + 1)

    one = saved(session, Manual)
    dbm.listen(Manual, "before_update", count)
    try:
        one.text = "two"
        session.commit()
    finally:
        dbm.unlisten(Manual, "before_update", count)
    assert stored(session, Manual) == [("two", "2")]
