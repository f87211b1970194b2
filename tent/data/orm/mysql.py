"""MariaDB and MySQL, by PyMySQL."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peewee
import pymysql
from playhouse.pool import PooledMySQLDatabase
from pymysql.constants import CLIENT, SERVER_STATUS
from pymysql.cursors import SSCursor

from .config import Checked, places
from .cursor import close_quietly
from .engine import Engine
from .json_sql import MysqlJSON
from .kind import BAD_OPTION, NO_DATABASE, REFUSED, UNREACHABLE, UNWILLING
from .statements import Update

# The numbers of errors after which work is to be repeated (https://mariadb.com/kb/en/mariadb-error-code-reference/):
# too many connections, lock wait timeout, deadlock (in a cluster: a conflict of two nodes), changed since it was read
_CONFLICTS = frozenset((1020, 1040, 1205, 1213))
# those with which a connection ends, or is not made; and those of a server that another host may stand in for: it is
# no part of its cluster now, or only reads
_LOST = frozenset((1053, 1927, 2002, 2003, 2006, 2013, 4031))
_UNFIT = frozenset((1047, 1180, 1290, 1836))
_INTERRUPTED = frozenset((1317, 1969, 3024))  # by KILL QUERY, by a limit of time (MariaDB's, MySQL's)
_DIAGNOSES = {
    **dict.fromkeys((1044, 1045, 1130, 1698), REFUSED),
    1049: NO_DATABASE,
    **dict.fromkeys((1040, 1129, 1203, 1226, *_UNFIT), UNWILLING),  # too many connections, of all or of the user
}
# Errors that PyMySQL takes for operational: a CHECK that failed (MySQL's, MariaDB's), a column left out that has no
# default; a time that there is not, a division by zero, a number out of range
_CLASSES = {
    **dict.fromkeys((1364, 3819, 4025), peewee.IntegrityError),
    **dict.fromkeys((1292, 1365, 1690), peewee.DataError),
}
_COLUMN = re.compile(r".* for column (?:`.*`\.)?['`](.+)['`] at row \d+", re.DOTALL)
_OLDEST = (10, 11)  # UUID came with 10.7, the collation with 10.10
# By the characters, and by the letters whatever their case; accents count
_COLLATIONS = {
    True: ("utf8mb4_nopad_bin", "utf8mb4_uca1400_as_ci"),  # MariaDB
    False: ("utf8mb4_0900_bin", "utf8mb4_0900_as_ci"),
}
_ALWAYS_TAKEN = 500_000  # bytes of a statement, for which no server has to be asked
_MIXED = 1267  # collations, of two texts that are to be one column
_IN_DOUBT = 1180  # what a COMMIT says when the node has lost its cluster in the middle of it

# As on other databases: text of any length, numbers in double precision, times with microseconds
_TYPES = {
    "BLOB": "LONGBLOB",
    "CHAR": "VARCHAR",  # CHAR strips blanks
    "DATETIME": "DATETIME(6)",
    "FLOAT": "DOUBLE",
    "TEXT": "LONGTEXT",
    "TIME": "TIME(6)",
}
# Casts that hold all values of a type of field, for a column of another type, or of few characters
_TYPED = {
    **dict.fromkeys(("AUTO", "BIGAUTO", "BIGINT", "BOOL", "INT", "SMALLINT"), "CAST({} AS SIGNED)"),
    **dict.fromkeys(("CHAR", "TEXT", "VARCHAR"), "CONVERT({} USING utf8mb4)"),
}


class _Connection(pymysql.connections.Connection):  # type: ignore[misc]  # PyMySQL has no type hints
    """PyMySQL's, which knows whether a statement was interrupted: its answer may be yet to be read, or read in part."""

    is_busy = False
    _most_bytes = 0  # of a statement, once that is known

    def query(self, sql: Any, unbuffered: bool = False) -> Any:
        encoded = sql.encode(self.encoding) if isinstance(sql, str) else sql
        if len(encoded) > _ALWAYS_TAKEN:
            self._refuse_too_long(len(encoded))
        return self._whole(super().query, encoded, unbuffered)

    def _refuse_too_long(self, size: int) -> None:
        """Refuse a statement that the server would answer by ending the connection, in the middle of it perhaps."""
        if not self._most_bytes:
            self._whole(super().query, b"SELECT @@max_allowed_packet", False)
            self._most_bytes = int(self._result.rows[0][0])
        if size >= self._most_bytes:
            raise pymysql.err.DataError(
                1153,  # what the server says of it, when it does
                f"the statement would have {size:,} bytes, in which a byte of a blob takes two, and the server takes "
                f"less than {self._most_bytes:,}. Raise its max_allowed_packet, or keep such values in files",
            )

    def next_result(self, unbuffered: bool = False) -> Any:
        return self._whole(super().next_result, unbuffered)

    def _whole(self, method: Callable[..., Any], *args: Any) -> Any:
        self.is_busy = True
        try:
            found = method(*args)
        except pymysql.Error:
            self.is_busy = False  # an answer, too; or the connection is closed
            raise
        self.is_busy = False
        return found


