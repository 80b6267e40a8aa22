"""`wahafleet provider sub-user`: logins at a provider. A password is typed or piped, never an argument."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import click

from cli.container import path_part
from cli.failures import CommandError
from cli.output import show_table
from cli.target import Target

_COLUMNS: Final = ("login", "chips", "max_labels", "enabled", "trouble", "id")


@click.group("sub-user")
def sub_user() -> None:
    """Logins at a provider. LOGIN is the login or its id; passwords go in and never come out."""


@sub_user.command("list")
@click.argument("provider")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def list_(target: Target, provider: str, output: str) -> None:
    """List the sub-users of PROVIDER, with how many chips each carries."""
    rows = target.get(_path(provider))
    if output == "json":
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    show_table(rows, _COLUMNS, none="no sub-users; `wahafleet provider sub-user add` makes one")
    for row in rows:
        if row["trouble_text"]:
            click.echo(f"{row['login']}: {row['trouble_text']} (since {row['trouble_at']})")


@sub_user.command()
@click.argument("provider")
@click.argument("login")
@click.option("--max-chips", type=int, default=None, help="Chips that it carries; by the template's tunnels.")
@click.option("--disabled", is_flag=True, help="Not to be used yet.")
@click.pass_obj
def add(target: Target, provider: str, login: str, *, max_chips: int | None, disabled: bool) -> None:
    """Make LOGIN at PROVIDER; its password is asked for, or one line on standard input."""
    target.check()  # before anybody types a password for nothing
    body: dict[str, Any] = {"login": login, "password": _password(login), "enabled": not disabled}
    if max_chips is not None:
        body["max_labels"] = max_chips
    made = target.post(_path(provider), wanted=201, body=body)
    click.echo(f"{made['login']} made, for {made['max_labels']} chips")


@sub_user.command("set")
@click.argument("provider")
@click.argument("login")
@click.option("--password", "asks", is_flag=True, help="Ask for another password, or read it as one line.")
@click.option("--max-chips", type=int, default=None, help="Chips that it carries at most.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether chips go out through it.")
@click.pass_obj
def set_(
    target: Target, provider: str, login: str, *, asks: bool, max_chips: int | None, enabled: bool | None
) -> None:
    """Change LOGIN at PROVIDER. Disabled, its chips move to another one."""
    found = find_sub_user(target, provider, login)
    given = {
        "max_labels": max_chips,
        "enabled": enabled,
        "password": _password(found["login"]) if asks else None,
    }
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise CommandError("nothing to change; `wahafleet provider sub-user set --help` names what there is.")
    changed, _ = target.put(_path(provider, found["id"]), body)
    click.echo(f"{changed['login']} changed")


@sub_user.command()
@click.argument("provider")
@click.argument("login")
@click.pass_obj
def clear(target: Target, provider: str, login: str) -> None:
    """Forget what was last told against LOGIN, so that chips try again at once."""
    found = find_sub_user(target, provider, login)
    target.delete(f"{_path(provider, found['id'])}/trouble")
    click.echo(f"{found['login']} is in no trouble")


@sub_user.command()
@click.argument("provider")
@click.argument("login")
@click.pass_obj
def remove(target: Target, provider: str, login: str) -> None:
    """Remove LOGIN at PROVIDER; refused while chips go out through it."""
    found = find_sub_user(target, provider, login)
    target.delete(_path(provider, found["id"]))
    click.echo(f"{found['login']} removed")


def find_sub_user(target: Target, provider: str, login: str) -> dict[str, Any]:
    """The sub-user that an id or a login names. Raises CommandError when there is none."""
    for row in target.get(_path(provider)):
        if login in (row["id"], row["login"]):
            found: dict[str, Any] = row
            return found
    raise CommandError(
        f"{provider} has no sub-user {login[:60]!r}; `wahafleet provider sub-user list {provider}` shows them."
    )


def _path(provider: str, sub_user_id: str | None = None) -> str:
    path = f"/fleet/providers/{path_part(provider)}/sub-users"
    return path if sub_user_id is None else f"{path}/{path_part(sub_user_id)}"


def _password(login: str) -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt(f"Password of {login}", hide_input=True, err=True)
        return typed
    piped = sys.stdin.readline().rstrip("\r\n")
    if not piped:
        raise CommandError(
            "no password came on standard input; pipe one line with it, or type it at a terminal."
        )
    return piped
