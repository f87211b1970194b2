"""What changed on an object since its row was known.

Each object of a model carries

- `__data__`: its columns' values, as in Peewee;
- `_committed`: the committed values, that is, for each attribute that was changed, the value known to be in the row.
  `CLEAN` when nothing was changed, None while there is no row, `DELETED` when the row was deleted;
- `_owner`: the `Owner`, through which it knows its session; None when it never had one;
- `_epoch`: when its row was last read or written, in the count that its session keeps;
- `_reading`: the `Reading` of its row, if it may be undone;
- `_given`: on an object that has no row yet, the names that were set and not just filled with a default;
- `_along`: on an object that has no row yet, the objects that refer to it and come along when it is added;
- `_peers`: the `Peers` with which its row was read or written;
- `_eager`: what Peewee's eager loading has loaded for its backrefs, and when.

The accessors keep them: those of columns are in this module, those of relations in `accessors`.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import peewee

from . import mutable
from .errors import UnloadedColumnError

CLEAN: Mapping[str, Any] = MappingProxyType({})
DELETED: Mapping[str, Any] = MappingProxyType({})


class _Missing:
    """The value of an attribute that has none: its column was not loaded."""

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # pickled by this name, as there is one only


MISSING: Any = _Missing()


class Unknown:
    """The committed value of an attribute that is written whatever it is set to. `value` is the one to go back to."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"<unknown, perhaps {self.value!r}>"

    def __reduce__(self) -> Any:
        return type(self), (self.value,)


_ALIKE = frozenset((str, int, bool, bytes))  # the types of which equal values are the same
_FAMILIES: dict[type, Any] = {dict: dict, list: list, bytes: (bytes, bytearray)}
# The types of which equal values can show differently: 0.0 and -0.0, and dicts and lists that have such in them
_SHOWN_APART = (float, decimal.Decimal, datetime.datetime, datetime.time, dict, list, tuple)
IMMUTABLE = frozenset((str, int, float, bool, bytes, type(None), tuple, frozenset))


class Reading:
    """When rows were read: after others, perhaps the same, were written. A rollback may have undone that since."""

    __slots__ = ("is_undone",)

    def __init__(self) -> None:
        self.is_undone = False


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


def has_row(instance: Any) -> bool:
    """Return whether an object has a row, as far as is known."""
    return instance._committed is not None and instance._committed is not DELETED


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
    kind = type(old)
    if kind is not type(new) and (old is None or new is None or _family(old) is not _family(new)):
        return False
    if not bool(old == new):
        return False
    return kind in _ALIKE or not isinstance(old, _SHOWN_APART) or str(old) == str(new)


