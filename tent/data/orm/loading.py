"""Rows become objects: through the identity map, so that one row is one object whatever query it came by."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import peewee

from . import mutable
from .engine import BufferedCursor, Engine
from .errors import ArgumentError, explain, shown
from .identity import IdentityMap
from .mapper import Mapper, chunks, in_clause, mapper_of
from .peers import GROUP, Peers
from .query import is_entity, model_of
from .result import Result
from .tracking import CLEAN, Owner, Reading

Row = Sequence[Any]


class Loader:
    """Makes a session's objects of rows."""

    def __init__(self, engine: Engine, identity_map: IdentityMap, owner: Owner) -> None:
        self.engine = engine
        self.identity_map = identity_map
        self.owner = owner
        self.epoch = 0
        self.reading: Reading | None = None  # what is read now, when it may be undone
        self.moves: dict[Any, int] = {}

    def note_moves(self, model: Any) -> None:
        """Note that rows of a model have come, gone or moved: that they refer to others than they did."""
        self.moves[model] = self.moves.get(model, 0) + 1

    def mapper(self, model: Any) -> Mapper:
        return mapper_of(model, self.engine)

    # Whole rows, in the order of the model's columns

    def load(self, mapper: Mapper, rows: Sequence[Row]) -> list[Any]:
        """Return the objects of rows; those that are in the map are refreshed, except what was changed on them."""
        if not mapper.key_names:
            return [self._make_keyless(mapper, dict(zip(mapper.names, row))) for row in rows]
        if len(rows) > GROUP:
            parts = (self.load(mapper, rows[start : start + GROUP]) for start in range(0, len(rows), GROUP))
            return list(itertools.chain.from_iterable(parts))
        known = self.identity_map.rows(mapper.model)
        names, key_in, decoders = mapper.names, mapper.key_in, mapper.decoders
        decode_key = [column.decode for column in mapper.key_columns] != [None] * len(mapper.key_columns)
        reference = weakref.ref
        references: list[weakref.ref[Any]] = []
        peers = Peers(references) if len(rows) > 1 else None
        objects = []
        for row in rows:
            data = dict(zip(names, row))
            for name, decode, takes_null in decoders:
                value = data[name]
                if value is not None or takes_null:
                    data[name] = decode(value)
            key = mapper.key_of(data) if decode_key else key_in(row)
            found = known.get(key)
            instance = None if found is None else found()
            if found is not None and instance is not None:
                self.refresh(instance, data, mapper)
            else:
                instance = self._make(mapper.model, data)
                known[key] = found = reference(instance)
            if peers is not None:
                instance._peers = peers
                references.append(found)
            elif instance._peers is not None:
                instance._peers.forget(instance)
            objects.append(instance)
        if self.identity_map.is_indexed(mapper.model):
            for instance in objects:
                self.identity_map.note(instance)
        return objects

    def _make_keyless(self, mapper: Mapper, data: dict[str, Any]) -> Any:
        """Return an object of a row without a key: it can't be told from others, and is detached."""
        instance = self._make(mapper.model, {name: mapper.by_name[name].decoded(data[name]) for name in mapper.names})
        instance._owner = None
        return instance

    def _make(self, model: Any, data: dict[str, Any]) -> Any:
        instance = model.__new__(model)
        instance.__data__ = data
        instance.__rel__ = {}
        instance._owner = self.owner
        instance._committed = CLEAN
        instance._epoch = self.epoch
        if self.reading is not None:
            instance._reading = self.reading
        return instance

    def refresh(self, instance: Any, data: dict[str, Any], mapper: Mapper) -> None:
        """Give an object the values of its row, except where it has unsaved changes."""
        current, committed, related = instance.__data__, instance._committed, instance.__rel__
        instance._epoch = self.epoch
        if instance._reading is not self.reading:
            instance._reading = self.reading
        if related:
            self._forget_strangers(related, committed)
        if current == data and not committed:
            return
        for name in committed or ():
            if name in data:
                committed[name] = data.pop(name)
        if committed and mapper.version is not None:
            data.pop(mapper.version, None)  # else the flush would not notice that the row was changed meanwhile
        for name in [name for name in related if name in data and data[name] != current.get(name)]:
            del related[name]
        if any(f.name in data and data[f.name] != current.get(f.name) for f in mapper.foreign_keys):
            self.note_moves(mapper.model)
        for name, value in data.items():
            # A dict that was handed out stays the object's own while it says what the row says.
            if not (mutable.is_tied(current.get(name)) and current[name] == value):
                current[name] = value

    def _forget_strangers(self, related: dict[str, Any], committed: Mapping[str, Any]) -> None:
        """Forget related objects that the session has let go of, unless the program has set them."""
        for name, other in list(related.items()):
            if other is not None and other._owner is not self.owner and name not in committed:
                del related[name]

    def by_key(self, mapper: Mapper, key: Any) -> Any:
        """Return the object of the row with a key, read now, or None."""
        params = mapper.key_params(key)
        objects = self._read(mapper, mapper.select_by_key, params, lambda: f" with the key {shown(key)}")
        return objects[0] if objects else None

    def by_values(self, mapper: Mapper, values: Sequence[tuple[str, Any]], limit: int | None) -> list[Any]:
        """Return the objects of the rows with these values in their columns; SQL is compiled once for the columns."""
        shape = (tuple((name, value is None) for name, value in values), limit is None)
        sql = mapper.statement(shape, lambda: _select_by_values(mapper, *shape))
        params = [mapper.by_name[name].encode(value) for name, value in values if value is not None]
        if limit is not None:
            params.append(limit)
        return self._read(mapper, sql, params, lambda: "".join(f" by {name}" for name, _ in values))

    def by_keys(self, mapper: Mapper, keys: Sequence[Any]) -> list[Any]:
        """Return the objects of the rows with these keys, read now in a few statements."""
        objects = []
        for part in chunks(keys, len(mapper.key_columns), most=GROUP):
            params = [param for key in part for param in mapper.key_params(key)]
            sql = f"{mapper.select} WHERE {in_clause(mapper.key_columns, len(part))}"
            objects += self._read(mapper, sql, params, lambda: " by their keys")
        return objects

    def by_column(self, mapper: Mapper, name: str, values: Sequence[Any]) -> list[Any]:
        """Return the objects of the rows that have one of these values in a column, read now in a few statements."""
        objects, column = [], mapper.by_name[name]
        for part in chunks(values, 1, most=GROUP):
            sql = f"{mapper.select} WHERE {in_clause([column], len(part))}"
            objects += self._read(mapper, sql, list(map(column.encoded_one, part)), lambda: f" by {name}")
        return objects

    def _read(self, mapper: Mapper, sql: str, params: Sequence[Any], how: Callable[[], str]) -> list[Any]:
        try:
            rows = self.engine.fetch(sql, params).rows
        except peewee.PeeweeException as error:
            raise explain(error, f"reading {mapper.model.__name__}{how()}") from error.__cause__
        return self.load(mapper, rows)

    # The rows of any query

    def load_query(self, query: Any, cursor: BufferedCursor) -> Result[Any]:
        """Return what a query gives: objects, or rows of objects and values."""
        return self.plan(query, cursor.description)(cursor.rows)

    def plan(self, query: Any, description: Any) -> Callable[[Sequence[Row]], Result[Any]]:
        """Return the function that makes the result of rows of a query. `description` is its cursor's."""
        mapper = self.mapper(model_of(query.model))
        entities = getattr(query, "_entities", None)
        if entities is not None:
            return _RowPlan(self, entities)
        if getattr(query, "_is_default", False) and not query._joins and len(query._from_list) == 1:
            return lambda rows: Result(self.load(mapper, rows), mapper.model.__name__)
        return _GraphPlan(self, query, description)


