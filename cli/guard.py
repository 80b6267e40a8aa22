"""`wahafleet guard`: what operators tell the store about the guards' leases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import click

from cli.store import opened_store
from cli.target import Target


@click.group()
def guard() -> None:
    """The egress guards and their leases."""


@guard.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=1, max=86_400),
    default=None,
    help="For how long; one life of a lease (90 s) by default.",
)
@click.pass_obj
def hold(target: Target, *, seconds: float | None) -> None:
    """Give guards no new lease for a while; those that they hold go on.

    To be said before guards reach a store that was restored from a backup or a machine's snapshot, or whose
    clock was set while no API ran: leases may be out there that it knows nothing of.
    """
    until = asyncio.run(_hold(target.database_url, seconds))
    click.echo(f"no new lease for any guard before {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")


async def _hold(url: str, seconds: float | None) -> datetime:
    from core.store.guard_leases import PostgresGuardLeases

    async with opened_store(url, "guard") as engine:
        return await PostgresGuardLeases(engine).hold(seconds)
