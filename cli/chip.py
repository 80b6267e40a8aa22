"""`wahafleet chip`: one chip, whoever owns it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import click

from cli.failures import CommandError
from cli.store import at_terminal, login_name, opened_store
from cli.target import Target


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


@chip.command("rotate-label")
@click.argument("chip")
@click.pass_obj
def rotate_label(target: Target, chip: str) -> None:
    """Give CHIP another label at its provider, and with it another exit; no restart, no QR code."""
    from core.domain.names import parse_id

    chip_id = parse_id(chip) or asyncio.run(find_chip(target.database_url, chip))[1]
    told = target.post(f"/chips/{chip_id}/proxy/rotate")
    click.echo(
        f"{chip} label {told['generation']} {told['status']}; `wahafleet chip explain` says how it goes"
    )


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
