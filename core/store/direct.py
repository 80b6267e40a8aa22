"""Statements of the loop, compiled once and given straight to the driver.

SQLAlchemy writes them and looks after the pool; only its way of running them is left out, for it costs fifteen
times what the driver itself takes (260 against 16 microseconds of CPU for a read by key), and a pass runs ten.
Whatever is built anew for each call belongs to `engine.reading` and `engine.transaction`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final

import asyncpg
from sqlalchemy import ARRAY, JSON, ColumnClause, Text, Uuid, bindparam, cast, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.base import Executable
from sqlalchemy.types import TypeEngine

from core.store.engine import translated

_Bind = tuple[str, Callable[[Any], Any] | None, Any]

_DIALECT: Final[Any] = asyncpg_dialect()  # type: ignore[no-untyped-call]
_NEEDED: Final = object()
# Of all types that the tables have, the driver's values of these alone differ from SQLAlchemy's.
_CONVERTED: Final = (Uuid, ARRAY, JSON)


class Prepared:
    """One statement of this program, compiled at its first use. Every parameter without a value is named."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement

    @cached_property
    def _compiled(self) -> Any:
        compiled: Any = self.statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        if compiled.post_compile_params:
            raise TypeError("a list of unknown length (in_) cannot be compiled once; use any_ with an array")
        return compiled

    @cached_property
    def sql(self) -> str:
        return str(self._compiled.string)

    @cached_property
    def _binds(self) -> tuple[_Bind, ...]:
        compiled = self._compiled
        constants: Mapping[str, Any] = compiled.construct_params(_check=False)
        found: list[_Bind] = []
        for name in compiled.positiontup or ():
            bind = compiled.binds.get(name)
            convert = bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT) if bind is not None else None
            constant = _NEEDED if bind is not None and bind.required else constants[name]
            found.append((name, convert, constant))
        return tuple(found)

    @cached_property
    def _row(self) -> Callable[[Sequence[Any]], Any]:
        columns = self._compiled._result_columns
        # Names that no attribute can have, such as those of unnamed expressions, are numbered.
        kind = namedtuple("Row", [column.keyname for column in columns], rename=True)  # type: ignore[misc]
        make = kind._make
        converted = [(place, convert) for place, c in enumerate(columns) if (convert := _converter(c.type))]
        if not converted:
            return make

        def row(record: Sequence[Any]) -> Any:
            values = list(record)
            for place, convert in converted:
                value = values[place]
                if value is not None:
                    values[place] = convert(value)
            return make(values)

        return row

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """The parameters in their order. Raises KeyError when one that has no value of its own is not in `values`."""
        found = []
        for name, convert, constant in self._binds:
            value = values[name] if constant is _NEEDED else values.get(name, constant)
            found.append(value if convert is None or value is None else convert(value))
        return found

    def rows(self, records: Sequence[Any]) -> Rows:
        return Rows([self._row(record) for record in records] if records else [])


def json_rows(parameter: str, columns: Iterable[ColumnClause[Any]], name: str) -> Any:
    """Part of a statement: a parameter that holds rows as JSON, of any number."""
    listed = func.jsonb_to_recordset(cast(bindparam(parameter, type_=Text), JSONB))
    return listed.table_valued(*columns).render_derived(name=name, with_types=True)


def _converter(type_: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    if not isinstance(type_, _CONVERTED):
        return None
    return type_.dialect_impl(_DIALECT).result_processor(_DIALECT, None)


class Rows:
    """What a statement answered, as named tuples."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def first(self) -> Any | None:
        """None without a row."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """Raises ValueError unless there is exactly one row."""
        (row,) = self._rows
        return row


class Direct:
    """A connection of the pool, for statements that are `Prepared`."""

    __slots__ = ("_driver",)

    def __init__(self, driver: asyncpg.Connection) -> None:
        self._driver = driver

    async def execute(self, prepared: Prepared, values: Mapping[str, Any] | None = None) -> Rows:
        records = await self._driver.fetch(prepared.sql, *prepared.arguments(values or {}))
        return prepared.rows(records)

    async def execute_each(self, prepared: Prepared, each: Sequence[Mapping[str, Any]]) -> None:
        """Once for each of `each`, which are sent together."""
        if len(each) == 1:
            await self._driver.execute(prepared.sql, *prepared.arguments(each[0]))
            return
        await self._driver.executemany(prepared.sql, [prepared.arguments(values) for values in each])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Read committed: committed at the end of the block, rolled back on any error."""
        await self._driver.execute("BEGIN")
        try:
            yield
        except Exception as error:
            # Whoever does not answer would not answer this either, and its connection is dropped anyway.
            if not isinstance(error, TimeoutError) and not self._driver.is_closed():
                await self._driver.execute("ROLLBACK")
            raise
        await self._driver.execute("COMMIT")

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Inside a transaction: what is done in the block is undone when it raises, and the transaction goes on."""
        await self._driver.execute("SAVEPOINT inner_part")
        try:
            yield
        except Exception:
            await self._driver.execute("ROLLBACK TO SAVEPOINT inner_part")
            raise
        await self._driver.execute("RELEASE SAVEPOINT inner_part")


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[Direct]:
    """One transaction on a connection of its own. Raises as `statements`."""
    async with statements(engine) as direct, direct.transaction():
        yield direct


@asynccontextmanager
async def statements(engine: AsyncEngine) -> AsyncIterator[Direct]:
    """A connection on which each statement stands for itself. Raises as `engine.transaction` does."""
    with translated():
        proxied = await _checked_out(engine)
        try:
            yield Direct(proxied.driver_connection)
        except BaseException as error:
            _drop_unanswered(engine, proxied, error)
            raise
        finally:
            proxied.close()


async def _checked_out(engine: AsyncEngine) -> Any:
    try:
        return await engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error as error:
        # SQLAlchemy's copy of what the driver raised when it could not connect.
        raise (error.__cause__ or error) from error


def _drop_unanswered(engine: AsyncEngine, proxied: Any, error: BaseException) -> None:
    """Cut a connection on which something is left without an answer: its caller was stopped, or it is silent."""
    silent = isinstance(error, TimeoutError)
    if isinstance(error, Exception) and not silent and not isinstance(error, asyncpg.InternalClientError):
        return  # a closed one is found out at the next checkout
    proxied.driver_connection.terminate()
    if silent:
        # The idle ones are as doubtful as this one.
        engine.sync_engine.pool._invalidate(proxied, error, _checkin=False)
    proxied.invalidate(error)
