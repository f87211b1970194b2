"""scripts/benchmark.py: that it runs, what it writes, and that it notices a peer that does not do its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmark
import pytest
from benchmarks import checks, tent, worker
from benchmarks.database import Database

SCRIPT = Path(benchmark.__file__)
PEERS = ["driver", "tent", "peewee"]  # that need nothing beside what the tests need


def test_it_measures_each_peer_and_writes_what_it_found(tmp_path: Path) -> None:
    found, chart = tmp_path / "found.json", tmp_path / "chart.svg"
    command = [sys.executable, str(SCRIPT), "--peers", *PEERS, "--models", "2", "--rows", "30", "--rounds", "1"]
    operations = ["--operations", *"ABCDEFGHIJK"]
    done = subprocess.run(
        [*command, *operations, "--json", str(found), "--chart", str(chart)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "TENT_TEST_URLS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "geometric mean" in done.stdout and "driver/tent" in done.stdout
    assert chart.read_text().startswith("<svg")
    written = json.loads(found.read_text())
    assert {"machine", "versions", "rows", "rounds", "results", "problems"} == written.keys()
    assert written["versions"].keys() == {"peewee", "tent-data"} and written["problems"] == []
    suite = written["results"]["sqlite"]["model 2"]
    assert suite["medians"].keys() == suite["geometric_means"].keys() == set(PEERS)
    assert all(list(operations) == list("ABCDEFGHIJK") for operations in suite["samples"].values())


def job(tmp_path: Path, *operations: str) -> dict[str, Any]:
    database = Database.of_file(tmp_path / "file.db").as_dict()
    return {"peer": "tent", "database": database, "model": 3, "operations": operations, "rows": 20}


def test_a_worker_notices_a_row_that_was_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = tent.Peer.insert_batch
    monkeypatch.setattr(
        tent.Peer, "insert_batch", lambda self, model, rows, watch: insert(self, model, rows[1:], watch)
    )
    with pytest.raises(checks.CheckError, match="B, insert batch: 19 rows are stored, not 20"):
        worker.work(job(tmp_path, "B"))


def test_a_worker_notices_a_value_that_was_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tent.Peer, "update_partial", lambda self, model, levels, watch: watch.__enter__().__exit__())
    with pytest.raises(checks.CheckError, match="J, update partial: level of row 1 is 10, not 20"):
        worker.work(job(tmp_path, "B", "J"))


def test_a_worker_notices_values_of_a_wrong_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_text(self: Any, *arguments: Any) -> Any:
        count, rows = find(self, *arguments)
        return count, [{**row, "timestamp": str(row["timestamp"])} for row in rows]

    find = tent.Peer.filter_dicts
    monkeypatch.setattr(tent.Peer, "filter_dicts", with_text)
    with pytest.raises(checks.CheckError, match=r"G, .*: timestamp is read as '.*', which is no datetime"):
        worker.work(job(tmp_path, "B", "G"))


def test_the_other_operations_work(tmp_path: Path) -> None:
    operations = ["held", "first", "graph", "follow", "one_change", "memory"]
    assert list(worker.work({**job(tmp_path, *operations), "model": 1})) == operations


def test_growth(tmp_path: Path) -> None:
    found = worker.work({**job(tmp_path), "sizes": [50, 100]})
    assert list(found) == ["insert 50", "stream 50", "insert 100", "stream 100"]
