"""`wahafleet chip`: one chip, whoever owns it."""

from __future__ import annotations

import click

from cli.failures import CommandError


@click.group()
def chip() -> None:
    """One chip. CHIP is an id, or an alias that only one chip has."""


async def find_chip(url: str, text: str) -> tuple[str, str]:
    """User id and chip id of the one chip that `text` names. Raises CommandError when there is not one."""
    from core.store.chips_admin import find_chips
    from core.store.engine import engine_for

    engine = engine_for(url, pool_size=2, application_name="wahafleet chip")
    try:
        found = await find_chips(engine, text)
    finally:
        await engine.dispose()
    if not found:
        raise CommandError(f"no chip has the id or alias {text!r}; `GET /api/v1/chips` lists a user's chips.")
    if len(found) > 1:
        ids = ", ".join(f"{one.id} of {one.email}" for one in found[:5])
        raise CommandError(f"{len(found)} chips are called {text!r}; name one by its id: {ids}.")
    return found[0].user_id, found[0].id
