"""The peers: what is measured, what each needs, and the protocol that their modules have in common."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.database import Database
from benchmarks.workload import Item, Stopwatch

INSTALL = 'pip install -e ".[benchmark]"'


class Peer(Protocol):
    """One library, used as its documentation recommends. A peer leaves out the operations that it has no way for.

    An operation measures itself with the watch: what it needs before that, such as objects to change, is not timed.
    `model` is the number of the journal. Each operation opens a session of its own, where the library has sessions.
    """

    def __init__(self, database: Database) -> None: ...
    def close(self) -> None: ...
    def scalar(self, sql: str) -> Any:
        """Return what a statement gives on the peer's own connection: its settings are checked by that."""

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        """A: insert and commit each object."""

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        """B: insert objects one by one, in one transaction."""

    def insert_bulk(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        """C: insert objects by the library's way for many."""

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """D: for each level, the list of its objects. Returns how many there were in all, and the last list.

        It is called for each round: what a session or a cache has kept of the round before is not there any more.
        """

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """E: for each level and offset, the list of the objects on that page. Returns as `filter_large`."""

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """F: the object of each key, without keeping it. Returns how many there were, and the last one in a list."""

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """G: as `filter_large`, with a mapping for each row."""

    def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """H: as `filter_large`, with a tuple for each row."""

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        """I: set the values on each object, in the order of their keys, and save all in one transaction."""

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        """J: set the level of each object, in the order of their keys, and save all in one transaction."""

    def delete(self, model: int, watch: Stopwatch) -> None:
        """K: delete each object, in one transaction."""

    def held(self, rounds: int, watch: Stopwatch) -> int:
        """Get each object of journal 1 by its key so many times, while all are held. Returns how many were found."""

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        """Find the first user of each name. Returns how many were found."""

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        """Make a user of each name, with the profiles that `profiles_of` gives, and commit all at once."""

    def follow(self, watch: Stopwatch) -> list[str]:
        """Load the first profile of each user, and return the name of the user of each."""

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        """Load all objects of journal 1 and hold them; set the text of one to "change N", commit, so many times."""

    def loaded(self) -> AbstractContextManager[Sequence[Any]]:
        """Load all objects of journal 1 into a list, and keep their session open."""

    def stream(self, watch: Stopwatch) -> int:
        """Read all objects of journal 1 one after the other, holding few at a time. Returns how many there were."""


OPERATIONS = {
    "A": "insert_single",
    "B": "insert_batch",
    "C": "insert_bulk",
    "D": "filter_large",
    "E": "filter_small",
    "F": "get",
    "G": "filter_dicts",
    "H": "filter_tuples",
    "I": "update_whole",
    "J": "update_partial",
    "K": "delete",
    "held": "held",
    "first": "first",
    "graph": "graph",
    "follow": "follow",
    "one_change": "one_change",
    "one_change_100k": "one_change",
    "memory": "loaded",
}
FIRST_KIND = "kind 0"  # of the one profile of each user that `follow` loads


@dataclass(frozen=True)
class Need:
    """What a peer imports, and which packages (by their names on PyPI) it is."""

    imports: tuple[str, ...]  # what a program imports to use the library, and before it what that is built on
    packages: tuple[str, ...] = ()
    drivers: dict[str, str] = field(default_factory=lambda: {"postgresql": "psycopg", "mariadb": "pymysql"})  # modules
    reasons: dict[str, str] = field(default_factory=dict)  # why it can't be measured on a kind of database


NEEDS = {
    "driver": Need(("sqlite3",)),
    "tent": Need(("peewee", "tent.data.dbm"), ("tent-data", "peewee")),
    "peewee": Need(("peewee",), ("peewee",)),
    "sqlalchemy": Need(("sqlalchemy.orm",), ("sqlalchemy",)),
    "django": Need(("django.db.models",), ("django",)),
    "pony": Need(("pony.orm",), ("pony",), {"postgresql": "psycopg2", "mariadb": "pymysql"}),
    "sqlobject": Need(("sqlobject",), ("sqlobject",), {"postgresql": "psycopg2", "mariadb": "pymysql"}),
    "tortoise": Need(
        ("tortoise.models",),
        ("tortoise-orm",),
        {"sqlite": "aiosqlite", "postgresql": "psycopg_pool", "mariadb": "asyncmy"},
    ),
}
NAMES = tuple(NEEDS)
SERVER_DRIVERS = ("psycopg2cffi", "psycopg2", "psycopg", "pymysql", "MySQLdb")  # that Peewee imports if they are there
GROWING = ("driver", "tent", "peewee", "sqlalchemy", "django")  # those that can stream


def missing(name: str, kinds: Sequence[str]) -> list[str]:
    """Return the modules that a peer needs on these kinds of databases, and that are not installed."""
    need = NEEDS[name]
    wanted = [
        *(name.partition(".")[0] for name in need.imports),
        *(need.drivers[kind] for kind in kinds if kind in need.drivers),
    ]
    return [module for module in wanted if importlib.util.find_spec(module) is None]


def untaken(name: str, database: Database) -> list[str]:
    """Return the options of a server's URL that a peer, or the driver it uses, can't be given."""
    if name != "tortoise":
        return []
    if database.kind == "postgresql":
        return [option for option in database.options if option == "options"]  # it gives its own
    connection: Any = importlib.import_module("asyncmy.connection").Connection
    known = inspect.signature(connection.__init__).parameters
    return [o for o, value in database.options.items() if o not in known and (o, value) != ("ssl_disabled", True)]


def open_peer(name: str, database: Database) -> Peer:
    peer: Peer = importlib.import_module(f"benchmarks.{name}").Peer(database)
    return peer
