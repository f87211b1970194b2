"""scripts/benchmark.py: that it runs, what it writes, and that it notices a peer that does not do its work."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark
import pytest
from benchmarks import goals, report, tent, worker, workload
from benchmarks.chart import chart
from benchmarks.database import Database
from benchmarks.report import Results

SCRIPT = Path(benchmark.__file__)


@pytest.fixture(autouse=True)
def little_garbage() -> Iterator[None]:
    """Garbage is collected before all that is timed: let it not look each time through what other tests have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_it_measures_each_peer_and_writes_what_it_found(tmp_path: Path) -> None:
    found, drawn = tmp_path / "found.json", tmp_path / "chart.svg"
    command = [sys.executable, str(SCRIPT), "--peers", "tent", "peewee", "--models", "2", "--rows", "30"]
    operations = ["--rounds", "1", "--operations", "B", "K"]
    done = subprocess.run(
        [*command, *operations, "--json", str(found), "--chart", str(drawn)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "TENT_TEST_URLS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "geometric mean" in done.stdout and "mean, tent/best >= 3" in done.stdout
    assert drawn.read_text().startswith("<svg")
    written = json.loads(found.read_text())
    assert written.keys() == {
        *("machine", "servers", "versions", "rows", "rounds", "results", "goals", "notes", "problems")
    }
    assert written["versions"].keys() == {"peewee", "tent-data"} and written["problems"] == []
    suite = written["results"]["sqlite"]["model 2"]
    assert suite["medians"].keys() == suite["geometric_means"].keys() == {"tent", "peewee"}
    assert all(list(operations) == ["B", "K"] for operations in suite["samples"].values())


def job(tmp_path: Path, *operations: str) -> dict[str, Any]:
    database = Database.of_file(tmp_path / "file.db").as_dict()
    return {"peer": "tent", "database": database, "model": 3, "operations": operations, "rows": 20}


def test_all_operations_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ONE_CHANGE", {"one_change": 20, "one_change_100k": 50})
    letters = list("ABCDEFGHIJK")
    assert list(dict(worker.work(job(tmp_path, *letters)))) == letters
    others = ["held", "first", "graph", "follow", "one_change", "one_change_100k", "memory"]
    assert list(dict(worker.work({**job(tmp_path, *others), "model": 1}))) == others


def test_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.growth.ENOUGH", 100)
    found = dict(worker.work({**job(tmp_path), "sizes": [50, 100]}))
    assert list(found) == ["insert 50", "stream 50", "insert 100", "stream 100"]


def test_a_worker_notices_a_row_that_was_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = tent.Peer.insert_batch
    monkeypatch.setattr(
        tent.Peer, "insert_batch", lambda self, model, rows, watch: insert(self, model, rows[1:], watch)
    )
    with pytest.raises(worker.OperationError, match="B, insert batch: 19 rows are stored, not 20"):
        dict(worker.work(job(tmp_path, "B")))


def test_a_worker_notices_a_value_that_was_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tent.Peer, "update_partial", lambda self, model, levels, watch: watch.__enter__().__exit__())
    with pytest.raises(worker.OperationError, match="J, update partial: level of row 1 is 10, not 20"):
        dict(worker.work(job(tmp_path, "B", "J")))


def test_a_worker_notices_values_of_a_wrong_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_text(self: Any, *arguments: Any) -> Any:
        count, rows = find(self, *arguments)
        return count, [{**row, "timestamp": str(row["timestamp"])} for row in rows]

    find = tent.Peer.filter_dicts
    monkeypatch.setattr(tent.Peer, "filter_dicts", with_text)
    with pytest.raises(worker.OperationError, match=r"G, .*: timestamp is read as '.*', which is no datetime"):
        dict(worker.work(job(tmp_path, "B", "G")))


def test_each_round_of_a_large_filter_is_a_call_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(self: Any, model: int, levels: Any, watch: Any) -> Any:
        asked.append(levels)
        return find(self, model, levels, watch)

    asked: list[Any] = []
    find = tent.Peer.filter_large
    monkeypatch.setattr(tent.Peer, "filter_large", noted)
    dict(worker.work(job(tmp_path, "B", "D")))
    assert asked[-10:] == [(10, 20, 30, 40, 50)] * 10


# What fails


def fail(*arguments: Any) -> None:
    raise ValueError("a failure\nin two lines")


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tent.Peer, "delete", fail)
    found = []
    with pytest.raises(worker.OperationError, match="K, delete: ValueError: a failure in two lines"):
        for operation, _ in worker.work(job(tmp_path, "A", "B", "K")):
            found.append(operation)
    assert found == ["A", "B"]


