"""`wahafleet key`: keys to the API for services and operators, who have no account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from cli.failures import CommandError
from cli.output import show_rows
from cli.store import at_terminal, opened_store
from cli.target import Target

if TYPE_CHECKING:
    from core.store.engine import Engine

T = TypeVar("T")
_COLUMNS = ("id", "role", "name", "prefix", "created_at", "last_used_at", "revoked_at", "owner")


@click.group()
def key() -> None:
    """API keys. Users make their own; those of services and operators are made here alone."""


@key.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["service", "operator"]), required=True, help="What it opens.")
@click.pass_obj
def create(target: Target, name: str, role: str) -> None:
    """Make a key called NAME and print it: it is shown now and never again."""
    from core.domain.accounts import FieldError
    from core.domain.api_keys import KeyRole, clean_key_name
    from core.store import api_keys

    try:
        clean = clean_key_name(name.strip())
    except FieldError:
        raise CommandError("that is no name for a key: use 3 to 100 characters of one line.") from None
    made, plain = _run(
        target,
        lambda engine: api_keys.create(engine, name=clean, role=KeyRole(role), actor=at_terminal()),
    )
    click.echo(plain)
    click.echo(f"id {made.id}; kept as a hash, so write it down now", err=True)


@key.command("list")
@click.option("--users", "users_too", is_flag=True, help="Keys of users, too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one list.")
@click.pass_obj
def list_(target: Target, *, users_too: bool, as_json: bool) -> None:
    """List keys, oldest first, revoked ones too; no key is ever shown."""
    from core.store import api_keys

    rows = _run(target, lambda engine: api_keys.list_all(engine, users_too=users_too))
    show_rows(rows, _COLUMNS, as_json=as_json, none="no keys")


@key.command()
@click.argument("key")
@click.pass_obj
def revoke(target: Target, key: str) -> None:
    """End KEY (an id, or a prefix such as whago_1a2b3c4d), whoever it belongs to; at once and for good."""
    from core.store import api_keys

    ended = _run(target, lambda engine: api_keys.revoke_any(engine, key.strip().lower(), actor=at_terminal()))
    if ended is None:
        raise CommandError(
            f"no key has the id or prefix {key[:40]!r}; `wahafleet key list --users` shows what there is."
        )
    click.echo(f"{ended.prefix} {ended.name} revoked")


def _run(target: Target, work: Callable[[Engine], Awaitable[T]]) -> T:
    url = target.database_url

    async def main() -> T:
        async with opened_store(url, "key") as engine:
            return await work(engine)

    return asyncio.run(main())
