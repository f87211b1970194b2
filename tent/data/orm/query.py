"""Queries that run in a session: Peewee's, with the verbs of SQLAlchemy's `Query`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import peewee

from .accessors import eager_loading
from .dialect import Late
from .errors import ArgumentError, InvalidRequestError
from .result import Result
from .tracking import MISSING

T = TypeVar("T")
if TYPE_CHECKING:
    _ModelSelect = peewee.ModelSelect[Any]
else:
    _ModelSelect = peewee.ModelSelect


class _LoadsObjects:
    """Executed in a session, a query on a model gives the session's objects; elsewhere, what Peewee gives."""

    model: Any
    _constructor: Any

    def _execute(self, database: Any) -> Any:
        with eager_loading():
            return super()._execute(database)  # type: ignore[misc]

    def prefetch(self, *subqueries: Any, **options: Any) -> Any:
        with eager_loading():
            return super().prefetch(*subqueries, **options)  # type: ignore[misc]

    def _get_cursor_wrapper(self, cursor: Any) -> Any:
        if getattr(cursor, "load", None) is not None and self._constructor is self.model:
            return cursor.load(self, cursor)  # objects() without a constructor: objects of the model
        return super()._get_cursor_wrapper(cursor)  # type: ignore[misc]

    def _get_model_cursor_wrapper(self, cursor: Any) -> Any:
        if getattr(cursor, "load", None) is not None:
            return cursor.load(self, cursor)
        return super()._get_model_cursor_wrapper(cursor)  # type: ignore[misc]


class Select(_LoadsObjects, _ModelSelect):
    """A Peewee select on a model."""


class Alias(peewee.ModelAlias):
    """A model under another name in a query."""

    def select(self, *selection: Any) -> Any:
        return Select(self, selection or self.get_field_aliases())


class Raw(_LoadsObjects, peewee.ModelRaw):
    """A Peewee raw query on a model."""


