"""Peewee, which tent.data is built on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import peewee

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch, made

proxy = peewee.DatabaseProxy()
CHUNK = 100  # objects in a statement of bulk_create, as in Peewee's documentation; SQLite takes so many parameters

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


class Base(peewee.Model):
    class Meta:
        database = proxy


def _journal(model: int) -> Any:
    fields = {c.name: FIELDS[c.kind](default=c.default, null=c.is_null) for c in workload.COLUMNS[model]}
    if model == workload.RELATED:
        fields["parent"] = peewee.ForeignKeyField("self", null=True, backref="children", on_delete="SET NULL")
    meta = type("Meta", (), {"table_name": workload.table_of(model)})
    return type(f"Journal{model}", (Base,), {"__module__": __name__, "Meta": meta, **fields})


JOURNALS = {model: _journal(model) for model in workload.MODELS}


class JournalRelated(Base):
    journal = peewee.ForeignKeyField(JOURNALS[2], backref="related", on_delete="CASCADE")
    journal_from = peewee.ForeignKeyField(JOURNALS[2], backref="related_from", on_delete="CASCADE")

    class Meta:
        table_name = "journal_related"


class User(Base):
    name = peewee.CharField(unique=True)
    bio = peewee.TextField(null=True)
    joined = peewee.DateTimeField(default=workload.now)

    class Meta:
        table_name = "users"


class Profile(Base):
    user = peewee.ForeignKeyField(User, backref="profiles", on_delete="CASCADE")
    kind = peewee.CharField()
    content = peewee.TextField()

    class Meta:
        table_name = "profiles"


class Peer:
    def __init__(self, database: Database) -> None:
        self.database = _database(database)
        proxy.initialize(self.database)
        self.database.connect()

    def close(self) -> None:
        self.database.close()

    def scalar(self, sql: str) -> Any:
        return self.database.execute_sql(sql).fetchone()[0]

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            for journal in made(JOURNALS[model], model, rows):
                journal.save()

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, self.database.atomic():
            for journal in made(JOURNALS[model], model, rows):
                journal.save()

    def insert_bulk(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, self.database.atomic():
            journals = made(JOURNALS[model], model, rows)
            if model == workload.RELATED:
                next(journals).save()  # the parent of others, which must have a key
            JOURNALS[model].bulk_create(journals, batch_size=CHUNK)

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch:
            for level in levels:
                found = list(journal.select().where(journal.level == level))
                count += len(found)
        return count, found

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch:
            for level, offset in pages:
                found = list(journal.select().where(journal.level == level).limit(workload.PAGE).offset(offset))
                count += len(found)
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, journal = 0, None
        with watch:
            for key in keys:
                journal = JOURNALS[model].get_by_id(key)
                count += journal is not None
        return count, [journal]

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch:
            for level in levels:
                found = list(journal.select().where(journal.level == level).dicts())
                count += len(found)
        return count, found

    def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch:
            for level in levels:
                found = list(journal.select().where(journal.level == level).tuples())
                count += len(found)
        return count, found

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        journals = self._all(model)
        with watch, self.database.atomic():
            for journal, change in zip(journals, changes):
                for name, value in change.items():
                    setattr(journal, name, value)
                journal.save()

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        journals, only = self._all(model), [JOURNALS[model].level]
        with watch, self.database.atomic():
            for journal, level in zip(journals, levels):
                journal.level = level
                journal.save(only=only)

    def delete(self, model: int, watch: Stopwatch) -> None:
        journals = self._all(model)
        with watch, self.database.atomic():
            for journal in journals:
                journal.delete_instance()

    def held(self, rounds: int, watch: Stopwatch) -> int:
        journals = self._all(1)
        with watch:
            return sum(JOURNALS[1].get_by_id(j.id) is not None for _ in range(rounds) for j in journals)

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        with watch:
            return sum(User.select().where(User.name == name).first() is not None for name in names)

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch, self.database.atomic():
            profiles = []
            for name in names:
                user = User.create(name=name)  # bulk_create would leave it without its key in SQLite and MariaDB
                profiles += [Profile(user=user, **values) for values in workload.profiles_of(name)]
            Profile.bulk_create(profiles, batch_size=CHUNK)

    def follow(self, watch: Stopwatch) -> list[str]:
        with watch:
            return [profile.user.name for profile in Profile.select().where(Profile.kind == FIRST_KIND)]

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        journals = self._all(1)
        for number in range(commits):
            with watch:
                journals[0].text = f"change {number}"
                journals[0].save()

    def stream(self, watch: Stopwatch) -> int:
        with watch:
            return sum(1 for _ in JOURNALS[1].select().iterator())

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        yield self._all(1)

    def _all(self, model: int) -> list[Any]:
        return list(JOURNALS[model].select().order_by(JOURNALS[model].id))


def _database(database: Database) -> Any:
    if database.kind == "sqlite":
        return peewee.SqliteDatabase(database.name, pragmas=PRAGMAS)
    login = {**database.login, **database.options}
    if database.kind == "postgresql":
        return peewee.PostgresqlDatabase(database.name, **login, prefer_psycopg3=True)
    return peewee.MySQLDatabase(database.name, mariadb=True, **login, charset="utf8mb4")
