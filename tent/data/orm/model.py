"""The base classes of models: the registry, metadata, constructors, copies."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import peewee

from . import accessors, many_to_many, mutable, tracking
from .errors import (
    ArgumentError,
    InvalidRequestError,
    UnloadedColumnError,
    UnmappedInstanceError,
    article,
    shown,
)
from .json_sql import AnyEngine, write_json
from .naming import shortened, table_name
from .peers import Peers
from .select import Alias, Raw, Select
from .version import Version

_Self = TypeVar("_Self", bound="ModelRoot")

_SHOWN = 3


class Registry:
    """The models of a declarative base, by the names of their tables."""

    def __init__(self) -> None:
        self._models: dict[str, type[peewee.Model]] = {}

    def __iter__(self) -> Iterator[type[peewee.Model]]:
        return iter(list(self._models.values()))

    def add(self, model: type[peewee.Model]) -> None:
        """Register a model. A model of the same module and name, which was loaded again, replaces the former one."""
        table = model._meta.table_name
        former = self._models.get(table)
        if former is not None and _full_name(former) != _full_name(model):
            _forget(model)
            raise InvalidRequestError(
                f"The models {_full_name(former)} and {_full_name(model)} have one table name, {table!r}. "
                "Give one of them another __tablename__, or a declarative_base() of its own."
            )
        if former is not None:
            _forget(former)
        self._models[table] = model


def _forget(model: type[peewee.Model]) -> None:
    """Take a model that is not used, or no longer, out of the books of those that it refers to."""
    for field in list(model._meta.refs):
        model._meta.remove_ref(field)


# The accessors whose __set__, on an object that has no row, does no more than put the value in __data__.
_DIRECT = (tracking.ColumnAccessor, tracking.MutableAccessor)


class ModelMetadata(peewee.Metadata):
    """Peewee's metadata, whose fields get accessors that track changes."""

    is_hidden = False  # a model of links that was made for a many-to-many field, which alone makes its objects
    direct: frozenset[str] = frozenset()  # the names of the fields that a constructor can put into __data__ as they are
    mutable: frozenset[str] = frozenset()  # of these, those whose values can be changed in place
    settable: frozenset[str] = frozenset()  # what else it was found to be able to set

    def add_ref(self, field: Any) -> None:
        super().add_ref(field)
        field.rel_model._meta.__dict__.pop("mappers", None)

    def add_field(self, field_name: str, field: Any, set_attribute: bool = True) -> None:
        if not isinstance(field, (peewee.MetaField, peewee.DeferredForeignKey)):
            field.accessor_class = accessors.accessor_for(field)
            if isinstance(field, peewee.ForeignKeyField):
                field.backref_accessor_class = accessors.BackrefAccessor
            self.direct = self.direct - {field_name} | ({field_name} if field.accessor_class in _DIRECT else set())
            self.mutable = frozenset(
                self.mutable | {field_name} if field.accessor_class is _DIRECT[1] else self.mutable
            )
        if isinstance(field, Version):
            self._refuse_second_version(field_name)
        if isinstance(field, peewee.ManyToManyField):
            many_to_many.prepare(field, self.model, field_name, ModelRoot)
        super().add_field(field_name, field, set_attribute)
        if isinstance(field, peewee.ForeignKeyField) and set_attribute:
            setattr(self.model, field.object_id_name, accessors.ObjectIdAccessor(field))
        self.__dict__.pop("mappers", None)  # what was compiled for the former fields
        self.__dict__.pop("query", None)
        if isinstance(field, peewee.JSONField) and field._dumps is json.dumps:  # type: ignore[attr-defined]
            field._dumps = write_json  # type: ignore[attr-defined]
        if isinstance(field, peewee.FieldDatabaseHook) and self.database is None:
            field._db_hook(_any)  # type: ignore[attr-defined]

    def _refuse_second_version(self, name: str) -> None:
        other = next((n for n, field in self.fields.items() if isinstance(field, Version) and n != name), None)
        if other is not None:
            raise ArgumentError(
                f"{self.model.__name__} has two versions, {other!r} and {name!r}: it can have one only."
            )

    def fields_to_index(self) -> list[Any]:
        """Return the indexes, named after the table: Peewee's names are the class's, which two models may share."""
        indexes = super().fields_to_index()
        for index in indexes:
            if isinstance(index, peewee.ModelIndex):
                named: Any = index
                if named._name.startswith(f"{self.name}_"):
                    named._name = shortened(self.table_name + named._name[len(self.name) :])
        return indexes

    def set_database(self, database: Any) -> None:
        super().set_database(database)
        for hook in self._db_hooks if database is None else ():  # type: ignore[attr-defined]
            hook(_any)


