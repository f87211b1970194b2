"""From a config to an engine that has been tried."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, NoReturn

import peewee

from .config import Checked, masked, read_config
from .engine import Engine
from .errors import DBConfigurationException
from .memory import MemoryEngine

_OLDEST_SQLITE = (3, 35, 0)  # RETURNING


def connect(config: Any) -> Engine:
    """Return the engine of a config, having tried it once. Raises `DBConfigurationException`."""
    settings = read_config(config)
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        _refuse(config, f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or later is needed. Use a newer Python.")
    engine = _sqlite(settings)
    try:
        _try(engine)
    except peewee.PeeweeException as error:
        engine.close_all()
        _refuse(config, _diagnosis(settings["path"], str(error)), error)
    return engine


def _sqlite(settings: Checked) -> Engine:
    memory = settings["path"] == ":memory:"
    pragmas = {"foreign_keys": 1, **({} if memory else {"journal_mode": "wal"}), **settings["pragmas"]}
    return (MemoryEngine if memory else Engine)(settings["path"], pragmas, settings["timeout"], settings["echo"])


def _try(engine: Engine) -> None:
    """Open a connection and read; a database that is busy (another process turns it into WAL) is tried again."""
    deadline = time.monotonic() + engine.timeout
    while True:
        try:
            with engine.connection_context():
                engine.execute_sql("SELECT COUNT(*) FROM sqlite_master").fetchall()
            return
        except peewee.OperationalError as error:
            if not engine.is_retryable(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _diagnosis(path: str, problem: str) -> str:
    if "not a database" in problem:
        return f"The file {path!r} is no SQLite database. Give the path of a database, or of a file yet to be made."
    if "unable to open" in problem or "readonly" in problem or "read-only" in problem:
        return (
            f"The database {path!r} can't be opened ({problem}): the user of this process needs the permission to "
            "read and write the file, and to write in its directory."
        )
    return f"The database {path!r} can't be used: {problem}."


def _refuse(config: Any, message: str, cause: BaseException | None = None) -> NoReturn:
    raise DBConfigurationException(message, masked(config)) from cause
