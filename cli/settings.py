"""`wahafleet settings`: every setting there is."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click

from core.variables import VARIABLES, Variable


@click.command()
@click.option("--markdown", is_flag=True, help="As docs/settings.md has it.")
def settings(*, markdown: bool) -> None:
    """List all settings with their defaults; mark the ones that this shell sets."""
    if markdown:
        click.echo(as_markdown(VARIABLES), nl=False)
        return
    for variable in VARIABLES:
        mark = "*" if os.environ.get(variable.name) else " "
        click.echo(f"{mark} {variable.name:<34} {_default(variable)}")
        click.echo(f"{'':<37}{variable.about}")
    click.echo("\n* set in this shell")


def as_markdown(variables: Iterable[Variable]) -> str:
    """The text of docs/settings.md."""
    rows = "".join(
        f"| `{variable.name}` | {_cell(variable)} | {'yes' if variable.secret else ''} | {variable.about} |\n"
        for variable in variables
    )
    return (
        "# Settings\n\n"
        "Settings come from the environment alone and are checked together when a part starts; every problem is\n"
        "listed at once. A name that starts with `WAHAFLEET_` and stands not here is refused. Secrets never show\n"
        "up in logs, errors or jobs.\n\n"
        "Written by `wahafleet settings --markdown`; a test compares.\n\n"
        "| name | default | secret | what it is |\n|---|---|---|---|\n" + rows
    )


def _default(variable: Variable) -> str:
    if variable.default is None:
        return "(required)"
    return variable.default or "(empty)"


def _cell(variable: Variable) -> str:
    if variable.default is None:
        return "**required**"
    return f"`{variable.default}`" if variable.default else "empty"
