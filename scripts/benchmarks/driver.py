"""The bare driver (sqlite3, psycopg, PyMySQL), as a program would use it that has no library on top of it.

It is no limit in I to K on servers: it has a statement for each row there, in `executemany`, which PyMySQL sends and
waits for one by one, and a library that changes or deletes many rows in a statement can be faster.

Rows are tuples, as the driver gives them, with nothing converted but what it converts itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import workload
from benchmarks.database import Database
from benchmarks.peers import FIRST_KIND
from benchmarks.workload import Item, Stopwatch


class Peer:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.connection = database.connect()

    def close(self) -> None:
        self.connection.close()

    def scalar(self, sql: str) -> Any:
        return self._rows(sql)[0][0]

    def insert_single(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            insert, cursor, parent = self._insert(model), self.connection.cursor(), None
            for place, (level, text) in enumerate(rows):
                cursor.execute(insert, self._row(model, level, text, parent if workload.has_parent(place) else None))
                self.connection.commit()
                if place == 0 and model == workload.RELATED:
                    parent = self._last_key(model)
                    self.connection.commit()  # else what is read later is as old as this

    def insert_batch(self, model: int, rows: Sequence[Item], watch: Stopwatch) -> None:
        with watch:
            insert, cursor, parent = self._insert(model), self.connection.cursor(), None
            if model == workload.RELATED:
                (level, text), *rest = rows
                cursor.execute(insert, self._row(model, level, text, None))
                parent = self._last_key(model)
            else:
                rest = list(rows)
            start = len(rows) - len(rest)
            cursor.executemany(
                insert,
                [
                    self._row(model, level, text, parent if workload.has_parent(place) else None)
                    for place, (level, text) in enumerate(rest, start)
                ],
            )
            self.connection.commit()

    insert_bulk = insert_batch

    def filter_large(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        select, count, found = self._select_level(model), 0, []
        with watch:
            for level in levels:
                found = self._rows(select, (level,))
                count += len(found)
            self.connection.commit()
        return count, found

    filter_tuples = filter_large

    def filter_small(self, model: int, pages: Sequence[tuple[int, int]], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        select, count, found = f"{self._select_level(model)} LIMIT {workload.PAGE} OFFSET {self._mark}", 0, []
        with watch:
            for page in pages:
                found = self._rows(select, page)
                count += len(found)
            self.connection.commit()
        return count, found

    def get(self, model: int, keys: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        select, count, row = f"{self._select(model)} WHERE id = {self._mark}", 0, None
        with watch:
            cursor = self.connection.cursor()
            for key in keys:
                cursor.execute(select, (key,))
                row = cursor.fetchone()
                count += row is not None
            self.connection.commit()
        return count, [row]

    def filter_dicts(self, model: int, levels: Sequence[int], watch: Stopwatch) -> tuple[int, Sequence[Any]]:
        select, count, found = self._select_level(model), 0, []
        names = ["id", *workload.names_of(model)]
        with watch:
            for level in levels:
                found = [dict(zip(names, row)) for row in self._rows(select, (level,))]
                count += len(found)
            self.connection.commit()
        return count, found

    def update_whole(self, model: int, changes: Sequence[dict[str, Any]], watch: Stopwatch) -> None:
        keys = self.database.keys(workload.table_of(model))
        with watch:
            assignments = ", ".join(f"{name} = {self._mark}" for name in changes[0])
            self._update(model, assignments, [(*self._written(c.values()), key) for key, c in zip(keys, changes)])

    def update_partial(self, model: int, levels: Sequence[int], watch: Stopwatch) -> None:
        keys = self.database.keys(workload.table_of(model))
        with watch:
            self._update(model, f"level = {self._mark}", list(zip(levels, keys)))

    def delete(self, model: int, watch: Stopwatch) -> None:
        keys = self.database.keys(workload.table_of(model))
        with watch:
            delete = f"DELETE FROM {workload.table_of(model)} WHERE id = {self._mark}"
            self.connection.cursor().executemany(delete, [(key,) for key in keys])
            self.connection.commit()

    def first(self, names: Sequence[str], watch: Stopwatch) -> int:
        select = f"SELECT id, name, bio, joined FROM users WHERE name = {self._mark} LIMIT 1"
        with watch:
            count = sum(len(self._rows(select, (name,))) for name in names)
            self.connection.commit()
        return count

    def graph(self, names: Sequence[str], watch: Stopwatch) -> None:
        """As a program would that gives the keys itself, and that nobody else writes beside."""
        insert_user = self.database.insert("users", ["id", "name", "joined"])
        insert_profile = self.database.insert("profiles", ["user_id", "kind", "content"])
        with watch:
            cursor = self.connection.cursor()
            joined = self.database.written(workload.now())
            cursor.executemany(insert_user, [(key, name, joined) for key, name in enumerate(names, 1)])
            cursor.executemany(
                insert_profile,
                [
                    (key, profile["kind"], profile["content"])
                    for key, name in enumerate(names, 1)
                    for profile in workload.profiles_of(name)
                ],
            )
            self.connection.commit()

    def follow(self, watch: Stopwatch) -> list[str]:
        """In one join, as a program would."""
        select = (
            "SELECT p.id, p.kind, p.content, u.id, u.name, u.bio, u.joined FROM profiles p "
            f"JOIN users u ON u.id = p.user_id WHERE p.kind = {self._mark}"
        )
        with watch:
            names = [row[4] for row in self._rows(select, (FIRST_KIND,))]
            self.connection.commit()
        return names

    def one_change(self, commits: int, watch: Stopwatch) -> None:
        key = self.database.keys("journal1")[0]
        for number in range(commits):
            with watch:
                self._update(1, f"text = {self._mark}", [(f"change {number}", key)])

    def stream(self, watch: Stopwatch) -> int:
        with watch:
            cursor = self.connection.cursor()
            cursor.execute(self._select(1))
            count = sum(1 for _ in cursor)
            self.connection.commit()
        return count

    @contextlib.contextmanager
    def loaded(self) -> Iterator[Sequence[Any]]:
        yield self._rows(self._select(1))
        self.connection.commit()

    @property
    def _mark(self) -> str:
        return self.database.mark

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        cursor = self.connection.cursor()
        cursor.execute(sql, values)
        return list(cursor.fetchall())

    def _insert(self, model: int) -> str:
        return self.database.insert(workload.table_of(model), workload.names_of(model))

    def _select(self, model: int) -> str:
        return f"SELECT {', '.join(['id', *workload.names_of(model)])} FROM {workload.table_of(model)}"

    def _select_level(self, model: int) -> str:
        return f"{self._select(model)} WHERE level = {self._mark}"

    def _row(self, model: int, level: int, text: str, parent: int | None) -> list[Any]:
        values = {**workload.defaults_of(model), "level": level, "text": text}
        if model == workload.RELATED:
            values["parent_id"] = parent
        return self._written(values.values())

    def _written(self, values: Any) -> list[Any]:
        return [self.database.written(value) for value in values]

    def _last_key(self, model: int) -> int:
        key: int = self._rows(f"SELECT MAX(id) FROM {workload.table_of(model)}")[0][0]
        return key

    def _update(self, model: int, assignments: str, rows: Sequence[Sequence[Any]]) -> None:
        update = f"UPDATE {workload.table_of(model)} SET {assignments} WHERE id = {self._mark}"
        self.connection.cursor().executemany(update, rows)
        self.connection.commit()