class MySQLEngine(Engine, PooledMySQLDatabase):  # type: ignore[misc]  # playhouse has no type hints
    """A MySQL database: a `peewee.MySQLDatabase` with a pool. A MariaDB server will do, too."""

    kind = "mysql"
    batch = 1_000
    most_parameters = 1_000_000  # PyMySQL puts the values into the text,
    most_bytes = 4 * 1024 * 1024  # of which a server takes 16 MB at once, unless its max_allowed_packet says otherwise
    returns_inserted = False
    returns_updated = False
    native_times = (peewee.DateTimeField, peewee.DateField)  # a TIME comes as a timedelta
    field_types = {**PooledMySQLDatabase.field_types, **_TYPES}
    default_values = "() VALUES ()"
    defers_foreign_keys = False
    deletes_own_parents = False
    foreign_key = "FOREIGN KEY"
    json_methods = MysqlJSON
    undoes_ddl = False
    _host = 0  # the place of the one that answered last

    def __init__(self, settings: Checked) -> None:
        self.place = places(settings)
        self.hosts: list[tuple[str, int]] = [(host or "localhost", port) for host, port in settings["hosts"]]
        super().__init__(
            settings["database"],
            max_connections=settings["pool_size"],
            stale_timeout=settings["pool_recycle"],
            timeout=settings["pool_timeout"],
        )
        self.connect_params.update(_arguments(settings))  # beside Peewee, which takes some for its own
        self._read_timeout = self.connect_params.pop("read_timeout", None)
        self.connect_params["read_timeout"] = self.connect_params["connect_timeout"]
        self.open_books(settings["echo"])

    def diagnosis(self, problem: str) -> str:
        for number, kind in _DIAGNOSES.items():
            if f"({number}, " in problem:
                return kind
        if "[SSL" in problem:
            return BAD_OPTION
        return UNREACHABLE if any(f"({number}, " in problem for number in _LOST) else BAD_OPTION

    def _open(self) -> Any:
        """Return a connection to the host that answered last or, if it doesn't now, to the next one that does."""
        failure: Exception | None = None
        for place in range(self._host, self._host + len(self.hosts)):
            host, port = self.hosts[place % len(self.hosts)]
            try:
                connection = _Connection(
                    database=self.database, host=host, port=port, autocommit=True, **self.connect_params
                )
                self._initialize(connection)
                if len(self.hosts) > 1:
                    connection.commit()  # which a node refuses that is no part of its cluster now
                # Until here it was that for connecting, which PyMySQL takes for the TCP connection only.
                connection._read_timeout = self._read_timeout
            except pymysql.OperationalError as error:
                if error.args[0] not in _LOST | _UNFIT:
                    raise
                failure = error
            else:
                self._host = place % len(self.hosts)
                return connection
        assert failure is not None
        raise failure

    def _pass_over(self, host: tuple[str, int]) -> None:
        """Let the next connection be to the host after this one: once, however many connections it has broken."""
        if self.hosts[self._host] == host:
            self._host = (self._host + 1) % len(self.hosts)

    def _initialize(self, connection: Any) -> None:
        """Let text be compared by its characters, as other databases do: "joe" is neither "Joe" nor "joe "."""
        self.mariadb = "mariadb" in connection.server_version.lower()
        exact, caseless = _COLLATIONS[self.mariadb]
        self.table_settings = f"CHARACTER SET utf8mb4 COLLATE {exact}"
        self._operations["ILIKE"] = f"COLLATE {caseless} LIKE"
        self._operations["IREGEXP"] = f"COLLATE {caseless} REGEXP"
        with connection.cursor() as cursor:
            cursor.execute(f"SET NAMES utf8mb4 COLLATE {exact}")
            if not self.returns_inserted:
                cursor.execute("SELECT @@auto_increment_increment")
                self.auto_increment = cursor.fetchone()[0]

    def is_busy(self, connection: Any) -> bool:
        return bool(connection.is_busy)

    def is_gone(self, connection: Any) -> bool:
        return not connection.open

    def _can_reuse(self, connection: Any) -> bool:
        return bool(connection.open) and (not _is_in_transaction(connection) or bool(super()._can_reuse(connection)))

    def cursor(self, named_cursor: Any = None) -> Any:
        if named_cursor is None:
            return super().cursor()
        self._cursor = self._state.conn.cursor(named_cursor)
        return self._cursor

    def open_stream(self, sql: str, params: Any) -> Any:
        # A connection can do nothing else before all rows were taken: in a transaction they are taken at once.
        if self._state.transactions:
            return super().open_stream(sql, params)
        return self.execute_first(sql, params, named_cursor=SSCursor)

    def close_stream(self, cursor: Any) -> None:
        if getattr(cursor._result, "unbuffered_active", False):
            close_quietly(self._state.conn)  # else the rows that are left would be read,
            cursor._result.unbuffered_active = False  # which it would still try when it is collected
        close_quietly(cursor)

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        try:
            return super()._execute_cursor(sql, params, **options)
        except peewee.PeeweeException as error:
            kind = _CLASSES.get(_number(error))
            if kind is None or isinstance(error, kind):
                raise
            raise kind(error.orig, *error.args) from error.orig  # type: ignore[attr-defined]

    def takes_name(self, name: str) -> bool:
        return len(name) <= 64

    def column_in(self, error: Exception) -> str | None:
        found = _COLUMN.match(str(error.args[-1])) if error.args else None
        return found[1] if found else None

    def _note_failure(self, error: peewee.PeeweeException) -> None:
        if self._state.closed:
            return
        connection = self._state.conn
        if self.is_outage(error):
            close_quietly(connection)
            (self.origin or self)._pass_over((connection.host, connection.port))
        elif connection.open and _is_in_transaction(connection):
            # Whether the transaction has ended with the error, its message does not say.
            try:
                connection.ping(reconnect=False)
            except pymysql.Error:
                close_quietly(connection)

    def fits(self, columns: Sequence[Sequence[Any]]) -> bool:
        texts = (value for values in columns for value in values if isinstance(value, (str, bytes, bytearray)))
        return sum(len(text) if text.isascii() else 4 * len(text) for text in texts) < self.most_bytes

    def typed(self, field: Any, sql: str) -> str:
        # A BIT would make text of numbers, and latin1 has no room for other text: the column then takes what it can.
        form = _TYPED.get(field.field_type)
        return form.format(sql) if form else sql

    def update_rows(self, update: Update, columns: Sequence[Sequence[Any]]) -> int:
        # PyMySQL waits for the answer to each statement: so one takes all rows, as a table that is joined.
        count = len(columns[0])
        if count == 1:
            return super().update_rows(update, columns)
        sql = update.of_joined_rows(count, "" if self.mariadb else "ROW")
        try:
            return self.fetch(sql, list(itertools.chain.from_iterable(zip(*columns)))).rowcount
        except peewee.OperationalError as error:
            if _number(error) != _MIXED:
                raise
        return super().update_rows(update, columns)  # by keys of text that a column of latin1, say, hasn't

    @contextlib.contextmanager
    def installing(self) -> Iterator[None]:
        # CREATE TABLE commits by itself: there is no transaction to have.
        name = f"tent.data {self.database}"[:64]
        if self.execute_sql("SELECT GET_LOCK(%s, 60)", (name,)).fetchone() != (1,):
            raise peewee.OperationalError(
                "Another process has been installing tables for 60 s. Try again when it is done."
            )
        try:
            yield
        finally:
            if not self.is_lost():
                self.execute_sql("DO RELEASE_LOCK(%s)", (name,))

    def beginning(self, isolation_level: str | None) -> Sequence[str]:
        level = [f"SET TRANSACTION ISOLATION LEVEL {isolation_level}"] if isolation_level else []
        return [*level, "START TRANSACTION READ ONLY" if self.read_only else "BEGIN"]

    def has_transaction(self) -> bool:
        return not self._state.closed and bool(self._state.conn.open) and _is_in_transaction(self._state.conn)

    def is_lost(self) -> bool:
        return not self._state.closed and not self._state.conn.open

    def is_in_doubt(self, error: BaseException) -> bool:
        return self.is_lost() or _number(error) == _IN_DOUBT

    def is_retryable(self, error: BaseException) -> bool:
        return self.is_outage(error) or (
            isinstance(error, peewee.PeeweeException) and _number(error) in _CONFLICTS | _UNFIT
        )

    def is_interrupted(self, error: BaseException) -> bool:
        return _number(error) in _INTERRUPTED

    def is_outage(self, error: BaseException) -> bool:
        number = _number(error)
        return isinstance(error, peewee.PeeweeException) and (
            number in _LOST or (number in _UNFIT and len(self.hosts) > 1)
        )


