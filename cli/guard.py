"""`wahafleet guard`: the guards' keys, and what operators tell the store about their leases."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import click

from cli.failures import CommandError
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
    help="For how long; one life of a lease (WAHAFLEET_GUARD_TTL_S) by default.",
)
@click.pass_obj
def hold(target: Target, *, seconds: float | None) -> None:
    """Give guards no new lease for a while; those that they hold go on.

    To be said before guards reach a store that was restored from a backup or a machine's snapshot, or whose
    clock was set while no API ran: leases may be out there that it knows nothing of.
    """
    until = asyncio.run(_hold(target.database_url, _life_s(target) if seconds is None else seconds))
    click.echo(f"no new lease for any guard before {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")


@guard.command()
@click.argument("node_id")
@click.pass_obj
def key(target: Target, node_id: str) -> None:
    """Print the key of the guard on the Nomad node NODE_ID (a whole id, as `nomad node status -verbose` shows it).

    It is made from WAHAFLEET_GUARD_SECRET, as the API has it, and opens nothing on another node.
    """
    known, made = _key(target, node_id)
    click.echo(made)
    click.echo(
        f"set it as WAHAFLEET_GUARD_KEY, with WAHAFLEET_GUARD_NODE_ID={known}, for the guard on that node alone; "
        "whoever has it can speak for every chip there",
        err=True,
    )


@guard.command()
@click.argument("node_ids", nargs=-1, required=True)
@click.pass_obj
def keys(target: Target, node_ids: tuple[str, ...]) -> None:
    """Print the keys of NODE_IDS as the Nomad variable that nomad/egress.nomad.hcl reads, in JSON.

    Handed on to `nomad var put -force -in json nomad/jobs/wahafleet-egress -`. Name all nodes each time: what is not
    named is not in it.
    """
    click.echo(json.dumps({"Items": dict(_key(target, node_id) for node_id in node_ids)}, indent=2))


def _key(target: Target, node_id: str) -> tuple[str, str]:
    """(the node's id as it is written, its key in hexadecimal digits). Raises CommandError."""
    from core.domain.chip_credentials import node_key
    from core.domain.names import parse_id

    secret = target.environment().get("WAHAFLEET_GUARD_SECRET", "")
    if not secret:
        raise CommandError(
            "WAHAFLEET_GUARD_SECRET is not set; set it to the one that the API and the daemon were started with."
        )
    known = parse_id(node_id)
    if known is None:
        raise CommandError(
            f"{node_id[:60]!r} is no whole node id; `nomad node status -verbose` shows them, 36 characters each."
        )
    return known, node_key(secret.encode(), known).hex()


def _life_s(target: Target) -> float:
    """Life of a lease, as the API gives it. Raises CommandError."""
    from core.store.guard_leases import TTL_S

    told = target.environment().get("WAHAFLEET_GUARD_TTL_S", "").strip() or str(TTL_S)
    try:
        return float(told)
    except ValueError as error:
        raise CommandError(f"WAHAFLEET_GUARD_TTL_S is {told!r}, which is no number of seconds.") from error


async def _hold(url: str, seconds: float) -> datetime:
    from core.store.guard_leases import PostgresGuardLeases

    async with opened_store(url, "guard") as engine:
        return await PostgresGuardLeases(engine).hold(seconds)
