"""The workload: the models, the rows, and the operations that each peer runs on them.

The operations A to K, and the three models they run on, are those of the benchmark that Tortoise ORM publishes
(tortoise/orm-benchmarks). The others are of things that a session is made for, or that it could be bad at.

D, G and H ask for the rows of each level ten times, each time in a session of its own where a library has sessions:
one that keeps the results of its queries, as Pony's does, would answer from these all but the first time, and what is
measured would no longer be how it reads rows. For the same reason no page of E and no name of `first` comes again. In F
keys do, in one session, as they do in a program: what it has kept may save a library the work.
"""

from __future__ import annotations

import datetime
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

LEVELS = (10, 20, 30, 40, 50)
LARGE_ROUNDS = 10  # how often D, G and H ask for the rows of each level, each time in another session
PAGE = 20  # rows that E asks for at once
PROFILES = 5  # of each user
HELD_ROUNDS = 5
COMMITS = 100  # of which one_change takes the median
SEED = 1

TITLES = {
    "A": "insert single",
    "B": "insert batch",
    "C": "insert bulk",
    "D": "filter large",
    "E": "filter small",
    "F": "get",
    "G": "filter large, dicts",
    "H": "filter large, tuples",
    "I": "update whole",
    "J": "update partial",
    "K": "delete",
    "held": "get what is held",
    "first": "first by unique text",
    "graph": "users with profiles",
    "follow": "profile.user of each",
    "one_change": "one change of 1,000",
    "one_change_100k": "one change of 100,000",
    "memory": "memory of an object",
    "import": "import",
    "import_added": "import, added to Peewee",
    "import_added_alone": "the same without drivers",
}
LETTERS = "ABCDEFGHIJK"
UNITS = {"one_change": "ms a commit", "one_change_100k": "ms a commit", "memory": "bytes"}
UNITS |= dict.fromkeys(("import", "import_added", "import_added_alone"), "ms")
RATE = "thousand rows/s"  # the unit of all others


def unit(operation: str) -> str:
    return UNITS.get(operation, RATE)


# Models


def now() -> datetime.datetime:
    return datetime.datetime.now()


@dataclass(frozen=True)
class Column:
    """A column of a journal: its kind names a type of each database, and a field of each peer."""

    name: str
    kind: str
    default: Any = None  # a value, or a function that makes one
    is_null: bool = False
    is_indexed: bool = False


def sample_document() -> dict[str, Any]:
    return {"a": 1, "b": "b", "c": [2], "d": {"e": 3}, "f": True}


_DEFAULTS: dict[str, Any] = {
    "float": 2.2,
    "smallint": 2,
    "int": 2_000_000,
    "bigint": 99_999_999,
    "char": "value1",
    "text": "Moo,Foo,Baa,Waa,Moo,Foo,Baa,Waa,Moo,Foo,Baa,Waa",
    "decimal": Decimal("2.2"),
    "json": sample_document,
}


def _wide_columns() -> Iterator[Column]:
    for number in (1, 2, 3, 4):
        for kind, default in _DEFAULTS.items():
            is_null = number % 2 == 0
            yield Column(f"col_{kind}{number}", kind, default=None if is_null else default, is_null=is_null)


_BASIC = (
    Column("timestamp", "datetime", default=now),
    Column("level", "smallint", is_indexed=True),
    Column("text", "char", is_indexed=True),
)
COLUMNS = {1: _BASIC, 2: _BASIC, 3: (*_BASIC, *_wide_columns())}  # of each model, beside id and the parent of 2
MODELS = tuple(COLUMNS)
RELATED = 2  # the model whose objects have a parent
WIDE = 3


def table_of(model: int) -> str:
    return f"journal{model}"


def names_of(model: int) -> list[str]:
    """Return the names of all columns but the key, in the order of the table's."""
    return [column.name for column in COLUMNS[model]] + (["parent_id"] if model == RELATED else [])


