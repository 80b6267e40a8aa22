"""The way into PostgreSQL, and the border where its errors become ours.

Every statement of this project runs inside `transaction()` or `reading()`; what the driver, the pool or
the socket raise there leaves as an error of `core.errors`. No call to another system belongs inside.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg
import msgspec
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from core.errors import AppError, Conflict, Rejected, StaleWrite, Unavailable
from core.settings import Secret, StoreSettings

SYSTEM: Final = "postgres"

# What the driver raises. The one that it calls internal comes when the server has said goodbye on an idle
# connection and its socket is not closed yet. TimeoutError is an OSError.
DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

# What those who may not import SQLAlchemy call the thing that they hand on.
Engine: TypeAlias = AsyncEngine


class Timeouts(msgspec.Struct, frozen=True):
    """How long the store may take before it counts as away. Seconds.

    Attributes:
        connect_s: for a new connection, login included; also the longest wait for a pooled one.
        statement_s: PostgreSQL gives a statement up by itself, lock waits included.
        command_s: we give the server up; longer than `statement_s`, so that this happens only when the
            server does not answer at all.
        idle_in_transaction_s: PostgreSQL ends a transaction whose client froze, and frees its locks.
    """

    connect_s: float = 1.5
    statement_s: float = 1.5
    command_s: float = 1.8
    idle_in_transaction_s: float = 10.0


class AlreadyThere(Conflict):
    """A unique rule of the store refused a row.

    Attributes:
        constraint: name of the index or constraint, such as `uq_chips_alias`.
    """

    default_code = "already_there"

    def __init__(self, constraint: str) -> None:
        super().__init__("Já existe um registro com esses dados.")
        self.constraint = constraint


def parse_url(database_url: str) -> URL:
    """The parts of a SQLAlchemy URL. Raises Rejected, without the URL (it may hold a password)."""
    try:
        return make_url(database_url)
    except (exc.ArgumentError, ValueError):
        raise Rejected(
            SYSTEM,
            "the database URL cannot be read; write it as postgresql+asyncpg://user:password@host:port/database",
        ) from None


def connect_arguments(application_name: str, timeouts: Timeouts) -> dict[str, Any]:
    """What asyncpg is given for every connection besides its address."""
    return {
        "timeout": timeouts.connect_s,
        "command_timeout": timeouts.command_s,
        "server_settings": {
            "application_name": application_name,
            "statement_timeout": f"{timeouts.statement_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{timeouts.idle_in_transaction_s * 1000:.0f}",
            "timezone": "UTC",
            "jit": "off",  # our statements are small: compiling one costs more than running it
        },
    }


def create_engine(
    settings: StoreSettings,
    *,
    application_name: str = "wahafleet",
    timeouts: Timeouts | None = None,
) -> AsyncEngine:
    """A pool of at most `settings.pool_size` connections; nothing is opened yet.

    A connection whose socket was closed meanwhile is replaced at checkout, without a round trip. Raises
    Rejected on an unreadable URL.
    """
    timeouts = timeouts or Timeouts()
    engine = create_async_engine(
        parse_url(settings.database_url.reveal()),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=timeouts.connect_s,
        pool_recycle=1800,
        pool_use_lifo=True,
        hide_parameters=True,  # parameters hold password hashes and sealed keys
        connect_args=connect_arguments(application_name, timeouts),
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "handle_error", _drop_silent_server)
    return engine


def engine_for(database_url: str, *, pool_size: int = 5, application_name: str = "wahafleet") -> AsyncEngine:
    """An engine for those who have a URL and no settings: the sandbox, tools and tests."""
    settings = StoreSettings(database_url=Secret(database_url), pool_size=pool_size, secret_keys=())
    return create_engine(settings, application_name=application_name)


def _refuse_closed(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    # A server that restarts closes its sockets, and asyncpg knows at once; asking with a `SELECT 1` as
    # SQLAlchemy's pre-ping does would cost three round trips a checkout (BEGIN, ping, ROLLBACK).
    if dbapi_connection.driver_connection.is_closed():
        raise exc.DisconnectionError("the server closed this connection")


def _drop_silent_server(context: ExceptionContext) -> None:
    if not isinstance(context.original_exception, TimeoutError) or context.connection is None:
        return
    # The server sent nothing for longer than its own limit of a statement. Saying goodbye to it would wait
    # for an answer once more, so the socket is cut; and all idle connections are as doubtful as this one.
    driver = context.connection.connection.driver_connection
    if isinstance(driver, asyncpg.Connection):
        driver.terminate()
    context.is_disconnect = True


# Each such engine is made with listeners of its own, which costs more than many a statement.
_autocommit: WeakKeyDictionary[AsyncEngine, AsyncEngine] = WeakKeyDictionary()


def autocommit(engine: AsyncEngine) -> AsyncEngine:
    """The same pool for single statements: no BEGIN and COMMIT around them, one round trip each."""
    made = _autocommit.get(engine)
    if made is None:
        made = _autocommit[engine] = engine.execution_options(isolation_level="AUTOCOMMIT")
    return made


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction (read committed): committed at the end, rolled back on any error.

    Raises Unavailable, StaleWrite, AlreadyThere or Rejected instead of the driver's errors.
    """
    with translated():
        async with engine.begin() as connection:
            yield connection


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection on which each statement stands for itself. Raises as `transaction` does."""
    with translated():
        async with autocommit(engine).connect() as connection:
            yield connection


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of driver, pool and socket into ours, with the cause chained."""
    try:
        yield
    except AppError:
        raise
    except exc.DBAPIError as error:
        _forget_row(error.driver_exception)
        raise translate(error.driver_exception) from error
    except (exc.TimeoutError, *DRIVER_ERRORS) as error:
        _forget_row(error)
        raise translate(error) from error


def _forget_row(error: BaseException) -> None:
    # PostgreSQL's DETAIL is the failing row, password hashes and all, and a traceback would print it.
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None


_UNAVAILABLE_CLASSES: Final = ("08", "53", "57", "58")  # connection, resources, intervention, system
_LOST_RACES: Final = ("40001", "40P01")  # serialization failure, deadlock
_UNAVAILABLE: Final = ("25006", "55P03", "28000", "28P01", "3D000")  # read-only, lock, login, database


def translate(error: BaseException) -> AppError:
    """Our error for one of the driver's, by SQLSTATE (PostgreSQL manual, appendix A)."""
    state = getattr(error, "sqlstate", None)
    if not isinstance(state, str):
        return Unavailable(SYSTEM, _no_answer(error))
    if state == "23505":
        return AlreadyThere(getattr(error, "constraint_name", None) or "")
    if state in _LOST_RACES:
        return StaleWrite(SYSTEM, "another transaction was faster; look again")
    if state.startswith(_UNAVAILABLE_CLASSES) or state in _UNAVAILABLE:
        return Unavailable(SYSTEM, f"{_first_line(error)} (SQLSTATE {state})")
    if state in ("42P01", "42703"):
        return Unavailable(
            SYSTEM,
            f"{_first_line(error)}: the schema is older than this program; run `wahafleet migrate`",
            code="schema_outdated",
        )
    rule = getattr(error, "constraint_name", None)
    refused = f"rule {rule}" if rule else _first_line(error)
    return Rejected(SYSTEM, f"statement refused: {refused} (SQLSTATE {state})")


def _no_answer(error: BaseException) -> str:
    if isinstance(error, exc.TimeoutError):
        return "all connections of this process are busy"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"no connection: {_first_line(error)}" if str(error) else "no connection"


def _first_line(error: BaseException) -> str:
    # What follows the first line is the failing row itself.
    return str(error).split("\n", 1)[0]
