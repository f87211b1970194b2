"""The engine: a Peewee database, which every Peewee tool takes, and sessions on it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from conftest import Model, Node, Note, Person, opened, with_settings
from playhouse import migrate, reflection, shortcuts
from playhouse.dataset import DataSet

from tent.data import dbm

Statements = Callable[[], Any]


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Any]:
    """Another engine with the same models, in a file of its own: another kind of database than a server's."""
    engine = dbm.connect({"driver": "sqlite", "path": tmp_path / "second.db"})
    dbm.install_tables(engine, models=Model)
    yield engine
    engine.close_all()


def in_thread(call: Callable[[], Any]) -> Any:
    """Return what a call gives in a thread of its own."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(call()))
    thread.start()
    thread.join()
    return given[0]


def names(engine: Any) -> list[str]:
    return [name for (name,) in engine.execute_sql("SELECT name FROM people ORDER BY id")]


# A file that is not what it was


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.mark.databases("file")
def test_a_file_that_was_deleted_takes_no_commit(session: dbm.Session, file: Path) -> None:
    session.query(Person).all()
    file.unlink()
    session.add(Person(name="Joe"))
    with pytest.raises(peewee.OperationalError, match=r"test\.db' was deleted or replaced"):
        session.commit()
    with pytest.raises(peewee.OperationalError, match=r"no such table: people.*install_tables"):
        session.commit()
    dbm.install_tables(session.engine, models=Model)
    session.commit()
    assert names(session.engine) == ["Joe"]


@pytest.mark.databases("file")
def test_a_file_that_was_put_back_takes_the_same_commit(session: dbm.Session, file: Path) -> None:
    session.add(Person(name="Ann"))
    session.commit()
    session.engine.close_all()  # so that all is in the one file
    session.query(Person).all()
    file.rename(file.with_suffix(".away"))
    session.add(Person(name="Joe"))
    with pytest.raises(peewee.OperationalError, match="was deleted or replaced"):
        session.commit()
    file.with_suffix(".away").rename(file)
    session.commit()
    assert names(session.engine) == ["Ann", "Joe"]


@pytest.mark.databases("file")
def test_a_file_that_was_replaced_takes_a_commit_when_that_was_said(
    session: dbm.Session, file: Path, second: Any
) -> None:
    with dbm.transaction(second) as other:
        other.add(Person(name="Zoe"))
    second.close_all()
    session.engine.close_all()
    session.query(Person).all()
    (file.parent / "second.db").replace(file)
    session.add(Person(name="Joe"))
    with pytest.raises(peewee.OperationalError, match="was deleted or replaced"):
        session.commit()
    session.commit()
    assert names(session.engine) == ["Zoe", "Joe"]


@pytest.mark.databases("file")
def test_a_connection_that_could_only_read_is_not_used_again(engine: Any, session: dbm.Session) -> None:
    session.add(Person(name="Joe"))
    engine.execute_sql("PRAGMA query_only = 1")
    engine.close()
    with pytest.raises(peewee.OperationalError, match="readonly"):
        session.commit()
    session.commit()
    assert names(engine) == ["Joe"]


# Peewee's own use of it


DATABASES = {
    "sqlite": peewee.SqliteDatabase,
    "postgresql": peewee.PostgresqlDatabase,
    "mariadb": peewee.MySQLDatabase,
    "mysql": peewee.MySQLDatabase,
}


def test_an_engine_is_peewees_database(engine: Any) -> None:
    assert isinstance(engine, DATABASES[engine.kind])
    assert isinstance(engine, dbm.Engine)


def test_peewees_queries_run_on_an_engine(engine: Any) -> None:
    key = Person.insert(name="Ann", tags=["a"]).execute(engine)
    assert Person.update(age=3).where(Person.id == key).execute(engine) == 1
    assert [(p.name, p.age, p.tags) for p in Person.select().execute(engine)] == [("Ann", 3, ["a"])]
    assert Person.select().where(Person.tags[0] == "a").count(engine) == 1
    assert Person.delete().execute(engine) == 1


def test_peewees_select_gets_one_on_an_engine(engine: Any) -> None:
    Person.insert(name="Ann").execute(engine)
    assert Person.select().where(Person.name == "Ann").get(engine).name == "Ann"
    assert Person.select().first(engine).name == "Ann"
    assert Person.select(Person.name).tuples().execute(engine)[0] == ("Ann",)
    with pytest.raises(Person.DoesNotExist):
        Person.select().where(Person.name == "Zoe").get(engine)


def test_an_object_that_peewee_gave_belongs_to_no_session(engine: Any, session: dbm.Session) -> None:
    Person.insert(name="Ann").execute(engine)
    assert Person.select().get(engine) not in session
    assert Person.select().get(engine) is not Person.select().get(engine)


@pytest.fixture
def bindable(engine: Any) -> Any:
    """A model of its own for tests that bind it, as a model keeps what binding does to it."""

    class Thing(dbm.declarative_base()):  # type: ignore[misc]
        parent = peewee.ForeignKeyField("self", null=True, backref="parts")
        name = peewee.CharField()
        tags = peewee.JSONField(default=list)

    dbm.install_tables(engine, models=[Thing])
    return Thing


def test_models_can_be_bound_to_an_engine_for_a_while(engine: Any, bindable: Any) -> None:
    with engine.bind_ctx([bindable]):
        thing = bindable.create(name="car", tags=["a"])
        thing.name = "bus"
        thing.save()
        bindable.create(name="wheel", parent=thing)
        assert bindable.get(bindable.name == "bus").tags == ["a"]
        assert [part.name for part in bindable.select().where(bindable.parent == thing)] == ["wheel"]
        assert bindable.get(bindable.name == "wheel").delete_instance() == 1
    assert bindable._meta.database is None
    assert bindable.select().count(engine) == 1


def test_objects_of_bound_models_follow_their_relations(engine: Any, bindable: Any) -> None:
    with engine.bind_ctx([bindable]):
        bindable.create(name="wheel", parent=bindable.create(name="car"))
        assert bindable.get(bindable.name == "wheel").parent.name == "car"
        assert [part.name for part in bindable.get(bindable.name == "car").parts] == ["wheel"]


def test_models_that_were_bound_are_as_before(engine: Any, session: dbm.Session, bindable: Any) -> None:
    with engine.bind_ctx([bindable]):
        pass
    bindable.insert(name="car", tags=["a"]).execute(engine)
    assert bindable.select().get(engine).tags == ["a"]
    assert session.query(bindable).filter(bindable.tags == ["a"]).one().name == "car"
    assert session.query(bindable).filter(bindable.tags[0] == "a").count() == 1


def test_atomic_commits_or_rolls_back(engine: Any) -> None:
    with engine.atomic():
        Person.insert(name="kept").execute(engine)
    with pytest.raises(ZeroDivisionError), engine.atomic():
        Person.insert(name="lost").execute(engine)
        raise ZeroDivisionError
    assert names(engine) == ["kept"]


def test_atomic_nests_as_savepoints(engine: Any) -> None:
    with engine.atomic():
        Person.insert(name="kept").execute(engine)
        with engine.atomic() as inner:
            Person.insert(name="lost").execute(engine)
            inner.rollback()
    assert names(engine) == ["kept"]


def test_atomic_decorates_a_function(engine: Any) -> None:
    @engine.atomic()  # type: ignore[untyped-decorator]
    def write() -> None:
        Person.insert(name="lost").execute(engine)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert names(engine) == []


def test_the_schema_can_be_looked_at(engine: Any) -> None:
    assert engine.get_tables() == ["nodes", "notes", "people"]
    assert engine.table_exists("people")
    assert [column.name for column in engine.get_columns("notes")] == ["id", "person_id", "text"]
    assert [key.dest_table for key in engine.get_foreign_keys("notes")] == ["people"]
    unique = [index.columns for index in engine.get_indexes("people") if index.unique]
    assert [columns for columns in unique if columns != ["id"]] == [["email"]]  # servers list that of the key, too


def test_playhouse_migrates_it(engine: Any, session: dbm.Session) -> None:
    migrator = migrate.SchemaMigrator.from_database(engine)
    migrate.migrate(migrator.add_column("nodes", "colour", peewee.CharField(null=True)))
    session.add(Node(name="a"))
    session.execute("UPDATE nodes SET colour = 'blue'")
    assert session.scalar("SELECT colour FROM nodes") == "blue"


def test_playhouse_makes_models_of_it(engine: Any) -> None:
    models = reflection.generate_models(engine)
    assert sorted(models) == ["nodes", "notes", "people"]
    assert isinstance(models["notes"].person, peewee.ForeignKeyField)


def test_playhouse_makes_a_data_set_of_it(engine: Any) -> None:
    Person.insert(name="Ann").execute(engine)
    assert DataSet(engine)["people"].find_one(name="Ann")["score"] == 0


def test_playhouse_turns_objects_into_dicts_and_back(session: dbm.Session) -> None:
    ann = Person(name="Ann", tags=["a"])
    session.add_all([ann, Note(person=ann, text="one")])
    session.commit()
    found = shortcuts.model_to_dict(session.query(Note).one())
    assert (found["text"], found["person"]["name"], found["person"]["tags"]) == ("one", "Ann", ["a"])
    assert shortcuts.dict_to_model(Person, {"name": "Bob", "tags": [1]}).tags == [1]


@pytest.mark.databases("sqlite")
def test_functions_that_are_registered_can_be_called(engine: Any, session: dbm.Session) -> None:
    @engine.func()  # type: ignore[untyped-decorator]
    def twice(number: int) -> int:
        return 2 * number

    assert engine.execute_sql("SELECT twice(2)").fetchone() == (4,)
    assert session.scalar("SELECT twice(3)") == 6
    assert in_thread(lambda: engine.execute_sql("SELECT twice(4)").fetchone()) == (8,)


@pytest.mark.databases("sqlite")
def test_collations_that_are_registered_can_be_used(engine: Any, session: dbm.Session) -> None:
    @engine.collation("backwards")  # type: ignore[untyped-decorator]
    def backwards(one: str, other: str) -> int:
        return (one < other) - (one > other)

    session.add_all([Person(name="Ann"), Person(name="Bob")])
    assert [p.name for p in session.query(Person).order_by(backwards.collation(Person.name))] == ["Bob", "Ann"]
    session.rollback()


def test_closing_an_engine_loses_nothing(engine: Any) -> None:
    Person.insert(name="Ann").execute(engine)
    engine.close()
    assert names(engine) == ["Ann"]


# Statements: counted, logged


def test_hooks_see_where_a_transaction_begins_and_ends(session: dbm.Session, statements: Statements) -> None:
    with statements() as ran:
        session.add(Node(name="a"))
        session.commit()
    assert [sql.split()[0] for sql in ran] == ["BEGIN", "INSERT", "COMMIT"]


def test_hooks_see_a_rollback(session: dbm.Session, statements: Statements) -> None:
    session.add(Node(name="a"))
    session.flush()
    with statements() as ran:
        session.rollback()
    assert ran == ["ROLLBACK"]


def test_echo_logs_the_statements_of_sessions(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    engine = dbm.connect(with_settings(config, echo=True))
    dbm.install_tables(engine, models=Model)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="tent.data.sql"), dbm.transaction(engine) as session:
        session.add(Node(name="seen"))
    engine.close_all()
    assert [line.split()[0] for line in caplog.messages] == ["BEGIN", "INSERT", "COMMIT"]
    assert "seen" in caplog.messages[1]


# Several engines with the same models


def test_two_engines_do_not_see_each_other(engine: Any, second: Any) -> None:
    with dbm.transaction(engine) as session, dbm.transaction(second) as other:
        session.add(Person(name="here"))
        other.add(Person(name="there"))
    assert (names(engine), names(second)) == (["here"], ["there"])


def test_two_databases_in_memory_do_not_see_each_other() -> None:
    one, two = (dbm.connect({"driver": "sqlite", "path": ":memory:"}) for _ in range(2))
    dbm.install_tables(one, models=Model)
    assert (len(one.get_tables()), two.get_tables()) == (3, [])
    one.close_all()
    two.close_all()


@pytest.mark.databases("file", "servers")
def test_two_engines_on_one_database_see_each_other(engine: Any, config: Any) -> None:
    twin = dbm.connect(config)
    with dbm.transaction(twin) as session:
        session.add(Person(name="Ann"))
    twin.close_all()
    assert names(engine) == ["Ann"]


def test_an_object_of_one_engine_can_be_merged_into_a_session_of_another(engine: Any, second: Any) -> None:
    with dbm.transaction(engine) as session:
        ann = Person(name="Ann", tags=["a"])
        session.add(ann)
    with dbm.transaction(second) as session:
        session.merge(ann)
    with dbm.open_session(second) as session:
        found = session.get(Person, ann.id)
        assert (found.name, found.tags) == ("Ann", ["a"])


def test_one_query_serves_several_engines(engine: Any, second: Any) -> None:
    query = Person.select().where(Person.name == "Ann")
    with dbm.open_session(engine) as session, dbm.transaction(second) as other:
        other.add(Person(name="Ann"))
        assert session.execute(query).all() == []
        assert [person.name for person in other.execute(query)] == ["Ann"]


# Threads


def test_a_database_is_one_for_all_threads(engine: Any) -> None:
    Person.insert(name="main").execute(engine)

    def write() -> list[str]:
        with dbm.transaction(engine) as session:
            session.add(Person(name="thread"))
        return names(engine)

    assert in_thread(write) == ["main", "thread"]
    assert names(engine) == ["main", "thread"]


def test_sessions_in_many_threads_lose_nothing(engine: Any) -> None:
    def write(number: int) -> None:
        for step in range(5):
            with dbm.transaction(engine) as session:
                session.add(Person(name=f"{number}.{step}"))

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names(engine)) == sorted(f"{number}.{step}" for number in range(8) for step in range(5))


@pytest.mark.databases("file", "servers")
def test_many_sessions_share_few_connections(engine: Any) -> None:
    engine.close_idle()
    with opened(engine) as connections:
        for number in range(20):
            with dbm.transaction(engine) as session:
                session.add(Person(name=str(number)))
                session.query(Person).count()
    assert len(connections) in (1, 2)


# A session within engine.atomic() owns a savepoint only


def test_a_commit_within_atomic_does_not_commit_the_outer_transaction(engine: Any) -> None:
    with pytest.raises(ZeroDivisionError), engine.atomic():
        session = dbm.open_session(engine)
        session.add(Person(name="Ann"))
        session.commit()
        session.close()
        assert names(engine) == ["Ann"]
        raise ZeroDivisionError
    assert names(engine) == []


def test_a_commit_within_atomic_is_kept_by_its_end(engine: Any) -> None:
    with engine.atomic():
        with dbm.transaction(engine) as session:
            session.add(Person(name="Ann"))
    assert names(engine) == ["Ann"]
    assert not engine.in_transaction()


def test_a_session_within_atomic_sees_what_was_written_in_it(engine: Any) -> None:
    with engine.atomic():
        Person.insert(name="Ann").execute(engine)
        with dbm.transaction(engine) as session:
            assert session.query(Person).one().name == "Ann"


def test_a_rollback_within_atomic_undoes_the_sessions_part_only(engine: Any) -> None:
    with engine.atomic():
        Person.insert(name="outer").execute(engine)
        session = dbm.open_session(engine)
        session.add(Person(name="inner"))
        session.flush()
        session.rollback()
        session.close()
        assert engine.in_transaction()
    assert names(engine) == ["outer"]


def test_a_closed_session_leaves_the_connection_of_atomic_open(engine: Any) -> None:
    with engine.atomic():
        with dbm.open_session(engine) as session:
            assert session.query(Person).all() == []
        Person.insert(name="later").execute(engine)
    assert names(engine) == ["later"]


def test_a_session_can_be_used_after_the_atomic_block(engine: Any) -> None:
    session = dbm.open_session(engine)
    with engine.atomic():
        session.add(Person(name="in"))
        session.commit()
    session.add(Person(name="after"))
    session.commit()
    session.close()
    assert names(engine) == ["in", "after"]


@pytest.mark.databases("file", "servers")
def test_another_connection_sees_the_work_when_the_atomic_block_ends(engine: Any) -> None:
    with engine.atomic():
        with dbm.transaction(engine) as session:
            session.add(Person(name="Ann"))
        assert in_thread(lambda: names(engine)) == []
    assert in_thread(lambda: names(engine)) == ["Ann"]


# Forks: a child never uses its parent's connections

FORK = """
import os, sys
sys.path.insert(0, {tests!r})
import peewee
from tent.data import dbm
from conftest import Model, Person

