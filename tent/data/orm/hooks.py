"""Hooks: which events there are, and the functions that wait for them. Names and arguments are SQLAlchemy's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .errors import ArgumentError, shown

Listener = Callable[..., Any]

# The arguments of each event; a function that takes but one gets the one that has a star.
SESSION_EVENTS = {
    "before_flush": ("*session", "flush_context", "instances"),
    "after_flush": ("*session", "flush_context"),
    "before_commit": ("*session",),
    "after_commit": ("*session",),
    "after_rollback": ("*session",),
}
MODEL_EVENTS = {
    f"{when}_{verb}": ("mapper", "connection", "*target")
    for when in ("before", "after")
    for verb in ("insert", "update", "delete")
}


class Listeners:
    """The functions that wait for the events of a session, an engine or a model, in the order in which they came."""

    def __init__(self) -> None:
        self._calls: dict[str, dict[Listener, Listener]] = {}

    def __bool__(self) -> bool:
        return any(self._calls.values())

    def add(self, name: str, function: Listener, arguments: tuple[str, ...]) -> None:
        """Let a function wait for an event; one that does so already does so once."""
        self._calls.setdefault(name, {})[function] = _adapted(name, function, arguments)

    def remove(self, name: str, function: Listener) -> bool:
        """Let a function wait no more, and return whether it did."""
        return self._calls.get(name, {}).pop(function, None) is not None

    def of(self, name: str) -> list[Listener]:
        """Return what to call at an event, with all of its arguments."""
        return list(self._calls.get(name, {}).values())


class ModelListeners:
    """The listeners of all models: those of a class wait for the objects of its subclasses, too."""

    def __init__(self) -> None:
        self._own: dict[type, Listeners] = {}
        self._found: dict[tuple[type, str], list[Listener]] = {}

    def __bool__(self) -> bool:
        return bool(self._own)

    def listeners_of(self, model: type) -> Listeners:
        """Return the listeners of a class itself, to be changed."""
        self._found.clear()
        return self._own.setdefault(model, Listeners())

    def of(self, model: type, name: str) -> list[Listener]:
        """Return what to call at an event of an object of a class."""
        found = self._found.get((model, name))
        if found is None:
            listening = [self._own[kind] for kind in reversed(model.__mro__) if kind in self._own]
            found = self._found[model, name] = [call for listeners in listening for call in listeners.of(name)]
        return found


models = ModelListeners()


def _adapted(name: str, function: Listener, arguments: tuple[str, ...]) -> Listener:
    """Return a function that takes all arguments of an event and passes on what the listener takes: all, or one."""
    place = next(place for place, argument in enumerate(arguments) if argument.startswith("*"))
    for count in dict.fromkeys((len(arguments), 1)):
        if _takes(function, count):
            return function if count == len(arguments) else lambda *given: function(given[place])
    names = ", ".join(argument.lstrip("*") for argument in arguments)
    raise ArgumentError(
        f"{shown(function)} can't listen to {name!r}: it has to be a function that takes "
        f"({arguments[place][1:]})" + (f", or ({names})." if len(arguments) > 1 else ".")
    )


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True
