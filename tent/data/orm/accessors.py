"""The accessors of relations: of foreign keys, of their other sides, and of many-to-many fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import peewee

from .errors import DetachedInstanceError
from .relation import Along, Loaded, Relation
from .tracking import (
    MISSING,
    ColumnAccessor,
    MutableAccessor,
    OtherAccessor,
    Tracked,
    Unknown,
    keep_copy,
    session_of,
    state_of,
    unset,
)

_PLAIN_FIELDS = (
    peewee.IntegerField,
    peewee.FloatField,
    peewee.DecimalField,
    peewee.BooleanField,
    peewee.CharField,
    peewee.TextField,
    peewee.UUIDField,
    peewee.DateTimeField,
    peewee.DateField,
    peewee.TimeField,
)


class ForeignKeyAccessor(Tracked, peewee.ForeignKeyAccessor):
    """The accessor of a foreign key: a related object, or its key, is set; the related object is read."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        try:
            return instance.__rel__[self.name]
        except KeyError:
            pass
        key = instance.__data__.get(self.name, MISSING)
        if key is MISSING:
            return unset(instance, self.name)
        if key is None or not self.field.lazy_load or isinstance(key, peewee.Node):
            return key
        session = session_of(instance)
        if session is None:
            if instance._meta.database is not None:
                # Its model is bound to a database: Peewee's own way.
                return super().__get__(instance, instance_type)  # type: ignore[no-untyped-call]
            raise without_session(instance, self.name, f"its key can be read as {self.field.object_id_name!r}")
        return session._execution.related(instance, self.field, key)

    def __set__(self, instance: Any, value: Any) -> None:
        name, related = self.name, instance.__rel__
        former = instance.__data__.get(name)
        if not isinstance(value, peewee.Model):
            super().__set__(instance, value)
            if name in related and (value is None or not self._is_key_of(value, related[name])):
                del related[name]
        else:
            self._set_object(instance, value)
        if instance._owner is not None and (former is None or instance.__data__[name] != former):
            session = session_of(instance)
            if session is not None:
                session._unit.register_moved(instance)

    def _set_object(self, instance: Any, value: Any) -> None:
        if not isinstance(value, self.rel_model):
            raise TypeError(
                f"{type(instance).__name__}.{self.name} takes a {self.rel_model.__name__} or its key, not {value!r}."
            )
        target = self.field.rel_field.name
        key = value.__data__.get(target)
        super().__set__(instance, key)
        if key is None:
            keep_copy(instance, self.name, None)
        elif value._committed is None or target in value._committed:
            # It takes the key that another row had, which the database parts from this one, or lets it follow.
            keep_copy(instance, self.name, Unknown(instance.__data__[self.name]))
        instance.__rel__[self.name] = value

    def _is_key_of(self, key: Any, related: Any) -> bool:
        if related is None or isinstance(key, peewee.Node):  # compared with a key, an expression gives another one
            return False
        return bool(related.__data__.get(self.field.rel_field.name) == key)


class ObjectIdAccessor(peewee.ObjectIdAccessor):
    """The accessor of the key in a foreign key: `note.person_id`."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is not None and self.field.name not in instance.__data__:
            return unset(instance, self.field.name)
        return super().__get__(instance, instance_type)  # type: ignore[no-untyped-call]


class _RelatedAccessor:
    """What stands for the objects that are related to one: in a session a query, on a new object a list of its own."""

    relation: Relation

    def _of(self, instance: Any) -> Any:
        """Return it for an object; None for one that is in no session and whose model is bound to a database."""
        session = session_of(instance)
        if session is not None:
            return session._execution.relate(instance, self.relation)
        if instance._meta.database is not None:
            return None
        if instance._committed is None:
            return Along(instance, self.relation)
        model = self.relation.model.__name__
        alternative = f"or query {model} itself; what query.prefetch({model}) loads can be read later"
        raise without_session(instance, self.relation.name, alternative)


class BackrefAccessor(_RelatedAccessor, peewee.BackrefAccessor):
    """The other side of a foreign key: the objects that refer to this one."""

    def __init__(self, field: Any) -> None:
        super().__init__(field)
        self.relation = Relation(field.backref, field)

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self
        if instance._eager is not None:
            found = self._loaded(instance)
            if found is not None:
                return found
        found = self._of(instance)
        return super().__get__(instance, instance_type) if found is None else found  # type: ignore[no-untyped-call]

    def _loaded(self, instance: Any) -> Any:
        """Return what Peewee's prefetch or with_related has loaded, until something is written or ends."""
        at, found = instance._eager.get(self.relation.name, (None, None))
        session = session_of(instance)
        if found is None or session is None:
            return found
        unit = session._unit
        if at != unit.moment() or unit.is_unsettled(self.field.model):
            return None
        return Loaded((child for child in found if id(child) not in unit.deleted), self._of(instance))

    def __set__(self, instance: Any, value: Any) -> None:
        session = session_of(instance)
        if _eager_loading.get() or (session is None and instance._meta.database is not None):
            moment = None if session is None else session._unit.moment()
            instance._eager = {**(instance._eager or {}), self.relation.name: (moment, value)}
        else:
            self._of(instance).replace(value)


class ManyToManyAccessor(_RelatedAccessor, peewee.ManyToManyFieldAccessor):
    """The accessor of a many-to-many field: the objects that links lead to; a list of them can be assigned."""

    def __init__(self, model: Any, field: Any, name: str) -> None:
        super().__init__(model, field, name)
        if self.model is self.rel_model:  # between rows of one table the first key says whose, the second what
            keys = self.through_model._meta.model_refs[self.model][:2]
            self.src_fk, self.dest_fk = reversed(keys) if field._is_backref else keys
        self.relation = Relation(name, self.src_fk, self.dest_fk)

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        found = self._of(instance)
        return super().__get__(instance, instance_type) if found is None else found  # type: ignore[no-untyped-call]

    def __set__(self, instance: Any, value: Any) -> None:
        if self._of(instance) is None:
            super().__set__(instance, value)
        else:
            self._of(instance).replace(value)


_eager_loading: ContextVar[bool] = ContextVar("eager loading", default=False)


@contextmanager
def eager_loading() -> Iterator[None]:
    """Let Peewee set what it has loaded for a backref."""
    token = _eager_loading.set(True)
    try:
        yield
    finally:
        _eager_loading.reset(token)


def accessor_for(field: peewee.Field[Any]) -> type[peewee.FieldAccessor]:
    """Return the class of the accessor that tracks a field."""
    own: type[peewee.FieldAccessor] = field.accessor_class
    if issubclass(own, (Tracked, OtherAccessor)):
        return own
    if own is peewee.ForeignKeyAccessor:
        return ForeignKeyAccessor
    if own is peewee.FieldAccessor:
        return ColumnAccessor if _is_plain(field) else MutableAccessor
    return type(own.__name__, (OtherAccessor, own), {})


def _is_plain(field: peewee.Field[Any]) -> bool:
    """Tell whether the values of a field are immutable: it is one of Peewee's plain ones, converting as they do."""
    kind = type(field)
    return isinstance(field, _PLAIN_FIELDS) and all(
        getattr(kind, method).__module__ == "peewee" for method in ("python_value", "adapt")
    )


def without_session(instance: Any, name: str, alternative: str) -> DetachedInstanceError:
    return DetachedInstanceError(
        f"{instance!r} is {state_of(instance)}: it belongs to no open session, so {name!r} can't be loaded. Read it "
        f"while the session is open, or add the object to a session first; {alternative}."
    )