class Query(Select, Generic[T]):
    """A query of a session: every method of Peewee's `ModelSelect`, and SQLAlchemy's verbs.

    A query is immutable: each method returns a new one. It runs when it is iterated or asked for its rows, each time
    anew. Where the two libraries disagree on a verb it follows SQLAlchemy: `order_by` adds to the order there is, and
    a query with a limit can't be filtered.
    """

    _session: Any = None
    _entities: tuple[Any, ...] | None = None  # what each row has, when rows are not objects
    _criteria: tuple[tuple[str, Any], ...] = ()  # of filter_by, not yet in the WHERE: the key of a compiled statement
    _chunk: int | None = None
    locks = False
    _where_clause: Any = None
    if TYPE_CHECKING:  # what Peewee's stubs leave out
        _count_can_project_one: Any
        _cte_list: Any
        _database: Any
        _distinct: Any
        _for_update: Any
        _from_list: Any
        _group_by: Any
        _having: Any
        _is_default: bool
        _join_ctx: Any
        _joins: Any
        _limit: Any
        _load_tree: Any
        _offset: Any
        _order_by: Any
        _returning: Any
        _row_type: Any
        _simple_distinct: Any
        _windows: Any
        _get_cursor_wrapper: Any

    @classmethod
    def of(cls, session: Any, *entities: Any) -> Query[Any]:
        """Return the query of a session for a model, an alias of one, or several of them and columns."""
        if not entities:
            raise ArgumentError("query() takes what to query: a model, or columns, as in query(User.id, User.name).")
        model = entities[0] if is_entity(entities[0]) else _model_in(entities)
        if len(entities) == 1 and model is entities[0]:
            fields = model.get_field_aliases() if isinstance(model, peewee.ModelAlias) else model._meta.sorted_fields
            query = cls(model, fields, is_default=True)
        else:
            query = cls(model, entities)
            query._entities = entities
        query._session = session
        query._database = session._execution.database
        return query

    # The WHERE: what filter_by collected becomes expressions as soon as something else than filter_by wants them

    @property
    def _where(self) -> Any:
        for name, value in self._criteria:
            condition = getattr(self.model, name) == value
            self._where_clause = condition if self._where_clause is None else self._where_clause & condition
        self._criteria = ()
        return self._where_clause

    @_where.setter
    def _where(self, clause: Any) -> None:
        self._where_clause = clause
        self._criteria = ()

    # Building

    def where(self, *expressions: Any) -> Query[T]:
        self._refuse_after_limit("where")
        return super().where(*expressions) if expressions else self.clone()

    def filter(self, *expressions: Any, **django: Any) -> Query[T]:
        """Return the query with conditions added: expressions, or Peewee's keywords (`name__ilike="jo%"`)."""
        self._refuse_after_limit("filter")
        if django or any(isinstance(expression, peewee.DQ) for expression in expressions):
            return super().filter(*expressions, **django)
        return self.where(*expressions)

    def with_for_update(self, nowait: bool = False, skip_locked: bool = False, of: Any = None) -> Query[T]:
        """Return the query with its rows locked until the transaction ends, which it begins if need be.

        It waits for rows that another transaction has locked, unless `nowait` (an error then) or `skip_locked` (rows
        left out) says otherwise. `of` names the models whose rows are meant, in a join. SQLite locks the database.
        """
        if self._database.for_update:
            clause: Any = f"FOR UPDATE{' SKIP LOCKED' * skip_locked}"
            query = self.for_update(clause, of=of, nowait=nowait)
        else:
            query = self.clone()
        query.locks = True
        return query

    def filter_by(self, **values: Any) -> Query[T]:
        """Return the query with conditions `column = value` added; None means IS NULL, an object means its key."""
        self._refuse_after_limit("filter_by")
        model = self._join_ctx if self._joins and is_entity(self._join_ctx) else self.model
        names = {_column(model, name): value for name, value in values.items()}
        if model is not self.model or model is not model_of(model):
            return self.where(*(getattr(model, name) == value for name, value in names.items()))
        query: Query[T] = self.clone()
        query._criteria = (*self._criteria, *names.items())
        return query

    def order_by(self, *columns: Any) -> Query[T]:
        """Return the query with columns added to its order; `order_by(None)` clears the order."""
        if not columns or columns[0] is None:
            return super().order_by()
        self._refuse_after_limit("order_by")
        for column in columns:
            if isinstance(column, str):
                raise ArgumentError(f"order_by() takes columns, such as {self._what()}.{column}, not {column!r}.")
        return super().order_by(*(self._order_by or ()), *columns)

    def join(  # type: ignore[override]
        self, dest: Any, join_type: Any = peewee.JOIN.INNER, on: Any = None, src: Any = None, attr: Any = None
    ) -> Query[T]:
        """Return the query with another model, or query, joined: `session.query(User).join(Profile)`."""
        self._refuse_after_limit("join")
        return super().join(dest, join_type, on, src, attr)

    def left_outer_join(  # type: ignore[override]
        self, dest: Any, on: Any = None, src: Any = None, attr: Any = None
    ) -> Query[T]:
        """Return the query with another model joined, where rows that have none of it are kept."""
        return self.join(dest, peewee.JOIN.LEFT_OUTER, on, src, attr)

    def yield_per(self, count: int) -> Query[T]:
        """Return the query so that iterating it loads `count` rows at a time, in constant memory."""
        if not isinstance(count, int) or count < 1:
            raise ArgumentError(f"yield_per() takes a number of rows from 1 up, not {count!r}.")
        query: Query[T] = self.clone()
        query._chunk = count
        return query

    def prefetch(self, *subqueries: Any, **options: Any) -> Any:
        """Run the query and others for what its objects refer to, as Peewee's `prefetch`: models or queries."""
        bound = [(q.select() if is_entity(q) else q.clone()).bind(self._database) for q in subqueries]
        # Peewee goes through the objects twice, and so needs a query that keeps them.
        keeping = Select(self.model, self._returning, is_default=self._is_default)
        keeping.__dict__.update(self.__dict__, _where=self._where)
        return keeping.prefetch(*bound, **options)

    def union_all(self, other: Any) -> Any:
        return super().union_all(other).bind(self._database)

    def union(self, other: Any) -> Any:
        return super().union(other).bind(self._database)

    def intersect(self, other: Any) -> Any:
        return super().intersect(other).bind(self._database)

    def except_(self, other: Any) -> Any:
        return super().except_(other).bind(self._database)

    __add__ = union_all  # type: ignore[assignment]
    __or__ = union  # type: ignore[assignment]
    __and__ = intersect  # type: ignore[assignment]
    __sub__ = except_  # type: ignore[assignment]

    # Running

    def all(self) -> list[T]:
        """Return the rows as a list."""
        return list(self.execute())

    def first(self) -> T | None:  # type: ignore[override]
        """Return the first row, or None. One row is asked for."""
        return self._at_most(1).first()

    def one(self) -> T:
        """Return the only row. Raises `NoResultFound` or `MultipleResultsFound`."""
        return self._at_most(2).one()

    def one_or_none(self) -> T | None:
        """Return the only row, or None. Raises `MultipleResultsFound`."""
        return self._at_most(2).one_or_none()

    def get(self, key: Any = MISSING, database: Any = None) -> Any:  # type: ignore[override]
        """With a key, as `session.get`; without, as in Peewee: the first row, or raise the model's `DoesNotExist`."""
        if key is not MISSING:
            if self._where is not None or self._joins:
                raise InvalidRequestError("get(key) on a query with conditions would ignore them: use session.get().")
            return self._session.get(self.model, key)
        return super().get(self._database if database is None else database)

    def scalar(self, as_tuple: bool = False, as_dict: bool = False) -> Any:  # type: ignore[override]
        """Return the first column of the only row (of a query for objects: the object), or None.

        Raises `MultipleResultsFound` when there are more rows.
        """
        if as_tuple or as_dict:
            return super().scalar(self._database, as_tuple, as_dict)
        row = self._at_most(2).one_or_none()
        return row[0] if isinstance(row, tuple) else row

    def scalars(self) -> list[Any]:  # type: ignore[override]
        """Return the first column of each row; of a query for objects, the objects."""
        return Result(self.all()).scalars()

    def count(self, clear_limit: bool = False) -> int:  # type: ignore[override]
        """Return the number of rows, as SQL counts them; a limit counts."""
        counted = self if self._count_can_project_one() else self._with_names()
        return int(peewee.ModelSelect.count(counted, self._database, clear_limit))

    def _with_names(self) -> Query[T]:
        """Return the query with a name of its own for each column: MariaDB and MySQL count no rows without."""
        query: Query[T] = self.clone()
        names = [getattr(column, "column_name", getattr(column, "name", None)) for column in query._returning]
        query._returning = [
            column.alias(f"column_{place}") if isinstance(column, peewee.Field) and names.count(name) > 1 else column
            for place, (column, name) in enumerate(zip(query._returning, names))
        ]
        return query

    def exists(self) -> bool:  # type: ignore[override]
        """Return whether there is a row."""
        return bool(super().exists(self._database))

    def update(self, values: Mapping[Any, Any], synchronize_session: Any = "fetch") -> int:
        """Update the rows of the query in one statement, and the session's objects with them.

        `values` maps columns (or their names) to values or expressions, such as `{User.age: User.age + 1}`. Returns
        the number of rows. With `synchronize_session=False` the objects are left as they are.
        """
        return int(self._session._execution.update(self, values, synchronize_session))

    def delete(self, synchronize_session: Any = "fetch") -> int:
        """Delete the rows of the query in one statement, and take their objects out of the session.

        Returns the number of rows. With `synchronize_session=False` the objects are left as they are.
        """
        return int(self._session._execution.delete(self, synchronize_session))

    def __iter__(self) -> Iterator[T]:
        if self._chunk is not None:
            return self._session._execution.stream(self, self._chunk)  # type: ignore[no-any-return]
        return iter(self.execute())

    @overload
    def __getitem__(self, item: int) -> T: ...

    @overload
    def __getitem__(self, item: slice) -> list[T]: ...

    def __getitem__(self, item: Any) -> Any:
        start, stop = (item.start, item.stop) if isinstance(item, slice) else (item, item + 1)
        if (start or 0) < 0 or (stop is not None and stop < 0):
            raise IndexError("A query has no negative indexes: the number of its rows is not known.")
        if isinstance(item, slice) and stop is not None and stop <= (start or 0):
            return []
        query = self._slice(start or 0, stop)
        rows = query.all()
        if isinstance(item, slice):
            return rows[:: item.step]
        if not rows:
            raise IndexError(f"The query has no row {item}.")
        return rows[0]

    def __len__(self) -> int:
        raise TypeError("A query has no len(), which would run it: use query.count(), or len(query.all()).")

    def __bool__(self) -> bool:
        return True

    def _execute(self, database: Any) -> Any:
        # A query runs each time anew, and holds on to no rows.
        self._cursor_wrapper = None
        try:
            if self._session is not None and database is self._database:
                fast = self._session._execution.run_simple(self)
                if fast is not None:
                    return fast
            return super()._execute(database)
        finally:
            self._cursor_wrapper = None

    def _at_most(self, count: int) -> Result[T]:
        """Return the first rows, at most `count` of them."""
        limit = self._limit if isinstance(self._limit, int) else None
        query = self if limit is not None and 0 <= limit <= count else self.limit(count)
        result = query.execute()
        rows = result if isinstance(result, Result) else list(result)
        return Result(list(rows), self._what())

    def _slice(self, start: int, stop: int | None) -> Query[T]:
        """Return the query for the rows from `start` to `stop` of the rows that it has now."""
        query: Query[T] = self.clone()
        query._offset = (self._offset or 0) + start if start or self._offset else self._offset
        rest = None if self._limit is None else max(0, self._limit - start)
        wanted = None if stop is None else stop - start
        query._limit = min((n for n in (rest, wanted) if n is not None), default=None)
        return query

    def is_simple(self) -> bool:
        """Tell whether the query has nothing but filter_by and a limit."""
        return (
            self._is_default
            and self._entities is None
            and self._where_clause is None
            and not self._joins
            and not self._order_by
            and self._offset is None
            and self._row_type is None
            and self._load_tree is None
            and self._cte_list is None
            and self._group_by is None
            and self._having is None
            and self._windows is None
            and self._distinct is None
            and not self._simple_distinct
            and self._for_update is None
            and not self.locks
            and (self._limit is None or isinstance(self._limit, int))
            and len(self._from_list) == 1
            and self._from_list[0] is self.model
            and isinstance(self.model, type)
            and all(isinstance(v, peewee.Model) or not isinstance(v, peewee.Node) for _, v in self._criteria)
        )

    def _what(self) -> str:
        return model_of(self.model).__name__ if self._entities is None else "row"

    def _refuse_after_limit(self, verb: str) -> None:
        if self._limit is not None or self._offset is not None:
            raise InvalidRequestError(
                f"{verb}() on a query that has a limit or an offset would change which rows those are. "
                f"Call {verb}() first, then limit() and offset()."
            )


