"""Many at once on one database, one engine and, what is refused, one session: nothing is lost, and nothing in the way.

Each worker keeps its own account of what has returned, and at the end the rows are what all accounts say together.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import peewee
import pytest
from conftest import Note, Person
from ledger import kind_of

from tent.data import dbm

WORKERS = 8
ACCOUNTS = 10
WAIT = 60  # seconds, for a test that fails
Model = dbm.declarative_base()


class Account(Model):
    """A row that all workers change."""

    balance = peewee.IntegerField(default=0)
    version = dbm.VersionField()


class Move(Model):
    """What a transaction did: from one account to another."""

    worker = peewee.IntegerField()
    number = peewee.IntegerField()
    payer = peewee.ForeignKeyField(Account, null=True)
    payee = peewee.ForeignKeyField(Account)


# Workers in threads or in processes


class Done(NamedTuple):
    """What a worker has done."""

    commits: int
    longest: float  # seconds that one of them took, repetitions included
    met: dict[str, int]  # the errors at which work was repeated


_start: Any = None  # which all workers wait for


def wait_for_all(start: Any) -> None:
    global _start
    _start = start


def pool(kind: str) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(WORKERS, initializer=wait_for_all, initargs=[threading.Barrier(WORKERS)])
    spawn = get_context("spawn")
    return ProcessPoolExecutor(WORKERS, spawn, initializer=wait_for_all, initargs=[spawn.Barrier(WORKERS)])


def run_all(kind: str, work: Any, config: Any, engine: Any, *options: Any) -> list[Done]:
    """Have all workers do something at once, in threads with one engine or in processes with one each."""
    with pool(kind) as workers:
        given = engine if kind == "threads" else config
        found = [workers.submit(run_one, work, given, place, *options) for place in range(WORKERS)]
        return [each.result() for each in found]


def run_one(work: Any, given: Any, place: int, *options: Any) -> Done:
    engine: Any = given if isinstance(given, peewee.Database) else dbm.connect(given)
    met: Counter[str] = Counter()
    _start.wait(WAIT)
    longest = commits = 0
    for commits, begin in enumerate(timed(work(engine, place, met, *options)), start=1):
        longest = max(longest, begin)
    if engine is not given:
        engine.close_all()
    return Done(commits, longest, met)
