"""The pages of docs: their Python examples run in order, their configs can be read, and what they name is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tent.data import dbm

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# The servers that a page speaks of are not there: a config is read, and SQLite does the work.
PREAMBLE = (
    "from tent.data import dbm; from tent.data.orm.config import read_config; connect = dbm.connect; "
    'dbm.connect = lambda config: (read_config(config), connect("sqlite:///:memory:"))[1]'
)


def examples(page: Path) -> list[tuple[int, str | None, str]]:
    """Return the Python examples of a page: the first line of each, the file that this line names, and the code."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n((?:# (\w+\.py)\n)?.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(2), match.group(1)) for match in found]


def program(page: Path) -> str:
    """Return the examples that are no files as one program, with the page's own line numbers, from the second on."""
    code = PREAMBLE
    for line, file, example in examples(page):
        if file is None:
            code += "\n" * (line - 1 - code.count("\n")) + example
    return code


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the examples that are files, with the page's own line numbers, and return their names."""
    files = {file: "\n" * (line - 1) + example for line, file, example in examples(page) if file is not None}
    for file, code in files.items():
        (folder / file).write_text(code, encoding="utf-8")
    return list(files)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # In a process of their own: their models must not be among those of the other tests.
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )


@pages
def test_the_python_examples_run_in_order(page: Path, tmp_path: Path) -> None:
    write_files(page, tmp_path)
    done = run(tmp_path, "-c", program(page))
    assert (done.stdout, done.stderr) == ("", "")


@pages
def test_the_tests_among_the_examples_pass(page: Path, tmp_path: Path) -> None:
    tests = [name for name in write_files(page, tmp_path) if name.startswith("test_")]
    if tests:
        done = run(tmp_path, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *tests)
        assert done.returncode == 0, done.stdout


@pages
def test_each_config_can_be_read(page: Path) -> None:
    code = program(page)
    configs = re.findall(r"^config = \{$.*?^\}$", code, re.MULTILINE | re.DOTALL)
    checks = "".join(f"\n{config}\nread_config(config)" for config in configs)
    exec(f"from tent.data.orm.config import read_config{checks}", {})


@pages
def test_what_it_names_of_dbm_is_there(page: Path) -> None:
    named = set(re.findall(r"\bdbm\.(\w+)", page.read_text(encoding="utf-8")))
    assert named <= set(dbm.__all__)


@pages
def test_what_it_names_of_a_session_is_there(page: Path) -> None:
    named = re.findall(r"\bsession\.(\w+)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not hasattr(dbm.Session, name) and name not in ("engine", "remove")] == []


@pytest.mark.parametrize(
    ("what", "kind"), [("a session", dbm.Session), ("a query", dbm.Query), ("a result", dbm.Result)]
)
def test_the_verbs_that_are_said_to_be_those_of_sqlalchemy_are_there(what: str, kind: type) -> None:
    page = (ROOT / "docs/sqlalchemy.md").read_text(encoding="utf-8")
    listed = re.search(rf"^- of {what}: (.*?)[;.]$", page, re.MULTILINE | re.DOTALL)
    assert listed is not None
    names = re.findall(r"`(\w+)`", listed.group(1))
    assert names and [name for name in names if not hasattr(kind, name)] == []


@pages
def test_the_files_that_it_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = {page.parent / link for link in re.findall(r"\]\(([^):]+)\)", text)}
    named = {ROOT / name for name in re.findall(r"\b(?:tests|scripts)/[\w/]+\.\w+", text)}
    assert all(path.is_file() for path in linked | named)
