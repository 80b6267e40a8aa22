"""`wahafleet chip explain` and `causes`: why a chip is where it is, and everything that can be the cause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from cli.chip import find_chip
from cli.container import path_part
from cli.target import Target


@click.command()
@click.argument("chip")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_obj
def explain(target: Target, chip: str, *, output: str) -> None:
    """Say why CHIP (its id or alias) is where it is, what happens next, and what can be done."""
    from core.domain.names import parse_id

    chip_id = parse_id(chip)
    if chip_id is None:  # an alias is looked up in the store; an id needs none
        chip_id = asyncio.run(find_chip(target.database_url, chip))[1]
    told = target.get(f"/chips/{path_part(chip_id)}/explain")
    if output == "json":
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    for line in _lines(told):
        click.echo(line)


@click.command()
@click.option("--markdown", is_flag=True, help="As docs/explain.md has it.")
def causes(*, markdown: bool) -> None:
    """List every cause that `explain` can name."""
    from core.domain.causes import CAUSES, cause_text

    if markdown:
        click.echo(as_markdown(), nl=False)
        return
    for code in CAUSES:
        click.echo(f"{code:<22} {cause_text(code)}")


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{told['chip_id']}: {told['status']}, phase {told['phase']} since {told['since']}"
    yield f"last look: {told['observed_at'] or 'none yet'}"
    for number, cause in enumerate(told["causes"], 1):
        operator = cause["operator"]
        yield f"\n{number}. {cause['code']}: {cause['text']}"
        yield f"   by itself: {operator['loop'] or cause['next']}"
        yield f"   to do:     {operator['person']}"
        yield f"   its owner: {cause['person']}"
        for command in operator["commands"]:
            yield f"   $ {command}"
        for proof in cause["evidence"]:
            detail = json.dumps(proof["detail"], ensure_ascii=False)
            yield f"   {proof['system']} {proof['about']}: {detail}"
    yield ""
    for budget in told["budgets"]:
        yield f"budget {budget['name']}: {budget['left']} of {budget['limit']} left"
    at = told["next_step"]["at"]
    yield f"next: {told['next_step']['text']}" + (f" ({at} at the latest)" if at else "")


def as_markdown() -> str:
    """The text of docs/explain.md."""
    from core.domain.causes import CAUSES, cause_text

    rows = "".join(
        f"| `{code}` | {cause_text(code)} | {row.loop} | {row.owner} | {row.operator or _BY_PHASE} |\n"
        for code, row in CAUSES.items()
    )
    return f"{_HEAD}{rows}"


_BY_PHASE = "as the phase says"
_HEAD = """# Causes

`GET /api/v1/chips/{id}/explain` and `wahafleet chip explain CHIP` say why a chip is where it is: causes with the root
first, what was seen of each, the budgets left, the next automatic step with its time, and what people can do. They
answer from the store alone. The order of causes is that of this table, but a chip that waits for a person (QR shown
or spent, unlinked, paused, banned, disconnected) names that first.

Written by `wahafleet chip causes --markdown`; a test compares.

| code | what is the matter | what happens by itself | what its owner can do | what an operator can do |
|---|---|---|---|---|
"""
