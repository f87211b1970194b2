"""Django's ORM, without the rest of Django."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import django
from django.conf import settings
from django.db import connection, models, transaction

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch, made

FIELDS = {
    "datetime": models.DateTimeField,
    "float": models.FloatField,
    "smallint": models.SmallIntegerField,
    "int": models.IntegerField,
    "bigint": models.BigIntegerField,
    "char": lambda **options: models.CharField(max_length=255, **options),
    "text": models.TextField,
    "decimal": lambda **options: models.DecimalField(max_digits=12, decimal_places=8, **options),
    "json": models.JSONField,
}
JOURNALS: dict[int, Any] = {}
OTHERS: dict[str, Any] = {}  # User and Profile


class Peer:
    def __init__(self, database: Database) -> None:
        key = "django.db.models.AutoField"
        settings.configure(DATABASES={"default": _settings(database)}, DEFAULT_AUTO_FIELD=key, USE_TZ=False)
        django.setup()
        if not JOURNALS:  # models can only be made when the settings are there
            JOURNALS.update({model: _journal(model) for model in workload.MODELS})
            OTHERS.update(_others())

    def close(self) -> None:
        connection.close()

    def scalar(self, sql: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            for journal in made(JOURNALS[model], model, rows):
                journal.save()

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, transaction.atomic():
            for journal in made(JOURNALS[model], model, rows):
                journal.save()

    def insert_bulk(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch, transaction.atomic():
            journals = made(JOURNALS[model], model, rows)
            if model == workload.RELATED:
                next(journals).save()  # the parent of others, which must have a key
            JOURNALS[model].objects.bulk_create(journals)

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level in levels:
                found = list(JOURNALS[model].objects.filter(level=level))
                count += len(found)
        return count, found

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level, offset in pages:
                found = list(JOURNALS[model].objects.filter(level=level)[offset : offset + workload.PAGE])
                count += len(found)
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, journal = 0, None
        with watch:
            for key in keys:
                journal = JOURNALS[model].objects.get(pk=key)
                count += journal is not None
        return count, [journal]

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level in levels:
                found = list(JOURNALS[model].objects.filter(level=level).values())
                count += len(found)
        return count, found

    def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level in levels:
                found = list(JOURNALS[model].objects.filter(level=level).values_list())
                count += len(found)
        return count, found

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        journals = self._all(model)
        with watch, transaction.atomic():
            for journal, change in zip(journals, changes):
                for name, value in change.items():
                    setattr(journal, name, value)
                journal.save()

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        journals = self._all(model)
        with watch, transaction.atomic():
            for journal, level in zip(journals, levels):
                journal.level = level
                journal.save(update_fields=["level"])

    def delete(self, model: int, watch: Stopwatch) -> None:
        journals = self._all(model)
        with watch, transaction.atomic():
            for journal in journals:
                journal.delete()

    def held(self, rounds: int, watch: Stopwatch) -> int:
        journals = self._all(1)
        with watch:
            return sum(JOURNALS[1].objects.get(pk=j.pk) is not None for _ in range(rounds) for j in journals)

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        with watch:
            return sum(OTHERS["User"].objects.filter(name=name).first() is not None for name in names)

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch, transaction.atomic():
            users = [OTHERS["User"](name=name) for name in names]
            if connection.features.can_return_rows_from_bulk_insert:
                OTHERS["User"].objects.bulk_create(users)
            else:
                for user in users:
                    user.save()
            OTHERS["Profile"].objects.bulk_create(
                OTHERS["Profile"](user=user, **values)
                for name, user in zip(names, users)
                for values in workload.profiles_of(name)
            )

    def follow(self, watch: Stopwatch) -> list[str]:
        with watch:
            return [profile.user.name for profile in OTHERS["Profile"].objects.filter(kind=FIRST_KIND)]

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        journals = self._all(1)
        for number in range(commits):
            with watch:
                journals[0].text = f"change {number}"
                journals[0].save()

    def stream(self, watch: Stopwatch) -> int:
        with watch:
            return sum(1 for _ in JOURNALS[1].objects.iterator(chunk_size=1_000))

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        yield self._all(1)

    def _all(self, model: int) -> list[Any]:
        return list(JOURNALS[model].objects.order_by("pk"))


def _journal(model: int) -> Any:
    fields = {}
    for c in workload.COLUMNS[model]:
        default = {} if c.default is None else {"default": c.default}
        fields[c.name] = FIELDS[c.kind](null=c.is_null, db_index=c.is_indexed, **default)
    if model == workload.RELATED:
        fields["parent"] = models.ForeignKey("self", models.DB_SET_NULL, null=True, related_name="children")
        fields["related"] = models.ManyToManyField(
            "self", through=_related(), through_fields=("journal", "journal_from"), related_name="related_from"
        )
    return _model(f"Journal{model}", workload.table_of(model), fields)


def _related() -> Any:
    def key(name: str) -> Any:
        return models.ForeignKey("Journal2", models.DB_CASCADE, related_name=name)

    return _model("JournalRelated", "journal_related", {"journal": key("links"), "journal_from": key("links_from")})


def _others() -> dict[str, Any]:
    user = {
        "name": models.CharField(max_length=255, unique=True),
        "bio": models.TextField(null=True),
        "joined": models.DateTimeField(default=workload.now),
    }
    profile = {
        "user": models.ForeignKey("User", models.DB_CASCADE, related_name="profiles"),
        "kind": models.CharField(max_length=255),
        "content": models.TextField(),
    }
    return {"User": _model("User", "users", user), "Profile": _model("Profile", "profiles", profile)}


def _model(name: str, table: str, fields: dict[str, Any]) -> Any:
    meta = type("Meta", (), {"app_label": "benchmark", "db_table": table})
    return type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def _settings(database: Database) -> dict[str, Any]:
    options: dict[str, Any]
    if database.kind == "sqlite":
        pragmas = "".join(f"PRAGMA {pragma} = {value};" for pragma, value in PRAGMAS.items())
        engine, options = "sqlite3", {"init_command": pragmas}
    elif database.kind == "postgresql":
        engine, options = "postgresql", database.options
    else:
        import pymysql

        pymysql.install_as_MySQLdb()
        engine, options = "mysql", {"charset": "utf8mb4", **database.options}
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": database.name,
        "HOST": database.host,
        "PORT": database.port,
        "USER": database.user,
        "PASSWORD": database.password,
        "OPTIONS": options,
    }
