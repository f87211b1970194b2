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


def program(page: Path) -> str:
    """Return the Python examples of a page as one program, with the page's own line numbers, from the second on."""
    text = page.read_text(encoding="utf-8")
    code = PREAMBLE
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(1)) + 1
        code += "\n" * (line - 1 - code.count("\n")) + match.group(1)
    return code


@pages
def test_the_python_examples_run_in_order(page: Path, tmp_path: Path) -> None:
    # In a process of their own: their models must not be among those of the other tests.
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", "-c", program(page)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert (run.stdout, run.stderr) == ("", "")


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
def test_the_files_that_it_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = {page.parent / link for link in re.findall(r"\]\(([^):]+)\)", text)}
    named = {ROOT / name for name in re.findall(r"\b(?:tests|scripts)/[\w/]+\.\w+", text)}
    assert all(path.is_file() for path in linked | named)
