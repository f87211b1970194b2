"""install_tables and uninstall_tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peewee
import pytest

from tent.data import dbm
from tent.data.orm.engine import quoted
from tent.data.user import Profile, User  # they are among those "loaded so far"

Statements = Callable[[], Any]

Fruit = dbm.declarative_base()


class AppleTree(Fruit):  # type: ignore[misc,valid-type]
    """In the alphabet it comes after what refers to it."""

    name = peewee.CharField(unique=True)
    graft = peewee.ForeignKeyField("self", null=True)


class Apple(Fruit):  # type: ignore[misc,valid-type]
    tree = peewee.ForeignKeyField(AppleTree, backref="apples")
    colour = peewee.CharField(index=True)
    weight = peewee.IntegerField()

    class Meta:
        indexes = ((("colour", "weight"), True),)


@pytest.fixture
def engine(bare_engine: Any) -> Any:
    """An empty database."""
    return bare_engine


def indexes(engine: Any) -> dict[tuple[str, ...], str]:
    """Return the names of the indexes by their table and columns; those of the keys, which servers list, are left."""
    found = [index for table in engine.get_tables() for index in engine.get_indexes(table)]
    return {(index.table, *index.columns): index.name for index in found if index.columns != ["id"]}


def drop_index(engine: Any, table: str, column: str) -> None:
    on_table = f" ON {table}" if isinstance(engine, peewee.MySQLDatabase) else ""
    engine.execute_sql(f"DROP INDEX {quoted(engine, indexes(engine)[table, column])}{on_table}")


def tree_names(engine: Any) -> list[str]:
    return [name for (name,) in engine.execute_sql("SELECT name FROM apple_trees ORDER BY id")]


# MariaDB and MySQL commit each CREATE and DROP by themselves: there is no transaction to undo.
transactional = pytest.mark.databases("sqlite", "postgresql")
untransactional = pytest.mark.databases("mariadb", "mysql")


# Installing


def test_every_model_loaded_so_far_is_installed(engine: Any) -> None:
    created = dbm.install_tables(engine)
    assert created.index("users") < created.index("profiles")
    assert sorted(created) == sorted(engine.get_tables())


def test_tables_are_created_in_the_order_of_their_foreign_keys(engine: Any) -> None:
    assert dbm.install_tables(engine, models=[Apple, AppleTree]) == ["apple_trees", "apples"]


def test_the_names_of_the_created_tables_are_returned(engine: Any) -> None:
    assert dbm.install_tables(engine, models=[AppleTree]) == ["apple_trees"]
    assert dbm.install_tables(engine, models=Fruit) == ["apples"]


def test_installing_again_does_no_harm(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    with dbm.transaction(engine) as session:
        session.add(AppleTree(name="old"))
    assert dbm.install_tables(engine, models=Fruit) == []
    assert tree_names(engine) == ["old"]


def test_indexes_are_created(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    assert set(indexes(engine)) == {
        ("apple_trees", "name"),
        ("apple_trees", "graft_id"),
        ("apples", "tree_id"),
        ("apples", "colour"),
        ("apples", "colour", "weight"),
    }


def test_an_index_that_is_missing_is_created(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    before = indexes(engine)
    drop_index(engine, "apples", "colour")
    assert indexes(engine) != before
    assert dbm.install_tables(engine, models=Fruit) == []
    assert indexes(engine) == before


def test_a_table_that_exists_otherwise_is_left_as_it_is(engine: Any) -> None:
    engine.execute_sql("CREATE TABLE apple_trees (id INTEGER PRIMARY KEY, name TEXT, graft_id INTEGER, more TEXT)")
    assert dbm.install_tables(engine, models=[AppleTree]) == []
    assert [column.name for column in engine.get_columns("apple_trees")] == ["id", "name", "graft_id", "more"]


def test_the_models_can_be_those_of_a_base(engine: Any) -> None:
    assert sorted(dbm.install_tables(engine, models=Fruit)) == ["apple_trees", "apples"]


def test_the_models_can_be_one(engine: Any) -> None:
    assert dbm.install_tables(engine, models=AppleTree) == ["apple_trees"]


def test_the_models_can_be_any_iterable(engine: Any) -> None:
    assert dbm.install_tables(engine, models=(model for model in [AppleTree])) == ["apple_trees"]


def test_no_models_are_no_tables(engine: Any) -> None:
    assert dbm.install_tables(engine, models=[]) == []
    assert engine.get_tables() == []


@pytest.mark.parametrize("models", [3, ["users"], [Apple, None], [peewee.Model], [AppleTree(name="x")]])
def test_what_is_no_model_is_refused_before_anything_is_created(engine: Any, models: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match="is no model"):
        dbm.install_tables(engine, models=models)
    assert engine.get_tables() == []


@pytest.mark.parametrize("thing", [None, "sqlite:///a.db", peewee.SqliteDatabase(":memory:")])
def test_what_is_no_engine_is_refused(thing: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"dbm\.connect"):
        dbm.install_tables(thing)


@transactional
def test_everything_is_created_in_one_transaction(engine: Any, statements: Statements) -> None:
    with statements() as ran:
        dbm.install_tables(engine, models=Fruit)
    assert [ran[0].split()[0], ran[-1]] == ["BEGIN", "COMMIT"]
    assert [sql.split()[0] for sql in ran].count("BEGIN") == 1


def good_and_worse() -> list[Any]:
    """Two models, of which the database refuses the second."""
    base = dbm.declarative_base()

    class Good(base):  # type: ignore[misc,valid-type]
        name = peewee.CharField(index=True)

    class Worse(base):  # type: ignore[misc,valid-type]
        good = peewee.ForeignKeyField(Good)
        name = peewee.CharField(constraints=[peewee.SQL("no such thing in SQL (")])

    return [Good, Worse]


@transactional
def test_a_failure_leaves_nothing(engine: Any) -> None:
    good, worse = good_and_worse()
    with pytest.raises((peewee.OperationalError, peewee.ProgrammingError)):
        dbm.install_tables(engine, models=[good, worse])
    assert engine.get_tables() == []
    assert not engine.in_transaction()
    assert dbm.install_tables(engine, models=[good]) == ["goods"]


@untransactional
def test_after_a_failure_mariadb_has_what_came_before_it_and_installing_again_adds_the_rest(engine: Any) -> None:
    good, worse = good_and_worse()
    with pytest.raises(peewee.ProgrammingError):
        dbm.install_tables(engine, models=[good, worse])
    assert engine.get_tables() == ["goods"]
    worse.name.constraints = []
    assert dbm.install_tables(engine, models=[good, worse]) == ["worses"]
    assert set(indexes(engine)) == {("goods", "name"), ("worses", "good_id")}


def install_an_index_that_fails(engine: Any) -> None:
    dbm.install_tables(engine, models=[AppleTree])
    drop_index(engine, "apple_trees", "name")
    engine.execute_sql("INSERT INTO apple_trees (name) VALUES ('twice'), ('twice')")
    with pytest.raises(peewee.IntegrityError):
        dbm.install_tables(engine, models=Fruit)


@transactional
def test_an_index_that_fails_leaves_the_tables_uncreated(engine: Any) -> None:
    install_an_index_that_fails(engine)
    assert engine.get_tables() == ["apple_trees"]


@untransactional
def test_an_index_that_fails_on_mariadb_can_be_installed_later(engine: Any) -> None:
    install_an_index_that_fails(engine)
    assert engine.get_tables() == ["apple_trees"]
    engine.execute_sql("DELETE FROM apple_trees")
    assert dbm.install_tables(engine, models=Fruit) == ["apples"]
    assert {("apple_trees", "name"), ("apples", "colour")} <= set(indexes(engine))


def test_after_a_failure_others_can_install(engine: Any, config: Any) -> None:
    other = dbm.connect(config) if engine.database != ":memory:" else engine
    with pytest.raises(peewee.DatabaseError):
        dbm.install_tables(engine, models=good_and_worse())
    assert dbm.install_tables(other, models=[AppleTree]) == ["apple_trees"]
    other.close_all()


@transactional
def test_installing_within_atomic_is_undone_with_it(engine: Any) -> None:
    with pytest.raises(ZeroDivisionError), engine.atomic():
        dbm.install_tables(engine, models=Fruit)
        raise ZeroDivisionError
    assert engine.get_tables() == []


@untransactional
def test_installing_within_atomic_commits_it_on_mariadb(engine: Any) -> None:
    dbm.install_tables(engine, models=[AppleTree])
    with pytest.raises(ZeroDivisionError), engine.atomic():
        engine.execute_sql("INSERT INTO apple_trees (name) VALUES ('kept')")
        dbm.install_tables(engine, models=Fruit)
        raise ZeroDivisionError
    assert sorted(engine.get_tables()) == ["apple_trees", "apples"]
    assert tree_names(engine) == ["kept"]
    assert not engine.in_transaction()


def test_tables_that_refer_to_each_other_can_be_installed_and_uninstalled(engine: Any) -> None:
    base = dbm.declarative_base()

    class Egg(base):  # type: ignore[misc,valid-type]
        laid_by = peewee.DeferredForeignKey("HenOfEgg", null=True)

    class HenOfEgg(base):  # type: ignore[misc,valid-type]
        hatched_from = peewee.ForeignKeyField(Egg, null=True)

    assert sorted(dbm.install_tables(engine, models=base)) == ["eggs", "hen_of_eggs"]
    assert dbm.install_tables(engine, models=base) == []
    assert [key.dest_table for key in engine.get_foreign_keys("eggs")] == ["hen_of_eggs"]
    with dbm.transaction(engine) as session:
        egg = Egg()
        egg.laid_by = HenOfEgg(hatched_from=egg)
        session.add(egg)
    assert sorted(dbm.uninstall_tables(engine, models=base)) == ["eggs", "hen_of_eggs"]
    assert engine.get_tables() == []


def run_in_processes(config: Any, call: str, count: int = 3) -> list[str]:
    """Let processes call at the same moment, each with an engine of its own, and return what they got, in order."""
    program = (
        "import sys, tent.data.user\n"
        "from tent.data import dbm\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"engine = dbm.connect({config!r})\n"
        f"print({call})\n"
    )
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in said] == [""] * count
    return sorted(out.strip() for out, _ in said)


@pytest.mark.databases("file", "servers")
def test_several_processes_can_install_at_once(config: Any) -> None:
    for _ in range(3):
        # One has created all of them, since the others wait until it has.
        assert run_in_processes(config, "dbm.install_tables(engine)") == ["['users', 'profiles']", "[]", "[]"]
        engine: Any = dbm.connect(config)
        dbm.uninstall_tables(engine)
        engine.close_all()


@pytest.mark.databases("file", "servers")
def test_several_processes_can_uninstall_at_once(engine: Any, config: Any) -> None:
    for _ in range(3):
        dbm.install_tables(engine, models=[User, Profile])
        said = run_in_processes(config, "dbm.uninstall_tables(engine)")
        assert said == ["['profiles', 'users']", "[]", "[]"]


LONG = "a" * 63  # as PostgreSQL takes it; MariaDB and MySQL take one more


def test_names_may_be_as_long_as_every_database_takes_them(engine: Any) -> None:
    base = dbm.declarative_base()

    class One(base):  # type: ignore[misc,valid-type]
        __tablename__ = "a" * 55  # MariaDB adds "_ibfk_1" to it, for its foreign key
        other = peewee.DeferredForeignKey("Two", null=True, column_name="b" * 63)
        name = peewee.CharField(unique=True, column_name="c" * 63)

    class Two(base):  # type: ignore[misc,valid-type]
        __tablename__ = "d" * 55
        one = peewee.ForeignKeyField(One, null=True, column_name="e" * 63)

    assert sorted(dbm.install_tables(engine, models=base)) == ["a" * 55, "d" * 55]
    assert dbm.install_tables(engine, models=base) == []
    with dbm.transaction(engine) as session:
        one = One(name="Ann")
        one.other = Two(one=one)
        session.add(one)
    with dbm.open_session(engine) as session:
        assert session.query(One).filter_by(name="Ann").one().other.one.name == "Ann"
    assert sorted(dbm.uninstall_tables(engine, models=base)) == ["a" * 55, "d" * 55]
    assert engine.get_tables() == []


@pytest.mark.databases("servers")
@pytest.mark.parametrize("names", [(LONG + "aa", "name"), ("fruits", LONG + "aa")])
def test_a_name_that_a_server_would_cut_off_is_refused_before_anything_is_created(
    engine: Any, names: tuple[str, str]
) -> None:
    base = dbm.declarative_base()

    class Fine(base):  # type: ignore[misc,valid-type]
        pass

    class TooLong(base):  # type: ignore[misc,valid-type]
        __tablename__ = names[0]
        name = peewee.CharField(column_name=names[1])

    with pytest.raises(dbm.ArgumentError, match=rf"'{LONG}aa' of TooLong is too long .* (__tablename__|column_name)"):
        dbm.install_tables(engine, models=[Fine, TooLong])
    assert engine.get_tables() == []


@pytest.mark.databases("servers")
@pytest.mark.parametrize("names", [("50%", "name"), ("fruits", "50%")])
def test_a_name_that_a_servers_driver_would_take_for_a_parameter_is_refused(
    engine: Any, names: tuple[str, str]
) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"'50%' of Thing has a %"):
        dbm.install_tables(engine, models=[named(*names)])
    assert engine.get_tables() == []


@pytest.mark.parametrize("name", ["a\0b", "half\ud800"])
def test_a_name_that_is_none_anywhere_is_refused(engine: Any, name: str) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"of Thing has a NUL or half a surrogate pair"):
        dbm.install_tables(engine, models=[named("things", name)])
    assert engine.get_tables() == []


def named(table: str, column: str) -> Any:
    """Return a model of a table and a column of these names."""

    class Thing(dbm.declarative_base()):  # type: ignore[misc]
        __tablename__ = table
        name = peewee.CharField(column_name=column)

    return Thing


# Uninstalling


def test_uninstalling_drops_the_tables_and_returns_their_names(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    assert dbm.uninstall_tables(engine, models=Fruit) == ["apples", "apple_trees"]
    assert engine.get_tables() == []


def test_uninstalling_drops_what_is_in_the_tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    with dbm.transaction(engine) as session:
        session.add(Apple(tree=AppleTree(name="old"), colour="red", weight=1))
    dbm.uninstall_tables(engine, models=Fruit)
    dbm.install_tables(engine, models=Fruit)
    with dbm.open_session(engine) as session:
        assert (session.query(Apple).count(), session.query(AppleTree).count()) == (0, 0)


def test_uninstalling_leaves_other_tables(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    assert dbm.uninstall_tables(engine, models=[Apple]) == ["apples"]
    assert engine.get_tables() == ["apple_trees"]


def test_uninstalling_again_does_no_harm(engine: Any) -> None:
    assert dbm.uninstall_tables(engine, models=Fruit) == []


def test_uninstalling_is_the_opposite_of_installing(engine: Any) -> None:
    created = dbm.install_tables(engine)
    assert dbm.uninstall_tables(engine) == list(reversed(created))
    assert engine.get_tables() == []


@transactional
def test_uninstalling_happens_in_one_transaction(engine: Any, statements: Statements) -> None:
    dbm.install_tables(engine, models=Fruit)
    with statements() as ran:
        dbm.uninstall_tables(engine, models=Fruit)
    assert [sql.split()[0] for sql in ran if sql.split()[0] in ("BEGIN", "DROP", "COMMIT")] == [
        "BEGIN",
        "DROP",
        "DROP",
        "COMMIT",
    ]


def test_a_table_that_others_still_refer_to_is_not_dropped(engine: Any) -> None:
    dbm.install_tables(engine, models=Fruit)
    with dbm.transaction(engine) as session:
        session.add(Apple(tree=AppleTree(name="old"), colour="red", weight=1))
    with pytest.raises(peewee.DatabaseError):
        dbm.uninstall_tables(engine, models=[AppleTree])
    assert sorted(engine.get_tables()) == ["apple_trees", "apples"]
    assert tree_names(engine) == ["old"]


class Elsewhere:
    """Another schema, as each database has it: an attached one, a schema, another database of the server."""

    def __init__(self, engine: Any, path: Path) -> None:
        self.engine = engine
        self.name = f"{engine.database}_other" if isinstance(engine, peewee.MySQLDatabase) else "other"
        self.path = path

    def __enter__(self) -> str:
        if self.engine.kind == "sqlite":
            self.engine.attach(str(self.path), self.name)
        else:
            self.engine.execute_sql(f"CREATE SCHEMA {self.name}")
        return self.name

    def __exit__(self, *_: object) -> None:
        if self.engine.kind != "sqlite":
            self.engine.execute_sql(f"DROP SCHEMA {self.name}")


@pytest.mark.databases("file", "servers")
def test_tables_of_another_schema_are_known_and_dropped(engine: Any, tmp_path: Path) -> None:
    with Elsewhere(engine, tmp_path / "other.db") as elsewhere:

        class Far(dbm.declarative_base()):  # type: ignore[misc]
            name = peewee.CharField(unique=True)

            class Meta:
                schema = elsewhere

        assert dbm.install_tables(engine, models=[Far]) == ["fars"]
        assert dbm.install_tables(engine, models=[Far]) == []
        with dbm.transaction(engine) as session:
            session.add(Far(name="Ann"))
        assert list(engine.execute_sql(f"SELECT name FROM {elsewhere}.fars")) == [("Ann",)]
        assert engine.get_tables() == []
        assert dbm.uninstall_tables(engine, models=[Far]) == ["fars"]
        assert dbm.uninstall_tables(engine, models=[Far]) == []
