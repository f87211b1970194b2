"""How the time for a row grows with the number of rows: of inserts in batches, and of a select that streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import checks, workload
from benchmarks.database import Database
from benchmarks.workload import Stopwatch

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BATCH = 10_000


def grow(database: Database, peer: Any, sizes: Sequence[int]) -> dict[str, float]:
    """Return the microseconds for a row, of inserts and of a select, of each size."""
    peer.insert_bulk(1, workload.items("nobody", 20), Stopwatch())  # a warm-up
    found = {}
    for size in sizes:
        database.empty_tables()
        found[f"insert {size:,}"] = 1e6 * _inserted(peer, size).seconds / size
        checks.check_count(database, "journal1", size)
        watch = Stopwatch()
        count = peer.stream(watch)
        checks.check(count == size, f"{count} objects were streamed, not {size}")
        found[f"stream {size:,}"] = 1e6 * watch.seconds / size
    return found


def _inserted(peer: Any, size: int) -> Stopwatch:
    watch = Stopwatch()
    for start in range(0, size, BATCH):
        peer.insert_bulk(1, workload.items("nobody", min(BATCH, size - start)), watch)
    return watch