def is_same_content(old: Any, new: Any) -> bool:
    """Tell whether two values are the same but for the order in dicts: some databases have one of their own."""
    if old == new and str(old) == str(new):
        return True
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(is_same_content(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(is_same_content, old, new))
    return False


def _family(value: Any) -> type:
    """Return the type of a value; of those that tell of changes, and other subclasses, that of the plain ones."""
    return next((family for family, kinds in _FAMILIES.items() if isinstance(value, kinds)), type(value))


def is_in_doubt(instance: Any) -> bool:
    """Return whether the row of an object was read after something had changed it that was undone since."""
    return instance._reading is not None and bool(instance._reading.is_undone)


def note_change(instance: Any, name: str, old: Any) -> None:
    """Keep the committed value of an attribute that is about to change for the first time, and tell the session."""
    committed = instance._committed
    if committed is CLEAN:
        instance._committed = committed = {}
        session = session_of(instance)
        if session is not None:
            session._unit.register_dirty(instance)
    committed[name] = Unknown(old) if is_in_doubt(instance) else old


def changed_names(instance: Any) -> list[str]:
    """Return the names of the attributes whose values differ from the committed ones. Runs no SQL."""
    if not instance._committed:
        return []
    data, related = instance.__data__, instance.__rel__
    changed = [name for name, old in instance._committed.items() if not is_same(old, data.get(name, MISSING))]
    if related:
        changed += [
            name
            for name in instance._committed
            if name not in changed and related.get(name) is not None and data.get(name) is None  # it awaits its key
        ]
    return changed


def committed_value(instance: Any, name: str) -> Any:
    """Return the value that the row of an object has in a column."""
    committed = instance._committed or {}
    value = known(committed[name]) if name in committed else instance.__data__.get(name)
    return None if value is MISSING else value


def known(value: Any) -> Any:
    """Return a committed value as far as it is known."""
    return value.value if isinstance(value, Unknown) else value


def _is_transient(instance: Any) -> bool:
    return instance._committed is None and instance._owner is None


class Tracked(peewee.FieldAccessor):
    """An accessor that keeps the committed value when the attribute is set."""

    def __set__(self, instance: Any, value: Any) -> None:
        name, committed, data = self.name, instance._committed, instance.__data__
        if committed is None:
            instance._given.add(name)
        elif name not in committed and committed is not DELETED:
            old = data.get(name, MISSING)
            if (old is value or is_same(old, value)) and not is_in_doubt(instance):
                return
            if committed is CLEAN or instance._reading is not None:
                note_change(instance, name, old)
            else:
                committed[name] = old
        data[name] = value


class ColumnAccessor(Tracked):
    """The accessor of a column whose values are immutable."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        try:
            return instance.__data__[self.name]
        except KeyError:
            return unset(instance, self.name)


class MutableAccessor(ColumnAccessor):
    """The accessor of a column whose values can change in place.

    A dict or list is tied to the object when it is read, so that a change in it is a change of the object. Of other
    values a copy is kept when they are read, to compare with at the flush.
    """

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        value = super().__get__(instance, instance_type)
        if instance is None or type(value) in IMMUTABLE or _is_transient(instance):
            return value
        if type(value) is dict or type(value) is list:
            value = instance.__data__[self.name] = mutable.tie(value, instance, self.name, _will_change)
        elif not mutable.is_tied(value):
            keep_copy(instance, self.name, value)
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        if mutable.is_tied(value) and value is not instance.__data__.get(self.name):
            value = mutable.plain(value)  # it is another attribute's, whose object it tells of changes
        super().__set__(instance, value)


class OtherAccessor:
    """Mixed into an accessor of another making (Peewee's BigBitField, a user's own): its behaviour, and tracking.

    What it hands out may be changed in place, so a copy is kept when it is read or set, to compare with at the flush.
    """

    name: str

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is not None:
            keep_copy(instance, self.name, instance.__data__.get(self.name))
        return super().__get__(instance, instance_type)  # type: ignore[misc]

    def __set__(self, instance: Any, value: Any) -> None:
        if instance._committed is None:
            instance._given.add(self.name)
        keep_copy(instance, self.name, instance.__data__.get(self.name))
        super().__set__(instance, value)  # type: ignore[misc]


def unset(instance: Any, name: str) -> Any:
    if instance._committed is None:
        return None
    remedy = "load the whole object with session.refresh(obj) or a query of all its columns"
    raise UnloadedColumnError(
        f"{type(instance).__name__}.{name} was not loaded: the query that gave this object selected other columns. "
        f"Select {name!r} too" + (f", or {remedy}." if instance._owner is not None else ".")
    )


def _will_change(root: mutable.Root) -> None:
    instance, name = root.object, root.name
    committed = instance._committed
    if committed is None or committed is DELETED or name in committed:
        return
    if instance.__data__.get(name) is root.value:
        note_change(instance, name, mutable.plain(root.value))


def keep_copy(instance: Any, name: str, value: Any) -> None:
    committed = instance._committed
    if committed is not None and committed is not DELETED and name not in committed:
        note_change(instance, name, copy.deepcopy(value))


def put(data: dict[str, Any], name: str, value: Any) -> None:
    """Set a value that was the committed one; MISSING means that there is none."""
    value = known(value)
    if value is MISSING:
        data.pop(name, None)
    else:
        data[name] = value
