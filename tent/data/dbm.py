"""The door of tent.data: databases, tables and sessions, on Peewee.

A program goes through these stages::

    from tent.data import dbm
    from tent.data.user import User

    config = {'driver': 'sqlite', 'path': ':memory:'}      # or a file: '/home/user/tent.db'
    engine = dbm.connect(config)                           # a peewee.SqliteDatabase
    dbm.install_tables(engine)                             # tables of every model loaded so far
    session = dbm.open_session(engine)
    u = User("Joe Public")
    session.add(u)
    session.commit()
    session.close()

CONNECTING
    `connect(config)` takes a mapping or a URL (`sqlite:///tent.db`, `postgresql://tent:s3cret@db1/tent`) and returns
    an engine, which is a Peewee database: whatever takes a `peewee.SqliteDatabase` takes one of SQLite. The keys for
    SQLite:

    ======== ===================================================================================================
    driver   'sqlite'
    path     the database file, which is made when it is missing, or ':memory:'
    timeout  seconds to wait for another process that writes; 5 unless given
    pragmas  SQLite's settings by name. A file has foreign_keys=1 and journal_mode=wal unless they say otherwise
    echo     True logs every statement, to the logger 'tent.data.sql'
    ======== ===================================================================================================

    and for servers:

    ============ ===============================================================================================
    driver       'postgresql', 'mariadb', 'mysql' or 'cockroachdb'
    host, port   where it is; several hosts, those of a cluster, in a list, perhaps each with its port: 'db1:5433'
    user         and
    password     who connects
    database     which of the server's
    options      what the driver (psycopg, PyMySQL) takes beside that: {'sslmode': 'require'}
    replicas     hosts from which sessions with read_only=True read
    pool_size    connections at most; 20 unless given
    pool_timeout seconds to wait for one of them; 30 unless given
    pool_recycle seconds after which one is replaced by another; never unless given
    echo         as above
    ============ ===============================================================================================

    A config that can't work raises `DBConfigurationException`, which says what to do.

MODELS
    A model is loaded by importing its module, and inherits from `Base`. Its columns are Peewee's fields::

        import peewee
        from tent.data import dbm

        class Note(dbm.Base):
            text = peewee.TextField()

    `__tablename__ = "…"` in it names the table. Without, the name is guessed (`Note` -> `notes`), which inheriting
    from `TableMixin` says aloud. `__abstract__ = True` makes a class that is no table, but a base of models.
    `declarative_base()` makes another `Base`, with models of its own. A `VersionField()` counts the updates of a row,
    an `UpdatedAtField()` has their time, and `Version` makes such a field of any other: a write over another
    session's change is a `StaleDataError`.

    `install_tables(engine)` creates the tables that are missing, and `uninstall_tables(engine)` drops them.

SESSIONS
    `open_session(engine)` opens a conversation with the database. Nothing is written before `flush`, `commit` or a
    query; then all is, in a few statements. One row is one object. `rollback` gives objects their former values
    back. After `commit` and `close` objects can be read as before. `help(dbm.Session)` has its methods, and
    `help(dbm.Query)` those of `session.query(User)`. Following `profile.user` or `user.profiles` of one object of a
    result loads it for all of them; `user.profiles` is a query, with `add`, `remove` and `clear`.

    `with transaction(engine) as session:` commits at its end; `run_transaction(engine, callback)` repeats the work
    when the database was busy or lost. All three take an `isolation_level`, and `read_only=True`.
    `scoped_session(engine)` is one session for each thread or task behind one name.

    `make_transient(obj)` makes an object a new one, whose row is yet to be inserted: a copy of the row that it had.

HOOKS
    `listen(target, name, function)`, or `@listens_for(target, name)` above the function, has it called at an event:
    `before_flush`, `after_flush`, `before_commit`, `after_commit` or `after_rollback` of a session, or of all sessions
    of an engine; `before_insert`, `before_update`, `before_delete`, and the same with `after_`, of a model's objects.
    `unlisten` ends it. `help(dbm.listen)` has the rules.

ERRORS
    What the database refuses raises Peewee's errors (`peewee.IntegrityError` …), which name the object. The others
    are here, and `help('tent.data.orm.errors')` draws their tree.
"""

from tent.data.orm.connecting import connect
from tent.data.orm.engine import Engine
from tent.data.orm.errors import (
    ArgumentError,
    CircularDependencyError,
    CommitInDoubtError,
    ConcurrentUseError,
    DataLayerError,
    DBConfigurationException,
    DetachedInstanceError,
    FlushError,
    InvalidRequestError,
    MultipleResultsFound,
    NoResultFound,
    ResourceClosedError,
    StaleDataError,
    UnloadedColumnError,
    UnmappedInstanceError,
    UnsavedChangesWarning,
)
from tent.data.orm.listening import listen, listens_for, unlisten
from tent.data.orm.model import Base, TableMixin, declarative_base, make_transient
from tent.data.orm.query import Query
from tent.data.orm.result import Result
from tent.data.orm.running import ScopedSession, open_session, run_transaction, scoped_session, transaction
from tent.data.orm.schema import install_tables, uninstall_tables
from tent.data.orm.session import Session
from tent.data.orm.version import UpdatedAtField, Version, VersionField

__all__ = [
    "ArgumentError",
    "Base",
    "CircularDependencyError",
    "CommitInDoubtError",
    "ConcurrentUseError",
    "DBConfigurationException",
    "DataLayerError",
    "DetachedInstanceError",
    "Engine",
    "FlushError",
    "InvalidRequestError",
    "MultipleResultsFound",
    "NoResultFound",
    "Query",
    "ResourceClosedError",
    "Result",
    "ScopedSession",
    "Session",
    "StaleDataError",
    "TableMixin",
    "UnloadedColumnError",
    "UnmappedInstanceError",
    "UnsavedChangesWarning",
    "UpdatedAtField",
    "Version",
    "VersionField",
    "connect",
    "declarative_base",
    "install_tables",
    "listen",
    "listens_for",
    "make_transient",
    "open_session",
    "run_transaction",
    "scoped_session",
    "transaction",
    "uninstall_tables",
    "unlisten",
]
