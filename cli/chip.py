"""`wahafleet chip`: one chip, whoever owns it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click

from cli.failures import CommandError
from cli.output import cell, show_table
from cli.store import at_terminal, login_name, opened_store
from cli.target import Target

_EXITS: Final = ("seen_from", "seen_until", "provider", "label", "label_generation", "exit_ip", "why")


@click.group()
def chip() -> None:
    """One chip. CHIP is an id, or an alias that only one chip has."""


@chip.command()
@click.argument("chip")
@click.option("--lift", is_flag=True, help="It is banned no longer.")
@click.option("--by", default=None, metavar="NAME", help="Who says so; your login name by default.")
@click.pass_obj
def ban(target: Target, chip: str, *, lift: bool, by: str | None) -> None:
    """Mark CHIP as banned by WhatsApp: it is stopped once and left alone, whatever is pressed."""
    from core.store.chips_admin import ban_chip

    who = by or login_name()
    word = "lifted" if lift else "banned"
    actor = at_terminal(who)
    done = _run(
        target, chip, lambda engine, found: ban_chip(engine, found, banned=not lift, by=who, actor=actor)
    )
    if not done:
        said = "is not marked as banned" if lift else "is marked as banned already; --lift ends it"
        raise CommandError(f"{chip} {said}.")
    click.echo(f"{chip} {word}")


@chip.command()
@click.argument("chip")
@click.option("--by", default=None, metavar="NAME", help="Who says so; your login name by default.")
@click.pass_obj
def release(target: Target, chip: str, by: str | None) -> None:
    """Let CHIP out of quarantine: it connects again by itself."""
    from core.store.chips_admin import release_chip

    who = by or login_name()
    actor = at_terminal(who)
    if not _run(target, chip, lambda engine, found: release_chip(engine, found, by=who, actor=actor)):
        raise CommandError(f"{chip} is in no quarantine; `phase` in its extra_data says where it stands.")
    click.echo(f"{chip} released")


@chip.command()
@click.argument("chip")
@click.option("--history", is_flag=True, help="All labels and exits that it had, newest first.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def proxy(target: Target, chip: str, *, history: bool, output: str) -> None:
    """Show what CHIP goes out through: provider, label, exit, traffic of this month."""
    path = f"/chips/{chip_id_of(target, chip)}/proxy"
    if not history:
        found: dict[str, Any] = target.get(path)
        if output == "json":
            click.echo(json.dumps(found, ensure_ascii=False))
            return
        for name, value in found.items():
            click.echo(f"{name:<16} {cell(value)}")
        return
    lines: list[dict[str, Any]] = []
    following: str | None = f"{path}/history?limit=200"
    while following is not None:
        page, following = target.page(following)
        lines += page
    if output == "json":
        click.echo(json.dumps(lines, ensure_ascii=False))
        return
    show_table(lines, _EXITS, none="no exit of this chip has been read yet")


@chip.command("rotate-label")
@click.argument("chip")
@click.pass_obj
def rotate_label(target: Target, chip: str) -> None:
    """Give CHIP another label at its provider, and with it another exit; no restart, no QR code."""
    told = target.post(f"/chips/{chip_id_of(target, chip)}/proxy/rotate")
    click.echo(
        f"{chip} label {told['generation']} {told['status']}; `wahafleet chip explain` says how it goes"
    )


def chip_id_of(target: Target, chip: str) -> str:
    """The chip's id: an alias is looked up in the store; an id needs none. Raises CommandError."""
    from core.domain.names import parse_id

    return parse_id(chip) or asyncio.run(find_chip(target.database_url, chip))[1]


async def find_chip(url: str, text: str) -> tuple[str, str]:
    """User id and chip id of the one chip that `text` names. Raises CommandError when there is not one."""
    from core.store.chips_admin import find_chips

    async with opened_store(url, "chip") as engine:
        found = await find_chips(engine, text)
    if not found:
        raise CommandError(f"no chip has the id or alias {text!r}; `GET /api/v1/chips` lists a user's chips.")
    if len(found) > 1:
        ids = ", ".join(f"{one.id} of {one.email}" for one in found[:5])
        raise CommandError(f"{len(found)} chips are called {text!r}; name one by its id: {ids}.")
    return found[0].user_id, found[0].id


def _run(target: Target, text: str, wish: Callable[[Any, str], Awaitable[bool]]) -> bool:
    return asyncio.run(_wished(target.database_url, text, wish))


async def _wished(url: str, text: str, wish: Callable[[Any, str], Awaitable[bool]]) -> bool:
    _, chip_id = await find_chip(url, text)
    async with opened_store(url, "chip") as engine:
        return await wish(engine, chip_id)
