"""`wahafleet rollout`: how a changed setting reaches users' containers, and an operator's word on it."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cli.failures import CommandError
from cli.store import at_terminal, login_name, opened_store
from cli.target import Target

if TYPE_CHECKING:
    from core.domain.rollout import Candidate, Control, Limits
    from core.settings import Settings
    from core.store.rollouts import PostgresRollouts

T = TypeVar("T")
# Said with the estimate where no move is on record yet: a container stops, starts and connects its chips.
ASSUMED_S: Final = 30.0
_SHOWN: Final = 20


@click.group()
def rollout() -> None:
    """How a changed setting restarts containers, a few users at a time."""


@rollout.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def status(target: Target, *, as_json: bool) -> None:
    """Show the rollout of the newest settings: its state, and who waits, moves and has moved."""

    async def read(store: PostgresRollouts) -> dict[str, Any] | None:
        view = await store.view()
        if view is None:
            return None
        numbers = await store.counts(view.control.release)
        return {
            **_described(view.control),
            **{state: numbers.get(state, 0) for state in ("waiting", "moving", "ok", "failed")},
            "moves": [{"user_id": one.user_id, "for_s": round(one.for_s)} for one in view.moving],
        }

    found = _run(target, read)
    if found is None:
        raise CommandError("no daemon has announced its settings yet; start one with `wahafleet daemon`.")
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        if name != "moves":
            click.echo(f"{name:<9} {'-' if value is None else value}")
    for one in found["moves"]:
        click.echo(f"moves     {one['user_id']} for {one['for_s']} s")


@rollout.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with every user.")
@click.pass_obj
def plan(target: Target, *, as_json: bool) -> None:
    """Dry run: whom these settings would move, in which order and for how long. Changes nothing.

    Run it with the new settings in the environment, before a daemon is started with them.
    """
    from core.domain.jobspec import JobspecError
    from core.settings import load

    settings = load(target.environment(), part="daemon")
    from daemon.rollout import limits_of

    limits = limits_of(settings.loop)

    try:
        release, touched, users, durations = asyncio.run(_dry_run(settings))
    except JobspecError as error:
        raise CommandError(f"no job can be made with these settings: {error}") from error
    estimate = _estimate(len(touched), limits, durations)
    if as_json:
        waves = [
            {"user_id": one.user_id, "wave": 1 + number // limits.users, "connected_chips": one.connected}
            for number, one in enumerate(touched)
        ]
        told = {"release": release, "users": users, "moves": len(touched), **estimate, "order": waves}
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    click.echo(f"{len(touched)} of {users} users would be moved, {limits.users} at a time")
    if not touched:
        return
    click.echo(
        f"about {estimate['takes_s']} s in {estimate['waves']} waves: {estimate['move_s']} s a move, {estimate['basis']}"
    )
    for number, one in enumerate(touched[:_SHOWN]):
        click.echo(f"wave {1 + number // limits.users:>3}  {one.user_id}  {one.connected} connected")
    if len(touched) > _SHOWN:
        click.echo(f"... and {len(touched) - _SHOWN} more; --json shows all")


@rollout.command()
@click.option("--by", default=None, metavar="NAME", help="Who says so; your login name by default.")
@click.pass_obj
def pause(target: Target, by: str | None) -> None:
    """Admit nobody further. Who moves already goes on; settings that are changed again begin anew, unpaused."""
    _set_paused(target, by, paused=True)


@rollout.command()
@click.option("--by", default=None, metavar="NAME", help="Who says so; your login name by default.")
@click.pass_obj
def resume(target: Target, by: str | None) -> None:
    """Go on, beginning with a first wave again; failures until now do not count any more."""
    _set_paused(target, by, paused=False)


def _set_paused(target: Target, by: str | None, *, paused: bool) -> None:
    who = by or login_name()
    actor = at_terminal(who)
    control = _run(target, lambda store: store.set_paused(paused=paused, by=who, actor=actor))
    if control is None:
        word = "paused already" if paused else "not paused"
        raise CommandError(
            f"the rollout is {word}, or no daemon has begun one; see `wahafleet rollout status`."
        )
    click.echo(f"rollout {control.release[:12]} is {control.state.value}")


async def _dry_run(settings: Settings) -> tuple[str, tuple[Candidate, ...], int, tuple[float, ...]]:
    """Release, whom it would move, how many users there are, and how long moves took. Raises JobspecError."""
    from core import jobspecs
    from core.crypto import Sealer
    from core.store.reconcile import PostgresReconcileStore
    from core.store.rollouts import PostgresRollouts
    from daemon.load import Loader

    loader = Loader(
        jobspecs.template(settings.job.jobspec),
        settings.job,
        nomad_namespace=settings.nomad.namespace,
        stop_on_disconnect_s=settings.loop.stop_on_disconnect_s,
    )
    loader.check()
    sealer = Sealer(tuple(key.reveal() for key in settings.store.secret_keys))
    url = settings.store.database_url.reveal()
    async with opened_store(url, "rollout") as engine:
        touched, users = await _touched(PostgresReconcileStore(engine, sealer), loader)
        return loader.release, touched, users, await PostgresRollouts(engine).durations()


async def _touched(store: Any, loader: Any) -> tuple[tuple[Candidate, ...], int]:
    """Everybody whose container these settings would restart, in order, and how many users there are."""
    from core.domain.desired import Wanted
    from core.domain.move import is_restart
    from core.domain.rollout import Candidate, order

    found, users = [], await store.user_ids()
    activity = {one.user_id: one for one in await store.summaries()}
    for user_id in users:
        snapshot = await store.load(user_id)
        if (
            snapshot is None
            or not activity[user_id].wanted
            or not is_restart(loader.desired(snapshot).container)
        ):
            continue
        chips = [chip for chip in snapshot.chips if chip.wanted is not Wanted.DELETED]
        connected = sum(chip.phase == "connected" for chip in chips)
        found.append(Candidate(user_id, connected=connected, chips=len(chips)))
    return order(found), len(users)


def _estimate(moves: int, limits: Limits, durations: tuple[float, ...]) -> dict[str, Any]:
    move_s = statistics.fmean(durations) if durations else ASSUMED_S
    basis = f"measured on {len(durations)} moves" if durations else "assumed: no move is on record yet"
    waves = -(-moves // limits.users)
    return {"waves": waves, "move_s": round(move_s, 1), "takes_s": round(waves * move_s), "basis": basis}


def _described(control: Control) -> dict[str, Any]:
    return {
        "release": control.release,
        "state": control.state.value,
        "since": control.since.isoformat(timespec="seconds"),
        "why": control.why,
        "by": control.by,
    }


def _run(target: Target, work: Callable[[PostgresRollouts], Awaitable[T]]) -> T:
    from core.store.rollouts import PostgresRollouts

    url = target.database_url

    async def main() -> T:
        async with opened_store(url, "rollout") as engine:
            return await work(PostgresRollouts(engine))

    return asyncio.run(main())
