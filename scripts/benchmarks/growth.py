"""How the time for a row grows with the number of rows: of inserts in batches, and of a select that streams."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import checks, workload
from benchmarks.database import Database
from benchmarks.workload import Stopwatch

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BATCH = 10_000  # rows that are committed at once, in a session of their own
ENOUGH = 300_000  # rows, to which a size is repeated, and its median taken: a few milliseconds once are but noise
MOST = 25  # repetitions


def grow(database: Database, peer: Any, sizes: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Yield the microseconds for a row, of inserts and of a select, of each size."""
    for _ in range(3):  # a warm-up
        _measured(database, peer, min(sizes))
    for size in sizes:
        laps = [_measured(database, peer, size) for _ in range(max(1, min(MOST, ENOUGH // size)))]
        for title, seconds in zip(("insert", "stream"), zip(*laps)):
            yield f"{title} {size:,}", 1e6 * statistics.median(seconds) / size


def _measured(database: Database, peer: Any, size: int) -> tuple[float, float]:
    """Return the seconds for inserting so many rows into empty tables, and for reading them."""
    database.empty_tables()
    inserts, select = Stopwatch(), Stopwatch()
    for start in range(0, size, BATCH):  # no text comes twice: the index on it grows at few places in each batch
        peer.insert_bulk(1, workload.items("nobody", min(BATCH, size - start), start), inserts)
    checks.check_count(database, "journal1", size)
    count = peer.stream(select)
    checks.check(count == size, f"{count} objects were streamed, not {size}")
    return inserts.seconds, select.seconds
