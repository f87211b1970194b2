"""connect() to a server: what its config may be, what is refused and how, and what is set on each connection."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import peewee
import pytest
import servers
from conftest import Person, collected, with_settings
from hypothesis import given
from hypothesis import strategies as st

from tent.data import dbm
from tent.data.orm.config import read_config

PASSWORD = "hünter2 /?#@:%+&='\"\\"
BASE = {"driver": "postgresql", "database": "tent"}

servers_only = pytest.mark.databases("servers")


def refusal(config: Any) -> dbm.DBConfigurationException:
    with pytest.raises(dbm.DBConfigurationException) as caught:
        dbm.connect(config)
    return caught.value


def hosts(**settings: Any) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = read_config({**BASE, **settings})["hosts"]
    return found


# What a config says


@pytest.mark.parametrize(
    ("driver", "port"), [("postgresql", 5432), ("mysql", 3306), ("mariadb", 3306), ("cockroachdb", 26257)]
)
def test_each_driver_has_its_port(driver: str, port: int) -> None:
    assert hosts(driver=driver, host="db") == [("db", port)]


def test_the_defaults_of_a_pool() -> None:
    found = read_config(BASE)
    assert (found["pool_size"], found["pool_timeout"], found["pool_recycle"]) == (20, 30.0, None)
    assert found["hosts"] == [("", 5432)]


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("db", [("db", 1)]),
        ("db:5433", [("db", 5433)]),
        ("10.0.0.1:5433", [("10.0.0.1", 5433)]),
        ("[::1]:5433", [("::1", 5433)]),
        ("[::1]", [("::1", 1)]),
        ("fe80::1", [("fe80::1", 1)]),
        ("/var/run/postgresql", [("/var/run/postgresql", 1)]),
        ("a,b:2", [("a", 1), ("b", 2)]),
        (["a", "b:2"], [("a", 1), ("b", 2)]),
    ],
)
def test_a_host_may_have_a_port_of_its_own(host: Any, found: list[tuple[str, int]]) -> None:
    assert hosts(host=host, port=1) == found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", 3),
        ("host", ""),
        ("host", ["a", ""]),
        ("host", "a b"),
        ("host", "db:0"),
        ("host", "db:x"),
        ("port", "5432"),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("user", 3),
        ("user", "a\0b"),
        ("password", b"secret"),
        ("database", None),
        ("database", ""),
        ("database", 3),
        ("options", "sslmode=require"),
        ("options", {3: 4}),
        ("options", {"host": "db"}),
        ("options", {"password": "secret"}),
        ("options", {"charset": "latin1"}),
        ("replicas", 3),
        ("replicas", "db:x"),
        ("pool_size", 0),
        ("pool_size", 1.5),
        ("pool_size", True),
        ("pool_timeout", 0),
        ("pool_timeout", "3"),
        ("pool_recycle", -1),
        ("echo", "yes"),
    ],
)
def test_a_value_that_can_not_be_is_refused_and_its_key_is_named(key: str, value: Any) -> None:
    assert repr(key) in str(refusal({**BASE, key: value}))


@pytest.mark.parametrize("driver", ["postgresql", "mysql", "mariadb", "cockroachdb"])
def test_a_misspelt_key_gets_the_nearest_one(driver: str) -> None:
    assert "did you mean 'pool_size'?" in str(refusal({"driver": driver, "database": "tent", "pool_sise": 3}))


# URLs


def test_a_url_says_the_same_as_a_mapping() -> None:
    url = "postgresql://joe:p%40ss%2Fw%C3%B6rd@db1:1,db2/tent?pool_size=3&pool_timeout=1.5&echo=true&replicas=db3:4,db5"
    assert read_config(url) == read_config(
        {
            "driver": "postgresql",
            "user": "joe",
            "password": "p@ss/wörd",
            "host": ["db1:1", "db2"],
            "database": "tent",
            "pool_size": 3,
            "pool_timeout": 1.5,
            "echo": True,
            "replicas": ["db3:4", "db5"],
        }
    )


def test_other_keys_of_a_url_are_the_drivers_options() -> None:
    found = read_config("mariadb://db/tent?ssl_disabled=true&connect_timeout=3&program_name=me")
    assert found["options"] == {"ssl_disabled": True, "connect_timeout": 3, "program_name": "me"}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql:///tent", ("", 5432)),
        ("postgresql://[::1]:5433/tent", ("::1", 5433)),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/tent", ("/var/run/postgresql", 5432)),
        ("postgres://db/tent", ("db", 5432)),
    ],
)
def test_the_host_of_a_url(url: str, found: tuple[str, int]) -> None:
    assert read_config(url)["hosts"] == [found]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://joe:hunter2@db",
        "postgresql://joe:hunter2@db:99999/tent",
        "postgresql://joe:hunter2@db:x/tent",
        "postgresql://joe:hunter2/x@db/tent",
        "postgresql://joe:hunter2#x@db/tent",
        "postgresql://joe:hunter2?x@db/tent",
        "postgresql://joe:hunter2@[::1/tent",
        "postgresql://joe:hunter2@db/tent?database=x",
        "postgresql://joe:hunter2@db/tent?pool_size=x",
        "postgresql://joe:hunter2@db/tent#x",
        "postgresq://joe:hunter2@db/tent",
    ],
)
def test_a_url_that_can_not_be_is_refused_without_its_password(url: str) -> None:
    error = refusal(url)
    assert "hunter2" not in "".join(traceback.format_exception(error)) + repr(error.config)


@given(st.text(max_size=40))
def test_any_password_in_a_url_is_read_as_it_was_or_refused(password: str) -> None:
    from urllib.parse import quote

    try:
        found = read_config(f"postgresql://joe:{quote(password, safe='', errors='ignore')}@db/tent")
    except dbm.DBConfigurationException as error:
        assert not password or password in ("***", "*") or len(password) < 4 or password not in str(error)
    else:
        assert found["password"] == (password.encode(errors="ignore").decode() or None)


# What does not work says why, at once, and keeps the password to itself


def bad_configs(config: Any) -> dict[str, tuple[Any, str]]:
    """Return configs that can't work, and what is said of each."""
    return {
        "password": (with_settings(config, password=PASSWORD), "refuses the user"),
        "database": (with_settings(config, password=None, database="tent_test_nowhere"), ""),
        "port": (with_settings(config, password=PASSWORD, port=1, host="127.0.0.1"), "can't be reached"),
        "host": (with_settings(config, password=PASSWORD, host="no.such.host.invalid"), "can't be reached"),
        "option": (with_settings(config, {"no_such_option": 1}, password=PASSWORD), "'options'"),
    }


