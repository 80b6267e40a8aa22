"""`wahafleet user`: accounts."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cli.failures import CommandError
from cli.output import show_one, show_rows
from cli.store import at_terminal, opened_store
from cli.target import Target

if TYPE_CHECKING:
    from core.store.engine import Engine

T = TypeVar("T")
_COLUMNS: Final = ("id", "email", "name", "plan_slug", "role", "is_active", "suspended_at", "chips")


@click.group()
def user() -> None:
    """Accounts. USER is an id or an e-mail."""


@user.command("list")
@click.argument("text", default="")
@click.option("--plan", default=None, help="Only those on this plan.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON, one list.")
@click.pass_obj
def list_(target: Target, text: str, plan: str | None, limit: int, *, as_json: bool) -> None:
    """List users by e-mail: all, or those with TEXT in e-mail or name."""
    from core.store.users_admin import list_users

    rows = _run(target, lambda engine: list_users(engine, plan_slug=plan, text=text.strip(), limit=limit))
    show_rows(rows, _COLUMNS, as_json=as_json, none="no users")
    if len(rows) == limit:
        click.echo(f"only the first {limit}; narrow it down with TEXT, or raise --limit", err=True)


@user.command()
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def show(target: Target, user: str, *, as_json: bool) -> None:
    """Show USER."""
    from core.store.users_admin import read_user

    row = _run(target, lambda engine: _with_id(engine, user, lambda user_id: read_user(engine, user_id)))
    if row is None:
        raise _no_user(user)
    show_one(row, as_json=as_json)


@user.command()
@click.argument("email")
@click.option("--name", required=True)
@click.option("--phone", required=True, help="Brazilian, +55 first.")
@click.option("--plan", default="free", show_default=True)
@click.option("--role", type=click.Choice(["user", "operator"]), default="user", show_default=True)
@click.option("--company", default=None)
@click.option("--document", default=None, help="CPF or CNPJ.")
@click.pass_obj
def create(target: Target, /, email: str, role: str, plan: str, **fields: str | None) -> None:
    """Make an account for EMAIL; its password is typed twice, or one line on standard input."""
    from core.errors import Conflict, InvalidInput
    from core.store.users_admin import create_user

    _ours(target)
    clean = _fields(email, fields)
    chosen = _password()

    async def make(engine: Engine) -> str:
        from api.passwords import Passwords
        from core.store.accounts import NewAccount

        hashed = await Passwords().hash(chosen)
        new = NewAccount(id=str(uuid.uuid4()), password_hash=hashed, plan_slug=plan, **clean)
        return await create_user(engine, new, role=role, actor=at_terminal())

    try:
        user_id = _run(target, make)
    except Conflict:
        raise CommandError(
            f"{clean['email']} has an account already; `wahafleet user show` shows it."
        ) from None
    except InvalidInput:
        raise _no_plan(plan) from None
    click.echo(user_id)


@user.command()
@click.argument("email")
@click.pass_obj
def password(target: Target, email: str) -> None:
    """Give the account EMAIL another password, typed twice or one line on standard input; ends every login.

    Access tokens that were given out stay valid until they expire, an hour at most by default.
    """
    from core.store.users_admin import set_password

    assert target.database_url  # before anybody types a password for nothing
    _ours(target)
    chosen, mail = _password(), email.strip().lower()

    async def change(engine: Engine) -> bool:
        from api.passwords import Passwords

        return await set_password(engine, mail, await Passwords().hash(chosen), actor=at_terminal())

    if not _run(target, change):
        raise CommandError(f"no account has the e-mail {mail}; check how it is spelt.")
    click.echo(f"password of {mail} changed")


@user.command()
@click.argument("user")
@click.pass_obj
def suspend(target: Target, user: str) -> None:
    """Shut USER out of the API at once; ends every login. Chips run on: `container pause` stops them."""
    _suspend(target, user, suspended=True)


@user.command()
@click.argument("user")
@click.pass_obj
def unsuspend(target: Target, user: str) -> None:
    """Let USER in again."""
    _suspend(target, user, suspended=False)


@user.command()
@click.argument("user")
@click.argument("plan")
@click.pass_obj
def plan(target: Target, user: str, plan: str) -> None:
    """Put USER on PLAN. Chips beyond a smaller plan's limit are not deleted, and wait."""
    from core.errors import InvalidInput
    from core.store.users_admin import set_plan_of

    _ours(target)
    try:
        changed = _changed(
            target, user, lambda engine, user_id: set_plan_of(engine, user_id, plan, actor=at_terminal())
        )
    except InvalidInput:
        raise _no_plan(plan) from None
    if not changed:
        raise CommandError(f"{user} is on {plan} already; `wahafleet plan list` shows the others.")
    click.echo(f"{user} on {plan}")