def test_a_server_that_is_not_there_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "work", lambda job: ({"A": 2.0}, f"no {job['peer']}"))
    found, drawn = tmp_path / "found.json", tmp_path / "chart.svg"
    command = ["--peers", "tent", "peewee", "--models", "1", "--operations", "A", "--rounds", "1"]
    files = ["--json", str(found), "--chart", str(drawn)]
    assert benchmark.main([*command, *files, "--url", "postgresql://nobody@127.0.0.1:1/nothing"]) == 1
    written = json.loads(found.read_text())
    assert written["results"]["sqlite"]["model 1"]["medians"] == {"tent": {"A": 2.0}, "peewee": {"A": 2.0}}
    *of_peers, of_server = written["problems"]
    assert of_peers == ["tent on sqlite, model 1: no tent", "peewee on sqlite, model 1: no peewee"]
    assert of_server.startswith("postgresql: OperationalError: ") and drawn.exists()
    shown = capsys.readouterr().out
    assert benchmark.main(["--results", str(found)]) == 0
    assert capsys.readouterr().out == shown


def test_sqlite_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--peers", "tent", "--models", "1", "--operations", "A", "--no-sqlite"]
    assert benchmark.main([*command, "--url", "postgresql://nobody@127.0.0.1:1/nothing"]) == 1
    captured = capsys.readouterr()
    assert "sqlite" not in captured.out + captured.err and "postgresql: OperationalError" in captured.err


def test_to_leave_out_sqlite_and_name_no_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TENT_TEST_URLS", raising=False)
    with pytest.raises(SystemExit):
        benchmark.parse(["--peers", "tent", "--no-sqlite"])
    assert "--url" in capsys.readouterr().err


def test_garbage_is_collected_once_before_laps_that_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    for watch, times in ((workload.Stopwatch(), 3), (workload.Stopwatch(are_short=True), 1)):
        collected.clear()
        for _ in range(3):
            with watch:
                pass
        assert (len(watch.laps), len(collected)) == (3, times)


def test_a_module_that_cannot_be_imported_is_told() -> None:
    times, problem = benchmark.import_times(["json", "json.tool"])
    assert len(times) == 2 and problem is None
    assert benchmark.import_times(["nothing_of_this_name"]) == (
        [],
        "ModuleNotFoundError: No module named 'nothing_of_this_name'",
    )


# Options


def test_options_of_a_url_are_for_the_driver() -> None:
    database = Database.of_url("mariadb://me:a%2Fb@db/it?ssl_disabled=true&connect_timeout=3&init_command=SET%20a%3D1")
    assert database.password == "a/b" and database.name == "it"
    assert database.options == {"ssl_disabled": True, "connect_timeout": 3, "init_command": "SET a=1"}


# The report


def results() -> Results:
    found = Results()
    found.add("sqlite", "model 1", "driver", {"A": 100, "B": 100, "G": 100})
    found.add("sqlite", "model 1", "tent", {"A": 8, "B": 90, "G": 30})
    found.add("sqlite", "model 1", "sqlalchemy", {"A": 2, "B": 15, "G": 30})
    found.add("sqlite", "model 1", "sqlobject", {"A": 16, "B": 1})
    return found


def test_tent_is_compared_with_the_best_library_and_in_what_both_have() -> None:
    [table] = results().tables()
    lines = {line[:36].strip(): line[36:].split() for line in table.splitlines()}
    assert lines["A insert single"][-2:] == ["0.50", "12.50"]
    assert lines["B insert batch"][-2:] == ["6.00", "1.11"]
    assert lines["geometric mean"][3] == "4.00*"
    assert lines["geometric mean"][-2:] == ["2.88", "3.59"]  # of SQLAlchemy; √180 of the other, in A and B
    assert "* over fewer operations: sqlobject without G" in table
    assert report.geometric_mean([]) is None


def test_goals() -> None:
    found = {goal["goal"]: goal for goal in goals.goals(results())}
    assert found["first in every row"]["found"] == "2 of 3"
    assert found["first in every row"]["but"] == ["A insert single 0.50 of sqlobject"]
    assert found["tent/SQLAlchemy >= 2 in rows that make objects"]["is_reached"] is True
    assert found["mean, tent/best >= 3"]["is_reached"] is False
    assert found["mean, driver/tent <= 2.5"]["is_reached"] is False


def test_goals_of_other_kinds() -> None:
    found = Results()
    found.add("sqlite", "growth", "tent", {"insert 1,000": 10.0, "stream 1,000": 4.0, "insert 10,000": 13.0})
    found.add("sqlite", "other", "tent", {"one_change": 1.0, "one_change_100k": 1.5, "memory": 50, "import_added": 14})
    found.add("sqlite", "other", "peewee", {"one_change": 2.0, "memory": 100})
    told = [(goal["found"], goal["is_reached"], goal["but"]) for goal in goals.goals(found)]
    assert told == [
        ("1.30", False, ["insert 10,000 1.30"]),
        ("1 of 1", True, []),
        ("1.50", None, []),
        ("0.50", None, []),
        ("14.0 ms", True, []),
    ]


def test_the_chart_needs_no_results() -> None:
    found = {"machine": report.machine(), "rows": 1, "rounds": 1}
    assert "thousand rows/s" not in chart(Results(), found)
    drawn = chart(results(), found)
    assert "SQLObject*" in drawn and "* The mean is over fewer operations: SQLObject is without G." in drawn
