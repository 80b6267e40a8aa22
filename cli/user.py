"""`wahafleet user`: accounts of a standalone wahafleet."""

from __future__ import annotations

import asyncio
import sys

import click

from cli.failures import CommandError
from cli.target import Target


@click.group()
def user() -> None:
    """Accounts."""


@user.command()
@click.argument("email")
@click.pass_obj
def password(target: Target, email: str) -> None:
    """Give the account EMAIL another password: typed twice, or one line on standard input."""
    from core.domain.accounts import FieldError, clean_password

    url = target.database_url
    chosen = _ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    try:
        chosen = clean_password(chosen)
    except FieldError:
        raise CommandError(
            "that password is too weak: use 8 to 128 characters with an upper-case letter, a digit and a "
            "character that is neither letter nor digit."
        ) from None
    if not asyncio.run(_set(url, email.strip().lower(), chosen)):
        raise CommandError(f"no account has the e-mail {email.strip().lower()}; check how it is spelt.")
    click.echo(f"password of {email.strip().lower()} changed")


def _ask() -> str:
    answer: str = click.prompt("New password", hide_input=True, confirmation_prompt="Once more", err=True)
    return answer


async def _set(url: str, email: str, chosen: str) -> bool:
    from api.passwords import Passwords
    from core.domain.actor import COMMAND_LINE
    from core.store.engine import engine_for
    from core.store.users_admin import set_password

    engine = engine_for(url, pool_size=2, application_name="wahafleet user")
    try:
        return await set_password(engine, email, await Passwords().hash(chosen), actor=COMMAND_LINE)
    finally:
        await engine.dispose()
