"""What is kept of a webhook's body."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from core.errors import InvalidInput
from core.store.webhooks import SESSION_STATUS, InboxEvent

_ID_LIMIT: Final = 80
_EVENT_LIMIT: Final = 60
_SESSION_LIMIT: Final = 80
# What a hint needs of the envelope. `me` and `payload` may name people and hold what they wrote.
_KEPT: Final = ("id", "timestamp", "event", "session", "metadata", "engine", "environment")


def inbox_event(raw: bytes) -> InboxEvent:
    """What is kept of a webhook's body. Raises InvalidInput, code `invalid_json`, on what is no event."""
    try:
        envelope = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput("O corpo do webhook não é um JSON válido.", code="invalid_json") from error
    if not isinstance(envelope, dict):
        raise InvalidInput("O webhook deve ser um objeto JSON.", code="invalid_json")
    id_, event, session = (envelope.get(name) for name in ("id", "event", "session"))
    if not (isinstance(id_, str) and id_ and isinstance(event, str) and event and isinstance(session, str)):
        raise InvalidInput("O webhook precisa de id, event e session.", code="invalid_json")
    kept = {name: envelope[name] for name in _KEPT if name in envelope}
    if event == SESSION_STATUS:
        kept.update((name, envelope[name]) for name in ("me", "payload") if name in envelope)
    return InboxEvent(
        id=_short(id_, _ID_LIMIT),
        event=_storable(event)[:_EVENT_LIMIT],
        session=_storable(session)[:_SESSION_LIMIT],
        body=_storable_json(kept),
    )


def _short(id_: str, limit: int) -> str:
    """The id itself, or a fingerprint of one that is too long: two events must stay two."""
    id_ = _storable(id_)
    return id_ if len(id_) <= limit else "sha256:" + hashlib.sha256(id_.encode()).hexdigest()


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL in a text."""
    return text.replace("\0", "")


def _storable_json(value: Any) -> Any:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, dict):
        return {_storable(key): _storable_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable_json(inner) for inner in value]
    return value
