"""The README: its examples run, its commands work, and what it names is there."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import seed_users

from tent.data import dbm

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[tuple[int, str]]:
    """Return the code blocks of a language, each with the number of its first line."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(README.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]


def test_the_python_examples_run_in_order(tmp_path: Path) -> None:
    # In a process of their own: their models must not be among those of the other tests. Line numbers are the README's.
    program = ""
    for line, code in blocks("python"):
        program += "\n" * (line - 1 - program.count("\n")) + code
    program += """
with dbm.open_session(engine) as session:
    print([name for name, in session.query(User.name).order_by(User.id)])
"""
    (tmp_path / "README.py").write_text(program, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", "README.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert run.stderr == ""
    names = ["Joe Public", "Ann Lee-Okoye", "李雷", "José Ñuñez", "Kim Vu", "Ann Lee", "Zoé", "Max Frisch"]
    assert run.stdout == f"{names}\n"


def test_the_first_example_is_the_one_of_the_manual() -> None:
    assert blocks("python")[0][1] in inspect.cleandoc(str(dbm.__doc__)).replace("\n    ", "\n")


def test_there_are_two_commands_that_need_only_python() -> None:
    commands = [code.strip() for _, code in blocks("sh")]
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && ") and "\n" not in command for command in commands)
    assert commands[0].split(" && ")[-1] == ".venv/bin/python scripts/seed_users.py tent.db"
    assert commands[1].split(" && ")[-1] == ".venv/bin/python -m pytest"


def test_the_first_command_makes_a_database_with_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(blocks("sh")[0][1].partition("seed_users.py")[2])
    assert seed_users.main(arguments) == 0
    assert "tent.db has 1,000 in all" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bdbm\.(\w+)", README))))
def test_what_it_names_of_dbm_is_there(name: str) -> None:
    assert name in dbm.__all__


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bsession\.(\w+)", README))))
def test_what_it_names_of_a_session_is_there(name: str) -> None:
    assert hasattr(dbm.Session, name)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^):]+)\)", README))))
def test_the_files_that_it_links_to_are_there(link: str) -> None:
    assert (ROOT / link).is_file()