class MariaDBEngine(MySQLEngine):
    """A MariaDB database: a `peewee.MySQLDatabase` with a pool."""

    kind = "mariadb"
    returns_inserted = True
    field_types = {**MySQLEngine.field_types, "UUID": "UUID"}

    def unfit(self) -> str | None:
        if self.mariadb and self.server_version >= _OLDEST:
            return None
        found = "MariaDB" if self.mariadb else "MySQL"
        return (
            f"The server at {self.place} is {found} {'.'.join(map(str, self.server_version))}, and the driver "
            "'mariadb' needs MariaDB 10.11 or later. Use the driver 'mysql', or a later server."
        )


def _arguments(settings: Checked) -> dict[str, Any]:
    password = settings["password"]
    found = {
        "user": settings["user"],
        "password": password.encode() if password else None,
        "connect_timeout": 10,
        "charset": "utf8mb4",
        "sql_mode": "TRADITIONAL,NO_AUTO_VALUE_ON_ZERO,PIPES_AS_CONCAT",
    }
    found = {**{name: value for name, value in found.items() if value is not None}, **settings["options"]}
    # An UPDATE tells how many rows it found, not how many it changed.
    found["client_flag"] = found.get("client_flag", 0) | CLIENT.FOUND_ROWS
    return found


def _number(error: BaseException) -> Any:
    """Return the server's or PyMySQL's number of an error, which Peewee's was made of."""
    arguments = getattr(getattr(error, "orig", None), "args", ())
    return arguments[0] if arguments else None


def _is_in_transaction(connection: Any) -> bool:
    return bool(connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)
