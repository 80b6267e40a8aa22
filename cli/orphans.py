"""`wahafleet orphans`: what of ours outside nobody explains, and an operator's word on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cli.failures import CommandError
from cli.store import at_terminal, login_name, opened_store
from cli.target import Target

if TYPE_CHECKING:
    from core.domain.orphans import Orphan
    from core.store.orphans import Book, PostgresOrphans

T = TypeVar("T")
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@click.group()
def orphans() -> None:
    """What of ours in Nomad, Consul, WAHA and storage no row explains."""


@orphans.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that were removed, too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one list.")
@click.pass_obj
def list_(target: Target, *, everything: bool, as_json: bool) -> None:
    """List orphans with what they cost, oldest first."""
    book = _run(target, lambda store: store.book())
    rows = [row for row in book.rows if everything or row.state.value != "removed"]
    if as_json:
        click.echo(json.dumps([_described(row) for row in rows], ensure_ascii=False, indent=1))
        return
    if not rows:
        click.echo("no orphans")
        return
    for row in rows:
        click.echo(_line(row, book.now))


@orphans.command()
@click.argument("ids", nargs=-1, type=click.IntRange(min=1))
@click.option("--waiting", is_flag=True, help="All that wait for a yes.")
@click.option("--by", default=None, metavar="NAME", help="Who says so; your login name by default.")
@click.pass_obj
def approve(target: Target, ids: tuple[int, ...], *, waiting: bool, by: str | None) -> None:
    """Say yes: the orphans IDS are stopped and removed, with all that they hold."""
    if bool(ids) == waiting:
        raise click.UsageError("name the numbers that `wahafleet orphans list` shows, or --waiting")
    if waiting:
        book = _run(target, lambda store: store.book())
        ids = tuple(row.id for row in book.rows if row.state.value == "waiting")
        if not ids:
            click.echo("nothing waits for a yes")
            return
    _decide(target, ids, approve=True, by=by)


@orphans.command()
@click.argument("ids", nargs=-1, required=True, type=click.IntRange(min=1))
@click.option("--by", default=None, metavar="NAME", help="Who says so; your login name by default.")
@click.pass_obj
def keep(target: Target, ids: tuple[int, ...], *, by: str | None) -> None:
    """Say no: the orphans IDS stay, and a removal that is under way goes no further."""
    _decide(target, ids, approve=False, by=by)


def _decide(target: Target, ids: Sequence[int], *, approve: bool, by: str | None) -> None:
    who = by or login_name()

    actor = at_terminal(who)

    async def decide(store: PostgresOrphans) -> tuple[tuple[int, ...], Book]:
        return await store.decide(ids, approve=approve, by=who, actor=actor), await store.book()

    changed, book = _run(target, decide)
    known = {row.id: row for row in book.rows}
    for id_ in changed:
        row = known.get(id_)
        name = f" {row.found.kind.value} {row.found.name}" if row else ""
        click.echo(f"{id_}{name}: {'approved' if approve else 'kept'}")
    refused = sorted(set(ids) - set(changed))
    if refused:
        reasons = "; ".join(_reason(id_, known.get(id_)) for id_ in refused)
        raise CommandError(f"{reasons}; `wahafleet orphans list --all` shows what there is.")


def _reason(id_: int, row: Orphan | None) -> str:
    if row is None:
        return f"there is no orphan {id_}"
    if row.state.value == "seen":
        return f"orphan {id_} is younger than the grace and may still find its owner"
    return f"orphan {id_} is {row.state.value} already"


def _run(target: Target, work: Callable[[PostgresOrphans], Awaitable[T]]) -> T:
    from core.store.orphans import PostgresOrphans

    url = target.database_url

    async def main() -> T:
        async with opened_store(url, "orphans") as engine:
            return await work(PostgresOrphans(engine))

    return asyncio.run(main())


def _described(row: Orphan) -> dict[str, Any]:
    found = row.found
    return {
        "id": row.id,
        "kind": found.kind.value,
        "name": found.name,
        "place": found.place or None,
        "user_id": found.user_id,
        "state": row.state.value,
        "first_seen": row.first_seen.isoformat(),
        "last_seen": row.last_seen.isoformat(),
        "costs": dict(found.costs),
        "decided_by": row.decided_by,
        "attempts": row.attempts,
        "note": row.note,
    }


def _line(row: Orphan, now: datetime) -> str:
    found = row.found
    place = f" in {found.place}" if found.place else ""
    costs = ", ".join(f"{name} {_cost(name, value)}" for name, value in sorted(found.costs.items()))
    parts = [
        f"{row.id:>5}  {row.state.value:<9} {_age(now, row.first_seen):>7}  {found.kind.value:<9} {found.name}{place}",
        f"[{costs}]" if costs else "",
        f"by {row.decided_by}" if row.decided_by else "",
        f"- {row.note}" if row.note else "",
    ]
    return " ".join(part for part in parts if part)


def _cost(name: str, value: str | int) -> str:
    return f"{int(value) / 1_000_000:.1f} MB" if name == "bytes" else str(value)


def _age(now: datetime, since: datetime) -> str:
    seconds = max(0, int((now - since).total_seconds()))
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), (1, "s"))
    return f"{seconds // size} {unit}"
