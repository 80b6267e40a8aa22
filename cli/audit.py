"""`wahafleet audit`: who changed what, and from where."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

from cli.failures import CommandError
from cli.store import opened_store
from cli.target import Target

if TYPE_CHECKING:
    from core.store.audit import Change

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.group()
def audit() -> None:
    """Who changed what, and from where."""


@audit.command("list")
@click.option("--user", default=None, help="Lines by or about this user: a user id or e-mail.")
@click.option("--action", default=None, help="One action, such as chip.create; chip. for all of a chip.")
@click.option(
    "--since", default=None, metavar="AGE|TIME", help="Such as 90m, 24h, 7d or 2026-07-01T12:00:00Z."
)
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
@click.pass_obj
def list_(
    target: Target, *, user: str | None, action: str | None, since: str | None, limit: int, as_json: bool
) -> None:
    """Show the newest changes, newest first."""
    begin = None if since is None else begin_of(since, datetime.now(UTC))
    for change in asyncio.run(_read(target.database_url, user, action, begin, limit)):
        click.echo(_as_json(change) if as_json else line_of(change))


def begin_of(since: str, now: datetime) -> datetime:
    """The moment that an age or a time stands for. Raises click.UsageError."""
    age = re.fullmatch(r"([0-9]{1,6})([smhd])", since.strip())
    try:
        if age:
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        told = datetime.fromisoformat(since.strip())
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"--since takes an age such as 90m, 24h or 7d, or a time such as 2026-07-01T12:00:00Z, not {since!r}"
        ) from None
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)


def line_of(change: Change) -> str:
    """Time, action, whose, target, who, from where, what was asked for."""
    who = change.actor_name or change.actor_id or "-"
    parts = [
        change.at.isoformat(timespec="seconds"),
        f"{change.action:<22}",
        f"user={change.user_id or '-'}",
        f"target={change.target or '-'}",
        f"by={change.actor_kind}:{who}",
        f"key={change.actor_key}" if change.actor_key else "",
        f"from={change.address}" if change.address else "",
        f"request={change.request_id}" if change.request_id else "",
        *(f"{name}={value}" for name, value in sorted(change.detail.items())),
    ]
    return " ".join(part for part in parts if part)


def _as_json(change: Change) -> str:
    import msgspec

    return msgspec.json.encode(change).decode()


async def _read(
    url: str, user: str | None, action: str | None, since: datetime | None, limit: int
) -> tuple[Change, ...]:
    from core.store.audit import list_changes
    from core.store.users_admin import find_user_id

    async with opened_store(url, "audit") as engine:
        user_id = None
        if user is not None:
            # A line outlives its user: an id is taken as it is when nobody has it any more.
            user_id = await find_user_id(engine, user) or _id(user)
        return await list_changes(engine, user_id=user_id, action=action, since=since, limit=limit)


def _id(user: str) -> str:
    from core.domain.names import parse_id

    user_id = parse_id(user)
    if user_id is None:
        raise CommandError(f"no account has the e-mail {user!r}; name the user by its id.")
    return user_id
