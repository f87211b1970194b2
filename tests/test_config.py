"""connect(): what a config may be, what is refused and how, and how a database is set up by default."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import peewee
import pytest
from conftest import with_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from tent.data import dbm
from tent.data.orm.config import read_config

Connect = Callable[[Any], Any]

SERVER = {"driver": "postgresql", "database": "tent"}
MEMORY = {"driver": "sqlite", "path": ":memory:"}


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`dbm.connect`, whose engines are closed at the end."""
    engines = []

    def connect(config: Any) -> Any:
        engines.append(dbm.connect(config))
        return engines[-1]

    yield connect
    for engine in engines:
        engine.close_all()


def refusal(config: Any) -> dbm.DBConfigurationException:
    with pytest.raises(dbm.DBConfigurationException) as caught:
        dbm.connect(config)
    return caught.value


def pragma(engine: Any, name: str) -> Any:
    return engine.execute_sql(f"PRAGMA {name}").fetchone()[0]


# What works


def test_a_mapping_gives_an_sqlite_database(connect: Connect) -> None:
    engine = connect(MEMORY)
    assert isinstance(engine, peewee.SqliteDatabase)
    assert engine.execute_sql("SELECT 1").fetchone() == (1,)


def test_a_path_object_is_a_path(connect: Connect, tmp_path: Path) -> None:
    engine = connect({"driver": "sqlite", "path": tmp_path / "a.db"})
    assert engine.database == str(tmp_path / "a.db")