def is_entity(entity: Any) -> bool:
    """Tell whether a query of this gives objects: it is a model or the alias of one."""
    return isinstance(entity, peewee.ModelAlias) or (isinstance(entity, type) and issubclass(entity, peewee.Model))


def model_of(entity: Any) -> Any:
    """Return the model of an entity: itself, or what it is an alias of."""
    return entity.model if isinstance(entity, peewee.ModelAlias) else entity


def _column(entity: Any, name: str) -> str:
    """Return the name of the field of a keyword of filter_by: a field, or the name of its column."""
    model = model_of(entity)
    field = model._meta.combined.get(name)
    if field is None:
        raise InvalidRequestError(
            f"{model.__name__} has no column {name!r}. Its columns: {', '.join(model._meta.sorted_field_names)}."
        )
    return str(field.name)


def _model_in(nodes: Iterable[Any]) -> Any:
    """Return the model, or the alias of one, that the first column of these belongs to."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop(0)
        if is_entity(node):
            return node
        if isinstance(node, peewee.Field):
            return node.model
        if isinstance(node, peewee.WrappedNode):
            waiting.append(node.node)
        elif isinstance(node, peewee.JSONPath):
            waiting.append(node._field)  # type: ignore[attr-defined]
        elif isinstance(node, (peewee.Function, Late)):
            waiting.extend(node.arguments or ())
        elif isinstance(node, peewee.Expression):
            waiting.extend((node.lhs, node.rhs))
        elif isinstance(node, peewee.NodeList):
            waiting.extend(node.nodes)
    raise ArgumentError(
        "query() takes models and their columns, or expressions of them; it found none here. "
        "For other selections use session.execute() with a Peewee query."
    )
