"""`wahafleet container`: users' containers, as an operator sees them."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import click

from cli.failures import CommandError
from cli.store import at_terminal, opened_store
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


@container.command("list")
@click.option("--phase", default=None, help="Only those in this phase, such as waiting.")
@click.option("--node", default=None, metavar="HOST", help="Only those on this host.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_(target: Target, phase: str | None, node: str | None, output: str) -> None:
    """List all containers, by user id."""
    from urllib.parse import urlencode

    given = {name: value for name, value in (("phase", phase), ("node", node)) if value is not None}
    path: str | None = f"/containers?{urlencode({**given, 'limit': 200})}"
    found: list[dict[str, Any]] = []
    while path is not None:
        page, path = target.page(path)
        found += page
    if output == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for one in found:
        where = f"{one['node']}:{one['port']}" if one["port"] is not None else "-"
        click.echo(
            f"{one['user_id']}  {one['phase']:<12} {where:<24} {one['chips']:>2} chips  {one['reason'] or ''}".rstrip()
        )
    if not found:
        click.echo("no containers")


@container.command()
@click.argument("user")
@click.pass_obj
def create(target: Target, user: str) -> None:
    """Keep a container for USER (a user id or e-mail), with or without chips, until it is deleted."""
    found, made = target.put(f"/containers/{path_part(user)}")
    click.echo(f"{found['user_id']} {'made' if made else 'was there and is kept'}: {found['phase']}")


@container.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(target: Target, user: str, *, yes: bool) -> None:
    """Remove the container of USER (a user id or e-mail) with ALL chips in it; the account stays."""
    path = f"/containers/{path_part(user)}"
    if not yes:
        found = target.get(path)
        click.confirm(
            f"Delete {found['container_name']} and its {found['chips']} chips?", abort=True, err=True
        )
    gone = target.delete(path)
    click.echo(f"{gone['user_id']} removing, with {len(gone['chips_deleted'])} chips")


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


@container.command()
@click.argument("user")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def stats(target: Target, user: str, *, output: str) -> None:
    """Show what the container of USER (a user id or e-mail) uses right now."""
    found: dict[str, Any] = dict(target.get(f"/containers/{path_part(user)}/stats"))
    if output == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    if found["sampled_at"] is None:
        raise CommandError(str(found["message"]))
    limit = found["memory_limit_mb"]
    click.echo(f"cpu     {found['cpu_percent']:.1f} % of one core")
    click.echo(f"memory  {found['memory_usage_mb']:.1f} of {limit:.0f} MB ({found['memory_percent']:.1f} %)")
    click.echo(f"taken   {found['sampled_at']}")


@container.command()
@click.argument("user")
@click.option("-f", "--follow", is_flag=True, help="Go on with every further line until interrupted.")
@click.option("-n", "--lines", type=click.IntRange(1, 2000), default=200, show_default=True)
@click.pass_obj
def logs(target: Target, user: str, *, follow: bool, lines: int) -> None:
    """Show the newest lines that the container of USER (a user id or e-mail) printed, without secrets."""
    path = f"/containers/{path_part(user)}/logs"
    if follow:
        for line in target.events(path, lines=lines, follow="true"):
            click.echo(line)
        return
    found: dict[str, Any] = dict(target.get(path, lines=lines))
    for line in found["lines"]:
        click.echo(line)
    if found["message"]:
        click.echo(found["message"], err=True)


@container.command()
@click.argument("user")
@click.pass_obj
def restart(target: Target, user: str) -> None:
    """Restart the container of USER (a user id or e-mail) in place; its chips come back without a QR code."""
    accepted = target.post(f"/containers/{path_part(user)}/restart")
    click.echo(f"{accepted['user_id']} restarting")


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

    async with opened_store(url, "container") as engine:
        return await pause_container(engine, user_id, paused=paused, actor=at_terminal())


def path_part(text: str) -> str:
    """`text` as one part of a path: what it holds never leads to another route."""
    from urllib.parse import quote

    return quote(text, safe="") or "-"
