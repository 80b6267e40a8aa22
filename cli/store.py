"""What verbs that work on the store itself share."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cli.failures import CommandError

if TYPE_CHECKING:
    from core.domain.actor import Actor
    from core.store.engine import Engine


@asynccontextmanager
async def opened_store(url: str, verb: str) -> AsyncIterator[Engine]:
    """The store for the length of one `wahafleet VERB`; imported here, since most verbs never need it."""
    from core.store.engine import engine_for

    engine = engine_for(url, pool_size=2, application_name=f"wahafleet {verb}")
    try:
        yield engine
    finally:
        await engine.dispose()


def login_name() -> str:
    """Who sits at this terminal. Raises CommandError where that cannot be told."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise CommandError("your login name cannot be told; name yourself with --by.") from None


def at_terminal(name: str | None = None) -> Actor:
    """Who acts by a verb on the store: `name`, else the login name. Raises CommandError as `login_name` does."""
    from core.domain.actor import Actor, ActorKind

    return Actor(ActorKind.COMMAND_LINE, name=name or login_name())
