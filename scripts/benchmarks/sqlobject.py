"""SQLObject. It has no way to insert in bulk, and none to get rows as dicts or tuples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import sqlobject
from sqlobject import col

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch, made

COLUMNS = {
    "datetime": col.DateTimeCol,
    "float": col.FloatCol,
    "smallint": col.SmallIntCol,
    "int": col.IntCol,
    "bigint": col.BigIntCol,
    "char": lambda **options: col.UnicodeCol(length=255, **options),
    "text": col.UnicodeCol,
    "decimal": lambda **options: col.DecimalCol(size=12, precision=8, **options),
    "json": col.JSONCol,
}


def _journal(model: int) -> Any:
    columns = {c.name: _column(c) for c in workload.COLUMNS[model]}
    if model == workload.RELATED:
        columns["parent"] = col.ForeignKey("Journal2", default=None, cascade="null")
        columns["children"] = sqlobject.MultipleJoin("Journal2", joinColumn="parent_id")
    meta = type("sqlmeta", (), {"table": workload.table_of(model)})
    return type(f"Journal{model}", (sqlobject.SQLObject,), {"__module__": __name__, "sqlmeta": meta, **columns})


def _column(column: workload.Column) -> Any:
    default = {"default": column.default} if column.default is not None or column.is_null else {}
    return COLUMNS[column.kind](dbName=column.name, notNone=not column.is_null, **default)


JOURNALS = {model: _journal(model) for model in workload.MODELS}


class JournalRelated(sqlobject.SQLObject):  # type: ignore[misc]
    class sqlmeta:
        table = "journal_related"

    journal = col.ForeignKey("Journal2", notNone=True, cascade=True)
    journal_from = col.ForeignKey("Journal2", dbName="journal_from_id", notNone=True, cascade=True)


class User(sqlobject.SQLObject):  # type: ignore[misc]
    class sqlmeta:
        table = "users"

    name = col.UnicodeCol(length=255, alternateID=True)
    bio = col.UnicodeCol(default=None)
    joined = col.DateTimeCol(default=workload.now)


class Profile(sqlobject.SQLObject):  # type: ignore[misc]
    class sqlmeta:
        table = "profiles"

    user = col.ForeignKey("User", notNone=True, cascade=True)
    kind = col.UnicodeCol(length=255)
    content = col.UnicodeCol()


class Peer:
    def __init__(self, database: Database) -> None:
        self.connection = sqlobject.connectionForURI(_uri(database))
        sqlobject.sqlhub.processConnection = self.connection
        if database.options:  # not in the URI, which takes but few; these are what the driver is called with
            name = {"postgresql": "dsn_dict", "mariadb": "kw"}[database.kind]
            getattr(self.connection, name).update(database.options)
        if database.kind == "sqlite":  # a thread has one connection
            for pragma, value in PRAGMAS.items():
                self.connection.queryAll(f"PRAGMA {pragma} = {value}")

    def close(self) -> None:
        self.connection.close()

    def scalar(self, sql: str) -> Any:
        return self.connection.queryOne(sql)[0]

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, self._emptied():
            for _ in made(JOURNALS[model], model, rows):
                pass  # making it has inserted and committed it

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, self._transaction() as transaction:
            for _ in made(JOURNALS[model], model, rows, connection=transaction):
                pass  # making it has inserted it

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, self._emptied():
            for level in levels:
                found = list(JOURNALS[model].selectBy(level=level))
                count += len(found)
        return count, found

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, self._emptied():
            for level, offset in pages:
                found = list(JOURNALS[model].selectBy(level=level)[offset : offset + workload.PAGE])
                count += len(found)
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """SQLObject keeps what it has read, for a time: many a key that comes again costs no statement."""
        count, journal = 0, None
        with watch, self._emptied():
            for key in keys:
                journal = JOURNALS[model].get(key)
                count += journal is not None
        return count, [journal]

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        with self._transaction() as transaction:
            journals = self._all(model, transaction)
            with watch:
                for journal, change in zip(journals, changes):
                    journal.set(**change)
                transaction.commit()

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        with self._transaction() as transaction:
            journals = self._all(model, transaction)
            with watch:
                for journal, level in zip(journals, levels):
                    journal.level = level
                transaction.commit()

    def delete(self, model: int, watch: Stopwatch) -> None:
        with self._transaction() as transaction:
            journals = self._all(model, transaction)
            with watch:
                for journal in journals:
                    journal.destroySelf()
                transaction.commit()

    def held(self, rounds: int, watch: Stopwatch) -> int:
        with self._emptied():
            journals = self._all(1, None)
            with watch:
                return sum(JOURNALS[1].get(j.id) is not None for _ in range(rounds) for j in journals)

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        with watch, self._emptied():
            return sum(User.selectBy(name=name).limit(1).getOne(None) is not None for name in names)

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch, self._transaction() as transaction:
            for name in names:
                user = User(name=name, connection=transaction)
                for values in workload.profiles_of(name):
                    Profile(user=user, connection=transaction, **values)

    def follow(self, watch: Stopwatch) -> list[str]:
        with watch, self._emptied():
            return [profile.user.name for profile in Profile.selectBy(kind=FIRST_KIND)]

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        with self._emptied():
            journals = self._all(1, None)
            for number in range(commits):
                with watch:
                    journals[0].text = f"change {number}"

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        with self._emptied():
            yield self._all(1, None)

    def _all(self, model: int, transaction: Any) -> list[Any]:
        return list(JOURNALS[model].select(orderBy="id", connection=transaction))

    @contextlib.contextmanager
    def _emptied(self) -> Iterator[None]:
        """Begin without objects of former operations, as a session does."""
        self.connection.cache.clear()
        yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        transaction = self.connection.transaction()
        try:
            yield transaction
            transaction.commit(close=True)
        finally:
            transaction.cache.clear()


def _uri(database: Database) -> str:
    if database.kind == "sqlite":
        return f"sqlite://{quote(database.name)}"
    scheme, options = {"postgresql": ("postgres", "driver=psycopg2"), "mariadb": ("mysql", "driver=pymysql")}[
        database.kind
    ]
    login = f"{quote(database.user)}:{quote(database.password)}@{database.host}:{database.port}"
    return f"{scheme}://{login}/{database.name}?{options}"
