"""The databases that the tests run on: SQLite always, and the servers of TENT_TEST_URLS, each with an empty database.

`scripts/servers.sh start` starts servers and prints their URLs: `TENT_TEST_URLS="$(scripts/servers.sh urls)"`. The
clusters that TENT_TEST_CLUSTERS names ("replication galera") are started by the tests, and only those that ask for one
by its name run on it.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import peewee

from tent.data import dbm
from tent.data.orm.url import read_url

URLS = {urlsplit(url).scheme: url for url in os.environ.get("TENT_TEST_URLS", "").split()}
DATABASES = ["memory", "file", *URLS]
CLUSTERS = os.environ.get("TENT_TEST_CLUSTERS", "").split()
assert {"replication", "galera"}.issuperset(CLUSTERS), f"TENT_TEST_CLUSTERS has something unknown: {CLUSTERS}"
KINDS = {"sqlite": ["memory", "file"], "servers": list(URLS)}  # what a test can name instead of each
NAME = f"tent_test_{os.getpid()}"


def named(*names: str) -> list[str]:
    """Return the databases of these names, of those that the tests run on."""
    wanted = {database for name in names for database in KINDS.get(name, [name])}
    return [database for database in [*DATABASES, *CLUSTERS] if database in wanted]


def script(*arguments: str) -> str:
    """Run scripts/servers.sh, for servers that keep what they have acknowledged, and return what it prints."""
    own = {"TENT_SERVERS_FSYNC": "off", "TENT_SERVERS_SYNC": "on"}  # a killed process loses nothing that was written
    command = [str(Path(__file__).parent.parent / "scripts" / "servers.sh"), *arguments]
    done = subprocess.run(command, env={**own, **os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def emptied(database: str) -> str:
    """Return the URL of a server's database that has nothing in it."""
    _admin(database)()
    parts = urlsplit(URLS[database])
    return parts._replace(path=f"/{NAME}").geturl()


@functools.cache
def _admin(database: str) -> Callable[[], None]:
    """Make the database, and return what empties it. What tests have left open is ended."""
    engine = _admin_engine(database)
    run: Any = engine.execute_sql
    run(f"DROP DATABASE IF EXISTS {NAME}")
    run(f"CREATE DATABASE {NAME}")
    atexit.register(lambda: (_end_others(engine), run(f"DROP DATABASE IF EXISTS {NAME}")))

    def empty() -> None:
        _end_others(engine)
        run(f"DROP DATABASE {NAME}")
        run(f"CREATE DATABASE {NAME}")

    if engine.kind != "postgresql":
        return empty
    own: Any = dbm.connect(urlsplit(URLS[database])._replace(path=f"/{NAME}").geturl())

    def empty_schema() -> None:
        _end_others(own)
        own.execute_sql("DROP SCHEMA IF EXISTS public CASCADE")
        own.execute_sql("CREATE SCHEMA public")

    atexit.register(own.close_all)
    return empty_schema


def mapping(url: str) -> dict[str, Any]:
    """Return the config of a URL as a mapping, to give it other settings."""
    return dict(read_url(url))


def end_connections(engine: Any, numbers: Iterable[int]) -> None:
    """Let a server end connections, given by its numbers of them, and wait until they are gone."""
    with dbm.open_session(_admin_engine(engine.kind)) as admin:
        for number in numbers:
            admin.execute(_END[engine.kind].format(number))
        while {number for (number,) in admin.execute(_OPEN[engine.kind])} & set(numbers):
            time.sleep(0.001)


CONNECTION_ID = {"postgresql": "pg_backend_pid()", "mariadb": "CONNECTION_ID()", "mysql": "CONNECTION_ID()"}
_END = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}", "mysql": "KILL {}"}
_OPEN = {
    "postgresql": "SELECT pid FROM pg_stat_activity",
    "mariadb": "SELECT id FROM information_schema.processlist",
    "mysql": "SELECT id FROM information_schema.processlist",
}


@functools.cache
def _admin_engine(database: str) -> Any:
    return dbm.connect(URLS[database])


def _end_others(engine: Any) -> None:
    if engine.kind == "postgresql":
        engine.execute_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            (NAME,),
        )
    else:
        found = engine.execute_sql("SELECT id FROM information_schema.processlist WHERE db = %s", (NAME,))
        for (number,) in found.fetchall():
            try:
                engine.execute_sql(f"KILL {number}")
            except peewee.OperationalError as error:
                if "Unknown thread id" not in str(error):  # it has ended by itself meanwhile
                    raise
