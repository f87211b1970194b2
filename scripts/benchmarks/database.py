"""The databases that are measured on, by their bare drivers: connections, the tables that peers share, and rows."""

from __future__ import annotations

import contextlib
import datetime
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from benchmarks import workload

# Peers set these on their connections, and each is asked for them.
PRAGMAS = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "cache_size": -16_000, "busy_timeout": 5_000}

KINDS = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql", "mariadb": "mariadb"}
_PORTS = {"sqlite": 0, "postgresql": 5432, "mariadb": 3306}
_TYPES = {
    "sqlite": {
        "key": "INTEGER PRIMARY KEY",
        "datetime": "DATETIME",
        "float": "REAL",
        "smallint": "SMALLINT",
        "int": "INTEGER",
        "bigint": "BIGINT",
        "char": "VARCHAR(255)",
        "text": "TEXT",
        "decimal": "DECIMAL(12, 8)",
        "json": "TEXT",
    },
    "postgresql": {
        "key": "SERIAL PRIMARY KEY",
        "datetime": "TIMESTAMP",
        "float": "DOUBLE PRECISION",
        "smallint": "SMALLINT",
        "int": "INTEGER",
        "bigint": "BIGINT",
        "char": "VARCHAR(255)",
        "text": "TEXT",
        "decimal": "DECIMAL(12, 8)",
        "json": "JSONB",
    },
    "mariadb": {
        "key": "INTEGER PRIMARY KEY AUTO_INCREMENT",
        "datetime": "DATETIME(6)",
        "float": "DOUBLE",
        "smallint": "SMALLINT",
        "int": "INTEGER",
        "bigint": "BIGINT",
        "char": "VARCHAR(255)",
        "text": "LONGTEXT",
        "decimal": "DECIMAL(12, 8)",
        "json": "JSON",
    },
}
TABLES = ("journal_related", "journal1", "journal2", "journal3", "profiles", "users")  # in the order of deletion


