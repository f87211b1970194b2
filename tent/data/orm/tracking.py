"""What changed on an object since its row was known.

Each object of a model carries

- `__data__`: its columns' values, as in Peewee;
- `_committed`: the committed values, that is, for each attribute that was changed, the value known to be in the row.
  `CLEAN` when nothing was changed, None while there is no row, `DELETED` when the row was deleted;
- `_owner`: the `Owner`, through which it knows its session; None when it never had one;
- `_epoch`: when its row was last read or written, in the count that its session keeps;
- `_given`: on an object that has no row yet, the names that were set and not just filled with a default.

The accessors in this module keep them.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import peewee

from . import mutable
from .errors import DetachedInstanceError, UnloadedColumnError

CLEAN: Mapping[str, Any] = MappingProxyType({})
DELETED: Mapping[str, Any] = MappingProxyType({})


class _Missing:
    """The value of an attribute that has none: its column was not loaded."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # pickled by this name, as there is one only


MISSING: Any = _Missing()

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
# The types of which equal values can show differently: 0.0 and -0.0, and dicts and lists that have such in them
_SHOWN_APART = (float, decimal.Decimal, datetime.datetime, datetime.time, dict, list, tuple)
_IMMUTABLE = frozenset((str, int, float, bool, bytes, type(None), tuple, frozenset))


class Owner:
    """The session that objects belong to. They share one, so that a session lets go of them all in one step."""

    __slots__ = ("__weakref__", "session")

    def __init__(self, session: Any) -> None:
        self.session = weakref.ref(session)

    def let_go(self) -> None:
        self.session = _nobody  # type: ignore[assignment]


def _nobody() -> None:
    return None


def session_of(instance: Any) -> Any:
    """Return the open session that an object belongs to, or None."""
    owner = instance._owner
    return None if owner is None else owner.session()


def state_of(instance: Any) -> str:
    """Return "transient", "pending", "persistent", "deleted" or "detached"."""
    committed, owned = instance._committed, session_of(instance) is not None
    if committed is None:
        return "pending" if owned else "transient"
    if not owned:
        return "detached"
    return "deleted" if committed is DELETED else "persistent"


def is_same(old: Any, new: Any) -> bool:
    """Tell whether setting an attribute from `old` to `new` is no change.

    Equal is not enough: 1.0 == 1 == True, Decimal("1.0") == Decimal("1.00"), and two times of different zones can be
    equal; what the row would show differs.
    """
    if old is new:
        return True
    if isinstance(old, (bytes, bytearray)) and isinstance(new, (bytes, bytearray)):
        return old == new
    if _kind(old) is not _kind(new) or not bool(old == new):
        return False
    return not isinstance(old, _SHOWN_APART) or str(old) == str(new)


def _kind(value: Any) -> type:
    return dict if isinstance(value, dict) else list if isinstance(value, list) else type(value)


def note_change(instance: Any, name: str, old: Any) -> None:
    """Keep the committed value of an attribute that is about to change for the first time, and tell the session."""
    committed = instance._committed
    if committed is CLEAN:
        instance._committed = committed = {}
        session = session_of(instance)
        if session is not None:
            session._unit.register_dirty(instance)
    committed[name] = old


def changed_names(instance: Any) -> list[str]:
    """Return the names of the attributes whose values differ from the committed ones. Runs no SQL."""
    data, rel = instance.__data__, instance.__rel__
    return [
        name
        for name, old in (instance._committed or CLEAN).items()
        if not is_same(old, data.get(name, MISSING)) or _awaits_key(rel.get(name), data.get(name))
    ]


def _is_transient(instance: Any) -> bool:
    return instance._committed is None and instance._owner is None


def _awaits_key(related: Any, key: Any) -> bool:
    return related is not None and key is None


class _Tracked(peewee.FieldAccessor):
    """An accessor that keeps the committed value when the attribute is set."""

    def __set__(self, instance: Any, value: Any) -> None:
        name, committed = self.name, instance._committed
        if committed is None:
            instance._given.add(name)
        elif name not in committed and committed is not DELETED:
            old = instance.__data__.get(name, MISSING)
            if is_same(old, value):
                return
            note_change(instance, name, old)
        instance.__data__[name] = value


