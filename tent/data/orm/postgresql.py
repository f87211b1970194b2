"""PostgreSQL, by psycopg 3, and CockroachDB, which speaks its protocol."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import peewee
import psycopg
from playhouse.cockroachdb import PooledCockroachDatabase
from playhouse.pool import PooledPostgresqlDatabase
from psycopg.pq import TransactionStatus
from psycopg.types.string import TextLoader

from .catalog import SQL, Described
from .config import Checked, places
from .cursor import BufferedCursor, close_quietly
from .engine import Engine, quoted
from .errors import ArgumentError
from .json_sql import PostgresqlJSON
from .kind import BAD_OPTION, NO_DATABASE, REFUSED, UNREACHABLE, UNWILLING
from .statements import Insert, Update, are_arrays

# What PostgreSQL and CockroachDB say when work is to be repeated (https://www.postgresql.org/docs/current/
# errcodes-appendix.html): conflicts of transactions, locks that were not free, no connection left,
_UNTOLD = (None,) * 6  # of what the DB-API says of a column, all but its name
_CONFLICT = re.compile(r"40001|40P01|55P03|53300")
# and servers that start or stop.
_OUTAGE = re.compile(r"57P0[1235]|08...|25P0[34]")
_ONLY_READS = "25006"
_INTERRUPTED = "57014"
_AMBIGUOUS = "40003"  # https://www.cockroachlabs.com/docs/stable/transaction-retry-error-reference
_FAILED = (
    "a statement in it has failed, and PostgreSQL takes no more after that. Roll back; what may fail is "
    "tried in `with session.begin_nested():`."
)
_REFUSED = re.compile(
    'authentication failed|no password supplied|no pg_hba.conf entry|role ".*" does not exist|'
    "permission denied for database"
)
_BAD_OPTION = re.compile(
    "invalid .*(option|value)|bad value|unrecognized configuration|definition of service|SSL was|cert"
)
_numbers = itertools.count(1)
_SERIALS = {"SERIAL": "INTEGER", "BIGSERIAL": "BIGINT"}
_TYPES = {
    "CHAR": "VARCHAR",  # CHAR fills up with blanks
    "FLOAT": "DOUBLE PRECISION",
    "TIMESTAMPTZ": "TIMESTAMPTZ",
}


class PostgresqlEngine(Engine, PooledPostgresqlDatabase):  # type: ignore[misc]  # playhouse has no type hints
    """A PostgreSQL database: a `peewee.PostgresqlDatabase` with a pool."""

    kind = "postgresql"
    batch = 5_000
    most_parameters = 65_000  # the protocol counts them in 16 bits
    field_types = {**PooledPostgresqlDatabase.field_types, **_TYPES}
    # The columns up to which arrays, which psycopg writes in Python, take less than an INSERT for each row in a
    # pipeline. Before version 14 libpq has none (https://www.psycopg.org/psycopg3/docs/advanced/pipeline.html).
    narrow: ClassVar[int] = 8 if psycopg.Pipeline.is_supported() else sys.maxsize

    json_methods = PostgresqlJSON
    _told: str | None = None  # by the server, of a COMMIT that was interrupted

    def __init__(self, settings: Checked) -> None:
        self.place, self.is_cluster = places(settings), len(settings["hosts"]) > 1
        super().__init__(
            settings["database"],
            max_connections=settings["pool_size"],
            stale_timeout=settings["pool_recycle"],
            timeout=settings["pool_timeout"],
            prefer_psycopg3=True,
        )
        self.connect_params.update(_arguments(settings))  # beside Peewee, which takes some for its own
        self._described: dict[str, Described] = {}  # by table, as a statement names it
        self.open_books(settings["echo"])

    def diagnosis(self, problem: str) -> str:
        # By its text: an error of connecting has no code.
        if _REFUSED.search(problem):
            return REFUSED
        if re.search(r'database ".*" does not exist', problem):
            return NO_DATABASE
        if _BAD_OPTION.search(problem):
            return BAD_OPTION
        return UNWILLING if "FATAL" in problem or "session is" in problem else UNREACHABLE

    def _open(self) -> Any:
        connection = super()._open()
        for kind in ("json", "jsonb"):  # our fields read text, with the function that they were given for it
            connection.adapters.register_loader(kind, TextLoader)
        return connection

    def is_gone(self, connection: Any) -> bool:
        return bool(connection.closed)

    def takes_name(self, name: str) -> bool:
        return len(name.encode()) <= 63  # the rest of a longer one it cuts off

    def trial(self, table: str, column: Any) -> str:
        return f"UPDATE {table} SET {column.sql} = {column.placeholder} WHERE FALSE"

    def array_type(self, field: Any) -> str | None:
        kind = self._field_types.get(field.field_type)
        is_plain = kind is not None and type(field).ddl_datatype is peewee.Field.ddl_datatype
        return f"{_SERIALS.get(kind, kind)}[]" if is_plain else None

    def insert_rows(self, insert: Insert, columns: Sequence[Sequence[Any]], count: int) -> BufferedCursor:
        if count > 1 and (len(columns) > self.narrow or not self._counts_upwards(insert)):
            return self.execute_many(insert.of_rows(1, is_often=True), list(zip(*columns)), insert.returns)
        # Two and a half times as fast as VALUES, whose text and parameters grow with the rows. What the SELECT leaves
        # out is computed row by row after its ORDER BY, so that generated keys grow in the order of the rows
        # (https://www.postgresql.org/message-id/29386.1528813619@sss.pgh.pa.us).
        types = self._arrays(insert, columns) if count > 1 else None
        return self._fetch_arrays(insert, types, columns) if types else super().insert_rows(insert, columns, count)

    def _counts_upwards(self, insert: Insert) -> bool:
        """Tell whether the keys that the database makes are in the order of the rows; True if it makes none."""
        return insert.made_key is None or insert.made_key.sql in self._describe(insert.table).growing

    def _arrays(self, statement: Insert | Update, columns: Sequence[Sequence[Any]]) -> tuple[str, ...] | None:
        """Return the types of arrays in which values go, None if they can't: those of the columns, as they are.

        A column of another program's may be an ENUM, say, and its field a CharField: to nothing but a parameter of no
        type, as each of one row is, does PostgreSQL give that of its column.
        """
        if not columns or not are_arrays(statement.columns, columns):
            return None
        known = self._describe(statement.table).arrays
        found = tuple([known.get(column.sql, column.array) for column in statement.columns])
        return None if None in found else found  # type: ignore[return-value]

    def _fetch_arrays(
        self, statement: Insert | Update, types: tuple[str, ...], columns: Sequence[Sequence[Any]]
    ) -> BufferedCursor:
        try:
            return self.fetch(statement.of_arrays(types), list(map(list, columns)))
        except (peewee.ProgrammingError, peewee.DataError):
            self._described.pop(statement.table, None)  # somebody may have altered the table
            raise

    def _describe(self, table: str) -> Described:
        """Return what the catalog says of a table, which is asked once, and is no statement of the program's."""
        found = self._described.get(table)
        if found is None:
            rows = [(quoted(self, name), *rest) for name, *rest in self._ask(SQL, (table,))]
            found = Described(rows)
            if rows:  # else the table is not there yet
                self._described[table] = found
        return found

    def _ask(self, sql: str, params: Any) -> Sequence[Any]:
        try:
            with peewee.__exception_wrapper__:  # type: ignore[attr-defined]
                cursor = self.cursor()
                cursor.execute(sql, params)
                return list(cursor.fetchall())
        except BaseException as error:
            self.drop_if_busy()
            if isinstance(error, peewee.PeeweeException):
                self._failed(error)
            raise

    def update_rows(self, update: Update, columns: Sequence[Sequence[Any]]) -> int:
        # Wide rows, too: a plan for one row that was made while the table was small may read all of it for each.
        types = self._arrays(update, columns) if len(columns[0]) > 1 else None
        return self._fetch_arrays(update, types, columns).rowcount if types else super().update_rows(update, columns)

    def _repeat(self, sql: str, rows: Sequence[Any], returns: bool) -> BufferedCursor:
        cursor = self.cursor()
        with self._pipeline() if psycopg.Pipeline.is_supported() else contextlib.nullcontext():
            cursor.executemany(sql, rows, returning=returns)
        if not returns:
            return BufferedCursor([], None, cursor.rowcount)
        found = cursor.fetchall()
        while cursor.nextset():
            found += cursor.fetchall()
        answers = BufferedCursor(found, None, len(found))
        answers.is_in_order = True
        return answers

    @contextlib.contextmanager
    def _pipeline(self) -> Iterator[None]:
        """Let no statement in the block wait for the answer to another."""
        failure: BaseException | None = None
        handled = sys.exc_info()[1]
        try:
            with self._state.conn.pipeline():
                try:
                    yield
                except psycopg.Error as error:
                    failure = error  # raised below: of one that passes the end of the pipeline psycopg logs a warning
        except psycopg.Error as error:
            failure = failure or _interrupt_before(error, handled) or error
        try:
            if failure is not None:
                raise failure from None
        finally:
            failure = None  # it refers to this frame, and this frame to it

    def note_given_keys(self, table: str, column: str, highest: int) -> None:
        # A sequence counts what it has given out, whatever keys there are. Who may not set it has to see to it.
        self.fetch(
            "SELECT setval(sequence, %s) FROM (SELECT pg_get_serial_sequence(%s, %s)::regclass AS sequence) AS found "
            "WHERE has_sequence_privilege(sequence, 'UPDATE') AND COALESCE(pg_sequence_last_value(sequence), 0) < %s",
            (highest, table, column, highest),
        )

    @staticmethod
    def describe(cursor: Any) -> Any:
        # psycopg makes an object for each column, each time: that takes as long as all else of a short query.
        result = cursor.pgresult
        if result is None or not result.nfields:
            return None
        return [(result.fname(place).decode(), *_UNTOLD) for place in range(result.nfields)]

    def cursor(self, named_cursor: Any = None) -> Any:
        if named_cursor is None:
            return super().cursor()
        self._cursor = self._state.conn.cursor(name=named_cursor)
        return self._cursor

    def open_stream(self, sql: str, params: Any) -> Any:
        # A cursor of the server's lives in a transaction; the client's takes all rows at once.
        if not self.has_transaction():
            self.execute_first("BEGIN READ ONLY")
        return self._execute_cursor(sql, params, named_cursor=f"tent_{next(_numbers)}")

    def close_stream(self, cursor: Any) -> None:
        super().close_stream(cursor)
        if self.is_lost():
            close_quietly(cursor)  # else psycopg warns of one that it could not close at the server

    def release(self) -> None:
        try:
            if self._state is self._own_state and self.has_transaction() and not self._state.transactions:
                with contextlib.suppress(peewee.PeeweeException):  # the server may have ended the connection meanwhile
                    self.rollback()  # that of a stream
        finally:
            super().release()

    @contextlib.contextmanager
    def installing(self) -> Iterator[None]:
        with super().installing():
            # CREATE TABLE IF NOT EXISTS fails when two do it at once. The number is any, and always the same.
            self.execute_sql("SELECT pg_advisory_xact_lock(8368546420)")
            yield

    def beginning(self, isolation_level: str | None) -> Sequence[str]:
        level = f" ISOLATION LEVEL {isolation_level}" if isolation_level else ""
        return [f"BEGIN{level}{' READ ONLY' if self.read_only else ''}"]

    def commit(self) -> None:
        if self.is_aborted():  # a COMMIT would be a ROLLBACK without a word
            raise peewee.InternalError(f"The transaction can't be committed: {_FAILED}")
        self._told = None
        super().commit()

    def _note_failure(self, error: peewee.PeeweeException) -> None:
        state = _state(error)
        if state == "25P02":
            error.args = (f"The transaction is aborted: {_FAILED}",)
        if _is_stale_plan(error):  # the table was changed elsewhere, and plans of all connections may not fit it now
            (self.origin or self).close_idle()
            if not self.has_transaction():  # else a rollback forgets the plans
                close_quietly(self._state.conn)
        if state == _ONLY_READS and self.is_cluster and not self.read_only:
            close_quietly(self._state.conn)  # the primary has become a standby, and another host takes its place
            error.is_elsewhere = True  # type: ignore[attr-defined]

    def is_busy(self, connection: Any) -> bool:
        status = connection.pgconn
        return bool(status.transaction_status == TransactionStatus.ACTIVE or status.pipeline_status)

    def _status(self) -> Any:
        return TransactionStatus.UNKNOWN if self._state.closed else self._state.conn.pgconn.transaction_status

    def has_transaction(self) -> bool:
        return self._status() not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def is_aborted(self) -> bool:
        return bool(self._status() == TransactionStatus.INERROR)

    def is_lost(self) -> bool:
        return not self._state.closed and bool(self._state.conn.closed)

    def is_in_doubt(self, error: BaseException) -> bool:
        if self.is_lost() or isinstance(error, peewee.PeeweeException) or self.has_transaction():
            return self.is_lost()
        # At Ctrl-C psycopg cancels the COMMIT: if that came in time, the transaction is over as well.
        return "COMMIT" not in (self._told, getattr(self._cursor, "statusmessage", None))

    def drop_if_busy(self) -> None:
        self._told = getattr(self._cursor, "statusmessage", None)  # before the cursor is closed, which forgets it
        super().drop_if_busy()

    def is_retryable(self, error: BaseException) -> bool:
        return self.is_outage(error) or _is_stale_plan(error) or _CONFLICT.fullmatch(_state(error) or "") is not None

    def is_interrupted(self, error: BaseException) -> bool:
        return _state(error) == _INTERRUPTED

    def is_outage(self, error: BaseException) -> bool:
        state = _state(error)
        if state is None:  # the connection broke, or there was none to be had, which time does not always mend
            cause = getattr(error, "orig", None)
            may_mend = (UNREACHABLE, UNWILLING)  # no host takes writes, say, before a standby has become the primary
            return isinstance(cause, psycopg.OperationalError) and self.diagnosis(str(cause)) in may_mend
        return _OUTAGE.fullmatch(state) is not None or getattr(error, "is_elsewhere", False)