def _learn_attributes(model: type[ModelRoot]) -> None:
    """Let Python know what each object of a class will have.

    It keeps the names of attributes once for all objects of a class, but only those that it meets on the first ones:
    later an object that gets another one has a dict of its own, 200 bytes longer and slower.
    """
    instance: Any = object.__new__(model)
    for name in ("__data__", "_owner", "_committed", "_epoch", "_peers", "__rel__", "_given", "_reading"):
        setattr(instance, name, None)


class _NoneYet:
    """The `__rel__` of an object that was made of a row: most refer to none, and it is made when it is asked for."""

    def __get__(self, instance: Any, owner: Any = None) -> dict[str, Any] | None:
        if instance is None:
            return None
        related: dict[str, Any] = {}
        instance.__rel__ = related
        return related


# A JSONField builds its SQL for the database of its model; ours have none, and speak to any engine.
_any = AnyEngine()


class ModelRoot(peewee.Model):
    """What all models have; inherit from `Base` or `TableMixin`."""

    __abstract__ = True
    registry: Registry = Registry()

    if TYPE_CHECKING:
        id: Any  # the key that Peewee gives a model that declares none

    _owner: tracking.Owner | None = None
    _committed: Any = None
    _epoch: int = -1
    _reading: tracking.Reading | None = None
    _given: Any = None
    _peers: Peers | None = None
    _along: Any = None
    _eager: Any = None

    class Meta:
        model_metadata_class = ModelMetadata
        table_function = table_name

    def __init__(self, *args: Any, **values: Any) -> None:
        """Make an object of column values, given by keyword. An unknown keyword is a `TypeError`."""
        if args:
            raise TypeError(f"{type(self).__name__} takes the values of its columns by keyword{_columns(self)}.")
        meta: Any = self._meta
        is_row = bool(values.pop("__no_default__", None))  # Peewee says so
        data = self.__data__ = {} if is_row else meta.get_default_dict()
        self.__rel__ = {}
        self._given = set(values)
        for name in meta.mutable & values.keys():
            values[name] = mutable.plain(values[name]) if mutable.is_tied(values[name]) else values[name]
        if values.keys() <= meta.direct:
            data.update(values)
            return
        for name in values:
            if name in meta.direct:
                data[name] = values[name]
            else:
                if name not in meta.settable and not is_row:  # a row may have more, which a query computes
                    _check_settable(self, name)
                    meta.settable |= {name}
                setattr(self, name, values[name])

    @classmethod
    def validate_model(cls) -> None:
        """Peewee's hook, called when a model class has been made: register it."""
        if cls.__dict__["__repr__"].__module__ == peewee.__name__:
            del cls.__repr__  # Peewee gives each class one, unless it brings its own; ours shows more
        del cls.__data__  # each object has its own, which Python gets at three times as fast when the class has none
        cls.__rel__ = _NoneYet()
        _learn_attributes(cls)
        if not cls.__dict__.get("__abstract__", False):
            cls.registry.add(cls)

    @classmethod
    def select(cls, *fields: Any) -> Any:
        """Return Peewee's select; a session that executes it gives its own objects."""
        return Select(cls, fields or cls._meta.sorted_fields, is_default=not fields)

    @classmethod
    def alias(cls, alias: str | None = None) -> Any:
        """Return the model under another name, to have it in a query twice."""
        return Alias(cls, alias)

    @classmethod
    def raw(cls, sql: str, *params: Any) -> Any:
        """Return Peewee's raw query; a session that executes it gives its own objects."""
        return Raw(cls, sql, params)

    def save(self, *args: Any, **options: Any) -> Any:
        """Peewee's, for a model that is bound to a database; a session saves its objects by `commit`."""
        _check_bound(self, "Add the object to a session, session.add(obj), and session.commit()")
        return super().save(*args, **options)

    def delete_instance(self, *args: Any, **options: Any) -> Any:
        """Peewee's, for a model that is bound to a database; a session deletes its objects by `delete`."""
        _check_bound(self, "Delete the object in its session, session.delete(obj), and session.commit()")
        return super().delete_instance(*args, **options)

    @peewee.Model._pk.getter  # type: ignore[attr-defined,untyped-decorator]
    def _pk(self) -> Any:
        """The key, as Peewee has it; None when it was not loaded: the object is equal to no other then."""
        try:
            return self.get_id()  # type: ignore[no-untyped-call]
        except UnloadedColumnError:
            return None

    @property
    def _dirty(self) -> set[str]:
        """Peewee's set of changed fields, seen through what is tracked here."""
        return set(self.__data__ if self._committed is None else self._committed)

    @_dirty.setter
    def _dirty(self, names: set[str]) -> None:
        # Model.save() takes out the fields that it wrote itself.
        if self._committed:
            left = {name: value for name, value in self._committed.items() if name in names}
            self._committed = left or tracking.CLEAN

    def __repr__(self) -> str:
        data, keys = self.__data__, self._meta.get_primary_keys()  # type: ignore[no-untyped-call]
        key = {field.name: data.get(field.name) for field in keys}
        others = [name for name in self._meta.fields if name not in key and data.get(name) is not None]
        texts = {
            name: shown(value) for name, value in [*key.items(), *((name, data[name]) for name in others[:_SHOWN])]
        }
        return f"<{type(self).__name__} {' '.join(f'{name}={text}' for name, text in texts.items())}>"

    def __copy__(self: _Self) -> _Self:
        """A copy is a new transient object with the same values, except a generated key."""
        twin = type(self).__new__(type(self))
        twin.__data__ = {name: mutable.plain(value) for name, value in self.__data__.items()}
        twin.__rel__ = dict(self.__rel__)
        _renew(twin)
        return twin

    def __deepcopy__(self: _Self, memo: dict[int, Any]) -> _Self:
        twin = self.__copy__()
        twin.__data__ = copy.deepcopy(twin.__data__, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_owner", "_peers", "_reading"):
            state.pop(name, None)
        if "_eager" in state:  # without the session's moment that it is of
            state["_eager"] = {name: (None, loaded) for name, (_, loaded) in self._eager.items()}
        state["_committed"] = _MARKS.get(id(self._committed), self._committed)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._committed, str):
            self._committed = getattr(tracking, self._committed)


