"""A chip's history as its owner reads it: types, ids and letter case of what is stored."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from core.domain.states import ChipStatusWord


class EventType(StrEnum):
    """The kinds of events that the API knows; always in lower case."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    STATUS_CHANGE = "status_change"
    MESSAGE_SENT = "message_sent"
    MESSAGE_FAILED = "message_failed"
    RECONNECT = "reconnect"
    SYSTEM = "system"


_TYPES: Final = frozenset(EventType)
_WORDS: Final = frozenset(ChipStatusWord)
# Where a status word stands in `extra_data`; other keys may hold the same text and mean something else.
_STATUS_KEYS: Final = frozenset({"from", "to", "status"})

# Ids are UUIDs in the API and numbers in the store. A UUID of version 8 (RFC 9562, 5.8) has room for one.
_VERSION: Final = 0x8 << 76
_VARIANT: Final = 0b10 << 62
_NUMBERS: Final = 1 << 62


class StoredEvent(msgspec.Struct, frozen=True):
    """One line of a chip's history. `number` rises with each line of a chip, in the order of their commits."""

    number: int
    type: str
    code: str
    description: str
    extra_data: Mapping[str, Any]
    created_at: datetime


class EventView(msgspec.Struct, frozen=True):
    """One line of a chip's history, for its owner."""

    id: str
    type: str
    description: str
    extra_data: dict[str, Any]
    created_at: datetime


def event_view(event: StoredEvent, *, lower_case: bool) -> EventView:
    """The event for its owner; `lower_case`: of status words. A change of status says the new one as `status`."""
    extra = {**event.extra_data, "code": event.code}
    if event.type == EventType.STATUS_CHANGE and "to" in extra:
        extra["status"] = extra["to"]
    if lower_case:
        extra = {key: _lowered(value) if key in _STATUS_KEYS else value for key, value in extra.items()}
    return EventView(
        id=event_id(event.number),
        # Written by a newer release: told without its kind.
        type=event.type if event.type in _TYPES else EventType.INFO.value,
        description=event.description,
        extra_data=extra,
        created_at=event.created_at,
    )


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) and value in _WORDS else value


def event_id(number: int) -> str:
    """The id of an event, from its number in the store (0 = before the first one)."""
    return str(uuid.UUID(int=_VERSION | _VARIANT | number))


def event_number(id_: str) -> int | None:
    """The number behind an id; None for anything that `event_id` did not make."""
    try:
        value = uuid.UUID(id_).int
    except ValueError:
        return None
    number = value & (_NUMBERS - 1)
    return number if value == _VERSION | _VARIANT | number else None