class ColumnAccessor(_Tracked):
    """The accessor of a column whose values are immutable."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        try:
            return instance.__data__[self.name]
        except KeyError:
            return _unset(instance, self.name)


class MutableAccessor(ColumnAccessor):
    """The accessor of a column whose values can change in place.

    A dict or list is tied to the object when it is read, so that a change in it is a change of the object. Of other
    values a copy is kept when they are read, to compare with at the flush.
    """

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        value = super().__get__(instance, instance_type)
        if instance is None or type(value) in _IMMUTABLE or _is_transient(instance):
            return value
        if type(value) is dict or type(value) is list:
            value = instance.__data__[self.name] = mutable.tie(value, instance, self.name, _will_change)
        elif not mutable.is_tied(value):
            _keep_copy(instance, self.name, value)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        if mutable.is_tied(value) and value is not instance.__data__.get(self.name):
            value = mutable.plain(value)  # it is another attribute's, whose object it tells of changes
        super().__set__(instance, value)


class _OtherAccessor:
    """Mixed into an accessor of another making (Peewee's BigBitField, a user's own): its behaviour, and tracking.

    What it hands out may be changed in place, so a copy is kept when it is read or set, to compare with at the flush.
    """

    name: str

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is not None:
            _keep_copy(instance, self.name, instance.__data__.get(self.name))
        return super().__get__(instance, instance_type)  # type: ignore[misc]

    def __set__(self, instance: Any, value: Any) -> None:
        if instance._committed is None:
            instance._given.add(self.name)
        _keep_copy(instance, self.name, instance.__data__.get(self.name))
        super().__set__(instance, value)  # type: ignore[misc]


class ForeignKeyAccessor(_Tracked, peewee.ForeignKeyAccessor):
    """The accessor of a foreign key: a related object, or its key, is set; the related object is read."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        if self.name in instance.__rel__:
            return instance.__rel__[self.name]
        key = instance.__data__.get(self.name, MISSING)
        if key is MISSING:
            return _unset(instance, self.name)
        if key is None or not self.field.lazy_load:
            return key
        session = session_of(instance)
        if session is None:
            if instance._meta.database is not None:
                # Its model is bound to a database: Peewee's own way.
                return super().__get__(instance, instance_type)  # type: ignore[no-untyped-call]
            raise _without_session(instance, self.name, f"its key can be read as {self.field.object_id_name!r}")
        return session._execution.related(instance, self.field, key)

    def __set__(self, instance: Any, value: Any) -> None:
        name, related = self.name, instance.__rel__
        if not isinstance(value, peewee.Model):
            super().__set__(instance, value)
            if name in related and (value is None or not self._is_key_of(value, related[name])):
                del related[name]
            return
        if not isinstance(value, self.rel_model):
            raise TypeError(
                f"{type(instance).__name__}.{name} takes a {self.rel_model.__name__} or its key, not {value!r}."
            )
        key = value.__data__.get(self.field.rel_field.name)
        super().__set__(instance, key)
        if key is None:
            _keep_copy(instance, name, None)
        related[name] = value

    def _is_key_of(self, key: Any, related: Any) -> bool:
        return related is not None and bool(related.__data__.get(self.field.rel_field.name) == key)


class ObjectIdAccessor(peewee.ObjectIdAccessor):
    """The accessor of the key in a foreign key: `note.person_id`."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is not None and self.field.name not in instance.__data__:
            return _unset(instance, self.field.name)
        return super().__get__(instance, instance_type)  # type: ignore[no-untyped-call]


class BackrefAccessor(peewee.BackrefAccessor):
    """The other side of a foreign key: a query for the objects that refer to this one."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self
        session = session_of(instance)
        at, loaded = instance.__dict__.get("_eager", {}).get(self.field.backref, (None, None))
        if loaded is not None and (session is None or at == session._unit.moment()):
            return loaded
        if session is None:
            if instance._meta.database is not None:
                return super().__get__(instance, instance_type)  # type: ignore[no-untyped-call]
            raise _without_session(instance, self.field.backref, "or query the objects themselves")
        return session.query(self.field.model).where(self.field == instance)

    def __set__(self, instance: Any, value: Any) -> None:
        """Take what Peewee's prefetch or with_related has loaded; it counts until something is written or ends."""
        if not _eager_loading.get():
            backref, field = self.field.backref, self.field
            raise AttributeError(
                f"{type(instance).__name__}.{backref} is a query, to which nothing can be assigned. Set "
                f"{field.model.__name__}.{field.name} of the objects in its place."
            )
        session = session_of(instance)
        moment = None if session is None else session._unit.moment()
        instance.__dict__.setdefault("_eager", {})[self.field.backref] = (moment, value)


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
    if issubclass(own, (_Tracked, _OtherAccessor)):
        return own
    if own is peewee.ForeignKeyAccessor:
        return ForeignKeyAccessor
    if own is peewee.FieldAccessor:
        return ColumnAccessor if _is_plain(field) else MutableAccessor
    return type(own.__name__, (_OtherAccessor, own), {})


def _is_plain(field: peewee.Field[Any]) -> bool:
    """Tell whether the values of a field are immutable: it is one of Peewee's plain ones, converting as they do."""
    kind = type(field)
    return isinstance(field, _PLAIN_FIELDS) and all(
        getattr(kind, method).__module__ == "peewee" for method in ("python_value", "adapt")
    )


def _unset(instance: Any, name: str) -> Any:
    if instance._committed is None:
        return None
    raise UnloadedColumnError(
        f"{type(instance).__name__}.{name} was not loaded: the query that gave this object selected other columns. "
        f"Select {name!r} too, or load the whole object with session.refresh(obj) or a query of all its columns."
    )


def _without_session(instance: Any, name: str, alternative: str) -> DetachedInstanceError:
    return DetachedInstanceError(
        f"{instance!r} is {state_of(instance)}: it belongs to no open session, so {name!r} can't be loaded. Read it "
        f"while the session is open, or add the object to a session first; {alternative}."
    )


def _will_change(root: mutable.Root) -> None:
    instance, name = root.object, root.name
    committed = instance._committed
    if committed is None or committed is DELETED or name in committed:
        return
    if instance.__data__.get(name) is root.value:
        note_change(instance, name, mutable.plain(root.value))


def _keep_copy(instance: Any, name: str, value: Any) -> None:
    committed = instance._committed
    if committed is not None and committed is not DELETED and name not in committed:
        note_change(instance, name, copy.deepcopy(value))