_MARKS = {id(tracking.CLEAN): "CLEAN", id(tracking.DELETED): "DELETED"}


class Base(ModelRoot):
    """The base class of models: `class Note(Base)`, with Peewee's fields as attributes.

    `__tablename__ = "…"` names the table, else its name is guessed: `Note` -> `notes`. With `__abstract__ = True` in
    its own body a class is no table, but a base class of others.
    """

    __abstract__ = True


class TableMixin(ModelRoot):
    """A base class, or a second one beside `Base`, that says that the table's name is guessed."""

    __abstract__ = True


def declarative_base() -> Any:
    """Return a new base class of models, like `Base`, with a registry of its own.

    Models of two such bases can have tables of one name; `install_tables(engine, models=ThatBase)` installs its own.
    """
    return type("Base", (ModelRoot,), {"__abstract__": True, "registry": Registry(), "__doc__": Base.__doc__})


def make_transient(instance: ModelRoot) -> None:
    """Make an object one that has no row and no session: adding it inserts a new row. A generated key is taken off."""
    refuse_unmapped(instance)
    session = tracking.session_of(instance)
    if session is not None:
        session.expunge(instance)
    instance._committed, instance._owner = None, None
    _renew(instance)


def _renew(instance: ModelRoot) -> None:
    """Take a generated key off an object, and give it the values that a new one has by default where it has none."""
    meta: Any = instance._meta
    data = instance.__data__
    if meta.auto_increment:
        data.pop(meta.primary_key.name, None)
    instance._given = set(data)
    for field, default in meta.defaults.items():
        if field.name not in data:  # it was not loaded
            data[field.name] = default() if callable(default) else default


def refuse_unmapped(instance: Any) -> None:
    """Raise `UnmappedInstanceError` for what is no object of a model."""
    if isinstance(instance, ModelRoot):
        return
    if isinstance(instance, type):
        raise UnmappedInstanceError(
            f"{instance!r} is a class; an object of it was expected, such as {instance.__name__}(…)."
        )
    raise UnmappedInstanceError(
        f"{instance!r} is {article(type(instance).__name__)}; an object of a model was expected, that is of a "
        "class that inherits from dbm.Base."
    )


def _check_bound(instance: Any, remedy: str) -> None:
    if instance._meta.database is None:
        name = type(instance).__name__
        raise peewee.InterfaceError(f"{name} is bound to no database. {remedy}, or bind it: engine.bind_ctx([{name}]).")


def _check_settable(instance: Any, name: str) -> None:
    """Refuse what a constructor was given, unless it is something that objects of the class let set."""
    descriptor = next((kind.__dict__[name] for kind in type(instance).__mro__ if name in kind.__dict__), None)
    if not hasattr(descriptor, "__set__") or getattr(descriptor, "fset", descriptor) is None:
        raise TypeError(f"{type(instance).__name__} has no column {name!r}{_columns(instance)}.")


def _columns(instance: Any) -> str:
    return f" (its columns: {', '.join(instance._meta.sorted_field_names)})"


def _full_name(model: type) -> str:
    return f"{model.__module__}.{model.__qualname__}"
