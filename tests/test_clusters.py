"""Real clusters: servers are killed under load, and what was acknowledged is there at the end, once and whole.

They run for the kinds of clusters that TENT_TEST_CLUSTERS names, which they start by themselves. `pytest -s` shows the
figures of a run; TENT_TEST_CLUSTERS_SECONDS=600 makes each load go on for so long, with many more servers killed.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import servers
from ledger import Load, Tally, Transfer, compare, prepare, until

from tent.data import dbm

SECONDS = float(os.environ.get("TENT_TEST_CLUSTERS_SECONDS", 0))  # of a load; one round of failures at least
PHASE = 2.0  # seconds between two events

replication_only = pytest.mark.databases("replication")
galera_only = pytest.mark.databases("galera")


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[[str], dict[str, Any]]]:
    """`start("galera")` starts a cluster, or what is down of it, and gives its config. What was not there is wiped."""
    begun = set()

    def start(cluster: str) -> dict[str, Any]:
        if not servers.script("urls", cluster).strip():
            begun.add(cluster)
        return servers.mapping(servers.script("start", cluster).strip())

    yield start
    for cluster in begun:
        servers.script("wipe", cluster)


@pytest.fixture
def config(start: Callable[[str], dict[str, Any]], database: str) -> dict[str, Any]:
    """The config of a cluster all of whose servers run."""
    return start(database)


@pytest.fixture
def connect(config: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """`connect(host=[…])` gives an engine of the cluster with other settings."""
    engines = []

    def connect(**settings: Any) -> Any:
        engine = dbm.connect({**config, **settings})
        engines.append(engine)
        return engine

    yield connect
    for engine in engines:
        engine.close_all()


def rounds(kinds: Sequence[str]) -> Iterator[str]:
    """Give out kinds of failures, each once at least, until the time is over."""
    end = time.monotonic() + SECONDS
    for count, kind in enumerate(itertools.cycle(kinds)):
        if count >= len(kinds) and time.monotonic() >= end:
            return
        yield kind


class Figures(dict[str, list[float]]):
    """How long it took until all writers had written again, by what had happened."""

    def add(self, kind: str, seconds: float) -> None:
        self.setdefault(kind, []).append(seconds)

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}: {len(found)} times, {statistics.median(found):.2f} s, at most {max(found):.2f} s"
            for kind, found in self.items()
        )


# PostgreSQL: a primary and its standby


def is_standby(session: dbm.Session) -> bool:
    return bool(session.scalar("SELECT pg_is_in_recovery()"))


def has_replayed(session: dbm.Session, position: str) -> bool:
    """Tell whether a standby shows all that was written up to a position."""
    return bool(session.scalar("SELECT pg_last_wal_replay_lsn() >= CAST(? AS pg_lsn)", [position]))


@replication_only
def test_a_program_outlives_its_primary(connect: Callable[..., Any]) -> None:
    engine, figures = connect(), Figures()
    prepare(engine)
    with dbm.open_session(engine) as session:
        kept = session.scalar("SHOW synchronous_commit"), session.scalar("SHOW synchronous_standby_names")
        assert kept == ("on", "*"), "wipe the cluster: it was started without TENT_SERVERS_SYNC=on"
    with Load([engine], writers=6, shares=0.25) as load:
        load.go_on(PHASE)
        for kind in rounds(["promoted after 4 s", "started again", "promoted at once"]):
            servers.script("kill-primary")
            if kind == "started again":
                servers.script("start", "replication")
            else:
                time.sleep(4 if kind == "promoted after 4 s" else 0)
                servers.script("promote")
            figures.add(kind, load.go_on())
            load.go_on(PHASE)
            servers.script("rejoin")
            load.go_on(PHASE)
    load.ledger.report("PostgreSQL, whose primary was killed under load")
    print(f"  until all writers had written again after the server was there: {figures}")
    with dbm.open_session(engine) as session:
        compare(load.ledger, session)
    standby = connect(options={"target_session_attrs": "standby"})
    with dbm.open_session(standby, read_only=True) as session:
        assert is_standby(session)
        until(lambda: session.query(Transfer).count() >= len(load.ledger.acknowledged))
        compare(load.ledger, session)


@replication_only
def test_sessions_that_only_read_use_the_standby_whichever_it_is(
    config: dict[str, Any], connect: Callable[..., Any]
) -> None:
    engine = connect(replicas=config["host"])
    prepare(engine)
    for _ in range(2):
        with dbm.transaction(engine) as session:
            assert not is_standby(session)
            session.query(Tally).filter_by(way="locked").update({Tally.value: Tally.value + 1})
            session.commit()
            written = session.scalar("SELECT pg_current_wal_lsn()")
        with dbm.open_session(engine, read_only=True) as session:
            assert is_standby(session)
            until(lambda: has_replayed(session, written))
            assert session.query(Tally).filter_by(way="locked", value=1).exists()
        servers.script("kill-primary")
        servers.script("promote")
        with dbm.open_session(engine, read_only=True) as session:
            assert not is_standby(session), "no standby is left"
            assert session.query(Tally).filter_by(way="locked", value=1).exists()
        servers.script("rejoin")
        engine.replica.close_idle()
        with dbm.open_session(engine, read_only=True) as session:
            assert is_standby(session)
        prepare(engine)


# MariaDB Galera: three nodes


def suspend(node: str) -> None:
    """Let a node be as good as gone for longer than the others wait for it, and then be back."""
    found = re.search(rf"node{node} runs, process (\d+)", servers.script("status", "galera"))
    assert found
    os.kill(int(found[1]), signal.SIGSTOP)
    time.sleep(5)
    os.kill(int(found[1]), signal.SIGCONT)


def is_whole() -> bool:
    """Tell whether all nodes are in the cluster. Before that, the next failure might hit all that have the data."""
    return servers.script("status", "galera").count("Primary, Synced") == 3


@galera_only
def test_writers_on_all_nodes_outlive_any_of_them(config: dict[str, Any], connect: Callable[..., Any]) -> None:
    hosts, figures, nodes = config["host"], Figures(), itertools.cycle("123")
    engines = [connect(host=hosts[place:] + hosts[:place]) for place in range(3)]
    prepare(*engines)
    with Load(engines, writers=2, shares=0.5, attempts=100) as load:
        load.go_on(PHASE)
        for kind in rounds(["killed", "stopped", "suspended"]):
            node = next(nodes)
            if kind == "suspended":
                suspend(node)
            else:
                servers.script("kill-node" if kind == "killed" else "stop-node", node)
            figures.add(kind, load.go_on())
            load.go_on(PHASE)
            if kind != "suspended":
                servers.script("start-node", node)
            until(is_whole, 60)
            load.go_on(PHASE)
    load.ledger.report("Galera, whose nodes were killed, stopped and suspended under load")
    print(f"  until all writers had written again after that: {figures}")
    for host in hosts:
        options = {**config.get("options", {}), "init_command": "SET wsrep_sync_wait = 1"}
        with dbm.open_session(connect(host=host, options=options)) as session:
            compare(load.ledger, session)