engine = dbm.connect({config!r})
dbm.install_tables(engine, models=Model)
session = dbm.open_session(engine)
session.add(Person(name="parent"))
session.commit()
"""


def fork(config: Any, program: str) -> str:
    """Return what a program that forks prints; one that fails, in the parent or the child, fails the test."""
    head = FORK.format(tests=str(Path(__file__).parent), config=config)
    ran = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def child(*lines: str) -> str:
    """A part of a program that runs these lines in a child and waits for it."""
    body = "".join(f"        {line}\n" for line in lines)
    return (
        "sys.stdout.flush()\npid = os.fork()\nif not pid:\n    code = 1\n    try:\n"
        f"{body}        sys.stdout.flush()\n        code = 0\n    finally:\n        os._exit(code)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )


@pytest.mark.databases("file", "servers")
def test_a_child_reads_and_writes_on_a_connection_of_its_own(config: Any) -> None:
    program = (
        "parents = engine.connection()\n"
        + child(
            "assert engine.connection() is not parents",
            "with dbm.transaction(engine) as mine:",
            "    mine.add(Person(name='child'))",
            "    print([name for (name,) in mine.query(Person.name).order_by(Person.id)])",
        )
        + "print([name for (name,) in session.query(Person.name).order_by(Person.id)])\n"
        + "assert engine.connection() is parents\n"
    )
    assert fork(config, program).splitlines() == ["['parent', 'child']"] * 2


@pytest.mark.databases("file")
def test_a_file_that_a_child_has_written_to_is_sound(config: Any) -> None:
    program = (
        child("session.add(Person(name='child'))", "session.commit()")
        + "session.add(Person(name='later'))\nsession.commit()\n"
        + "print(engine.execute_sql('PRAGMA integrity_check').fetchone()[0])\n"
    )
    assert fork(config, program) == "ok\n"


@pytest.mark.databases("file", "servers")
def test_a_session_that_was_idle_at_the_fork_works_in_the_child(config: Any) -> None:
    program = child("session.add(Person(name='child'))", "session.commit()") + "print(session.query(Person).count())\n"
    assert fork(config, program) == "2\n"


@pytest.mark.databases("file", "servers")
def test_a_transaction_of_the_parent_is_refused_in_the_child_and_goes_on_in_the_parent(config: Any) -> None:
    program = (
        "session.add(Person(name='pending'))\nsession.flush()\n"
        + child(
            "try:",
            "    session.query(Person).all()",
            "except peewee.InterfaceError as error:",
            "    print('forked' in str(error))",
        )
        + "session.commit()\nprint(session.query(Person).count())\n"
    )
    assert fork(config, program).splitlines() == ["True", "2"]


@pytest.mark.databases("memory")
def test_a_database_in_memory_stays_with_the_parent(config: Any) -> None:
    program = (
        child(
            "try:",
            "    dbm.open_session(engine).query(Person).all()",
            "except peewee.InterfaceError as error:",
            "    print('parent process' in str(error))",
        )
        + "print(session.query(Person).count())\n"
    )
    assert fork(config, program).splitlines() == ["True", "1"]