class CockroachEngine(PostgresqlEngine, PooledCockroachDatabase):  # type: ignore[misc]
    """A CockroachDB cluster: a `playhouse.cockroachdb.CockroachDatabase` with a pool."""

    kind = "cockroachdb"
    defers_foreign_keys = False
    field_types = {**PooledCockroachDatabase.field_types, **_TYPES}
    narrow = sys.maxsize  # pipelines were not tried on it

    def array_type(self, field: Any) -> str | None:
        return None  # not known of it, nor tried

    def _counts_upwards(self, insert: Insert) -> bool:
        return True  # it makes no keys of several rows: see new_keys

    def unfit(self) -> str | None:
        with self.connection_context():
            found = self.execute_sql("SELECT version()").fetchone()[0]
        if found.startswith("CockroachDB"):
            return None
        return f"The server at {self.place} is {found.split(' (')[0]}: use the driver 'postgresql'."

    @contextlib.contextmanager
    def installing(self) -> Iterator[None]:
        # It advises against changes of the schema in transactions, where they can fail in part, and has no advisory
        # locks (before 26.3). Each statement is a transaction of its own then, which the cluster itself repeats.
        yield

    def new_keys(self, count: int) -> list[Any]:
        # unique_rowid() gives unique numbers, and promises no order for the rows of one statement.
        return [key for (key,) in self.fetch("SELECT unique_rowid() FROM generate_series(1, %s)", (count,)).rows]

    def note_given_keys(self, table: str, column: str, highest: int) -> None:
        """Its keys come from no sequence."""

    def is_in_doubt(self, error: BaseException) -> bool:
        return super().is_in_doubt(error) or _state(error) == _AMBIGUOUS

    def begin(self, system_time: Any = None, priority: str | None = None) -> None:
        # These are what atomic() of this database takes, and passes on.
        if priority is not None and str(priority).lower() not in ("low", "normal", "high"):
            raise ArgumentError(f"priority is 'low', 'normal' or 'high', not {priority!r}.")
        Engine.begin(self)
        if system_time is not None:
            self.execute_sql("SET TRANSACTION AS OF SYSTEM TIME %s", (system_time,))
        if priority is not None:
            self.execute_sql(f"SET TRANSACTION PRIORITY {priority}")


