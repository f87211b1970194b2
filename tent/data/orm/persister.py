"""Change sets become batched statements: the only module that writes the rows of objects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peewee
from peewee import qualify_names  # type: ignore[attr-defined]

from .blame import blaming, in_parts
from .cascading import Fallout, action, fell, follows, foresee
from .change import Change, Groups, grouped
from .column import Column, is_sql
from .columns import Columns, InsertedColumns, UpdatedColumns, found_by, keys_beside, shapes_of
from .cursor import BufferedCursor
from .engine import Engine
from .errors import FlushError, StaleDataError
from .filling import Filling, sql_of
from .identity import IdentityMap
from .mapper import Mapper, chunks, where_equal
from .statements import Delete, halves, singles


class Persister(Filling):
    """Writes the rows of one flush.

    A statement that fails raises Peewee's error, which names the object.
    """

    def __init__(self, database: Engine, identity_map: IdentityMap) -> None:
        super().__init__(database)
        self.identity_map = identity_map
        self.written: list[tuple[Column, Sequence[Any], Sequence[Any]]] = []  # what can change in place, and its text
        self.fallout: Fallout = {}
        self.spared: set[tuple[int, str]] = set()  # foreign keys, by object and name, that a fallout does not reach
        self._renamed: Fallout = {}
        self._vacated: dict[int, dict[str, Any]] = {}  # values on the way, by the `id` of a change
        self._inserted: dict[Any, list[Any]] = {}  # by model: new rows whose key the database makes
        self._new_keys: dict[Any, set[Any]] = {}  # those keys, as far as somebody wanted to know
        self._postponed: frozenset[tuple[int, str]] = frozenset()

    # Inserting

    @contextmanager
    def postponing(self, foreign_keys: Iterable[tuple[Any, str]]) -> Iterator[None]:
        """Leave foreign keys, given by object and name, NULL in what is inserted within the block."""
        hidden = [(instance, name, instance.__data__.get(name)) for instance, name in foreign_keys]
        self._postponed = frozenset((id(instance), name) for instance, name, _ in hidden)
        for instance, name, _ in hidden:
            self.fill([instance], name, [None])
        yield
        self._postponed = frozenset()
        for instance, name, value in hidden:
            self.fill([instance], name, [value])

    def insert(self, mapper: Mapper, instances: Sequence[Any]) -> None:
        """Insert rows, which need none of each other, in a few statements for each set of columns."""
        inserted = self._inserted.setdefault(mapper.model, [])
        for field in mapper.foreign_keys:
            self._fill_foreign_key(field, instances)
        if mapper.generated is not None:
            new = [instance for instance in instances if instance.__data__.get(mapper.generated) is None]
            keys = self.database.new_keys(len(new)) if len(new) > 1 else []
            if keys:
                self.fill(new, mapper.generated, mapper.by_name[mapper.generated].read(keys))
            inserted += new
        for names, group in shapes_of(mapper, instances).items():
            context = "inserting {} into " + mapper.table
            self._write(group, len(names), context, lambda some: self._insert(mapper, names, some))
        if self.fallout or self._renamed:
            self._spare(mapper, mapper.names, instances)

    def _insert(self, mapper: Mapper, names: tuple[str, ...], instances: Sequence[Any]) -> None:
        written = mapper.statement(("insert", names), lambda: InsertedColumns(self.database, mapper, names))
        columns, computed = self._encode(written, instances)
        is_single = written.is_single or computed
        if len(instances) > 1 and (is_single or not self.database.fits(columns)):
            parts = singles(instances) if is_single else halves(instances)
            in_parts(parts, lambda part: self._insert(mapper, names, part))
            return
        made = written.made + computed if computed else written.made
        keys = keys_beside(mapper, made) if computed else written.keys
        tells_key = self.database.tells_last_key and len(instances) == 1 and made == [mapper.generated]
        is_told = self.database.returns_inserted and not tells_key
        if computed:
            returned = keys + made if is_told else []
            cursor = self._insert_with_expressions(mapper, names, [values[0] for values in columns], returned)
        else:
            cursor = self.database.insert_rows(written.telling if is_told else written.silent, columns, len(instances))
        if mapper.generated in names:
            self._note_given_keys(mapper, columns[names.index(mapper.generated)])
        if made and not is_told:
            self.read_back(mapper, instances, made, cursor)
        elif made:
            self.take(mapper, instances, keys, made, cursor)

    def _insert_with_expressions(
        self, mapper: Mapper, names: Sequence[str], row: Sequence[Any], returned: Sequence[str]
    ) -> BufferedCursor:
        placeholders, params = self._placeholders(mapper, names, row)
        sql = f"INSERT INTO {mapper.table} ({sql_of(mapper, names)}) VALUES ({', '.join(placeholders)})"
        return self.database.fetch(sql + _returning(mapper, returned), params)

    def _note_given_keys(self, mapper: Mapper, keys: Sequence[Any]) -> None:
        column = mapper.by_name[mapper.generated or ""]
        highest = max((key for key in keys if isinstance(key, int)), default=0)
        if highest > 0:
            self.database.note_given_keys(mapper.table, column.field.column_name, highest)

    # Updating

    def update(self, groups: Groups) -> None:
        """Update rows, with one statement for each table and set of columns."""
        have_versions = False
        for (mapper, names), changes in groups.items():
            for field in mapper.foreign_keys:
                for change in changes if field.name in names else ():
                    self._fill_foreign_key(field, [change.instance])
            for change in changes if mapper.version is not None else ():
                have_versions = True
                self._count_version(change)
        if have_versions:
            groups = grouped(itertools.chain.from_iterable(groups.values()))
        for (mapper, names), group in groups.items():
            if self._inserted:
                self._refuse_taken_keys(mapper, group)
            context = "updating {} in " + mapper.table
            self._write(group, 1, context, lambda some: self._update(mapper, names, some), most=10_000)
            if self.fallout or self._renamed:
                self._spare(mapper, names, [change.instance for change in group])
            if mapper.referred:
                self._note_renamed(mapper, names, group)

    def _update(self, mapper: Mapper, names: tuple[str, ...], changes: Sequence[Change]) -> None:
        updated = mapper.statement(("update", names), lambda: UpdatedColumns(mapper, names))
        columns, computed = self._encode(updated, [change.instance for change in changes])
        columns += _where(mapper, changes)
        if len(changes) > 1 and (computed or not self.database.fits(columns)):
            parts = singles(changes) if computed else halves(changes)
            in_parts(parts, lambda part: self._update(mapper, names, part))
            return
        if computed:
            self._update_with_expressions(changes[0], [values[0] for values in columns], computed)
            return
        _check_count(mapper, changes, self.database.update_rows(updated.update, columns), "update")

    def _update_with_expressions(self, change: Change, row: Sequence[Any], computed: Sequence[str]) -> None:
        mapper, names, database = change.mapper, change.names, self.database
        placeholders, params = self._placeholders(mapper, names, row)
        assignments = ", ".join(f"{mapper.by_name[name].sql} = {mark}" for name, mark in zip(names, placeholders))
        sql = f"UPDATE {mapper.table} SET {assignments} WHERE {where_equal(found_by(mapper))}"
        params += row[len(names) :]
        if not database.returns_updated:
            _check_count(mapper, [change], database.fetch(sql, params).rowcount, "update")
            self.read(mapper, change.instance, computed)
            return
        rows = database.fetch(sql + _returning(mapper, computed), params).rows
        _check_count(mapper, [change], len(rows), "update")
        for name, value in zip(computed, rows[0]):
            self.fill([change.instance], name, [mapper.by_name[name].decoded(value)])

    def _count_version(self, change: Change) -> None:
        version = change.mapper.version
        if version is None or change.verb != "update":
            return
        if change.version is None:
            raise FlushError(f"{change.instance!r} has no version: {version!r} is None. Set it, or load it again.")
        if version not in change.names:
            change.names += (version,)
            following = change.mapper.by_name[version].field.following
            self.fill([change.instance], version, [following(change.version)])

    # Deleting

    def delete(self, mapper: Mapper, changes: Sequence[Change]) -> None:
        """Delete rows by their keys, in a few statements. What the database does to others by that is in `fallout`."""
        if self.fallout:
            changes = self._standing(changes, self.fallout)
        if mapper.referred:
            foreseen = self._foresee(mapper, changes)
            standing = self._standing(changes, foreseen) if foreseen and len(changes) > 1 else changes
            if len(standing) < len(changes):
                # The others go with one of these, or with one another: in a cycle, with the first of them.
                firm = set(map(id, standing))
                for part in [standing, *singles([change for change in changes if id(change) not in firm])]:
                    self.delete(mapper, part)
                return
            for field, values in foreseen.items():
                self.fallout.setdefault(field, set()).update(values)
        if not self.database.deletes_own_parents:
            self._part_from_themselves(mapper, changes)
        self._refuse_taken_keys(mapper, changes)
        context = "deleting {} from " + mapper.table
        self._write(changes, len(found_by(mapper)), context, lambda some: self._delete(mapper, some))

    def _foresee(self, mapper: Mapper, changes: Sequence[Change]) -> Fallout:
        """Return what comes of the deletion of rows that are there."""
        foreseen: Fallout = {}
        rows = [dict(zip(mapper.referred, change.old(mapper.referred))) for change in changes]
        if self._vacated:  # rows that refer to them have followed; objects that do know of the former values only
            rows += [{**row, **self._vacated[id(c)]} for row, c in zip(rows, changes) if id(c) in self._vacated]
        foresee(self.database, self.database.fetch, self._may_hold, mapper.model, rows, foreseen)
        return foreseen

    def _standing(self, changes: Sequence[Change], fallout: Fallout) -> list[Change]:
        """Return the changes whose rows the database doesn't delete by itself."""
        return [change for change in changes if not fell(change, fallout, self.spared)]

    def _part_from_themselves(self, mapper: Mapper, changes: Sequence[Change]) -> None:
        """Let rows that are about to be deleted refer to themselves no more, where they can refer to nothing."""
        for field in mapper.foreign_keys:
            if field.rel_model is mapper.model and field.null and not action(field):
                for change in changes:
                    parent, own = change.old([field.name, field.rel_field.name])
                    if parent is not None and parent == own:
                        self.put(change, field.name, None)

    def _may_hold(self, model: Any) -> bool:
        """Return whether there may be objects of a model that have a row."""
        return model in self._inserted or self.identity_map.has(model)

    def _delete(self, mapper: Mapper, changes: Sequence[Change]) -> None:
        delete = mapper.statement("delete", lambda: Delete(mapper.table, found_by(mapper)))
        _check_count(mapper, changes, self.database.delete_rows(delete, _where(mapper, changes)), "delete")

    def part(self, change: Change, name: str) -> None:
        """Let a row that is to be deleted refer to nothing by a foreign key."""
        self.put(change, name, None)
        self.spared.add((id(change.instance), name))

    def put(self, change: Change, name: str, value: Any) -> None:
        """Put a value into one column of a row, as a step on the way."""
        mapper, column = change.mapper, change.mapper.by_name[name]
        sql = f"UPDATE {mapper.table} SET {column.sql} = {column.placeholder} WHERE {mapper.where_key}"
        self.database.fetch(sql, [column.encoded_one(value), *mapper.key_params(change.key)])

    def vacate(self, change: Change, name: str, value: Any) -> None:
        """Put a value into a column in the place of one that another row takes; if it is the key, keep track of it."""
        self.put(change, name, value)
        self._vacated.setdefault(id(change), {})[name] = value
        self._note_renamed(change.mapper, [name], [change])
        names = change.mapper.key_names
        if names == (name,):
            change.key = value
        elif name in names:
            change.key = tuple(value if name == n else part for n, part in zip(names, change.key))

    # What they share

    def _refuse_taken_keys(self, mapper: Mapper, changes: Sequence[Change]) -> None:
        """Refuse to write a row whose key a new one has got: SQLite gives the key of a deleted last row again."""
        inserted = self._inserted.get(mapper.model)
        if inserted is None:
            return
        keys = self._new_keys.setdefault(mapper.model, set())
        keys.update(instance.__data__.get(mapper.generated) for instance in inserted)
        inserted.clear()
        taken = [change for change in changes if change.verb != "link" and change.key in keys]
        if taken:
            error = StaleDataError(f"A new row in {mapper.table} got the key of one that was to be written.")
            error.changes = taken  # type: ignore[attr-defined]
            raise error

    def _write(
        self,
        items: Sequence[Any],
        width: int,
        context: str,
        write: Callable[[Sequence[Any]], None],
        most: int | None = None,
    ) -> None:
        """Write objects, or changes, in statements that take `width` parameters for each."""
        for part in chunks(self.database, items, width, most):
            blaming(self.database, part, context, write)

    def _fill_foreign_key(self, field: Any, instances: Sequence[Any]) -> None:
        name, target = field.name, field.rel_field.name
        waiting, keys = [], []
        for instance in instances:
            related = instance.__rel__.get(name) if instance.__rel__ else None
            if related is not None and (id(instance), name) not in self._postponed:
                key = related.__data__.get(target)
                if key != instance.__data__.get(name):
                    waiting.append(instance)
                    keys.append(key)
        if waiting:
            self.fill(waiting, name, keys)

    def _spare(self, mapper: Mapper, names: Sequence[str], instances: Sequence[Any]) -> None:
        """Note which objects refer to a row that has taken the value of another: they do so since that one left it."""
        for field in mapper.foreign_keys:
            for left in (self.fallout, self._renamed):
                if field in left and (name := field.name) in names:
                    values = left[field]
                    self.spared.update((id(one), name) for one in instances if one.__data__.get(name) in values)

    def _note_renamed(self, mapper: Mapper, names: Sequence[str], changes: Sequence[Change]) -> None:
        """Note the values that rows have left, by which others had referred to them, and that those follow."""
        if mapper.referred.isdisjoint(names):
            return
        for field in filter(follows, mapper.model._meta.backrefs):
            if field.rel_field.name in names:
                left = self._renamed.setdefault(field, set())
                left.update(value for change in changes for value in change.old([field.rel_field.name]))

    def _encode(self, columns: Columns, instances: Sequence[Any]) -> tuple[list[Sequence[Any]], list[str]]:
        """Return the values of columns as the driver takes them, and the names of those that have expressions.

        Where a value had a type that the column converts ("1" for an integer), the object gets what it became.
        """
        values, computed = columns.of(instances), []
        for place, column, treatment in columns.treated(values):
            own = encoded = values[place]
            if treatment.encode is not None:
                encoded = values[place] = treatment.encode(own)
            if treatment.may_be_sql and any(map(is_sql, encoded)):
                computed.append(column.name)  # each is written by itself, and read back
            elif treatment.parts:
                self.written.append((column, instances, encoded))
            if treatment.converts and column.type is not None:
                self._convert(column, column.type, instances, own, encoded)
        return values, computed

    def _convert(self, column: Column, types: tuple[type, ...], *lists: Sequence[Any]) -> None:
        """Fill what a flush has made of values of other types into objects: lists of these, the values, the results."""
        for instance, value, encoded in zip(*lists):
            if value is not None and type(value) not in types and not isinstance(value, peewee.Node):
                self.fill([instance], column.name, [column.converted(value, encoded)])

    def _placeholders(self, mapper: Mapper, names: Sequence[str], row: Sequence[Any]) -> tuple[list[str], list[Any]]:
        """Return what stands for the values of a row in a statement, the SQL of expressions too, and the parameters."""
        placeholders, params = [], []
        for name, value in zip(names, row):
            is_expression = isinstance(value, peewee.Node)
            sql, own = self._compiled(mapper, value) if is_expression else (mapper.by_name[name].placeholder, [value])
            placeholders.append(sql)
            params += own
        return placeholders, params

    def _compiled(self, mapper: Mapper, expression: Any) -> tuple[str, list[Any]]:
        """Return the SQL of an expression as a value to write, where a column of the table goes by the table's name."""
        context = self.database.get_sql_context()
        table = mapper.model._meta.table
        context.alias_manager[table] = table.__name__
        with context.scope_values(subquery=True):
            sql, params = context.sql(qualify_names(expression)).query()
        return sql, params


def _where(mapper: Mapper, changes: Sequence[Change]) -> list[Sequence[Any]]:
    """Return the values, in columns, by which the rows of changes are found."""
    if mapper.plain_key is not None:
        columns: list[Sequence[Any]] = [[change.key for change in changes]]
    else:
        columns = list(zip(*[mapper.key_params(change.key) for change in changes]))
    if mapper.version is not None:
        version = mapper.by_name[mapper.version]
        columns.append([version.encoded_one(change.version) for change in changes])
    return columns


def _returning(mapper: Mapper, names: Sequence[str]) -> str:
    return f" RETURNING {sql_of(mapper, names)}" if names else ""


def _check_count(mapper: Mapper, changes: Sequence[Change], count: int, verb: str) -> None:
    if count != len(changes):
        error = StaleDataError(f"The {verb} of {len(changes)} rows in {mapper.table} found {count}.")
        error.changes = changes  # type: ignore[attr-defined]
        raise error