def test_a_path_is_that_of_the_time_of_connecting(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = connect({"driver": "sqlite", "path": "a.db"})
    monkeypatch.chdir("/")
    assert engine.database == str(tmp_path / "a.db")


def test_the_file_is_made_when_it_is_missing(connect: Connect, tmp_path: Path) -> None:
    connect({"driver": "sqlite", "path": tmp_path / "new.db"})
    assert (tmp_path / "new.db").exists()


@pytest.mark.parametrize("name", ["with space.db", "José.db", "o'brien.db", "a%b.db", "a?b.db", "a#b.db", "🦊.db"])
def test_a_file_may_have_any_name(connect: Connect, tmp_path: Path, name: str) -> None:
    connect({"driver": "sqlite", "path": str(tmp_path / name)})
    assert (tmp_path / name).read_bytes().startswith(b"SQLite format 3")


def test_a_name_that_looks_like_an_sqlite_uri_is_a_name(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    connect({"driver": "sqlite", "path": "file:x?mode=memory"})
    assert (tmp_path / "file:x?mode=memory").exists()


def test_a_url_with_three_slashes_has_a_relative_path(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert connect("sqlite:///tent.db").database == str(tmp_path / "tent.db")


def test_a_url_with_four_slashes_has_an_absolute_path(connect: Connect, tmp_path: Path) -> None:
    assert connect(f"sqlite:///{tmp_path}/tent.db").database == str(tmp_path / "tent.db")


def test_a_url_can_name_the_database_in_memory(connect: Connect) -> None:
    assert connect("sqlite:///:memory:").database == ":memory:"


def test_the_path_of_a_url_is_unquoted(connect: Connect, tmp_path: Path) -> None:
    assert connect(f"sqlite:///{tmp_path}/caf%C3%A9%20%23%3F.db").database == str(tmp_path / "café #?.db")


def test_the_query_of_a_url_has_the_other_keys(connect: Connect, tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/a.db?timeout=2.5&pragma_cache_size=-100&pragma_synchronous=off")
    assert engine.timeout == 2.5
    assert (pragma(engine, "cache_size"), pragma(engine, "synchronous")) == (-100, 0)


def test_a_config_is_left_as_it_is(connect: Connect) -> None:
    config = {"driver": "sqlite", "path": ":memory:", "pragmas": {"cache_size": 10}}
    connect(config)
    assert config == {"driver": "sqlite", "path": ":memory:", "pragmas": {"cache_size": 10}}


# Defaults and settings


def test_a_file_has_foreign_keys_wal_a_busy_timeout_and_full_durability(connect: Connect, tmp_path: Path) -> None:
    engine = connect({"driver": "sqlite", "path": tmp_path / "a.db"})
    assert pragma(engine, "foreign_keys") == 1
    assert pragma(engine, "journal_mode") == "wal"
    assert pragma(engine, "busy_timeout") == 5000
    assert pragma(engine, "synchronous") == 2


def test_the_defaults_hold_on_the_connection_of_a_session_too(connect: Connect, tmp_path: Path) -> None:
    engine = connect({"driver": "sqlite", "path": tmp_path / "a.db", "timeout": 3})
    with dbm.open_session(engine) as session:
        found = [session.scalar(f"PRAGMA {name}") for name in ("foreign_keys", "busy_timeout", "synchronous")]
    assert found == [1, 3000, 2]


def test_memory_has_foreign_keys(connect: Connect) -> None:
    assert pragma(connect(MEMORY), "foreign_keys") == 1


def test_pragmas_go_before_the_defaults(connect: Connect, tmp_path: Path) -> None:
    pragmas = {"foreign_keys": 0, "journal_mode": "delete", "synchronous": "normal"}
    engine = connect({"driver": "sqlite", "path": tmp_path / "a.db", "pragmas": pragmas})
    assert [pragma(engine, name) for name in pragmas] == [0, "delete", 1]


def test_pragmas_are_named_in_any_case(connect: Connect, tmp_path: Path) -> None:
    engine = connect({"driver": "sqlite", "path": tmp_path / "a.db", "pragmas": {"FOREIGN_KEYS": False}})
    assert pragma(engine, "foreign_keys") == 0


def test_the_timeout_is_in_seconds(connect: Connect) -> None:
    assert pragma(connect({**MEMORY, "timeout": 0.25}), "busy_timeout") == 250


def test_echo_logs_every_statement(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    engine = connect({**MEMORY, "echo": True})
    with caplog.at_level(logging.INFO, logger="tent.data.sql"):
        engine.execute_sql("SELECT ?", ["shown"])
    assert any("SELECT ?" in line and "shown" in line for line in caplog.messages)


def test_without_echo_nothing_is_logged(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    engine = connect(MEMORY)
    with caplog.at_level(logging.INFO, logger="tent.data.sql"):
        engine.execute_sql("SELECT 1")
    assert caplog.messages == []


def test_echo_is_visible_in_a_program_that_has_set_up_no_logging() -> None:
    program = (
        "from tent.data import dbm\n"
        "engine = dbm.connect({'driver': 'sqlite', 'path': ':memory:', 'echo': True})\n"
        "engine.execute_sql('SELECT 4711')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "SELECT 4711" in ran.stderr


def test_repr_says_what_the_engine_is(connect: Connect, tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    assert repr(connect({"driver": "sqlite", "path": path})) == f"<SqliteEngine sqlite {path!r}>"
    assert repr(connect(MEMORY)) == "<MemoryEngine sqlite ':memory:'>"


# What is refused, with a sentence that helps


def test_a_refusal_is_a_value_error_and_an_error_of_the_library() -> None:
    assert issubclass(dbm.DBConfigurationException, ValueError)
    assert issubclass(dbm.DBConfigurationException, dbm.DataLayerError)


@pytest.mark.parametrize("config", [None, 3, [], b"sqlite:///a.db", object()])
def test_a_config_of_the_wrong_type_is_named_with_the_right_ones(config: Any) -> None:
    message = str(refusal(config))
    assert type(config).__name__ in message
    assert "'sqlite:///tent.db'" in message


@pytest.mark.parametrize("config", [{}, {"path": ":memory:"}, {"driver": None, "path": ":memory:"}])
def test_a_config_without_a_driver_is_told_to_add_one(config: Any) -> None:
    assert "no 'driver'" in str(refusal(config))


@pytest.mark.parametrize("driver", ["sqlit", "oracle", "SQLite", "", 3, ["sqlite"]])
def test_an_unknown_driver_is_named_with_the_known_ones(driver: Any) -> None:
    message = str(refusal({"driver": driver, "path": "a.db"}))
    assert repr(driver) in message
    assert "known: 'cockroachdb', 'mariadb', 'mysql', 'postgresql', 'sqlite'" in message


def test_a_misspelt_driver_gets_the_nearest_one() -> None:
    assert "did you mean 'sqlite'?" in str(refusal({"driver": "sqlit", "path": "a.db"}))


@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql+psycopg2", "sqlite+pysqlite"])
def test_the_scheme_of_sqlalchemys_urls_is_refused_with_ours(scheme: str) -> None:
    assert f"did you mean '{scheme.partition('+')[0]}'?" in str(refusal(f"{scheme}://tent:s3cret@db1/tent"))


def test_a_database_in_memory_takes_three_slashes_and_says_so() -> None:
    assert "'sqlite:///:memory:'" in str(refusal("sqlite://:memory:"))


@pytest.mark.parametrize("url", ["oracle:///a", "oracle://host/a", "oracle://joe:secret@host:1521/a"])
def test_a_url_of_an_unknown_driver_is_refused_as_such(url: str) -> None:
    message = str(refusal(url))
    assert "Unknown driver 'oracle'" in message
    assert "known:" in message


@pytest.mark.parametrize("config", [{"driver": "sqlite"}, {**MEMORY, "path": None}, {**MEMORY, "path": ""}])
def test_a_config_without_a_path_is_told_to_give_one(config: Any) -> None:
    assert "no 'path'" in str(refusal(config))


@pytest.mark.parametrize("path", [3, b"a.db", ["a.db"]])
def test_a_path_of_the_wrong_type_is_refused(path: Any) -> None:
    assert "'path' must be a string or a path" in str(refusal({**MEMORY, "path": path}))


@pytest.mark.parametrize("path", ["a\0b.db", "a\ud800b.db"])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    assert "'path'" in str(refusal({**MEMORY, "path": path}))


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    message = str(refusal({**MEMORY, "timout": 3}))
    assert "'timout'" in message
    assert "did you mean 'timeout'?" in message


@pytest.mark.parametrize("config", [{"driver": 10**5_000}, {**MEMORY, 10**5_000: 1}], ids=["driver", "key"])
def test_a_number_that_python_does_not_show_is_refused(config: Any) -> None:
    assert "<int object at" in str(refusal(config))


def test_an_unknown_key_in_a_url_is_named_with_the_nearest_one() -> None:
    assert "did you mean 'timeout'?" in str(refusal("sqlite:///:memory:?timout=3"))


def test_an_unknown_key_that_is_near_to_none_is_answered_with_all() -> None:
    message = str(refusal({**MEMORY, "xyzzy": 3}))
    assert all(key in message for key in ("echo", "path", "pragmas", "timeout"))


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    message = str(refusal({**MEMORY, "path": tmp_path / "no" / "a.db"}))
    assert f"directory {str(tmp_path / 'no')!r} does not exist" in message


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "does not exist" in str(refusal({**MEMORY, "path": tmp_path / "file" / "a.db"}))


def test_a_path_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in str(refusal({**MEMORY, "path": tmp_path}))


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear database, …\n" * 100, encoding="utf-8")
    assert "no SQLite database" in str(refusal({**MEMORY, "path": path}))
    assert path.read_text(encoding="utf-8") == "Dear database, …\n" * 100


@pytest.mark.parametrize("timeout", [-1, "5", float("nan"), float("inf"), True, pytest.param(10**400, id="huge")])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    assert "'timeout' must be a number of seconds" in str(refusal({**MEMORY, "timeout": timeout}))


def test_an_echo_that_is_no_bool_is_refused() -> None:
    assert "'echo' must be True or False" in str(refusal({**MEMORY, "echo": "loud"}))


@pytest.mark.parametrize("pragmas", [3, "cache_size=1", [("cache_size", 1)]])
def test_pragmas_that_are_no_mapping_are_refused(pragmas: Any) -> None:
    assert "'pragmas' must be a mapping" in str(refusal({**MEMORY, "pragmas": pragmas}))


@pytest.mark.parametrize("pragmas", [{"x; DROP TABLE users": 1}, {"": 1}, {3: 1}])
def test_a_pragma_whose_name_is_none_is_refused(pragmas: Any) -> None:
    assert "is no name of a pragma" in str(refusal({**MEMORY, "pragmas": pragmas}))


@pytest.mark.parametrize("value", ["1; DROP TABLE users", None, "", [1]])
def test_a_pragma_whose_value_is_no_number_or_word_is_refused(value: Any) -> None:
    assert "The pragma 'cache_size' must be" in str(refusal({**MEMORY, "pragmas": {"cache_size": value}}))


def test_a_pragma_whose_number_is_too_long_for_a_statement_is_refused() -> None:
    assert refusal({**MEMORY, "pragmas": {"cache_size": 10**5000}})


def test_a_string_that_is_no_url_is_shown_a_url() -> None:
    message = str(refusal("tent.db"))
    assert "'tent.db' is no database URL" in message
    assert "'sqlite:///tent.db'" in message


def test_a_url_with_two_slashes_is_told_to_take_three() -> None:
    assert "three slashes" in str(refusal("sqlite://tent.db"))


def test_a_url_with_a_fragment_does_not_open_another_file(tmp_path: Path) -> None:
    # urlparse() cuts off what follows a "#"; a database file of the name before it would be the wrong one.
    refusal(f"sqlite:///{tmp_path}/a#b.db")
    assert list(tmp_path.iterdir()) == []


# Permissions: root is refused nothing, so the tests of it run in a process of a plain user


def as_plain_user(path: Path) -> str:
    """Return what connecting to a path prints in a process that is not root's."""
    program = (
        "import os, sys\n"
        "from tent.data import dbm\n"
        "if os.getuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    print(dbm.connect({'driver': 'sqlite', 'path': sys.argv[1]}))\n"
        "except dbm.DBConfigurationException as error:\n"
        "    print('refused:', error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    return ran.stdout


@pytest.fixture
def their_file() -> Iterator[Path]:
    """A database of a plain user's, in a folder that it can reach: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dbm.connect({"driver": "sqlite", "path": folder / "a.db"}).close_all()
        if os.getuid() == 0:
            for made in (folder, *folder.iterdir()):
                os.chown(made, 65534, 65534)
        yield folder / "a.db"


def test_a_plain_user_can_open_a_file_of_its_own(their_file: Path) -> None:
    assert "a.db" in as_plain_user(their_file)


def test_a_file_without_permission_is_refused(their_file: Path) -> None:
    their_file.chmod(0)
    said = as_plain_user(their_file)
    assert said.startswith("refused:")
    assert str(their_file) in said
    assert "permission" in said


def test_a_new_file_in_a_directory_without_permission_is_refused(their_file: Path) -> None:
    their_file.parent.chmod(0o555)
    said = as_plain_user(their_file.parent / "new.db")
    their_file.parent.chmod(0o755)
    assert said.startswith("refused:")
    assert "permission" in said


# Secrets


def test_the_exception_has_the_config() -> None:
    config = {"driver": "sqlit", "path": "a.db"}
    assert refusal(config).config == config


@pytest.mark.parametrize("key", ["password", "passwd", "Password", "passphrase", "secret", "auth_token"])
def test_a_secret_of_a_mapping_is_masked(key: str) -> None:
    error = refusal({**MEMORY, key: "hunter2"})
    assert error.config == {**MEMORY, key: "***"}
    assert "hunter2" not in str(error)


def test_a_secret_is_masked_in_a_mapping_within_the_mapping() -> None:
    error = refusal({**MEMORY, "pragmas": {"password": "hunter2", "cache size": 1}})
    assert error.config == {**MEMORY, "pragmas": {"password": "***", "cache size": 1}}


@pytest.mark.parametrize(
    "url",
    [
        "oracle://joe:hunter2@host/a",
        "oracle://joe:hunt@hunter2@host/a",
        "oracle://:hunter2@host/a",
        "sqlite:///a.db?password=hunter2",
        "sqlite:///a.db?timeout=2&passwd=hunter2",
        "sqlite://joe:hunter2@[::1/a",
        "postgresql://joe:[hunter2]@127.0.0.1:1/a",
        "postgresql://joe:hunter2\N{ACCOUNT OF}@127.0.0.1:1/a",  # NFKC makes a "/" of it
        "postgresql://joe:hunter2\t@host/a",
        "postgresql://joe:hunter2/@host/a",
        "postgresql://jo/e:hunter2@host/a",
        "postgresql://joe:hunter2%40host/a",
        "postgresql://joe:hunter2@h,x%2Cy/a",
        "postgresql://joe%3Ahunter2@host:x/a",
        "postgresql://joe:hunter2",
        "postgresql://joe:hunter2/a",
        "postgresql:joe:hunter2@host/a",
        "postgresql//joe:hunter2@host/a",
        "joe:hunter2@host/a",
        "mariadb://host/a?pwd=hunter2&echo=loud",
        "mariadb://host/a?password=hunter2",
    ],
)
def test_a_secret_of_a_url_is_masked(url: str) -> None:
    error = refusal(url)
    assert "hunter2" not in f"{error} {error.config} {error!r} {error.args}"
    assert "***" in error.config


def test_masking_leaves_the_config_of_the_program_as_it_is() -> None:
    config = {**MEMORY, "password": "hunter2"}
    refusal(config)
    assert config["password"] == "hunter2"


# Servers


def settings_of(config: Any) -> dict[str, Any]:
    return dict(read_config(config))


@pytest.mark.parametrize(
    ("place", "hosts"),
    [
        ("", [("", 5432)]),
        ("db1", [("db1", 5432)]),
        ("db1:5433", [("db1", 5433)]),
        ("db1:", [("db1", 5432)]),
        ("[::1]", [("::1", 5432)]),
        ("[::1]:5433", [("::1", 5433)]),
        ("db1,db2:5433,[fe80::1]:5434", [("db1", 5432), ("db2", 5433), ("fe80::1", 5434)]),
        ("%2Fvar%2Frun", [("/var/run", 5432)]),
    ],
)
def test_a_url_has_one_host_or_several(place: str, hosts: Any) -> None:
    assert settings_of(f"postgresql://joe@{place}/tent")["hosts"] == hosts


@pytest.mark.parametrize("password", ["a:b@c", "[::1]", "%2F%3F%23%25", "\N{ACCOUNT OF}", "%E6%9D%8E", "a=b&c,d", " "])
def test_a_password_of_a_url_is_unquoted_and_nothing_else(password: str) -> None:
    assert settings_of(f"mariadb://joe:{password}@db1/tent")["password"] == unquote(password)


@pytest.mark.parametrize("host", ["db1:x", "db1:0", "db1:65536", "db1:" + "9" * 5000, "[::1]:x"])
def test_a_port_that_is_none_is_refused(host: str) -> None:
    assert "'host' has a port that is no number" in str(refusal({**SERVER, "host": host}))


@pytest.mark.parametrize("host", ["a/b", "[::1", "[::1]x", "[]", "a?b", ["a,b"], "a\x7f b", "", [""]])
def test_a_host_that_is_none_is_refused(host: Any) -> None:
    assert "'host'" in str(refusal({**SERVER, "host": host}))


def test_a_socket_of_mariadb_is_an_option() -> None:
    assert "'options': {'unix_socket': '/run/db.sock'}" in str(
        refusal({**SERVER, "driver": "mariadb", "host": "/run/db.sock"})
    )


@pytest.mark.parametrize("key", ["host", "user", "password"])
def test_what_stands_before_the_question_mark_is_refused_behind_it(key: str) -> None:
    assert f"has the key {key!r} behind its '?'" in str(refusal(f"postgresql://db1/tent?{key}=x"))


@pytest.mark.parametrize("option", ["host", "autocommit", "charset", "client_flag", "row_factory"])
def test_an_option_that_is_the_librarys_is_refused(option: str) -> None:
    assert f"'options' can't have {option!r}" in str(refusal({**SERVER, "options": {option: "x"}}))


def test_options_of_libpq_go_through_a_url() -> None:
    assert settings_of("postgresql:///tent?options=-c%20a%3Db")["options"] == {"options": "-c a=b"}


@pytest.mark.databases("servers")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pool_sise": 3}, "did you mean 'pool_size'?"),
        ({"max_connections": 3}, "'options' above all"),
        ({"connect_timeout": "soon"}, "'options' above all"),
        ({"ssl_ca": "/no/such/file", "ssl_disabled": False}, "'options' above all"),
        ({"sslmode": "perhaps"}, "'options' above all"),
    ],
)
def test_an_option_that_the_driver_can_not_use_is_refused(config: Any, options: Any, reason: str) -> None:
    assert reason in str(refusal(with_settings(config, options)))


@pytest.mark.databases("servers")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": "wrong"}, "refuses the user"),
        ({"user": "nobody at all"}, "refuses the user"),
        ({"database": "no_such_database"}, "'database'"),
        ({"host": "127.0.0.1:1"}, "can't be reached"),
        ({"host": "no.such.host.invalid"}, "can't be reached"),
    ],
)
def test_a_server_that_says_no_is_told_with_the_remedy(config: Any, change: Any, reason: str) -> None:
    error = refusal(with_settings(config, **change))
    assert reason in str(error)


# Whatever the config is, nothing else is raised

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
texts = st.text(st.characters(exclude_characters="/"), max_size=20)  # surrogates included; no path out of the folder


def opens_or_is_refused(config: Any) -> bool:
    try:
        dbm.connect(config).close_all()
    except dbm.DBConfigurationException:
        return False
    return True


@given(config=anything)
@settings(max_examples=100)
def test_any_object_as_a_config_raises_nothing_else(config: Any) -> None:
    assert opens_or_is_refused(config) is False  # none has a driver


@given(
    options=st.dictionaries(
        st.sampled_from(["echo", "timeout", "pragmas", "driver", "path"]) | st.text(), anything, max_size=4
    )
)
@settings(max_examples=200)
def test_any_values_of_the_known_keys_raise_nothing_else(options: dict[str, Any]) -> None:
    if not isinstance(options.get("path", ""), str) or options.get("driver", "sqlite") != "sqlite":
        assert opens_or_is_refused({**MEMORY, **options}) is False
    else:
        opens_or_is_refused({**MEMORY, **options, "echo": options.get("echo") or None, "path": ":memory:"})


@given(name=st.sampled_from(["cache_size", "foreign_keys", "journal_mode"]) | st.text(max_size=9), value=anything)
@settings(max_examples=200)
def test_any_pragma_raises_nothing_else(name: str, value: Any) -> None:
    opens_or_is_refused({**MEMORY, "pragmas": {name: value}})


@given(url=texts | texts.map("sqlite://{}".format) | texts.map("sqlite:///:memory:{}".format))
@settings(max_examples=200)
def test_any_url_raises_nothing_else(url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = os.getcwd()
    os.chdir(tmp_path_factory.getbasetemp())
    try:
        opens_or_is_refused(url)
    finally:
        os.chdir(before)


@given(name=texts)
@settings(max_examples=200)
def test_any_path_raises_nothing_else(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    opens_or_is_refused({**MEMORY, "path": os.path.join(tmp_path_factory.getbasetemp(), name)})
