"""Pony ORM. It has no way to insert in bulk.

A session of Pony keeps the results of its queries, and gives them again when the same query comes with the same values.
None of the workload's does in one session, but the keys of F.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from pony import orm

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch, made

db = orm.Database()

TYPES: dict[str, tuple[Any, ...]] = {
    "datetime": (datetime.datetime, 6),
    "float": (float,),
    "smallint": (int,),
    "int": (int,),
    "bigint": (int,),
    "char": (str, 255),
    "text": (orm.LongStr,),
    "decimal": (Decimal, 12, 8),
    "json": (orm.Json,),
}
SIZES = {"smallint": {"size": 16}, "int": {"size": 32}, "bigint": {"size": 64}}
NOT_LAZY = {"text": {"lazy": False}}  # all peers read all columns


def _journal(model: int) -> Any:
    attributes: dict[str, Any] = {"_table_": workload.table_of(model), "id": orm.PrimaryKey(int, auto=True)}
    for c in workload.COLUMNS[model]:
        options: dict[str, Any] = {**SIZES.get(c.kind, {}), **NOT_LAZY.get(c.kind, {})}
        if c.default is not None:
            options["default"] = c.default
        if c.is_null and c.kind in ("char", "text", "json"):
            options["nullable"] = True
        if c.is_indexed:
            options["index"] = True
        attributes[c.name] = (orm.Optional if c.is_null else orm.Required)(*TYPES[c.kind], **options)
    if model == workload.RELATED:
        attributes["parent"] = orm.Optional("Journal2", reverse="children", column="parent_id")
        attributes["children"] = orm.Set("Journal2", reverse="parent")
        attributes["related"] = orm.Set("JournalRelated", reverse="journal")
        attributes["related_from"] = orm.Set("JournalRelated", reverse="journal_from")
    return type(db.Entity)(f"Journal{model}", (db.Entity,), {"__module__": __name__, **attributes})


JOURNALS = {model: _journal(model) for model in workload.MODELS}


class JournalRelated(db.Entity):  # type: ignore[misc, name-defined]
    _table_ = "journal_related"

    id = orm.PrimaryKey(int, auto=True)
    journal = orm.Required("Journal2", reverse="related", column="journal_id")
    journal_from = orm.Required("Journal2", reverse="related_from", column="journal_from_id")


class User(db.Entity):  # type: ignore[misc, name-defined]
    _table_ = "users"

    id = orm.PrimaryKey(int, auto=True)
    name = orm.Required(str, 255, unique=True)
    bio = orm.Optional(orm.LongStr, nullable=True)
    joined = orm.Required(datetime.datetime, 6, default=workload.now)
    profiles = orm.Set("Profile")


class Profile(db.Entity):  # type: ignore[misc, name-defined]
    _table_ = "profiles"

    id = orm.PrimaryKey(int, auto=True)
    user = orm.Required(User, column="user_id")
    kind = orm.Required(str, 255)
    content = orm.Required(orm.LongStr, lazy=False)


@db.on_connect(provider="sqlite")
def _set_pragmas(_: Any, connection: Any) -> None:
    for pragma, value in PRAGMAS.items():
        connection.execute(f"PRAGMA {pragma} = {value}")


class Peer:
    def __init__(self, database: Database) -> None:
        if database.kind == "sqlite":
            db.bind(provider="sqlite", filename=database.name, create_db=True)
        else:
            provider, name = {"postgresql": ("postgres", "dbname"), "mariadb": ("mysql", "db")}[database.kind]
            db.bind(provider=provider, **database.login, **{name: database.name}, **database.options)
        db.generate_mapping(create_tables=False, check_tables=False)

    def close(self) -> None:
        db.disconnect()

    @orm.db_session
    def scalar(self, sql: str) -> Any:
        return db.execute(sql).fetchone()[0]

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, orm.db_session:
            for _ in made(JOURNALS[model], model, rows):
                orm.commit()

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, orm.db_session:
            for _ in made(JOURNALS[model], model, rows):
                pass  # the session knows of it
            orm.commit()

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch, orm.db_session:
            for level in levels:
                found = list(orm.select(j for j in journal if j.level == level))
                count += len(found)
        return count, found

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch, orm.db_session:
            for level, offset in pages:
                found = list(orm.select(j for j in journal if j.level == level).limit(workload.PAGE, offset=offset))
                count += len(found)
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        """A session of Pony keeps what it has read: a key that comes again costs no statement."""
        count, journal = 0, None
        with watch, orm.db_session:
            for key in keys:
                journal = JOURNALS[model].get(id=key)
                count += journal is not None
        return count, [journal]

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        journal, count, found = JOURNALS[model], 0, []
        with watch, orm.db_session:
            for level in levels:
                found = [j.to_dict() for j in orm.select(j for j in journal if j.level == level)]
                count += len(found)
        return count, found

    def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch, orm.db_session:
            for level in levels:
                found = list(self._columns(model, level))
                count += len(found)
        return count, found

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        with orm.db_session:
            journals = self._all(model)
            with watch:
                for journal, change in zip(journals, changes):
                    for name, value in change.items():
                        setattr(journal, name, value)
                orm.commit()

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        with orm.db_session:
            journals = self._all(model)
            with watch:
                for journal, level in zip(journals, levels):
                    journal.level = level
                orm.commit()

    def delete(self, model: int, watch: Stopwatch) -> None:
        with orm.db_session:
            journals = self._all(model)
            with watch:
                for journal in journals:
                    journal.delete()
                orm.commit()

    def held(self, rounds: int, watch: Stopwatch) -> int:
        with orm.db_session:
            keys = [journal.id for journal in self._all(1)]
            with watch:
                return sum(JOURNALS[1].get(id=key) is not None for _ in range(rounds) for key in keys)

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        with watch, orm.db_session:
            return sum(User.select(lambda u: u.name == name).first() is not None for name in names)

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch, orm.db_session:
            for name in names:
                user = User(name=name)
                for values in workload.profiles_of(name):
                    Profile(user=user, **values)
            orm.commit()

    def follow(self, watch: Stopwatch) -> list[str]:
        with watch, orm.db_session:
            return [profile.user.name for profile in Profile.select(lambda p: p.kind == FIRST_KIND)]

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        with orm.db_session:
            journals = self._all(1)
            for number in range(commits):
                with watch:
                    journals[0].text = f"change {number}"
                    orm.commit()

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        with orm.db_session:
            yield self._all(1)

    def _columns(self, model: int, level: int) -> Any:
        names = ", ".join(f"j.{name}" for name in ["id", *(column.name for column in workload.COLUMNS[model])])
        return orm.select(
            f"({names}) for j in journal if j.level == level", {"journal": JOURNALS[model], "level": level}
        )

    def _all(self, model: int) -> list[Any]:
        journal = JOURNALS[model]
        return list(orm.select(j for j in journal).order_by(journal.id))
