"""Dicts and lists that tell their object when they are changed in place.

The value of a JSON column is handed out as a `MutableDict` or `MutableList`: a real dict or list, which compares,
prints, copies and pickles as a plain one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex

Notify = Callable[["Root"], None]


class Root:
    """The tie of a value, with all that is nested in it, to the attribute that holds it."""

    __slots__ = ("_notify", "name", "object", "value")

    def __init__(self, object: Any, name: str, notify: Notify) -> None:
        self.object = object
        self.name = name
        self.value: Any = None
        self._notify = notify

    def will_change(self) -> None:
        """Call before each change."""
        self._notify(self)


def tie(value: Any, object: Any, name: str, notify: Notify) -> Any:
    """Return a dict or list as one that calls `notify` before each change in it, at any depth."""
    root = Root(object, name, notify)
    root.value = _wrapped(value, root)
    return root.value


def is_tied(value: Any) -> bool:
    """Tell whether a value is one that `tie` made, or a part of one."""
    return isinstance(value, _Mutable)


def is_changeable(kind: type) -> bool:
    """Tell whether a value of a type can be changed in place, or hold one that can, and tells nobody."""
    return (kind.__hash__ is None or issubclass(kind, tuple)) and not issubclass(kind, _Mutable)


def plain(value: Any) -> Any:
    """Return a copy of a value with plain dicts and lists, at any depth."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    return value


def _wrapped(value: Any, root: Root) -> Any:
    if isinstance(value, dict):
        wrapped = MutableDict({key: _wrapped(item, root) for key, item in value.items()})
        wrapped._root = root
        return wrapped
    if isinstance(value, (list, tuple)):  # JSON makes lists of tuples
        items = MutableList([_wrapped(item, root) for item in value])
        items._root = root
        return items
    return value


class _Mutable:
    """What the two have in common."""

    __slots__ = ()
    _root: Root

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return plain, (plain(self),)

    def __copy__(self) -> Any:
        return plain(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)

    copy = __copy__


def _telling(change: Callable[..., Any]) -> Any:
    """Return a method of dicts or lists as one that tells the object before it changes them."""

    @functools.wraps(change)
    def method(self: _Mutable, *args: Any, **options: Any) -> Any:
        self._root.will_change()
        return change(self, *args, **options)

    return method


class MutableDict(_Mutable, dict[Any, Any]):
    """A dict that tells its object of changes."""

    __slots__ = ("_root",)

    __delitem__ = _telling(dict.__delitem__)
    clear = _telling(dict.clear)
    pop = _telling(dict.pop)
    popitem = _telling(dict.popitem)

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None) -> Any:
        return dict.fromkeys(keys, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._root.will_change()
        super().__setitem__(key, _wrapped(value, self._root))

    def __ior__(self, other: Any) -> MutableDict:  # type: ignore[misc]
        self.update(other)
        return self

    def update(self, *args: Any, **values: Any) -> None:
        self._root.will_change()
        super().update(_wrapped(dict(*args, **values), self._root))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]


class MutableList(_Mutable, list[Any]):
    """A list that tells its object of changes."""

    __slots__ = ("_root",)

    __delitem__ = _telling(list.__delitem__)
    __imul__ = _telling(list.__imul__)
    clear = _telling(list.clear)
    pop = _telling(list.pop)
    remove = _telling(list.remove)
    reverse = _telling(list.reverse)
    sort = _telling(list.sort)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._root.will_change()
        super().__setitem__(index, _wrapped(list(value) if isinstance(index, slice) else value, self._root))

    def __iadd__(self, other: Iterable[Any]) -> MutableList:  # type: ignore[misc]
        self.extend(other)
        return self

    def append(self, value: Any) -> None:
        self._root.will_change()
        super().append(_wrapped(value, self._root))

    def extend(self, values: Iterable[Any]) -> None:
        self._root.will_change()
        super().extend(_wrapped(list(values), self._root))

    def insert(self, index: SupportsIndex, value: Any) -> None:
        self._root.will_change()
        super().insert(index, _wrapped(value, self._root))
