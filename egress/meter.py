"""What each chip uses of its upstream: counted here, told to the API in batches that count once each.

A batch is cut, kept and sent again under the same id until the API has it; meanwhile the next one gathers. So a guard
that is killed loses what came since its last batch was taken, one period at most, and nothing is counted twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Protocol

import structlog

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Route, Usage, UsageRow
from core.errors import DependencyError, Rejected

_log = structlog.get_logger(__name__)


class UsageApi(Protocol):
    async def usage(self, usage: Usage) -> None:
        """Count this batch, once. Raises DependencyError; after `Rejected` it is never taken."""


class Cell:
    """One chip's figures since the last batch. A tunnel adds to it with each chunk, so it holds plain numbers.

    Attributes:
        bytes_in: that reached the chip. bytes_out: that it sent on to its upstream.
        held: tunnels that add to it right now.
    """

    __slots__ = ("bytes_in", "bytes_out", "errors", "held", "tunnels")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.tunnels = 0
        self.held = 0
        self.errors: dict[EgressError, int] = {}

    def failed(self, error: EgressError) -> None:
        self.errors[error] = self.errors.get(error, 0) + 1

    @property
    def is_empty(self) -> bool:
        return not (self.bytes_in or self.bytes_out or self.tunnels or self.errors)


_Key = tuple[str, str, str, str, str]


class Meter:
    """All chips of one guard."""

    def __init__(self, node_id: str, new_id: Callable[[], str] = lambda: str(uuid.uuid4())) -> None:
        self._node_id = node_id
        self._new_id = new_id
        self._cells: dict[_Key, Cell] = {}
        self._unsent: Usage | None = None
        self.bytes_in = 0
        self.bytes_out = 0

    def cell(self, route: Route) -> Cell:
        """Where this chip's figures go, for as long as it keeps allocation and sub-user."""
        provider = route.upstream.provider if route.upstream is not None else ""
        key = (route.chip_id, route.allocation_id, route.user_id, provider, route.sub_user_id)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = Cell()
        return found

    def batch(self) -> Usage | None:
        """What the API is to be told next; the same one until `told`. None = nothing was used."""
        if self._unsent is None:
            rows = tuple(self._rows())
            self._unsent = Usage(self._node_id, self._new_id(), rows) if rows else None
        return self._unsent

    def told(self, batch_id: str) -> None:
        """The API has this batch, or will never take it."""
        if self._unsent is not None and self._unsent.batch_id == batch_id:
            self._unsent = None

    async def flush(self, api: UsageApi) -> bool:
        """Tell the API, and whether it has everything up to now. Raises nothing of the API's."""
        batch = self.batch()
        if batch is None:
            return True
        try:
            await api.usage(batch)
        except Rejected as error:
            _log.error("usage_refused", code=error.code, rows=len(batch.rows))
        except DependencyError:
            return False
        self.told(batch.batch_id)
        return True

    def totals(self) -> tuple[int, int]:
        """(bytes in, bytes out) since the process started."""
        inward = self.bytes_in + sum(cell.bytes_in for cell in self._cells.values())
        return inward, self.bytes_out + sum(cell.bytes_out for cell in self._cells.values())

    def _rows(self) -> list[UsageRow]:
        rows = []
        for key, cell in list(self._cells.items()):
            if cell.is_empty:
                if not cell.held:
                    del self._cells[key]
                continue
            chip_id, allocation_id, user_id, provider, sub_user_id = key
            rows.append(
                UsageRow(
                    chip_id,
                    allocation_id,
                    user_id,
                    provider,
                    cell.bytes_in,
                    cell.bytes_out,
                    cell.tunnels,
                    cell.errors,
                    sub_user_id,
                )
            )
            self.bytes_in += cell.bytes_in
            self.bytes_out += cell.bytes_out
            cell.bytes_in = cell.bytes_out = cell.tunnels = 0
            cell.errors = {}
        return rows
