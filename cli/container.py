"""`wahafleet container`: users' containers, as an operator sees them."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from cli.target import Target

_ROWS: Final = (
    "container_name",
    "status",
    "phase",
    "reason",
    "node",
    "address",
    "port",
    "base_url",
    "container_id",
    "job",
    "image",
    "engine",
    "epoch",
    "chips",
    "created_at",
    "api_key",
)


@click.group()
def container() -> None:
    """Users' containers."""


@container.command()
@click.argument("user")
@click.option("--secrets", is_flag=True, help="Show its API key too; the API records who asked.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_obj
def show(target: Target, user: str, *, secrets: bool, output: str) -> None:
    """Show the container of USER (a user id)."""
    found: dict[str, Any] = dict(target.get(f"/containers/{path_part(user)}"))
    if secrets:
        found |= target.get(f"/containers/{path_part(user)}/access")
    if output == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for name in (*_ROWS, *sorted(found.keys() - set(_ROWS))):
        if name in found:
            value = found[name]
            click.echo(f"{name:<15} {'-' if value is None else value}")


def path_part(text: str) -> str:
    """`text` as one part of a path: what it holds never leads to another route."""
    from urllib.parse import quote

    return quote(text, safe="") or "-"