def _interrupt_before(error: BaseException, handled: BaseException | None) -> BaseException | None:
    """Return Ctrl-C or the like after which psycopg could not leave a pipeline, and so raised an error in its place."""
    found = error.__context__
    while found is not handled and isinstance(found, Exception):
        found = found.__context__
    return None if found is handled else found


def _state(error: BaseException) -> str | None:
    """Return the SQLSTATE of the server's error that Peewee's was made of."""
    state: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
    return state


def _is_stale_plan(error: BaseException) -> bool:
    """Tell whether a statement that was prepared once does not fit its table any more."""
    return _state(error) == "0A000" and "cached plan" in str(error)


def _arguments(settings: Checked) -> dict[str, Any]:
    """Return what libpq takes: of several hosts it tries one after the other, and keeps to one that takes writes.

    All nodes of CockroachDB do, so nothing need be asked of them.
    """
    hosts = settings["hosts"]
    has_parts = len(hosts) > 1 and settings["driver"] == "postgresql"
    several = {"target_session_attrs": settings.get("target", "read-write")} if has_parts else {}
    found = {
        "host": ",".join(host for host, _ in hosts),
        "port": ",".join(str(port) for _, port in hosts),
        "user": settings["user"],
        "password": settings["password"],
        "connect_timeout": 10,
        "client_encoding": "UTF8",
        **several,
    }
    return {**{name: value for name, value in found.items() if value not in (None, "")}, **settings["options"]}
