"""What a kind of database can do, and what it answers: that in which engines differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import peewee

# What an engine makes of the error with which a first connection failed
REFUSED = "refuses the user: correct 'user', 'password' and 'database', or grant the user what is missing"
NO_DATABASE = "has no such database: create it (CREATE DATABASE …), or correct 'database'"
UNREACHABLE = "can't be reached: start the server, or correct 'host' and 'port'"
UNWILLING = "doesn't take the connection: see why, and mend it on the server or in the config"
BAD_OPTION = "can't be used like this: correct the config, 'options' above all"


class Kind:
    """A kind of database, as most of them are. Its engine says what is otherwise with it."""

    kind: ClassVar[str]
    probe: ClassVar[str] = "SELECT 1"
    batch: ClassVar[int] = 500  # rows in a statement that inserts or deletes
    most_parameters: ClassVar[int] = 32_000  # of a statement
    returns_inserted: ClassVar[bool] = True  # INSERT … RETURNING
    last_key: ClassVar[int | None] = None  # the one after which generated keys are random, if there is one
    tells_last_key: ClassVar[bool] = False  # the driver knows the key of one row for less than RETURNING takes
    returns_updated: ClassVar[bool] = True  # UPDATE … RETURNING
    native_times: ClassVar[tuple[Any, ...]] = (peewee.DateTimeField, peewee.DateField, peewee.TimeField)  # not text
    default_values: ClassVar[str] = "DEFAULT VALUES"  # what is inserted of a row of which nothing is given
    adds_foreign_keys: ClassVar[bool] = True  # to a table that there is
    defers_foreign_keys: ClassVar[bool] = True  # to the end of the transaction, if they are DEFERRABLE
    deletes_own_parents: ClassVar[bool] = True  # rows that refer to themselves
    foreign_key: ClassVar[str] = "CONSTRAINT"  # what one is called that is dropped
    table_settings = ""  # that tables are installed with
    auto_increment = 1  # from one generated key to the next, where INSERT does not return them
    undoes_ddl: ClassVar[bool] = True  # CREATE, ALTER and DROP are parts of a transaction
    enforces_foreign_keys: bool = True

    def diagnosis(self, problem: str) -> str:
        """Return what can be said of the error with which the first connection failed, and its remedy."""
        raise NotImplementedError

    def unfit(self) -> str | None:
        """Return why this library can't work with the database, which was reached, and the remedy; None if it can."""
        return None

    @staticmethod
    def describe(cursor: Any) -> Any:
        """Return what the columns of a driver's cursor are, as the DB-API has it."""
        return cursor.description

    def fits(self, columns: Sequence[Sequence[Any]]) -> bool:
        """Tell whether the values of these columns fit into one statement."""
        return True

    @staticmethod
    def adapter(kind: type) -> Callable[[Any], Any] | None:
        """Return what the driver does to values of a type, where it takes long to find that out for each of them."""
        return None

    def array_type(self, field: Any) -> str | None:
        """Return the type of an array of a field's values, if they can go as one."""
        return None

    def typed(self, field: Any, sql: str) -> str:
        """Return SQL of a column that has the type in which a field's values can go, whatever the column's own is."""
        return sql

    def takes_name(self, name: str) -> bool:
        """Tell whether a name of a table or column is short enough."""
        return True

    def new_keys(self, count: int) -> list[Any]:
        """Return new generated keys, if they have to be known before the rows are inserted."""
        return []

    def note_given_keys(self, table: str, column: str, highest: int) -> None:
        """Let the keys that are generated from now on be others than those that rows were inserted with."""

    def trial(self, table: str, column: Any) -> str:
        """Return SQL that shows, without writing anything, whether a value can be put into a column."""
        return f"SELECT {column.placeholder}"

    def column_in(self, error: Exception) -> str | None:
        """Return the name of the column that an error says can't hold a value, if the database's errors do."""
        return None

    # Transactions

    def beginning(self, isolation_level: str | None) -> Sequence[str]:
        """Return the statements that begin a transaction."""
        raise NotImplementedError

    def has_transaction(self) -> bool:
        """Tell whether the connection is in a transaction: databases end one by themselves after some errors."""
        raise NotImplementedError

    def is_aborted(self) -> bool:
        """Tell whether the transaction takes no more statements, after one that failed."""
        return False

    def is_lost(self) -> bool:
        """Tell whether the connection is known to be lost."""
        return False

    def is_in_doubt(self, error: BaseException) -> bool:
        """Tell whether a COMMIT that met this error may have been done all the same."""
        return self.is_lost()

    def is_retryable(self, error: BaseException) -> bool:
        """Tell whether the work that met this error may succeed when it is done again from its start."""
        raise NotImplementedError

    def is_interrupted(self, error: BaseException) -> bool:
        """Tell whether a statement was stopped, by a limit of time or by somebody: that is no object's error."""
        return False

    def is_outage(self, error: BaseException) -> bool:
        """Tell whether the work was not done for want of a server, which another or the same one may be in a while."""
        return False
