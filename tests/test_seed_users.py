"""scripts/seed_users.py: what it writes, what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import seed_users
from conftest import collected

from tent.data import dbm
from tent.data.user import BASIC, CORE, Profile, User

SCRIPT = Path(seed_users.__file__)


pytestmark = pytest.mark.databases("file", "servers")  # one in memory would be gone with the run


@pytest.fixture
def target(config: Any) -> str:
    """What the script is called with: a path or a URL."""
    return config if isinstance(config, str) else str(config["path"])


@contextmanager
def connected(target: str) -> Iterator[Any]:
    engine = dbm.connect(seed_users.config_of(target))
    try:
        yield engine
    finally:
        engine.close_all()


def rows(target: str, table: str) -> list[Any]:
    with connected(target) as engine:
        return list(engine.execute_sql(f"SELECT * FROM {table} ORDER BY id"))


def seeded(target: str, count: int, *more: str) -> str:
    assert seed_users.main([target, "--count", str(count), *more]) == 0
    return target


def emptied(target: str) -> str:
    """Drop what is in the database, for another run from the start."""
    with connected(target) as engine:
        dbm.uninstall_tables(engine, models=[User, Profile])
    return target


def run_script(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(SCRIPT.parent.parent)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], env=environment, **pipes, **options)


def test_it_installs_the_tables(target: str) -> None:
    seeded(target, 30)
    assert [row[0] for row in rows(target, "users")] == list(range(1, 31))


def test_each_user_has_a_core_and_a_basic_profile(target: str) -> None:
    seeded(target, 30)
    with connected(target) as engine, dbm.open_session(engine) as session:
        assert session.query(Profile).filter_by(type=CORE).count() == 30
        user, profile = session.query(User, Profile).join(Profile).where(Profile.type == BASIC).first()
        assert profile.content["name"] == user.name
        assert profile.content["birthdate"] == user.birthdate.isoformat()


@pytest.mark.databases("file")
def test_the_file_is_sound(target: str) -> None:
    with connected(seeded(target, 50)) as engine:
        assert engine.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert engine.execute_sql("PRAGMA foreign_key_check").fetchall() == []


def test_users_differ_and_their_names_are_of_several_scripts(target: str) -> None:
    names = [row[2] for row in rows(seeded(target, 200), "users")]
    assert len(set(names)) > 190
    assert all(re.search(letters, "".join(names)) for letters in ("[a-z]", "[α-ω]", "[а-я]", "[一-龠]", "[가-힣]"))


def test_the_same_seed_gives_the_same_rows(target: str) -> None:
    seeded(target, 40, "--seed", "7")
    first = rows(target, "users"), rows(target, "profiles")
    seeded(emptied(target), 40, "--seed", "7")
    assert (rows(target, "users"), rows(target, "profiles")) == first


def test_another_seed_gives_other_users(target: str) -> None:
    first = rows(seeded(target, 40, "--seed", "7"), "users")
    second = rows(seeded(emptied(target), 40, "--seed", "8"), "users")
    assert len(first) == len(second) == 40
    assert not {row[1] for row in first} & {row[1] for row in second}


def test_another_run_goes_on_as_if_there_had_been_one(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    seeded(target, 25)
    seeded(target, 15)
    assert "Added 15 users" in capsys.readouterr().out
    in_two = rows(target, "users")
    assert in_two == rows(seeded(emptied(target), 40), "users")


def test_other_rows_of_the_database_stay(target: str) -> None:
    with connected(target) as engine:
        dbm.install_tables(engine, models=[User, Profile])
        with dbm.transaction(engine) as session:
            session.add(User("Joe Public"))
    users = rows(seeded(target, 3), "users")
    assert [row[0] for row in users] == [1, 2, 3, 4]
    assert users[0][1] == "http://localhost/joe.public"


def test_users_that_others_add_after_a_run_get_keys_of_their_own(target: str) -> None:
    seeded(target, 3)
    with connected(target) as engine, dbm.transaction(engine) as session:
        session.add(User("Joe Public"))
    assert [row[0] for row in rows(target, "users")] == [1, 2, 3, 4]


def test_it_commits_in_batches(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_users, "BATCH", 10)
    with connected(target) as engine:
        dbm.install_tables(engine, models=[User, Profile])
        with collected(engine) as ran:
            seed_users.seed(engine, 25, 1)
    assert ran.count("COMMIT") == 3
    assert len(rows(target, "users")) == 25


def test_several_runs_at_once_add_up(target: str) -> None:
    running = [run_script(target, "--count", "1500") for _ in range(3)]
    said = [process.communicate(timeout=300) for process in running]
    assert [(process.returncode, errors) for process, (_, errors) in zip(running, said)] == [(0, "")] * 3
    assert [row[0] for row in rows(target, "users")] == list(range(1, 4501))
    assert len(rows(target, "profiles")) == 9000


def test_it_shows_the_latest_users_and_says_how_many_and_how_long(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded(target, 9)
    lines = capsys.readouterr().out.splitlines()
    parts = urlsplit(target)
    place = f"{parts.path[1:]} at {parts.hostname}:{parts.port}" if parts.hostname else target
    assert re.fullmatch(rf"Added 9 users in \d+\.\d s; {re.escape(place)} has 9 in all\.", lines[-1])
    latest = rows(target, "users")[-seed_users.SHOWN :]
    assert [line.strip().split(",")[0] for line in lines[:-1]] == [row[2] for row in latest]


def test_no_progress_bar_is_drawn_where_there_is_no_terminal(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    seeded(target, 2)
    assert capsys.readouterr().err == ""


def test_no_users_are_fine(target: str) -> None:
    assert rows(seeded(target, 0), "users") == []


def test_an_interrupt_keeps_what_was_committed_and_says_what(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seed_users, "BATCH", 10)
    make_user = seed_users.make_user

    def make_25(lands: Any, seed: int, number: int) -> User:
        if number == 25:
            signal.raise_signal(signal.SIGINT)
        return make_user(lands, seed, number)

    monkeypatch.setattr(seed_users, "make_user", make_25)
    assert seed_users.main([target, "--count", "100"]) == 130
    assert re.search(r"Committed, and there to stay: 20 users in .* has 20 in all\.", capsys.readouterr().err)
    assert len(rows(target, "users")) == 20
    assert len(rows(target, "profiles")) == 40


def test_an_interrupted_run_and_another_one_give_the_same_users_as_one(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(seed_users, "BATCH", 10)
        patch.setattr(seed_users.tqdm, "update", lambda *_: signal.raise_signal(signal.SIGINT))
        assert seed_users.main([target, "--count", "30"]) == 130
    in_two = rows(seeded(target, 20), "users")
    assert in_two == rows(seeded(emptied(target), 30), "users")


def interrupted_once_written(add_users: Any, number: int) -> Any:
    """Return what adds users, and is interrupted when it has written that of a number."""

    def add(session: dbm.Session, *arguments: Any) -> None:
        add_users(session, *arguments)
        session.flush()
        if session.get(User, number) is not None:
            signal.raise_signal(signal.SIGINT)

    return add


def test_a_run_that_was_interrupted_in_a_batch_and_another_one_give_the_same_users_as_one(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rows of the batch are there when it is interrupted: a server does not give out their keys again.
    with monkeypatch.context() as patch:
        patch.setattr(seed_users, "BATCH", 10)
        patch.setattr(seed_users, "add_users", interrupted_once_written(seed_users.add_users, 15))
        assert seed_users.main([target, "--count", "30"]) == 130
    in_two = rows(seeded(target, 20), "users")
    assert [row[0] for row in in_two] == list(range(1, 31))
    assert in_two == rows(seeded(emptied(target), 30), "users")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "-1"], "--count: '-1' is not a number from 0 up"),
        (["--count", "many"], "--count: 'many' is not a number from 0 up"),
        (["--seed", "x"], "--seed: invalid int value: 'x'"),
        (["--sed", "1"], "unrecognized arguments: --sed"),
        (["a.db", "b.db"], "unrecognized arguments: b.db"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        seed_users.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing/a.db", "does not exist"), (".", "is a directory"), ("text.db", "is no SQLite database")],
)
def test_a_database_that_cannot_be_is_one_line_and_exit_code_1(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.db").write_text("This is a text, and long enough not to be taken for an empty database. " * 20)
    assert seed_users.main([str(tmp_path / name), "--count", "1"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://tent:sesame@127.0.0.1:1/tent", "can't be reached"),
        ("mariadb://tent:sesame@127.0.0.1:1/tent", "can't be reached"),
        ("oracle://tent:sesame@127.0.0.1/tent", "'oracle'"),
    ],
)
def test_a_url_that_cannot_be_is_one_line_without_its_password(
    url: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seed_users.main([url, "--count", "1"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "sesame" not in error
    assert error.count("\n") == 1


def test_a_table_of_another_program_is_one_line_and_exit_code_1(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with connected(target) as engine:
        engine.execute_sql("CREATE TABLE users (login TEXT)")
    assert seed_users.main([target, "--count", "1"]) == 1
    # SQLite makes an index on a column that there is not, and notices it later.
    what = "running .*" if engine.kind == "sqlite" else "installing users, the table of User"
    assert re.fullmatch(rf"seed_users\.py: .*column.* \(while {what}\)\n", capsys.readouterr().err)


def test_it_runs_as_a_script_where_the_output_has_few_letters(target: str) -> None:
    running = run_script(target, "--count", "20")
    out, errors = running.communicate(timeout=300)
    assert (running.returncode, errors) == (0, "")
    assert " has 20 in all" in out
    assert len(rows(target, "users")) == 20


def test_without_a_database_it_fills_a_file_of_this_directory(tmp_path: Path) -> None:
    running = run_script("--count", "20", cwd=tmp_path)
    out, errors = running.communicate(timeout=300)
    assert (running.returncode, errors) == (0, "")
    assert "tent.db has 20 in all" in out
    assert len(rows(str(tmp_path / "tent.db"), "users")) == 20
