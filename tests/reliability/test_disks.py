"""A disk that is full, a file or directory that can't be written: a clear error, nothing half done, and on it goes.

Each trial runs in a process of its own, as limits and users are a process's. Root is refused nothing, so where it is
about permissions, the process becomes a plain user's.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from conftest import Model as Models
from conftest import Note, Person

from tent.data import dbm

resource: Any = pytest.importorskip("resource")  # where there is none, there are no permissions of this kind either

PAGE = 4096
MODES = ["wal", "delete"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a plain user owns and can reach: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        if os.getuid() == 0:
            os.chown(name, 65534, 65534)
        yield Path(name)


def in_a_process(trial: Callable[..., Any], *arguments: str | int | Path) -> str:
    """Return what a trial prints in a process of its own, which is not root's."""
    code = (
        "import os, sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}\n"
        "import test_disks\n"
        "if os.getuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"test_disks.{trial.__name__}(*sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Session:
    """A session that has committed something, and what it wants to be there."""

    def __init__(self, path: str, mode: str, **pragmas: Any) -> None:
        self.path = path
        self.engine = dbm.connect({"driver": "sqlite", "path": path, "pragmas": {"journal_mode": mode, **pragmas}})
        dbm.install_tables(self.engine, models=Models)
        self.session = dbm.open_session(self.engine)
        self.kept, self.gone = Person(name="kept"), Person(name="gone")
        self.session.add_all([self.kept, self.gone])
        self.session.commit()

    def change(self, flushed: bool, notes: int = 0) -> None:
        """Insert, update and delete, with some of it flushed before; each note takes more than a page."""
        self.kept.name = "changed"
        self.session.delete(self.gone)
        if flushed:
            self.session.flush()
        new = Person(name="new")
        self.session.add_all([new, *(Note(person=new, text="x" * PAGE) for _ in range(notes))])

    def rows(self) -> list[str]:
        """Return what another program finds."""
        other = sqlite3.connect(self.path)
        try:
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return [name for (name,) in other.execute("SELECT name FROM people ORDER BY id")]
        finally:
            other.close()

    def check_nothing_done(self, notes: int = 0) -> None:
        """Check that rows and objects are as before the commit, and nothing is left open."""
        session = self.session
        assert self.rows() == ["kept", "gone"]
        assert ({type(new) for new in session.new}, len(session.new)) == (
            {Person, Note} if notes else {Person},
            1 + notes,
        )
        assert (session.dirty, session.deleted) == ([self.kept], [self.gone])
        assert not session.in_transaction()
        assert not self.engine._in_use
        assert self.engine._turn._current is None  # else nobody else could write

    def check_commit(self, notes: int = 0) -> None:
        """Check that the same commit succeeds now."""
        self.session.commit()
        assert self.rows() == ["changed", "new"]
        assert self.session.query(Note).count() == notes


def refused(call: Callable[[], Any]) -> str | None:
    """Return what the database says against a call, or None."""
    try:
        call()
    except peewee.OperationalError as error:
        return str(error)
    return None


# A full disk


def fill(folder: str, mode: str, most: str) -> None:
    """Let files grow by so many pages and no more, from none up to what a commit takes; print how often it failed."""
    failures = 0
    for pages in range(int(most)):
        one = Session(os.path.join(folder, f"{pages}.db"), mode)
        flushed = pages % 2 == 1
        one.change(flushed, notes=8)
        size = max(path.stat().st_size for path in Path(folder).glob(f"{pages}.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + pages * PAGE, resource.RLIM_INFINITY))
        said = refused(one.session.commit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if said is None:
            assert one.rows() == ["changed", "new"]
        else:
            assert "disk I/O error" in said or "disk is full" in said, said
            failures += 1
            one.check_nothing_done(notes=8)
            one.check_commit(notes=8)
        one.session.close()
        one.engine.close_all()
    print(failures)


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_that_is_full_stops_a_commit_and_harms_nothing(
    folder: Path, mode: str, is_long: bool, report: Callable[..., None]
) -> None:
    most = 80 if is_long else 30
    failures = int(in_a_process(fill, folder, mode, most))
    assert 0 < failures < most
    report(limits=most, failed_commits=failures)


@pytest.mark.parametrize("flushed", [False, True], ids=["new", "flushed"])
@pytest.mark.parametrize("mode", MODES)
def test_a_database_that_is_full_takes_the_same_commit_when_rows_were_deleted(
    folder: Path, mode: str, flushed: bool
) -> None:
    path = str(folder / "a.db")
    one = Session(path, mode)
    with dbm.transaction(one.engine) as filler:
        filler.add_all([Note(person=filler.get_one(Person, one.kept.id), text="x" * PAGE) for _ in range(20)])
    other = sqlite3.connect(path, isolation_level=None)
    pages = other.execute("PRAGMA page_count").fetchone()[0]
    one.engine.pragma("max_page_count", pages + 2, permanent=True)
    one.engine.close()
    one.change(flushed, notes=8)
    assert "disk is full" in str(refused(one.session.commit))
    one.check_nothing_done(notes=8)
    other.execute("DELETE FROM notes")
    other.close()
    one.check_commit(notes=8)
    one.session.close()
    one.engine.close_all()


# Permissions


def forbid(folder: str, mode: str, what: str) -> None:
    """Take the permission to write a file, or a directory, from a session, and give it back."""
    one = Session(os.path.join(folder, "a.db"), mode)
    one.engine.close_idle()
    one.change(flushed=False)
    target = Path(folder if what == "directory" else one.path)
    before = target.stat().st_mode
    target.chmod(before & ~0o222)
    for _ in range(2):
        said = refused(one.session.commit)
        assert said is not None and ("readonly" in said or "unable to open" in said), said
    target.chmod(before)
    for beside in Path(folder).glob("a.db-*"):  # SQLite makes them with the permissions of the file
        beside.chmod(0o644)
    one.check_nothing_done()
    one.check_commit()
    one.session.close()
    one.engine.close_all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_can_not_be_written_is_refused_and_written_when_it_can(folder: Path, mode: str, what: str) -> None:
    in_a_process(forbid, folder, mode, what)