class _Part:
    """The columns of a row that belong to one model, or alias: they make one object."""

    def __init__(self, loader: Loader, source: Any) -> None:
        self.loader = loader
        self.mapper = loader.mapper(model_of(source))
        self.positions: list[int] = []
        self.names: list[str] = []

    def add(self, position: int, name: str) -> None:
        self.positions.append(position)
        self.names.append(name)

    def objects(self, rows: Sequence[Row]) -> list[Any]:
        """Return the object in each row: None where an outer join found none."""
        mapper, names, positions = self.mapper, tuple(self.names), self.positions
        parts = [[row[position] for position in positions] for row in rows]
        if names == mapper.names and mapper.key_names:
            keys = [names.index(name) for name in mapper.key_names]
            present = [part for part in parts if all(part[position] is not None for position in keys)]
            found = iter(self.loader.load(mapper, present))
            return [next(found) if all(part[i] is not None for i in keys) else None for part in parts]
        partial = [self._partial(dict(zip(names, part))) for part in parts]
        Peers.of([instance for instance in partial if instance is not None and instance._owner is not None])
        return partial

    def _partial(self, values: dict[str, Any]) -> Any:
        """Return the object of some of the columns of a row; without its key it is not in the map."""
        loader, mapper = self.loader, self.mapper
        if values and all(value is None for value in values.values()):
            return None
        data = {name: mapper.by_name[name].decoded(value) for name, value in values.items()}
        key = mapper.key_of(data)
        instance = None if key is None else loader.identity_map.find(mapper.model, key)
        if instance is not None:
            epoch = instance._epoch
            loader.refresh(instance, data, mapper)
            instance._epoch = epoch  # it was not read as a whole
            return instance
        instance = loader._make(mapper.model, data)
        instance._epoch = -1
        if key is None:
            instance._owner = None
        else:
            loader.identity_map.add(mapper.model, key, instance)
        return instance


