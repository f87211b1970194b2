"""scripts/seed_users.py: what it writes, what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import seed_users

from tent.data import dbm
from tent.data.user import BASIC, CORE, Profile, User

SCRIPT = Path(seed_users.__file__)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[dbm.Engine]:
    """The engine of a.db, with tables."""
    engine = dbm.connect({"driver": "sqlite", "path": tmp_path / "a.db"})
    dbm.install_tables(engine, models=[User, Profile])
    yield engine
    engine.close_all()


def rows(database: Path, table: str) -> list[Any]:
    with sqlite3.connect(database) as connection:
        found = connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
    connection.close()
    return found


def seeded(database: Path, count: int, *more: str) -> Path:
    assert seed_users.main([str(database), "--count", str(count), *more]) == 0
    return database


def test_it_installs_the_tables(tmp_path: Path) -> None:
    database = seeded(tmp_path / "new.db", 30)
    assert [row[0] for row in rows(database, "users")] == list(range(1, 31))


def test_each_user_has_a_core_and_a_basic_profile(engine: dbm.Engine, tmp_path: Path) -> None:
    seeded(tmp_path / "a.db", 30)
    with dbm.open_session(engine) as session:
        assert session.query(Profile).filter_by(type=CORE).count() == 30
        user, profile = session.query(User, Profile).join(Profile).where(Profile.type == BASIC).first()
        assert profile.content["name"] == user.name
        assert profile.content["birthdate"] == user.birthdate.isoformat()


def test_the_database_is_sound(tmp_path: Path) -> None:
    connection = sqlite3.connect(seeded(tmp_path / "a.db", 50))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def test_users_differ_and_their_names_are_of_several_scripts(tmp_path: Path) -> None:
    users = rows(seeded(tmp_path / "a.db", 200), "users")
    names = [row[2] for row in users]
    assert len(set(names)) > 190
    assert all(re.search(letters, "".join(names)) for letters in ("[a-z]", "[α-ω]", "[а-я]", "[一-龠]", "[가-힣]"))


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    first, second = seeded(tmp_path / "a.db", 40, "--seed", "7"), seeded(tmp_path / "b.db", 40, "--seed", "7")
    assert rows(first, "users") == rows(second, "users")
    assert rows(first, "profiles") == rows(second, "profiles")


def test_another_seed_gives_other_users(tmp_path: Path) -> None:
    first, second = seeded(tmp_path / "a.db", 40, "--seed", "7"), seeded(tmp_path / "b.db", 40, "--seed", "8")
    assert not {row[1] for row in rows(first, "users")} & {row[1] for row in rows(second, "users")}


def test_another_run_goes_on_as_if_there_had_been_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeded(tmp_path / "a.db", 25)
    in_two = seeded(tmp_path / "a.db", 15)
    assert "Added 15 users" in capsys.readouterr().out
    assert rows(in_two, "users") == rows(seeded(tmp_path / "b.db", 40), "users")


def test_other_rows_of_the_database_stay(engine: dbm.Engine, tmp_path: Path) -> None:
    with dbm.transaction(engine) as session:
        session.add(User("Joe Public"))
    users = rows(seeded(tmp_path / "a.db", 3), "users")
    assert [row[0] for row in users] == [1, 2, 3, 4]
    assert users[0][1] == "http://localhost/joe.public"


def test_it_commits_in_batches(engine: dbm.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_users, "BATCH", 10)
    ran: list[str] = []
    engine.query_hooks.append(lambda event: ran.append(event.sql))
    seed_users.seed(engine, 25, 1)
    assert ran.count("COMMIT") == 3
    assert len(rows(tmp_path / "a.db", "users")) == 25


def test_it_shows_the_latest_users_and_says_how_many_and_how_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = seeded(tmp_path / "a.db", 9)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"Added 9 users in \d+\.\d s; {re.escape(str(database))} has 9 in all\.", lines[-1])
    latest = rows(database, "users")[-seed_users.SHOWN :]
    assert [line.strip().split(",")[0] for line in lines[:-1]] == [row[2] for row in latest]


def test_no_progress_bar_is_drawn_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeded(tmp_path / "a.db", 2)
    assert capsys.readouterr().err == ""


def test_no_users_are_fine(tmp_path: Path) -> None:
    assert rows(seeded(tmp_path / "a.db", 0), "users") == []


def test_an_interrupt_keeps_what_was_committed_and_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seed_users, "BATCH", 10)
    make_user = seed_users.make_user

    def make_25(lands: Any, seed: int, number: int) -> User:
        if number == 25:
            signal.raise_signal(signal.SIGINT)
        return make_user(lands, seed, number)

    monkeypatch.setattr(seed_users, "make_user", make_25)
    assert seed_users.main([str(tmp_path / "a.db"), "--count", "100"]) == 130
    assert re.search(r"Committed, and there to stay: 20 users in .* has 20 in all\.", capsys.readouterr().err)
    assert len(rows(tmp_path / "a.db", "users")) == 20
    assert len(rows(tmp_path / "a.db", "profiles")) == 40


def test_an_interrupted_run_and_another_one_give_the_same_users_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(seed_users, "BATCH", 10)
        patch.setattr(seed_users.tqdm, "update", lambda *_: signal.raise_signal(signal.SIGINT))
        assert seed_users.main([str(tmp_path / "a.db"), "--count", "30"]) == 130
    seeded(tmp_path / "a.db", 20)
    assert rows(tmp_path / "a.db", "users") == rows(seeded(tmp_path / "b.db", 30), "users")


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


def test_a_table_of_another_program_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE users (login TEXT)")
    connection.close()
    assert seed_users.main([str(tmp_path / "a.db"), "--count", "1"]) == 1
    assert re.fullmatch(r"seed_users\.py: .*no such column.*\n", capsys.readouterr().err)


def test_it_runs_as_a_script_where_the_output_has_few_letters(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--count", "20"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(SCRIPT.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "tent.db has 20 in all" in run.stdout
    assert len(rows(tmp_path / "tent.db", "users")) == 20
