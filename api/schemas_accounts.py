"""Bodies of logging out and of API keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from api import shapes
from api.bodies import Body
from core.domain.api_keys import clean_key_name


class LoggedOut(msgspec.Struct, frozen=True):
    """`message`: one sentence for people."""

    message: str


class NewApiKey(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new API key. `name`: 3 to 100 characters, for its owner alone."""

    name: str

    LABELS: ClassVar[Mapping[str, str]] = {"name": "Nome"}
    RULES: ClassVar[Mapping[str, Callable[[str], Any]]] = {"name": clean_key_name}
    SHAPES: ClassVar[Mapping[str, shapes.Shape]] = {"name": shapes.KEY_NAME}


class ApiKey(msgspec.Struct, frozen=True):
    """An API key without its secret.

    Attributes:
        prefix: what the key begins with, to tell it from others.
        last_used_at: to the minute.
        is_active: false once it is revoked.
    """

    id: str
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    is_active: bool


class CreatedApiKey(msgspec.Struct, frozen=True):
    """A new API key with its secret. `key`: shown in this answer and never again."""

    id: str
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    is_active: bool
    key: str

    def __repr__(self) -> str:
        return f"CreatedApiKey(id={self.id!r})"