class _GraphPlan:
    """Peewee's way: each row gives an object of the query's model, to which joined objects and values are attached."""

    def __init__(self, loader: Loader, query: Any, description: Any) -> None:
        self.query = query
        self.parts: dict[Any, _Part] = {query.model: _Part(loader, query.model)}
        self.values: list[tuple[int, str, Callable[[Any], Any] | None]] = []
        names, fields, converters, _, _ = peewee._resolve_model_columns(  # type: ignore[attr-defined]
            BufferedCursor([], description), model_of(query.model), getattr(query, "_returning", None) or ()
        )
        for position, (name, field, convert) in enumerate(zip(names, fields, converters)):
            if field is None or field.name != name:
                _refuse_name_of_field(model_of(query.model), name)
                self.values.append((position, name, convert))
            else:
                source = _source_of(field)
                if source not in self.parts:
                    self.parts[source] = _Part(loader, source)
                self.parts[source].add(position, name)

    def __call__(self, rows: Sequence[Row]) -> Result[Any]:
        found = {source: part.objects(rows) for source, part in self.parts.items()}
        objects = found[self.query.model]
        for source, attribute, joined in self._links(found):
            for owner, related in zip(found[source], found[joined]):
                if owner is not None:
                    _attach(owner, attribute, related)
        for position, name, convert in self.values:
            for owner, row in zip(objects, rows):
                setattr(owner, name, row[position] if convert is None else convert(row[position]))
        return Result(objects, model_of(self.query.model).__name__)

    def _links(self, found: dict[Any, Any]) -> Iterator[tuple[Any, str, Any]]:
        for source, joins in getattr(self.query, "_joins", {}).items():
            for joined, attribute, _, _ in joins:
                if source in found and joined in found:
                    yield source, attribute, joined