@dataclass(frozen=True)
class Database:
    """A database: an SQLite file, whose path is its name, or one of a server."""

    kind: str
    name: str
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # what is behind the "?" of a URL, for the driver

    @classmethod
    def of_file(cls, path: Path) -> Database:
        return cls("sqlite", str(path))

    @classmethod
    def of_url(cls, url: str) -> Database:
        """Return the database of a server's URL. Raises `ValueError`."""
        parts = urlsplit(url)
        if parts.scheme not in KINDS or parts.scheme == "sqlite":
            raise ValueError("a URL begins with postgresql:// or mariadb://")
        return cls(
            KINDS[parts.scheme],
            unquote(parts.path.removeprefix("/")),
            parts.hostname or "127.0.0.1",
            parts.port or _PORTS[KINDS[parts.scheme]],
            unquote(parts.username or ""),
            unquote(parts.password or ""),
            dict(_option(*pair) for pair in parse_qsl(parts.query, keep_blank_values=True)),
        )

    def named(self, name: str) -> Database:
        return replace(self, name=name)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def login(self) -> dict[str, Any]:
        """Where a server is and who asks, by the names that most have for it."""
        return {"host": self.host, "port": self.port, "user": self.user, "password": self.password}

    @property
    def mark(self) -> str:
        """The mark of a parameter in SQL."""
        return "?" if self.kind == "sqlite" else "%s"

    def connect(self) -> Any:
        """Open a connection of the bare driver."""
        if self.kind == "sqlite":
            return self._connect_sqlite()
        if self.kind == "postgresql":
            import psycopg

            return psycopg.connect(**self.login, **self.options, dbname=self.name)
        import pymysql

        return pymysql.connect(**self.login, **self.options, database=self.name, charset="utf8mb4")

    def _connect_sqlite(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.name)
        for pragma, value in PRAGMAS.items():
            connection.execute(f"PRAGMA {pragma} = {value}")
        return connection

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        connection = self.connect()
        try:
            yield connection
        finally:
            connection.close()

    def version(self) -> str:
        if self.kind == "sqlite":
            return sqlite3.sqlite_version
        return str(self.read("SELECT version()")[0][0])

    # Rows, beside all peers

    def run(self, *statements: str) -> None:
        """Run statements in one transaction."""
        with self.connected() as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connected() as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    def write(self, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows of the values that Python has."""
        with self.connected() as connection:
            written = [[self.written(value) for value in row] for row in rows]
            connection.cursor().executemany(self.insert(table, names), written)
            connection.commit()

    def keys(self, table: str) -> list[int]:
        return [key for (key,) in self.read(f"SELECT id FROM {table} ORDER BY id")]

    def insert(self, table: str, names: Sequence[str]) -> str:
        """Return the statement that inserts a row."""
        marks = ", ".join([self.mark] * len(names))
        return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"

    def written(self, value: Any) -> Any:
        """Return a value as the bare driver takes it: times and decimals are text in SQLite, documents everywhere."""
        if isinstance(value, dict):
            return self._document(value)
        if self.kind != "sqlite":
            return value
        if isinstance(value, datetime.datetime):
            return value.isoformat(" ", "microseconds")
        return str(value) if isinstance(value, Decimal) else value

    def _document(self, value: dict[str, Any]) -> Any:
        if self.kind != "postgresql":
            return json.dumps(value)
        from psycopg.types.json import Jsonb

        return Jsonb(value)

    # Tables

    def create_tables(self) -> None:
        with self.connected() as connection:  # not in one transaction: MariaDB has none for tables
            for statement in (*self._drops(), *self._creations()):
                connection.cursor().execute(statement)
                connection.commit()

    def empty_tables(self) -> None:
        self.run(*(f"DELETE FROM {table}" for table in TABLES))

    def _drops(self) -> Iterator[str]:
        for table in TABLES:
            yield f"DROP TABLE IF EXISTS {table}"

    def _creations(self) -> Iterator[str]:
        types = _TYPES[self.kind]
        for model in workload.MODELS:
            yield self._creation_of_journal(model)
            for column in workload.COLUMNS[model]:
                if column.is_indexed:
                    yield _index(workload.table_of(model), column.name)
        yield _index("journal2", "parent_id")
        yield (
            f"CREATE TABLE journal_related (id {types['key']}, "
            f"{_reference('journal_id')}, {_reference('journal_from_id')}, "
            f"{_foreign_key('journal_id', 'journal2', 'CASCADE')}, "
            f"{_foreign_key('journal_from_id', 'journal2', 'CASCADE')})"
        )
        yield _index("journal_related", "journal_id")
        yield _index("journal_related", "journal_from_id")
        yield (
            f"CREATE TABLE users (id {types['key']}, name {types['char']} NOT NULL UNIQUE, "
            f"bio {types['text']}, joined {types['datetime']} NOT NULL)"
        )
        yield (
            f"CREATE TABLE profiles (id {types['key']}, {_reference('user_id')}, "
            f"kind {types['char']} NOT NULL, content {types['text']} NOT NULL, "
            f"{_foreign_key('user_id', 'users', 'CASCADE')})"
        )
        yield _index("profiles", "user_id")

    def _creation_of_journal(self, model: int) -> str:
        types = _TYPES[self.kind]
        parts = [f"id {types['key']}"]
        parts += [f"{c.name} {types[c.kind]} {'NULL' if c.is_null else 'NOT NULL'}" for c in workload.COLUMNS[model]]
        if model == workload.RELATED:
            parts += ["parent_id INTEGER NULL", _foreign_key("parent_id", "journal2", "SET NULL")]
        return f"CREATE TABLE {workload.table_of(model)} ({', '.join(parts)})"


def _option(name: str, text: str) -> tuple[str, Any]:
    """Return an option as PyMySQL takes it; libpq takes each as text."""
    if text.lower() in ("true", "false"):
        return name, text.lower() == "true"
    return name, int(text) if text.isdecimal() else text


def _reference(name: str) -> str:
    return f"{name} INTEGER NOT NULL"


def _foreign_key(name: str, table: str, on_delete: str) -> str:
    return f"FOREIGN KEY ({name}) REFERENCES {table} (id) ON DELETE {on_delete}"


def _index(table: str, name: str) -> str:
    return f"CREATE INDEX {table}_{name} ON {table} ({name})"