@user.command()
@click.argument("user")
@click.argument("role", type=click.Choice(["user", "operator"]))
@click.pass_obj
def role(target: Target, user: str, role: str) -> None:
    """Make USER an operator, or no operator any more. WAHAFLEET_OPERATORS counts besides."""
    from core.store.users_admin import set_role

    if not _changed(
        target, user, lambda engine, user_id: set_role(engine, user_id, role, actor=at_terminal())
    ):
        raise CommandError(f"{user} has the role {role} already; `wahafleet user show` shows it.")
    click.echo(f"{user} has the role {role}")


def _suspend(target: Target, user: str, *, suspended: bool) -> None:
    from core.store.users_admin import set_suspended

    done = _changed(
        target,
        user,
        lambda engine, user_id: set_suspended(engine, user_id, suspended=suspended, actor=at_terminal()),
    )
    if not done:
        said = "is suspended already" if suspended else "is not suspended"
        raise CommandError(f"{user} {said}; `wahafleet user show` shows since when.")
    click.echo(f"{user} {'suspended' if suspended else 'not suspended any more'}")


def _changed(target: Target, user: str, change: Callable[[Engine, str], Awaitable[bool]]) -> bool:
    async def work(engine: Engine) -> bool | None:
        return await _with_id(engine, user, lambda user_id: change(engine, user_id))

    done = _run(target, work)
    if done is None:
        raise _no_user(user)
    return done


async def _with_id(engine: Engine, user: str, work: Callable[[str], Awaitable[T]]) -> T | None:
    from core.store.users_admin import find_user_id

    user_id = await find_user_id(engine, user)
    return None if user_id is None else await work(user_id)


def _run(target: Target, work: Callable[[Engine], Awaitable[T]]) -> T:
    url = target.database_url

    async def main() -> T:
        async with opened_store(url, "user") as engine:
            return await work(engine)

    return asyncio.run(main())


def _ours(target: Target) -> None:
    """Raises CommandError where accounts are another backend's: what was written here would be overwritten."""
    if target.environment().get("WAHAFLEET_ACCOUNTS", "").strip() == "attached":
        raise CommandError(
            "accounts are the WHAGO backend's (WAHAFLEET_ACCOUNTS=attached), with their passwords and plans; "
            "change it there."
        )


def _no_user(user: str) -> CommandError:
    return CommandError(f"no user has the id or e-mail {user[:80]!r}; `wahafleet user list` shows them.")


def _no_plan(plan: str) -> CommandError:
    return CommandError(f"there is no plan {plan[:40]!r}; `wahafleet plan list` shows those there are.")


def _fields(email: str, fields: dict[str, str | None]) -> dict[str, Any]:
    from core.domain import accounts as rules

    company, document = (fields["company"] or "").strip(), (fields["document"] or "").strip()
    try:
        what = "an e-mail, such as ana@empresa.com.br"
        clean: dict[str, Any] = {"email": rules.clean_email(email.strip())}
        what = "a --name of 2 to 100 characters"
        clean["name"] = rules.clean_name((fields["name"] or "").strip())
        what = "a Brazilian --phone, such as +5511999999999"
        clean["phone"] = rules.clean_phone((fields["phone"] or "").strip())
        what = "a --company of 200 characters at most"
        clean["company_name"] = rules.clean_company_name(company) or None
        what = "a --document that is a CPF or CNPJ"
        clean["document"] = rules.clean_document(document) if document else None
    except rules.FieldError:
        raise CommandError(f"an account needs {what}; correct it and try again.") from None
    return clean


def _password() -> str:
    from core.domain.accounts import FieldError, clean_password

    chosen = _ask() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    try:
        return clean_password(chosen)
    except FieldError:
        raise CommandError(
            "that password is too weak: use 8 to 128 characters with an upper-case letter, a digit and a "
            "character that is neither letter nor digit."
        ) from None


def _ask() -> str:
    answer: str = click.prompt("New password", hide_input=True, confirmation_prompt="Once more", err=True)
    return answer
