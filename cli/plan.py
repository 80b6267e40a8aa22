"""`wahafleet plan`: what accounts may have."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from typing import Any, Final

import click

from cli.failures import CommandError
from cli.output import show_rows
from cli.store import at_terminal, opened_store
from cli.target import Target

_COLUMNS: Final = (
    "slug",
    "title",
    "max_chips",
    "api_access",
    "cpu_mhz",
    "memory_mb",
    "memory_max_mb",
    "proxy_gb_limit",
    "start_order",
    "users",
)
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
MEASURED_CHIPS: Final = 10  # sessions in one container that the figures of the docs were taken with


@click.group()
def plan() -> None:
    """Plans: chips, memory and what else an account may have."""


@plan.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one list.")
@click.pass_obj
def list_(target: Target, *, as_json: bool) -> None:
    """List plans, and how many users are on each."""
    from core.store.plans import list_plans

    async def rows() -> Any:
        async with opened_store(target.database_url, "plan") as engine:
            return await list_plans(engine)

    show_rows(asyncio.run(rows()), _COLUMNS, as_json=as_json, none="no plans")


@plan.command("set")
@click.argument("slug")
@click.option("--title", default=None, help='What people see, such as "Plano Free".')
@click.option("--chips", type=click.IntRange(0, 1000), default=None, help="Chips that a user may have.")
@click.option("--api-access/--no-api-access", default=None, help="Whether its users may have API keys.")
@click.option("--cpu-mhz", type=click.IntRange(1, 100_000), default=None, help="Of a container.")
@click.option("--memory-mb", type=click.IntRange(10, 1_000_000), default=None, help="Reserved for it.")
@click.option("--memory-max-mb", type=click.IntRange(10, 1_000_000), default=None, help="The most it gets.")
@click.option("--proxy-gb", type=click.FloatRange(0, 1_000_000), default=None, help="A month; 0 = no limit.")
@click.option("--start-order", type=click.IntRange(0, 1000), default=None, help="Lower starts first.")
@click.pass_obj
def set_(target: Target, /, slug: str, title: str | None, **figures: Any) -> None:
    """Change the plan SLUG, or make it: a new one needs --title and --chips.

    A changed amount of memory or CPU moves the containers of the plan's users in waves, as any changed setting.
    """
    changes = _changes(slug, title, figures)
    made = _set(target, slug, changes)
    if changes.get("max_chips", 0) > MEASURED_CHIPS:
        click.echo(
            f"warning: {changes['max_chips']} chips are more than the {MEASURED_CHIPS} that one container was "
            "measured with; give it the memory with --memory-max-mb",
            err=True,
        )
    click.echo(f"{slug} {'made' if made else 'changed'}")


def _changes(slug: str, title: str | None, figures: dict[str, Any]) -> dict[str, Any]:
    if not _SLUG.match(slug):
        raise CommandError("a plan's key is up to 40 of a-z, 0-9, _ and -; choose such a one.")
    names = {"chips": "max_chips", "proxy_gb": "proxy_gb_limit"}
    changes = {names.get(name, name): value for name, value in figures.items() if value is not None}
    if "proxy_gb_limit" in changes:
        changes["proxy_gb_limit"] = Decimal(str(changes["proxy_gb_limit"])).quantize(Decimal("0.001"))
    if title is not None:
        if not 1 <= len(title.strip()) <= 80 or not title.isprintable():
            raise CommandError("a plan's title is one line of 1 to 80 characters; choose such a one.")
        changes["title"] = title.strip()
    if not changes:
        raise CommandError("nothing to change; `wahafleet plan set --help` names what a plan has.")
    return changes


def _set(target: Target, slug: str, changes: dict[str, Any]) -> bool:
    from core.errors import InvalidInput
    from core.store.plans import set_plan

    async def change() -> bool:
        async with opened_store(target.database_url, "plan") as engine:
            return await set_plan(engine, slug, changes, actor=at_terminal())

    try:
        return asyncio.run(change())
    except InvalidInput as error:
        if error.code == "unknown_plan":
            raise CommandError(
                f"there is no plan {slug}; to make it give --title and --chips, or see `wahafleet plan list`."
            ) from None
        raise CommandError(
            "a container's --memory-max-mb is at least its --memory-mb; raise the one or lower the other."
        ) from None
