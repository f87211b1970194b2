"""The house: what imports what, and what the door offers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import peewee
import pytest

import tent.data
from tent.data import dbm

PACKAGE = Path(tent.data.__path__[0])

# From top to bottom; an import only ever points down. The models come through the door as every other user does.
ROOMS = [
    "user",
    "dbm",
    "orm.running",
    "orm.listening",
    "orm.session",
    "orm.execution",
    "orm.related",
    "orm.shaping",
    "orm.following",
    "orm.bulk",
    "orm.merging",
    "orm.handles",
    "orm.transaction",
    "orm.flushing",
    "orm.events",
    "orm.writing",
    "orm.settling",
    "orm.unit_of_work",
    "orm.history",
    "orm.ordering",
    "orm.planning",
    "orm.persister",
    "orm.filling",
    "orm.cascading",
    "orm.blame",
    "orm.change",
    "orm.commit_order",
    "orm.loading",
    "orm.identity",
    "orm.columns",
    "orm.mapper",
    "orm.column",
    "orm.schema",
    "orm.model",
    "orm.naming",
    "orm.query",
    "orm.plain",
    "orm.arguments",
    "orm.compound",
    "orm.joining",
    "orm.select",
    "orm.many_to_many",
    "orm.accessors",
    "orm.relation",
    "orm.result",
    "orm.peers",
    "orm.tracking",
    "orm.version",
    "orm.guard",
    "orm.connecting",
    "orm.memory",
    "orm.sqlite",
    "orm.turn",
    "orm.postgresql",
    "orm.catalog",
    "orm.mysql",
    "orm.engine",
    "orm.sql",
    "orm.kind",
    "orm.enclosing",
    "orm.cursor",
    "orm.pool",
    "orm.statements",
    "orm.json_sql",
    "orm.mutable",
    "orm.rows",
    "orm.shapes",
    "orm.hooks",
    "orm.config",
    "orm.url",
    "orm.keys",
    "orm.errors",
]
PACKAGES = ["", "orm"]  # their __init__, which hold nothing


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def sources() -> dict[str, Path]:
    return {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(name: str, path: Path) -> set[str]:
    """Return the names of the modules that a module imports, wherever in it, as absolute ones."""
    module = f"tent.data.{name}" if name else "tent.data"
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*start, *([base] if base else [])])
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def edges() -> list[tuple[str, str]]:
    """Return which room imports from which."""
    rooms = {f"tent.data.{room}": room for room in sources() if room not in PACKAGES}
    return [
        (name, rooms[target]) for name, path in sources().items() for target in imports(name, path) if target in rooms
    ]


def test_every_module_has_its_place_in_the_list() -> None:
    assert set(sources()) == {*ROOMS, *PACKAGES}


def test_the_packages_hold_nothing() -> None:
    for name in PACKAGES:
        body = ast.parse(sources()[name].read_text(encoding="utf-8")).body
        assert [type(node) for node in body if not isinstance(node, ast.Expr)] == []


def test_an_import_only_ever_points_down_the_list() -> None:
    place = {room: number for number, room in enumerate(ROOMS)}
    wrong = [f"{upper} imports {lower}" for upper, lower in edges() if not place.get(lower, -1) > place.get(upper, -1)]
    assert wrong == []


def test_the_imports_were_found() -> None:
    # The test above passes on anything if it sees no imports.
    assert {("dbm", "orm.session"), ("user", "dbm"), ("orm.session", "orm.merging")} <= set(edges())


def test_nothing_but_peewee_the_standard_library_and_in_its_room_a_driver_is_imported() -> None:
    allowed = {*sys.stdlib_module_names, "peewee", "playhouse", "tent"}
    found = {(name, target.partition(".")[0]) for name, path in sources().items() for target in imports(name, path)}
    assert {(name, target) for name, target in found if target not in allowed} == {
        ("orm.postgresql", "psycopg"),
        ("orm.mysql", "pymysql"),
    }


def test_a_driver_is_imported_when_it_is_wanted() -> None:
    code = "import sys; import tent.data.dbm; print([name for name in sys.modules if name.startswith('tent.data.orm')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "tent.data.orm.sqlite" in loaded
    assert "tent.data.orm.postgresql" not in loaded
    assert "tent.data.orm.mysql" not in loaded


def test_the_machinery_does_not_know_the_door_or_the_models() -> None:
    assert [edge for edge in edges() if edge[0].startswith("orm.") and not edge[1].startswith("orm.")] == []


def test_only_the_models_come_through_the_door() -> None:
    assert {upper for upper, lower in edges() if lower == "dbm"} == {"user"}
    assert {lower for upper, lower in edges() if upper == "user"} == {"dbm"}


def test_the_door_has_no_logic() -> None:
    body = ast.parse(sources()["dbm"].read_text(encoding="utf-8")).body
    assert {type(node) for node in body} == {ast.Expr, ast.ImportFrom, ast.Assign}  # docstring, re-exports, __all__


def test_commit_order_is_pure() -> None:
    assert {lower for upper, lower in edges() if upper == "orm.commit_order"} <= {"orm.errors"}
    assert not {"peewee"} & imports("orm.commit_order", sources()["orm.commit_order"])


# The door


def test_the_door_offers_this() -> None:
    assert set(dbm.__all__) == {
        # databases and tables
        "Engine",
        "connect",
        "install_tables",
        "uninstall_tables",
        # models
        "Base",
        "TableMixin",
        "UpdatedAtField",
        "Version",
        "VersionField",
        "declarative_base",
        # sessions
        "Query",
        "Result",
        "ScopedSession",
        "Session",
        "make_transient",
        "open_session",
        "run_transaction",
        "scoped_session",
        "transaction",
        # hooks
        "listen",
        "listens_for",
        "unlisten",
        # errors
        "ArgumentError",
        "CircularDependencyError",
        "CommitInDoubtError",
        "ConcurrentUseError",
        "DBConfigurationException",
        "DataLayerError",
        "DetachedInstanceError",
        "FlushError",
        "InvalidRequestError",
        "MultipleResultsFound",
        "NoResultFound",
        "ResourceClosedError",
        "StaleDataError",
        "UnloadedColumnError",
        "UnmappedInstanceError",
        "UnsavedChangesWarning",
    }


def test_what_the_door_offers_is_listed_in_order_and_once() -> None:
    assert list(dbm.__all__) == sorted(set(dbm.__all__))


@pytest.mark.parametrize("name", dbm.__all__)
def test_what_the_door_offers_has_a_docstring_of_its_own(name: str) -> None:
    thing = getattr(dbm, name)
    inherited = thing.__mro__[1].__doc__ if isinstance(thing, type) else None
    assert thing.__doc__
    assert thing.__doc__ != inherited


def own_methods(kind: type) -> list[str]:
    """Return the public methods and properties that a class itself defines."""
    return [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    ]


@pytest.mark.parametrize("name", own_methods(dbm.Session))
def test_every_method_of_a_session_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(dbm.Session, name))


# Those that Peewee has too are Peewee's to explain, unless they are others here.
OWN_VERBS = [name for name in own_methods(dbm.Query) if not hasattr(peewee.ModelSelect, name)]


@pytest.mark.parametrize("name", [*OWN_VERBS, "filter", "order_by", "first", "get", "scalar", "count", "exists"])
def test_every_verb_of_a_query_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(dbm.Query, name))


def test_the_session_has_the_verbs_of_the_design() -> None:
    verbs = (
        "add add_all delete expunge expunge_all merge refresh expire_all flush commit rollback close begin "
        "begin_nested get query execute scalars scalar no_autoflush is_modified new dirty deleted identity_map "
        "__contains__ __iter__ in_transaction __enter__ __exit__"
    )
    assert [verb for verb in verbs.split() if not hasattr(dbm.Session, verb)] == []


def test_the_query_has_the_verbs_of_the_design() -> None:
    verbs = (
        "filter filter_by order_by limit offset all first one one_or_none scalar count exists get update delete "
        "yield_per __getitem__ __iter__"
    )
    assert [verb for verb in verbs.split() if not hasattr(dbm.Query, verb)] == []


def test_the_manual_names_everything_that_is_called() -> None:
    functions = [name for name in dbm.__all__ if inspect.isfunction(getattr(dbm, name))]
    assert [name for name in functions if name not in (dbm.__doc__ or "")] == []