@servers_only
@pytest.mark.parametrize("what", ["password", "database", "port", "host", "option"])
def test_what_is_wrong_is_said_without_the_password(config: Any, what: str) -> None:
    bad, said = bad_configs(config)[what]
    error = refusal(bad)
    assert said in str(error)
    assert PASSWORD not in "".join(traceback.format_exception(error)) + repr(error) + repr(error.config)


@servers_only
def test_a_database_that_does_not_exist_is_to_be_created(config: Any) -> None:
    error = refusal(with_settings(config, database="tent_test_nowhere"))
    assert "has no such database: create it" in str(error)


@servers_only
def test_a_server_that_accepts_and_says_nothing_is_given_up_after_the_connect_timeout(config: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        bad = with_settings(config, {"connect_timeout": 2}, host="127.0.0.1", port=silent.getsockname()[1])
        start = time.monotonic()
        assert "can't be reached" in str(refusal(bad))
        assert time.monotonic() - start < 20  # a bound, no measure: without it the test would hang


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("postgresql://db/tent", "psycopg", "postgresql"),
        ("cockroachdb://db/tent", "psycopg", "postgresql"),
        ("mysql://db/tent", "pymysql", "mysql"),
        ("mariadb://db/tent", "pymysql", "mysql"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_what_installs_it(url: str, package: str, extra: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from tent.data import dbm
try:
    dbm.connect({url!r})
except dbm.DBConfigurationException as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert package in done.stdout
    assert f"pip install 'tent-data[{extra}]'" in done.stdout


@servers_only
def test_a_driver_for_another_server_is_refused(config: Any) -> None:
    settings = servers.mapping(config)
    other = "mariadb" if settings["driver"] == "postgresql" else "postgresql"
    bad = {**settings, "driver": other, "options": {"connect_timeout": 2}}
    assert "can't be reached" in str(refusal(bad))


@servers_only
def test_an_engine_shows_no_password(config: Any) -> None:
    with engine_of(config) as engine:
        assert "password" not in repr(engine) + str(engine) + repr(dbm.open_session(engine))


@servers_only
def test_a_log_of_everything_has_no_password(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with engine_of(with_settings(config, echo=True)) as engine, dbm.open_session(engine) as session:
        session.execute("SELECT 1")
    assert "SELECT 1" in caplog.text
    assert servers.mapping(config)["password"] not in caplog.text


# What each kind of engine is, and sets


@contextmanager
def engine_of(config: Any) -> Iterator[Any]:
    engine = dbm.connect(config)
    try:
        yield engine
    finally:
        engine.close_all()


KINDS = {"postgresql": peewee.PostgresqlDatabase, "mariadb": peewee.MySQLDatabase, "mysql": peewee.MySQLDatabase}


@servers_only
def test_an_engine_is_playhouses_database_of_its_kind(engine: Any, database: str) -> None:
    assert isinstance(engine, KINDS[database])
    assert isinstance(engine, dbm.Engine)
    assert type(engine).__mro__[2].__module__.startswith(("playhouse", "tent"))


@servers_only
def test_echo_shows_the_statements(config: Any, capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import sys
from tent.data import dbm
with dbm.open_session(dbm.connect({**__import__("servers").mapping(sys.argv[1]), "echo": True})) as session:
    session.execute("SELECT 42")
"""
    folder = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, config], check=True, cwd=folder)
    assert "SELECT 42" in capfd.readouterr().err


@servers_only
@pytest.mark.parametrize("value", ["joe", "Joe", "JOE ", "jóe", "🦊", "a'b\"c\\d%e`f", "% %s %%"])
def test_text_is_compared_by_its_characters_and_comes_back_as_it_was(engine: Any, value: str) -> None:
    with dbm.open_session(engine) as session:
        session.add_all([Person(name=value), Person(name=value.swapcase() + "x"), Person(name=value + "  ")])
        session.commit()
    with dbm.open_session(engine) as session:
        assert [person.name for person in session.query(Person).filter_by(name=value)] == [value]
        assert session.query(Person).where(Person.name.contains(value.swapcase())).count() == 3


@pytest.mark.databases("mariadb", "mysql")
def test_tables_are_utf8mb4_whatever_the_servers_default(engine: Any) -> None:
    sql = "SELECT DISTINCT table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"
    assert [name for (name,) in engine.execute_sql(sql)] == ["utf8mb4_nopad_bin"]


@pytest.mark.databases("mariadb", "mysql")
def test_a_key_0_is_a_key(engine: Any) -> None:
    with dbm.open_session(engine) as session:
        session.add(Person(id=0, name="zero"))
        session.commit()
        assert session.get_one(Person, 0).name == "zero"


@servers_only
def test_the_servers_own_types_are_used(engine: Any, database: str) -> None:
    class Typed(dbm.declarative_base()):  # type: ignore[misc]
        code = peewee.UUIDField()
        moment = peewee.DateTimeField()
        data = peewee.JSONField()
        number = peewee.FloatField()

    dbm.install_tables(engine, models=Typed)
    found = {column.name: column.data_type for column in engine.get_columns("typeds")}
    wanted = {
        "postgresql": ("uuid", "timestamp without time zone", "jsonb", "double precision"),
        "mariadb": ("uuid", "datetime", "longtext", "double"),
        "mysql": ("varchar", "datetime", "longtext", "double"),
    }
    assert tuple(found[name] for name in ("code", "moment", "data", "number")) == wanted[database]


@pytest.mark.databases("postgresql")
def test_times_with_a_zone_have_a_field_of_playhouses(engine: Any) -> None:
    import datetime

    from playhouse.postgres_ext import DateTimeTZField

    class Moment(dbm.declarative_base()):  # type: ignore[misc]
        at = DateTimeTZField()

    dbm.install_tables(engine, models=Moment)
    moments = [
        datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=hours)))
        for hours in (-3, 0, 5)
    ]
    with dbm.open_session(engine) as session:
        session.add_all([Moment(at=at) for at in moments])
        session.commit()
    with dbm.open_session(engine) as session, collected(engine):
        assert [moment.at for moment in session.query(Moment).order_by(Moment.id)] == moments
        assert session.query(Moment).where(Moment.at > moments[1]).one().at == moments[0]
