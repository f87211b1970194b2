"""Listening to events: of one session, of all sessions of an engine, of the objects of a model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from . import hooks
from .engine import Engine
from .errors import ArgumentError
from .hooks import MODEL_EVENTS, SESSION_EVENTS, Listener, Listeners
from .model import ModelRoot
from .session import Session

F = TypeVar("F", bound=Callable[..., Any])


def listen(target: Any, name: str, function: Listener) -> None:
    """Have a function called at an event of a session, of all sessions of an engine, or of the objects of a model.

    The events of sessions: `before_flush`, `after_flush`, `before_commit`, `after_commit` and `after_rollback`. The
    function takes the session, or what SQLAlchemy passes.

    The events of a model, and of those that inherit from it: `before_insert`, `before_update`, `before_delete`, and
    `after_insert`, `after_update`, `after_delete`. The function takes the object, or, as in SQLAlchemy, `(mapper,
    connection, target)`: the model, the session's database, the object.

    What `before_…` changes, adds or deletes is part of the flush; what `after_…` does is written by the next one, and
    a commit goes on until nothing is left. One that raises makes the flush fail: all is as it was. Once the transaction
    has ended (`after_commit`, `after_rollback`) the session can't be used until the listeners have returned. They are
    not told of rows that the database changes by itself, nor of statements for many rows.

    Raises `ArgumentError` for another target, event or function.
    """
    events, listeners = _of(target, name)
    listeners.add(name, function, events[name])


def listens_for(target: Any, name: str) -> Callable[[F], F]:
    """`@dbm.listens_for(target, name)` above a function has it called at an event; see `listen`."""

    def decorate(function: F) -> F:
        listen(target, name, function)
        return function

    return decorate


def unlisten(target: Any, name: str, function: Listener) -> None:
    """Have a function called no more. Raises `ArgumentError` if it did not listen to the event."""
    if not _of(target, name)[1].remove(name, function):
        raise ArgumentError(f"{function!r} does not listen to {name!r} of {target!r}.")


def _of(target: Any, name: str) -> tuple[Mapping[str, tuple[str, ...]], Listeners]:
    """Return the events that a target has, and its listeners."""
    events: Mapping[str, tuple[str, ...]]
    if isinstance(target, Session):
        events, listeners = SESSION_EVENTS, target._events.listeners
    elif isinstance(target, Engine):
        events, listeners = SESSION_EVENTS, target.listeners
    elif isinstance(target, type) and issubclass(target, ModelRoot):
        events, listeners = MODEL_EVENTS, hooks.models.listeners_of(target)
    else:
        raise ArgumentError(f"Listen to a session, an engine or a model; {target!r} is none of them.")
    if name not in events:
        near = difflib.get_close_matches(str(name), events, 1)
        raise ArgumentError(
            f"{target!r} has no event {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}; it has "
            f"{', '.join(map(repr, events))}."
        )
    return events, listeners