class _RowPlan:
    """SQLAlchemy's way: each row is a named tuple of the objects and values that were asked for."""

    def __init__(self, loader: Loader, entities: Sequence[Any]) -> None:
        self.makers: list[Callable[[Sequence[Row]], list[Any]]] = []
        names, position = [], 0
        for entity in entities:
            if is_entity(entity):
                part = _Part(loader, entity)
                for name in part.mapper.names:
                    part.add(position, name)
                    position += 1
                self.makers.append(part.objects)
                names.append((entity.alias if entity is not part.mapper.model else None) or part.mapper.model.__name__)
            else:
                self.makers.append(_values(position, _converter(loader, entity)))
                names.append(_name_of(entity))
                position += 1
        self.row = _row_class(tuple(names))

    def __call__(self, rows: Sequence[Row]) -> Result[Any]:
        return Result(list(map(self.row._make, zip(*(make(rows) for make in self.makers)))))


def _select_by_values(mapper: Mapper, columns: Sequence[tuple[str, bool]], unlimited: bool) -> str:
    conditions = []
    for name, is_null in columns:
        column = mapper.by_name[name]
        conditions.append(f"{column.sql} IS NULL" if is_null else f"{column.sql} = {column.placeholder}")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"{mapper.select}{where}{'' if unlimited else ' LIMIT ' + mapper.param}"


def _source_of(field: Any) -> Any:
    return field.source if isinstance(field, peewee.FieldAlias) else field.model


def _attach(owner: Any, attribute: str, related: Any) -> None:
    field = owner._meta.fields.get(attribute)
    if not isinstance(field, peewee.ForeignKeyField):
        setattr(owner, attribute, related)
    elif attribute not in (owner._committed or ()) and (related is not None or attribute not in owner.__rel__):
        owner.__rel__[attribute] = related


def _refuse_name_of_field(model: Any, name: str) -> None:
    if name in model._meta.fields:
        raise ArgumentError(
            f"The query gives an expression the name of the column {model.__name__}.{name}: on the session's objects "
            "that would be a change of it. Give it another alias, or take rows: query.tuples(), query.dicts()."
        )


def _values(position: int, convert: Callable[[Any], Any] | None) -> Callable[[Sequence[Row]], list[Any]]:
    if convert is None:
        return lambda rows: [row[position] for row in rows]
    return lambda rows: [convert(row[position]) for row in rows]


def _converter(loader: Loader, node: Any) -> Callable[[Any], Any] | None:
    """Return the conversion of a selected column: its field's, or the one that Peewee gives an expression."""
    inner = node.unwrap() if isinstance(node, peewee.Node) else node
    if isinstance(inner, peewee.Field):
        field = inner.field if isinstance(inner, peewee.FieldAlias) else inner
        column = loader.mapper(field.model).by_name[field.name]
        return None if column.decode is None else column.decoded
    if isinstance(inner, peewee.Function) and inner._python_value is None and inner.arguments and _coerces(inner):
        first = inner.arguments[0]
        first = first.unwrap() if isinstance(first, peewee.Node) else first
        if isinstance(first, peewee.Field):
            return peewee.safe_python_value(first.python_value)
    return getattr(inner, "_python_value", None) or getattr(node, "_converter", None)


def _coerces(function: Any) -> bool:
    return bool(function._coerce)


def _name_of(node: Any) -> str:
    if isinstance(node, peewee.Alias):
        return str(node._alias)  # type: ignore[attr-defined]
    if isinstance(node, peewee.Field):
        return str(node.name)
    return str(getattr(node, "name", None) or "value").lower()


@functools.lru_cache(maxsize=1_000)
def _row_class(names: tuple[str, ...]) -> Any:
    base: Any = namedtuple("Row", _distinct(names), rename=True)  # type: ignore[misc]
    return type("Row", (base,), {"__slots__": (), "__reduce__": lambda self: (_row, (names, tuple(self)))})


def _row(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """Make a row; what a pickled one is made by."""
    return _row_class(names)._make(values)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names with a number added to those that came before."""
    counts: dict[str, int] = {}
    distinct = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        distinct.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return distinct
