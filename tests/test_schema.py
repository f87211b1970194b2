"""install_tables and uninstall_tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peewee
import pytest
from conftest import collected

import tent.data.user  # noqa: F401  # its models are among those "loaded so far"
from tent.data import dbm

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
def engine() -> Any:
    """An empty database."""
    engine = dbm.connect({"driver": "sqlite", "path": ":memory:"})
    yield engine
    engine.close_all()


@pytest.fixture
def statements(engine: Any) -> Statements:
    return lambda: collected(engine)


def indexes(engine: Any) -> dict[tuple[str, ...], str]:
    """Return the names of the indexes by their table and columns."""
    found = [index for table in engine.get_tables() for index in engine.get_indexes(table)]
    return {(index.table, *index.columns): index.name for index in found}


# Installing


def test_every_model_loaded_so_far_is_installed(engine: Any) -> None:
    created = dbm.install_tables(engine)
    assert created.index("users") < created.index("profiles")
    assert sorted(created) == engine.get_tables()


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
    assert engine.execute_sql("SELECT name FROM apple_trees").fetchall() == [("old",)]


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
    engine.execute_sql(f"DROP INDEX {before['apples', 'colour']}")
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


@pytest.mark.parametrize("engine", [None, "sqlite:///a.db", peewee.SqliteDatabase(":memory:")])
def test_what_is_no_engine_is_refused(engine: Any) -> None:
    with pytest.raises(dbm.ArgumentError, match=r"dbm\.connect"):
        dbm.install_tables(engine)


def test_everything_is_created_in_one_transaction(engine: Any, statements: Statements) -> None:
    with statements() as ran:
        dbm.install_tables(engine, models=Fruit)
    assert [ran[0].split()[0], ran[-1]] == ["BEGIN", "COMMIT"]
    assert [sql.split()[0] for sql in ran].count("BEGIN") == 1


def test_a_failure_leaves_nothing(engine: Any) -> None:
    base = dbm.declarative_base()

    class Good(base):  # type: ignore[misc,valid-type]
        name = peewee.CharField(index=True)

    class Worse(base):  # type: ignore[misc,valid-type]
        good = peewee.ForeignKeyField(Good)
        name = peewee.CharField(constraints=[peewee.SQL("no such thing in SQL (")])

    with pytest.raises(peewee.OperationalError):
        dbm.install_tables(engine, models=base)
    assert engine.get_tables() == []
    assert not engine.in_transaction()
    assert dbm.install_tables(engine, models=[Good]) == ["goods"]


def test_an_index_that_fails_leaves_the_tables_uncreated(engine: Any) -> None:
    dbm.install_tables(engine, models=[AppleTree])
    engine.execute_sql(f"DROP INDEX {indexes(engine)['apple_trees', 'name']}")
    engine.execute_sql("INSERT INTO apple_trees (name) VALUES ('twice'), ('twice')")
    with pytest.raises(peewee.IntegrityError):
        dbm.install_tables(engine, models=Fruit)
    assert engine.get_tables() == ["apple_trees"]


def test_installing_within_atomic_is_undone_with_it(engine: Any) -> None:
    with pytest.raises(ZeroDivisionError), engine.atomic():
        dbm.install_tables(engine, models=Fruit)
        raise ZeroDivisionError
    assert engine.get_tables() == []


def test_tables_that_refer_to_each_other_can_be_installed(engine: Any) -> None:
    base = dbm.declarative_base()

    class Egg(base):  # type: ignore[misc,valid-type]
        laid_by = peewee.DeferredForeignKey("HenOfEgg", null=True)

    class HenOfEgg(base):  # type: ignore[misc,valid-type]
        hatched_from = peewee.ForeignKeyField(Egg, null=True)

    assert sorted(dbm.install_tables(engine, models=base)) == ["eggs", "hen_of_eggs"]


def test_several_processes_can_install_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, tent.data.user\n"
        "from tent.data import dbm\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "engine = dbm.connect({'driver': 'sqlite', 'path': sys.argv[1]})\n"
        "print(dbm.install_tables(engine))\n"
    )
    for attempt in range(3):
        path = str(tmp_path / f"{attempt}.db")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60) for process in processes]
        assert [errors for _, errors in said] == ["", "", ""]
        # One has created all of them, since it is one transaction.
        assert sorted(out.strip() for out, _ in said) == ["['users', 'profiles']", "[]", "[]"]


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
    with pytest.raises(peewee.IntegrityError):
        dbm.uninstall_tables(engine, models=[AppleTree])
    assert engine.execute_sql("SELECT name FROM apple_trees").fetchall() == [("old",)]


def test_tables_of_an_attached_database_are_known_and_dropped(tmp_path: Any) -> None:
    engine = dbm.connect({"driver": "sqlite", "path": tmp_path / "main.db"})
    engine.attach(str(tmp_path / "other.db"), "other")

    class Far(dbm.declarative_base()):  # type: ignore[misc]
        class Meta:
            schema = "other"

    assert dbm.install_tables(engine, models=[Far]) == ["fars"]
    assert dbm.install_tables(engine, models=[Far]) == []
    assert dbm.uninstall_tables(engine, models=[Far]) == ["fars"]
    engine.close_all()
