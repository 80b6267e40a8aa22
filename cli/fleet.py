"""`wahafleet fleet`: all users at once, over the API."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.target import Target

_REASON = click.option(
    "--reason", default=None, metavar="TEXT", help="Why; kept, and shown to other operators."
)
_OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
)


@click.group()
def fleet() -> None:
    """All containers and chips at once."""


@fleet.command()
@_OUTPUT
@click.pass_obj
def show(target: Target, output: str) -> None:
    """Show counts, hosts with their room, who waits, the pause and the rollout."""
    found: dict[str, Any] = dict(target.get("/fleet"))
    if output == "json":
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    control, queue, rollout = found["control"], found["queue"], found["rollout"]
    click.echo(f"state       {_state(control)}")
    click.echo(f"containers  {_counts(found['containers'])}")
    click.echo(f"chips       {_counts(found['chips'])}")
    click.echo(f"reasons     {_counts(found['reasons'])}")
    click.echo(
        f"moving      {queue['users_moving']} of {found['users']} users, {queue['users_unseen']} with a wish unseen"
    )
    oldest = queue["oldest_wait_s"]
    since = "" if oldest is None else f", the first for {oldest:.0f} s"
    click.echo(f"in line     {queue['chips_waiting']} chips{since}")
    if rollout is not None:
        numbers = ", ".join(f"{rollout[name]} {name}" for name in ("waiting", "moving", "ok", "failed"))
        click.echo(f"rollout     {rollout['release'][:12]} {rollout['state']}: {numbers}")
    click.echo(f"room        {found['free']} of {found['capacity']} ports on the hosts below")
    for host in found["hosts"]:
        memory = "-" if host["memory_mb"] is None else f"{host['memory_mb']} MB"
        click.echo(
            f"  {host['name']:<16} {host['address'] or '-':<15} {host['containers']:>4} containers "
            f"{host['chips_connected']:>4} of {host['chips']} chips connected  {host['ports_free']:>4} ports free  "
            f"{memory}  seen {host['observed_at'] or 'by no sweep yet'}"
        )
    for shared in found["shared_exits"]:
        names = ", ".join(f"{one['alias']} ({one['chip_id']})" for one in shared["chips"])
        click.echo(f"alert       {shared['exit_ip']} is the exit of several chips: {names}")
    click.echo(f"swept       {found['swept_at'] or 'never'}")


@fleet.command()
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Users to look at.")
@_OUTPUT
@click.pass_obj
def plan(target: Target, limit: int, output: str) -> None:
    """Dry run: show what the next passes would do. Changes nothing."""
    items: list[dict[str, Any]] = []
    acting, paused, left, path = 0, False, limit, f"/fleet/plan?limit={min(limit, 200)}"
    while True:
        page, following = target.page(path)
        items += page["items"]
        acting, paused, left = acting + page["acting"], page["paused"], left - 200
        if following is None or left <= 0:
            break
        path = following
    if output == "json":
        told = {"paused": paused, "acting": acting, "more": following is not None, "items": items}
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    if paused:
        click.echo("the fleet is paused: nothing of this happens before `wahafleet fleet resume`")
    for item in items:
        when = item["not_before"] or "next pass"
        click.echo(
            f"{item['user_id']}  {item['action']:<18} {item['chip_id'] or '-':<36}  {item['reason'] or '-':<18} {when}"
        )
    if not items:
        click.echo("nothing is planned")
    if acting:
        click.echo(f"{acting} users whose last step is yet to be seen")
    if following is not None:
        click.echo("... there is more; --limit shows it")


@fleet.command()
@_REASON
@click.pass_obj
def pause(target: Target, reason: str | None) -> None:
    """Change nothing outside until `resume`: what runs, runs on; wishes are accepted and wait."""
    click.echo(_state(target.post("/fleet/pause", wanted=200, body=_body(reason))))


@fleet.command()
@_REASON
@click.pass_obj
def resume(target: Target, reason: str | None) -> None:
    """Go on: whoever waited is looked at at once."""
    click.echo(_state(target.post("/fleet/resume", wanted=200, body=_body(reason))))


def _body(reason: str | None) -> dict[str, str] | None:
    return None if reason is None else {"reason": reason}


def _state(control: dict[str, Any]) -> str:
    word = "paused" if control["paused"] else "running"
    if control["since"] is None:
        return word
    why = f": {control['reason']}" if control["reason"] else ""
    return f"{word} since {control['since']} by {control['by']}{why}"


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"
