"""Hooks: which events there are, and the functions that wait for them. Names and arguments are SQLAlchemy's."""

from __future__ import annotations

import inspect
import threading
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


_changing = threading.RLock()


class Listeners:
    """The functions that wait for the events of a session, an engine or a model, in the order in which they came.

    Threads may let them come and go at any time: what somebody may be going through is replaced, not changed.
    """

    def __init__(self) -> None:
        self.calls: dict[str, tuple[tuple[Listener, Listener], ...]] = {}  # each listener, and how it is called

    def add(self, name: str, function: Listener, arguments: tuple[str, ...]) -> None:
        """Let a function wait for an event; one that does so already does so once."""
        call = _adapted(name, function, arguments)
        while True:
            waiting = self.calls.get(name, ())
            if any(
                function == other for other, _ in waiting
            ):  # by what may be a user's own code, and so without a lock
                return
            with _changing:
                if self.calls.get(name, ()) is waiting:
                    self.calls = {**self.calls, name: (*waiting, (function, call))}
                    return

    def remove(self, name: str, function: Listener) -> bool:
        """Let a function wait no more, and return whether it did."""
        found = {id(entry): entry for entry in self.calls.get(name, ()) if entry[0] == function}
        with _changing:
            left = tuple(entry for entry in self.calls.get(name, ()) if id(entry) not in found)
            self.calls = {event: calls for event, calls in {**self.calls, name: left}.items() if calls}
        return bool(found)

    def of(self, name: str) -> list[Listener]:
        """Return what to call at an event, with all of its arguments."""
        return [call for _, call in self.calls.get(name, ())]


class ModelListeners:
    """The listeners of all models: those of a class wait for the objects of its subclasses, too."""

    def __init__(self) -> None:
        self.own: dict[type, Listeners] = {}  # by the class whose objects they wait for
        self._found: dict[tuple[type, str], list[Listener]] = {}

    def add(self, model: type, name: str, function: Listener) -> None:
        """Let a function wait for an event of the objects of a class."""
        with _changing:
            own = self.own.get(model, Listeners())
            own.add(name, function, MODEL_EVENTS[name])
            self.own = {**self.own, model: own}
            self._found = {}  # a new one: another thread may be about to put into the former what it found before

    def remove(self, model: type, name: str, function: Listener) -> bool:
        """Let a function wait no more, and return whether it did."""
        with _changing:
            is_removed = model in self.own and self.own[model].remove(name, function)
            self.own = {kind: own for kind, own in self.own.items() if own.calls}
            self._found = {}
        return is_removed

    def of(self, model: type, name: str) -> list[Listener]:
        """Return what to call at an event of an object of a class."""
        known, own = self._found, self.own
        found = known.get((model, name))
        if found is None:
            listening = [own[kind] for kind in reversed(model.__mro__) if kind in own]
            found = known[model, name] = [call for listeners in listening for call in listeners.of(name)]
        return found


models = ModelListeners()


def _adapted(name: str, function: Listener, arguments: tuple[str, ...]) -> Listener:
    """Return a function that takes all arguments of an event and passes on what the listener takes: one, or all."""
    place = next(place for place, argument in enumerate(arguments) if argument.startswith("*"))
    takes_one, takes_all = _takes(function, 1), _takes(function, len(arguments))
    if takes_all and (not takes_one or len(arguments) == 1 or _is_open(function)):
        return function
    if takes_one:
        return lambda *given: function(given[place])
    names = ", ".join(argument.lstrip("*") for argument in arguments)
    raise ArgumentError(
        f"{shown(function)} can't listen to {name!r}: it has to be a function that takes "
        f"({arguments[place][1:]})" + (f", or ({names})." if len(arguments) > 1 else ".")
    )


def _takes(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:  # of some builtins, such as set().add, Python knows no signature
        return callable(function) and count == 1
    except TypeError:
        return False
    return True


def _is_open(function: Any) -> bool:
    """Tell whether a function takes any number of arguments."""
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
