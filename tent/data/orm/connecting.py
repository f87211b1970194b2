"""From a config to an engine that has been tried."""

from __future__ import annotations

import time
from typing import Any

import peewee

from .config import Checked, read_config, refuse, secrets
from .engine import Engine
from .keys import DRIVERS, nearest
from .memory import MemoryEngine
from .sqlite import SqliteEngine

_EXTRAS = {"postgresql": "postgresql", "cockroachdb": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def connect(config: Any) -> Engine:
    """Return the engine of a config, having tried it once. Raises `DBConfigurationException`."""
    settings = read_config(config)
    engine = _tried(config, settings)
    if settings.get("replicas"):
        # Where no replica answers, a session that only reads goes to the others.
        hosts = [*settings["replicas"], *settings["hosts"]]
        engine.replica = _tried(config, {**settings, "hosts": hosts, "target": "prefer-standby"})
        engine.replica.listeners, engine.replica.query_hooks = engine.listeners, engine.query_hooks
    return engine


def _tried(config: Any, settings: Checked) -> Engine:
    try:
        engine = _make(settings)
    except ImportError as error:
        extra = _EXTRAS[settings["driver"]]
        reason = " ".join(str(error).split())
        refuse(config, f"A package is missing ({reason}). Install it: pip install 'tent-data[{extra}]'.", error)
    try:
        _try(engine)
        unfit = engine.unfit()
    except Exception as error:  # of an option that is wrong, a driver makes a TypeError, an OSError or anything
        engine.close_all()
        problem = str(getattr(error, "orig", None) or error)
        is_discreet = not any(secret in f"{error!r} {problem}" for secret in secrets(settings))
        refuse(
            config,
            f"The database at {engine.place} {engine.diagnosis(problem)}"
            + (f" ({problem.strip()})." if is_discreet else ".")
            + _misspelt(settings),
            error if is_discreet else None,
        )
    if unfit:
        engine.close_all()
        refuse(config, unfit)
    return engine


def _misspelt(settings: Checked) -> str:
    """Return a question for an option that looks like a key of the config: a URL has both behind its `?`."""
    for option in settings.get("options", ()):
        near = nearest(option, DRIVERS[settings["driver"]].keys() - {option}, 0.8)
        if near:
            return f" Is its option {option!r} a misspelt key?{near}"
    return ""


def _make(settings: Checked) -> Engine:
    """Return the engine of checked settings. Its driver is imported now, when it is wanted."""
    driver = settings["driver"]
    if driver == "sqlite":
        memory = settings["path"] == ":memory:"
        pragmas = {"foreign_keys": 1, **({} if memory else {"journal_mode": "wal"}), **settings["pragmas"]}
        return (MemoryEngine if memory else SqliteEngine)(
            settings["path"], pragmas, settings["timeout"], settings["echo"]
        )
    if driver in ("mysql", "mariadb"):
        from . import mysql

        return (mysql.MariaDBEngine if driver == "mariadb" else mysql.MySQLEngine)(settings)
    from . import postgresql

    return (postgresql.CockroachEngine if driver == "cockroachdb" else postgresql.PostgresqlEngine)(settings)


def _try(engine: Engine) -> None:
    """Open a connection and read; a database that is busy (another process turns it into WAL) is tried again."""
    deadline = time.monotonic() + engine.patience
    while True:
        try:
            with engine.connection_context():
                engine.execute_sql(engine.probe).fetchall()
            return
        except peewee.OperationalError as error:
            if not engine.is_retryable(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
