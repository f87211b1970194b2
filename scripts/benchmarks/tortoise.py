"""Tortoise ORM: asynchronous, in one event loop, one thing after the other as a request does."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from tortoise import Tortoise, connections, fields
from tortoise.models import Model
from tortoise.transactions import in_transaction

from benchmarks import workload
from benchmarks.database import PRAGMAS, Database
from benchmarks.peers import FIRST_KIND, untaken
from benchmarks.workload import Item, Stopwatch, made

FIELDS = {
    "datetime": fields.DatetimeField,
    "float": fields.FloatField,
    "smallint": fields.SmallIntField,
    "int": fields.IntField,
    "bigint": fields.BigIntField,
    "char": lambda **options: fields.CharField(max_length=255, **options),
    "text": fields.TextField,
    "decimal": lambda **options: fields.DecimalField(12, 8, **options),
    "json": fields.JSONField,
}


def _journal(model: int) -> Any:
    columns: dict[str, Any] = {"id": fields.IntField(primary_key=True)}
    for c in workload.COLUMNS[model]:
        default = {} if c.default is None else {"default": c.default}
        columns[c.name] = FIELDS[c.kind](null=c.is_null, **({"db_index": True} if c.is_indexed else {}), **default)
    if model == workload.RELATED:
        columns["parent"] = fields.ForeignKeyField(
            "models.Journal2", related_name="children", null=True, on_delete=fields.SET_NULL
        )
        columns["related"] = fields.ManyToManyField(
            "models.Journal2",
            related_name="related_from",
            through="journal_related",
            backward_key="journal_id",
            forward_key="journal_from_id",
        )
    meta = type("Meta", (), {"table": workload.table_of(model)})
    return type(f"Journal{model}", (Model,), {"__module__": __name__, "Meta": meta, **columns})


JOURNALS = {model: _journal(model) for model in workload.MODELS}
Journal1, Journal2, Journal3 = JOURNALS.values()  # Tortoise finds models by their names in the module


class User(Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=255, unique=True)
    bio = fields.TextField(null=True)
    joined = fields.DatetimeField(default=workload.now)

    class Meta:
        table = "users"


class Profile(Model):
    id = fields.IntField(primary_key=True)
    user: Any = fields.ForeignKeyField("models.User", related_name="profiles")
    kind = fields.CharField(max_length=255)
    content = fields.TextField()

    class Meta:
        table = "profiles"


def waited(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Make a method of a coroutine one that runs it in the peer's loop."""

    @functools.wraps(method)
    def run(self: Peer, *arguments: Any) -> Any:
        return self.runner.run(method(self, *arguments))

    return run


class Peer:
    def __init__(self, database: Database) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._open(database))

    async def _open(self, database: Database) -> None:
        connection = _url(database) if database.kind == "sqlite" else _server(database)
        app = {"models": [__name__], "default_connection": "default"}
        await Tortoise.init({"connections": {"default": connection}, "apps": {"models": app}}, use_tz=False)

    def close(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await connections.close_all()

    @waited
    async def scalar(self, sql: str) -> Any:
        [row] = await connections.get("default").execute_query_dict(sql)
        return next(iter(row.values()))

    @waited
    async def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            for journal in made(JOURNALS[model], model, rows):
                await journal.save()

    @waited
    async def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            async with in_transaction():
                for journal in made(JOURNALS[model], model, rows):
                    await journal.save()

    @waited
    async def insert_bulk(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            async with in_transaction():
                journals = made(JOURNALS[model], model, rows)
                if model == workload.RELATED:
                    await next(journals).save()  # the parent of others, which must have a key
                await JOURNALS[model].bulk_create(journals)

    @waited
    async def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level in levels:
                found = await JOURNALS[model].filter(level=level)
                count += len(found)
        return count, found

    @waited
    async def filter_small(
        self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch
    ) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level, offset in pages:
                found = await JOURNALS[model].filter(level=level).limit(workload.PAGE).offset(offset)
                count += len(found)
        return count, found

    @waited
    async def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, journal = 0, None
        with watch:
            for key in keys:
                journal = await JOURNALS[model].get(id=key)
                count += journal is not None
        return count, [journal]

    @waited
    async def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level in levels:
                found = await JOURNALS[model].filter(level=level).values()
                count += len(found)
        return count, found

    @waited
    async def filter_tuples(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        count, found = 0, []
        with watch:
            for level in levels:
                found = await JOURNALS[model].filter(level=level).values_list()
                count += len(found)
        return count, found

    @waited
    async def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        journals = await self._all(model)
        with watch:
            async with in_transaction():
                for journal, change in zip(journals, changes):
                    for name, value in change.items():
                        setattr(journal, name, value)
                    await journal.save()

    @waited
    async def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        journals = await self._all(model)
        with watch:
            async with in_transaction():
                for journal, level in zip(journals, levels):
                    journal.level = level
                    await journal.save(update_fields=["level"])

    @waited
    async def delete(self, model: int, watch: Stopwatch) -> None:
        journals = await self._all(model)
        with watch:
            async with in_transaction():
                for journal in journals:
                    await journal.delete()

    @waited
    async def held(self, rounds: int, watch: Stopwatch) -> int:
        journals, count = await self._all(1), 0
        with watch:
            for _ in range(rounds):
                for journal in journals:
                    count += await JOURNALS[1].get(id=journal.id) is not None
        return count

    @waited
    async def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        count = 0
        with watch:
            for name in names:
                count += await User.filter(name=name).first() is not None
        return count

    @waited
    async def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        with watch:
            async with in_transaction():
                profiles = []
                for name in names:
                    user = await User.create(name=name)  # bulk_create would leave it without its key
                    profiles += [Profile(user=user, **values) for values in workload.profiles_of(name)]
                await Profile.bulk_create(profiles)

    @waited
    async def follow(self, watch: Stopwatch) -> list[str]:
        with watch:
            return [(await profile.user).name for profile in await Profile.filter(kind=FIRST_KIND)]

    @waited
    async def one_change(self, commits: int, watch: Stopwatch) -> None:
        journals = await self._all(1)
        for number in range(commits):
            with watch:
                journals[0].text = f"change {number}"
                await journals[0].save()

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        yield self.runner.run(self._all(1))

    async def _all(self, model: int) -> list[Any]:
        return list(await JOURNALS[model].all().order_by("id"))


def _url(database: Database) -> str:
    return f"sqlite://{database.name}?" + "&".join(f"{pragma}={value}" for pragma, value in PRAGMAS.items())


def _server(database: Database) -> dict[str, Any]:
    left_out = {"ssl_disabled", *untaken("tortoise", database)}  # asyncmy has no TLS unless it is told to
    options = {name: value for name, value in database.options.items() if name not in left_out}
    if database.kind == "postgresql":
        own = {name: options.pop(name) for name in ("application_name",) if name in options}
        options = {"server_settings": options, **own}
    engine = {"postgresql": "psycopg", "mariadb": "mysql"}[database.kind]
    return {
        "engine": f"tortoise.backends.{engine}",
        "credentials": {**database.login, "database": database.name, **options},
    }
