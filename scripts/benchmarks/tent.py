"""tent.data: sessions on Peewee, the library of this repository."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import peewee

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch, made
from tent.data import dbm

Base = dbm.declarative_base()

FIELDS = {
    "datetime": peewee.DateTimeField,
    "float": peewee.DoubleField,
    "smallint": peewee.SmallIntegerField,
    "int": peewee.IntegerField,
    "bigint": peewee.BigIntegerField,
    "char": peewee.CharField,
    "text": peewee.TextField,
    "decimal": lambda **options: peewee.DecimalField(12, 8, **options),
    "json": peewee.JSONField,
}


def _journal(model: int) -> Any:
    fields = {c.name: FIELDS[c.kind](default=c.default, null=c.is_null) for c in workload.COLUMNS[model]}
    if model == workload.RELATED:
        fields["parent"] = peewee.ForeignKeyField("self", null=True, backref="children", on_delete="SET NULL")
    name = f"Journal{model}"
    return type(name, (Base,), {"__module__": __name__, "__tablename__": workload.table_of(model), **fields})


JOURNALS = {model: _journal(model) for model in workload.MODELS}


class JournalRelated(Base):
    __tablename__ = "journal_related"

    journal = peewee.ForeignKeyField(JOURNALS[2], backref="related", on_delete="CASCADE")
    journal_from = peewee.ForeignKeyField(JOURNALS[2], backref="related_from", on_delete="CASCADE")


class User(Base):
    name = peewee.CharField(unique=True)
    bio = peewee.TextField(null=True)
    joined = peewee.DateTimeField(default=workload.now)


class Profile(Base):
    user = peewee.ForeignKeyField(User, backref="profiles", on_delete="CASCADE")
    kind = peewee.CharField()
    content = peewee.TextField()


class Peer:
    def __init__(self, database: Database) -> None:
        self.engine = dbm.connect(_config(database))

    def close(self) -> None:
        self.engine.close_all()

    def scalar(self, sql: str) -> Any:
        with dbm.open_session(self.engine) as session:
            return session.scalar(sql)

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, dbm.open_session(self.engine) as session:
            for journal in made(JOURNALS[model], model, rows):
                session.add(journal)
                session.commit()

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, dbm.open_session(self.engine) as session:
            for journal in made(JOURNALS[model], model, rows):
                session.add(journal)
            session.commit()

    def insert_bulk(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, dbm.open_session(self.engine) as session:
            session.add_all(made(JOURNALS[model], model, rows))
            session.commit()

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, dbm.open_session(self.engine) as session:
            for level in levels:
                found = session.query(JOURNALS[model]).filter_by(level=level).all()
                count += len(found)
        return count, found

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, dbm.open_session(self.engine) as session:
            for level, offset in pages:
                query = session.query(JOURNALS[model]).filter_by(level=level)
                found = query.limit(workload.PAGE).offset(offset).all()
                count += len(found)
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, journal = 0, None
        with watch, dbm.open_session(self.engine) as session:
            for key in keys:
                journal = session.get(JOURNALS[model], key)
                count += journal is not None
        return count, [journal]

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, dbm.open_session(self.engine) as session:
            for level in levels:
                found = list(session.query(JOURNALS[model]).filter_by(level=level).dicts())
                count += len(found)
        return count, found

    def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, dbm.open_session(self.engine) as session:
            for level in levels:
                found = list(session.query(JOURNALS[model]).filter_by(level=level).tuples())
                count += len(found)
        return count, found

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        with self._loaded(model) as (session, journals), watch:
            for journal, change in zip(journals, changes):
                for name, value in change.items():
                    setattr(journal, name, value)
            session.commit()

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        with self._loaded(model) as (session, journals), watch:
            for journal, level in zip(journals, levels):
                journal.level = level
            session.commit()

    def delete(self, model: int, watch: Stopwatch) -> None:
        with self._loaded(model) as (session, journals), watch:
            for journal in journals:
                session.delete(journal)
            session.commit()

    def held(self, rounds: int, watch: Stopwatch) -> int:
        with self._loaded(1) as (session, journals):
            keys = [journal.id for journal in journals]
            with watch:
                return sum(session.get(JOURNALS[1], key) is not None for _ in range(rounds) for key in keys)

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        with watch, dbm.open_session(self.engine) as session:
            return sum(session.query(User).filter_by(name=name).first() is not None for name in names)

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch, dbm.open_session(self.engine) as session:
            for name in names:
                user = User(name=name)
                session.add(user)
                session.add_all(Profile(user=user, **values) for values in workload.profiles_of(name))
            session.commit()

    def follow(self, watch: Stopwatch) -> list[str]:
        with watch, dbm.open_session(self.engine) as session:
            return [profile.user.name for profile in session.query(Profile).filter_by(kind=FIRST_KIND)]

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        with self._loaded(1) as (session, journals):
            for number in range(commits):
                with watch:
                    journals[0].text = f"change {number}"
                    session.commit()

    def stream(self, watch: Stopwatch) -> int:
        with watch, dbm.open_session(self.engine) as session:
            return sum(1 for _ in session.query(JOURNALS[1]).yield_per(1_000))

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        with self._loaded(1) as (_, journals):
            yield journals

    @contextlib.contextmanager
    def _loaded(self, model: int) -> Iterator[tuple[dbm.Session, list[Any]]]:
        """Open a session with all objects, in the order of their keys."""
        with dbm.open_session(self.engine) as session:
            yield session, session.query(JOURNALS[model]).order_by(JOURNALS[model].id).all()


def _config(database: Database) -> dict[str, Any]:
    if database.kind == "sqlite":
        return {"driver": "sqlite", "path": database.name, "pragmas": PRAGMAS}
    return {"driver": database.kind, **database.login, "database": database.name, "options": database.options}
