"""`wahafleet proxy`: what proxies carried, and what that costs."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.output import show_table
from cli.target import Target

_BY_PROVIDER = ("provider", "gb_used", "cost", "tunnels", "bytes_in", "bytes_out")
_BY_USER = ("email", "user_id", "provider", "gb_used", "cost", "tunnels")


@click.group()
def proxy() -> None:
    """Traffic of proxies."""


@proxy.command()
@click.option("--month", default=None, metavar="YYYY-MM", help="This one by default (UTC).")
@click.option("--user", default=None, help="Of this user alone, an id or an e-mail.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def usage(target: Target, month: str | None, user: str | None, output: str) -> None:
    """Show a month's traffic and its cost in R$, by provider and by user. A GB is 2^30 bytes."""
    from urllib.parse import urlencode

    asked = {name: value for name, value in (("month", month), ("user", user)) if value is not None}
    path: str | None = f"/fleet/proxy/usage?{urlencode({**asked, 'limit': '200'})}"
    found: dict[str, Any] = {}
    users: list[dict[str, Any]] = []
    while path is not None:
        found, path = target.page(path)
        users += found["users"]
    if output == "json":
        click.echo(json.dumps({**found, "users": users}, ensure_ascii=False))
        return
    click.echo(f"{found['month']}: {found['gb_used']} GB, R$ {found['cost']}")
    if not found["providers"]:
        return
    click.echo()
    show_table(found["providers"], _BY_PROVIDER, none="")
    for row in found["providers"]:
        if row["errors"]:
            told = ", ".join(f"{number} {error}" for error, number in row["errors"].items())
            click.echo(f"{row['provider']} refused: {told}")
    click.echo()
    show_table(users, _BY_USER, none="")
    if any(row["cost"] is None for row in found["providers"]):
        click.echo("a cost of - is of a provider that was removed, and with it its price", err=True)
