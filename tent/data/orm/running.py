"""Sessions opened for a piece of work: a transaction, or one that is repeated when the database asks for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import peewee

from .engine import Engine
from .errors import ArgumentError, StaleDataError
from .session import Session

T = TypeVar("T")

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.5


def open_session(engine: Engine, autoflush: bool = True) -> Session:
    """Return a new session on an engine. Close it when done, or use it in a `with` statement.

    With `autoflush=False` its queries do not write pending changes first.
    """
    return Session(engine, autoflush=autoflush)


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """`with dbm.transaction(engine) as session:` commits at the end of the block, or rolls back on an error."""
    with Session(engine) as session:
        yield session
        session.commit()


def run_transaction(engine: Engine, callback: Callable[[Session], T], attempts: int = 10) -> T:
    """Call `callback(session)` in a transaction, commit, and return what it returned.

    When the database could not do it at that moment (it was locked, it found a deadlock, a row was changed meanwhile:
    `StaleDataError`), all is undone and the callback is called again with a new session, at most `attempts` times in
    all, after pauses that grow. So the callback must do nothing that can't be repeated, and hand out no objects but
    by its return. Its own errors are not repeated.
    """
    if not isinstance(attempts, int) or attempts < 1:
        raise ArgumentError(f"attempts is a number from 1 up, not {attempts!r}.")
    pause = _FIRST_PAUSE
    while True:
        attempts -= 1
        try:
            with Session(engine) as session:
                with session.begin():
                    result = callback(session)
            return result
        except (peewee.PeeweeException, StaleDataError) as error:
            if attempts == 0 or not (isinstance(error, StaleDataError) or engine.is_retryable(error)):
                raise
        # Two that wait for each other must not meet again: hence the chance in it.
        time.sleep(pause * (0.5 + random.random()))
        pause = min(2 * pause, _LONGEST_PAUSE)
