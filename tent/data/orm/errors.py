"""Exceptions and warnings of tent.data.

What the database refuses keeps Peewee's own class (`peewee.IntegrityError`, `peewee.OperationalError` …), with a
message that names the object and its table. Everything else is one of these::

    Exception
    └── DataLayerError
        ├── DBConfigurationException         a config that can't work              (also a ValueError)
        ├── CommitInDoubtError               the connection was lost in a COMMIT
        └── InvalidRequestError              the session can't do what was asked
            ├── ArgumentError                a value of the wrong kind             (also a TypeError)
            │   └── UnmappedInstanceError    no object of a model
            ├── ConcurrentUseError           two threads use one session at once
            ├── DetachedInstanceError        a relation followed without a session
            ├── UnloadedColumnError          a column that the query left out
            ├── ResourceClosedError          a finished transaction, a closed session's result
            ├── NoResultFound                one() found nothing
            ├── MultipleResultsFound         one() found several
            └── FlushError                   the changes can't be written as they are
                ├── CircularDependencyError  rows that need each other first
                └── StaleDataError           the row was changed or deleted meanwhile

    UserWarning
    └── UnsavedChangesWarning                a session was closed with unsaved changes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peewee


class DataLayerError(Exception):
    """Base class of the library's own errors."""


class DBConfigurationException(DataLayerError, ValueError):
    """A config names no database that can be used.

    `config` is the config as it was given, with secrets masked.
    """

    def __init__(self, message: str, config: Any = None) -> None:
        super().__init__(message)
        self.config = config

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.config)


class CommitInDoubtError(DataLayerError):
    """The connection was lost while the database was told to commit: it may have, or may not.

    The session is as after a rollback. Look in the database whether the changes are there before they are repeated. A
    look may come too early, as the database may still be at it: a unique number of your own in what is written, by
    which the database refuses a second time, leaves no doubt (docs/clusters.md has an example).
    """


class InvalidRequestError(DataLayerError):
    """The session can't do what was asked in the state that it, or the object, is in."""


class ArgumentError(InvalidRequestError, TypeError):
    """An argument has a type or a value that is not accepted."""


class UnmappedInstanceError(ArgumentError):
    """The argument is not an object of a model."""


class ConcurrentUseError(InvalidRequestError):
    """A second thread used a session in the middle of a call of the first."""


class DetachedInstanceError(InvalidRequestError):
    """A relation of an object without a session was followed."""


class UnloadedColumnError(InvalidRequestError):
    """An attribute was read whose column the object's query did not select."""


class ResourceClosedError(InvalidRequestError):
    """A transaction or a result was used after its end."""


class NoResultFound(InvalidRequestError):
    """A query that must give a row gave none."""


class MultipleResultsFound(InvalidRequestError):
    """A query that must give one row gave several."""


class FlushError(InvalidRequestError):
    """The changes can't be written as they are; nothing was written."""


class CircularDependencyError(FlushError):
    """Rows need each other before they can be written. `cycle` lists the nodes, the first one again at the end."""

    def __init__(self, message: str, cycle: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.cycle = tuple(cycle)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), tuple(map(str, self.cycle)))


class StaleDataError(FlushError):
    """An update or a delete found its row changed or gone. `object` is the object that holds the old values."""

    def __init__(self, message: str, object: Any = None) -> None:
        super().__init__(message)
        self.object = object

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)


class UnsavedChangesWarning(UserWarning):
    """A session was closed while it held changes that no commit had saved."""


_WIDTH = 60  # of a value in a message
# Of PostgreSQL, and of MariaDB and MySQL
_NO_TABLE = ("42P01", 1146)
_NO_COLUMN = ("42703", 1054)


def explain(error: BaseException, context: str, object: Any = None) -> BaseException:
    """Add what was going on to the message of a database's error, whose class and traceback stay.

    `context` is a clause such as "inserting <User id=None> into users"; `object` becomes an attribute of the error.
    An error that is none of Peewee's (Python refused to bind a value) becomes a `peewee.DataError`.
    """
    if isinstance(error, peewee.PeeweeException):
        reason = str(error.args[-1]) if error.args else type(error).__name__
        error.args = (f"{reason}{_remedy(error, reason)} (while {context})",)
    else:
        error, cause = peewee.DataError(f"{error} (while {context})"), error
        error.__cause__ = cause
    error.object = object  # type: ignore[attr-defined]
    return error


def _remedy(error: Any, reason: str) -> str:
    """Return what helps against an error, known by SQLite's words, or by the number that a server gives."""
    cause = getattr(error, "orig", None)
    numbers = {getattr(cause, "sqlstate", None), *getattr(cause, "args", ())[:1]}
    if reason.startswith("no such column") or "FROM-clause" in reason or not numbers.isdisjoint(_NO_COLUMN):
        return (
            "; either a query names a model that it does not join, or a table lacks a column that its model has: "
            "install_tables makes missing tables only, playhouse.migrate adds columns"
        )
    if reason.startswith("no such table") or not numbers.isdisjoint(_NO_TABLE):
        return "; dbm.install_tables(engine) makes the tables of the models loaded so far"
    return ""


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut short, whatever its `repr` takes or does."""
    if isinstance(value, (str, bytes, bytearray)) and len(value) > _WIDTH:
        value = value[:_WIDTH]
    try:
        text = repr(value)
    except Exception:  # it is a user's own, or an integer of more digits than Python shows
        text = object.__repr__(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def article(word: str) -> str:
    """Return a word with its indefinite article."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"
