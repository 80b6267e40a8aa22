"""`wahafleet provider`: who sells the proxies that chips go out through, over the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from cli.chip import chip_id_of
from cli.container import path_part
from cli.failures import FAILED, CommandError
from cli.output import cell, show_table
from cli.sub_user import find_sub_user, sub_user
from cli.target import Target

OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
)
_COLUMNS = ("slug", "template", "scheme", "enabled", "is_default", "chips", "room", "cost_per_gb", "trouble")


@click.group()
def provider() -> None:
    """Providers of proxies. PROVIDER is its slug, such as dataimpulse."""


provider.add_command(sub_user)


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `add` and `set` share; what is refused is refused by the API, in its words."""
    for option in (
        click.option("--cost", "cost_per_gb", default=None, metavar="R$", help="Of a GB (2^30 bytes): 5.20."),
        click.option("--minutes", type=int, default=None, help="How long an exit shall stay."),
        click.option("--country", default=None, help="Two letters; br by default."),
        click.option("--port", type=int, default=None, help="Of a gateway of your own."),
        click.option("--host", default=None, help="Of a gateway of your own."),
        click.option("--scheme", type=click.Choice(["socks5", "http"]), default=None),
        click.option("--title", default=None, help="What people see."),
    ):
        command = option(command)
    return command


@provider.command("list")
@OUTPUT
@click.pass_obj
def list_(target: Target, output: str) -> None:
    """List providers: how many chips go out through each, for how many more there is room, and its trouble."""
    rows: list[dict[str, Any]] = target.get("/fleet/providers")
    if output == "json":
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    show_table(rows, _COLUMNS, none="no providers; `wahafleet provider add` makes one")
    for row in rows:
        if row["trouble_text"]:
            click.echo(f"{row['slug']}: {row['trouble_text']} (since {row['trouble_at']})")
    _warn_without_default(rows)


@provider.command()
@OUTPUT
@click.pass_obj
def templates(target: Target, output: str) -> None:
    """List the providers that this release knows how to talk to."""
    rows: list[dict[str, Any]] = target.get("/fleet/provider-templates")
    if output == "json":
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        word = "verified" if row["verified"] else "unverified"
        click.echo(
            f"{row['slug']:<12} {word:<10}  {'/'.join(sorted(row['schemes']))}  {row['username_format']}"
        )


@provider.command()
@click.argument("provider")
@click.option("--template", required=True, help="One of `wahafleet provider templates`.")
@_fields
@click.option("--disabled", is_flag=True, help="Not to be used yet.")
@click.pass_obj
def add(target: Target, /, provider: str, *, template: str, disabled: bool, **fields: Any) -> None:
    """Make PROVIDER. The first becomes the default; it carries nothing before it has a sub-user."""
    body = {"slug": provider, "template": template, "enabled": not disabled, **_given(fields)}
    made = target.post("/fleet/providers", wanted=201, body=body)
    default = ", the default" if made["is_default"] else ""
    click.echo(f"{made['slug']} made{default}")
    if not made["verified"]:
        click.echo(
            f"warning: no test speaks for the template {template}; try `wahafleet provider dry-run {provider}` and "
            "one chip first",
            err=True,
        )


@provider.command("set")
@click.argument("provider")
@_fields
@click.option("--enable/--disable", "enabled", default=None, help="Whether chips go out through it.")
@click.option("--template-gateway", is_flag=True, help="Its template's gateway in the place of your own.")
@click.pass_obj
def set_(target: Target, /, provider: str, *, template_gateway: bool, **fields: Any) -> None:
    """Change PROVIDER; its chips keep their labels. Disabled, they move to the default one."""
    body = _given(fields)
    if template_gateway:
        body |= {"host": None, "port": None}
    if not body:
        raise CommandError("nothing to change; `wahafleet provider set --help` names what a provider has.")
    changed, _ = target.put(f"/fleet/providers/{path_part(provider)}", body)
    click.echo(f"{changed['slug']} changed")
    _warn_without_default(target.get("/fleet/providers"))


@provider.command()
@click.argument("provider")
@click.pass_obj
def default(target: Target, provider: str) -> None:
    """Have new labels be PROVIDER's; chips keep the ones that they have."""
    found = target.post(f"/fleet/providers/{path_part(provider)}/default", wanted=200)
    click.echo(f"{found['slug']} is the default")


@provider.command()
@click.argument("provider")
@click.pass_obj
def clear(target: Target, provider: str) -> None:
    """Forget what was last told against PROVIDER, so that chips try again at once."""
    found = target.delete(f"/fleet/providers/{path_part(provider)}/trouble")
    click.echo(f"{found['slug']} is in no trouble")


@provider.command()
@click.argument("provider")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove(target: Target, provider: str, *, yes: bool) -> None:
    """Remove PROVIDER with its sub-users; refused while chips go out through it."""
    if not yes:
        click.confirm(f"Remove {provider} with all of its sub-users?", abort=True, err=True)
    target.delete(f"/fleet/providers/{path_part(provider)}")
    click.echo(f"{provider} removed")


@provider.command("dry-run")
@click.argument("provider")
@click.option("--chip", default=None, help="With the label of this chip, an id or an alias.")
@click.option("--label", default=None, help="With this label.")
@click.option(
    "--sub-user", "login", default=None, help="With this login; else the one with the fewest chips."
)
@OUTPUT
@click.pass_context
def dry_run(
    context: click.Context, provider: str, chip: str | None, label: str | None, login: str | None, output: str
) -> int:
    """Show the credential that a guard would show PROVIDER, without its password. Ends with 1 if it is none."""
    target: Target = context.obj
    body: dict[str, Any] = _given({"label": label})
    if chip is not None:
        body["chip_id"] = chip_id_of(target, chip)
    if login is not None:
        body["sub_user_id"] = find_sub_user(target, provider, login)["id"]
    found = target.post(f"/fleet/providers/{path_part(provider)}/dry-run", wanted=200, body=body)
    if output == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        for name, value in found.items():
            if value is not None:
                click.echo(f"{name:<9} {cell(value)}")
    return 0 if found["usable"] else FAILED


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _warn_without_default(rows: list[dict[str, Any]]) -> None:
    if rows and not any(row["is_default"] and row["enabled"] for row in rows):
        click.echo(
            "warning: no enabled provider is the default, so no chip gets a new label; "
            "`wahafleet provider default PROVIDER` chooses one",
            err=True,
        )
