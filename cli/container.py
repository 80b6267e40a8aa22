"""`wahafleet container`: users' containers, as an operator sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import click

from cli.failures import CommandError
from cli.target import Target

_ROWS: Final = (
    "container_name",
    "status",
    "phase",
    "reason",
    "node",
    "address",
    "port",
    "base_url",
    "container_id",
    "job",
    "image",
    "engine",
    "epoch",
    "chips",
    "created_at",
    "api_key",
)


@click.group()
def container() -> None:
    """Users' containers."""


@container.command()
@click.argument("user")
@click.option("--secrets", is_flag=True, help="Show its API key too; the API records who asked.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def show(target: Target, user: str, *, secrets: bool, output: str) -> None:
    """Show the container of USER (a user id)."""
    found: dict[str, Any] = dict(target.get(f"/containers/{path_part(user)}"))
    if secrets:
        found |= target.get(f"/containers/{path_part(user)}/access")
    if output == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for name in (*_ROWS, *sorted(found.keys() - set(_ROWS))):
        if name in found:
            value = found[name]
            click.echo(f"{name:<15} {'-' if value is None else value}")


@container.command()
@click.argument("user")
@click.pass_obj
def pause(target: Target, user: str) -> None:
    """Stop all sessions of USER (a user id) and start none until `resume`; nothing is logged out."""
    _pause(target, user, paused=True)


@container.command()
@click.argument("user")
@click.pass_obj
def resume(target: Target, user: str) -> None:
    """End the pause of USER (a user id): its chips connect again by themselves."""
    _pause(target, user, paused=False)


def _pause(target: Target, user: str, *, paused: bool) -> None:
    from core.domain.names import parse_id

    user_id = parse_id(user)
    if user_id is None:
        raise CommandError(f"{user} is no user id; `wahafleet user` verbs and the API show ids.")
    word = "paused" if paused else "resumed"
    if not asyncio.run(_set_paused(target.database_url, user_id, paused=paused)):
        raise CommandError(
            f"{user_id} has no container or is {word} already; see `wahafleet container show`."
        )
    click.echo(f"{user_id} {word}")


async def _set_paused(url: str, user_id: str, *, paused: bool) -> bool:
    from core.store.containers_admin import pause_container
    from core.store.engine import engine_for

    engine = engine_for(url, pool_size=2, application_name="wahafleet container")
    try:
        return await pause_container(engine, user_id, paused=paused)
    finally:
        await engine.dispose()


def path_part(text: str) -> str:
    """`text` as one part of a path: what it holds never leads to another route."""
    from urllib.parse import quote

    return quote(text, safe="") or "-"