def defaults_of(model: int) -> dict[str, Any]:
    """Return the values of a new row in which only level and text are given."""
    values = {c.name: c.default() if callable(c.default) else c.default for c in COLUMNS[model]}
    return {**values, "parent_id": None} if model == RELATED else values


# Rows

Item = tuple[int, str]  # the level and the text of a row; all else are defaults


def items(operation: str, rows: int, start: int = 0) -> list[Item]:
    return [(LEVELS[number % 5], f"Insert from {operation}, item {number}") for number in range(start, start + rows)]


def has_parent(place: int) -> bool:
    """Tell whether the object at this place in an operation has a parent, which is the operation's first object."""
    return place % 2 == 1


def made(make: Callable[..., Any], model: int, rows: Sequence[Item], **more: Any) -> Iterator[Any]:
    """Yield an object for each row, made with keywords, just when it is asked for."""
    if model != RELATED:
        for level, text in rows:
            yield make(level=level, text=text, **more)
        return
    first = None
    for place, (level, text) in enumerate(rows):
        instance = make(level=level, text=text, parent=first if has_parent(place) else None, **more)
        if first is None:
            first = instance
        yield instance


def next_level(level: int) -> int:
    return LEVELS[(LEVELS.index(level) + 1) % len(LEVELS)]


def changes(model: int, rows: Sequence[Item]) -> list[dict[str, Any]]:
    """Return what I sets on each object: a level and a text that it has not, and in the wide model all else, too."""
    return [_change(model, place, level, text) for place, (level, text) in enumerate(rows)]


def _change(model: int, place: int, level: int, text: str) -> dict[str, Any]:
    change: dict[str, Any] = {"level": next_level(level), "text": f"{text} Update"}
    if model == WIDE:
        change["timestamp"] = datetime.datetime(2024, 2, 29, 12, 30, 15, 250_000) + datetime.timedelta(minutes=place)
        for column in COLUMNS[WIDE][3:]:
            change[column.name] = _changed(column.kind, place)
    return change


def _changed(kind: str, place: int) -> Any:
    return {
        "float": place + 0.5,
        "smallint": place % 1_000 + 3,
        "int": 3_000_000 + place,
        "bigint": 10**12 + place,
        "char": f"value {place}",
        "text": f"Changed, {place};" * 4,
        "decimal": place % 1_000 + Decimal("0.12345678"),
        "json": {"a": place, "b": ["c", {"d": None}], "e": False},
    }[kind]


def pages(rows: int) -> list[tuple[int, int]]:
    """Return the level and the offset of each page that E asks for. Each is full, if A and B have run, and another."""
    last, count = max(1, 2 * rows // len(LEVELS) - PAGE), max(1, rows // 10)
    offsets = random.Random(SEED).sample(range(max(last, count)), count)  # very few rows have empty pages, too
    return [(level, offset) for offset in offsets for level in LEVELS]


def drawn(keys: Sequence[Any], count: int) -> list[Any]:
    return random.Random(SEED).choices(keys, k=count)


def shuffled(names: Sequence[str]) -> list[str]:
    return random.Random(SEED).sample(names, len(names))


def user_names(count: int) -> list[str]:
    return [f"user {number:06}" for number in range(count)]


def profiles_of(name: str) -> list[dict[str, str]]:
    """Return the values of the profiles of a user."""
    return [{"kind": f"kind {number}", "content": f"{name} likes {number}"} for number in range(PROFILES)]


# Time


class Stopwatch:
    """Measures what is in `with watch:`, and collects garbage before, which then is nobody's of what is measured.

    Laps that are shorter than that, a commit each, have it done before the first one only: it drives all else out of
    the processor's caches.
    """

    def __init__(self, are_short: bool = False) -> None:
        self.laps: list[float] = []
        self._are_short = are_short

    @property
    def seconds(self) -> float:
        return sum(self.laps)

    def __enter__(self) -> Stopwatch:
        if not (self._are_short and self.laps):
            gc.collect()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.laps.append(time.perf_counter() - self._start)
