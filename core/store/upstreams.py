"""From stored rows to what a chip goes out through: its route, and the upstream with its credential opened."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    tuple_,
)

from core.crypto import Sealer
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.providers import SubUser, credential
from core.domain.routes import TROUBLE_FOR, ChipRoute, NoRoute
from core.provider_templates import templates
from core.store.month_usage import is_used_up
from core.store.schema import Time
from core.store.tables import chips, labels, providers, sub_users

OpenPassword: TypeAlias = Callable[[bytes], str]

# An exit that nobody looked at for longer is no longer known to be in use.
EXIT_KNOWN_S: Final = 3 * 3600.0
_OPENED_KEPT: Final = 1000
_ROUTE: Final = msgspec.json.Decoder(ChipRoute)


def opening(sealer: Sealer) -> OpenPassword:
    """Opens sealed passwords of sub-users, few of which are asked for over and over. Raises SecretUnreadable."""
    return lru_cache(_OPENED_KEPT)(sealer.open)


def ago(seconds: float) -> ColumnElement[Any]:
    """A point of time. Written out: each parameter of a statement that is run so often costs something."""
    return literal_column(f"clock_timestamp() - interval '{seconds:g} seconds'", Time)


def gone() -> ColumnElement[Any]:
    """Whether a label with what it is joined to is not to be used at all; true without a label."""
    return or_(
        labels.c.chip_id.is_(None),
        labels.c.released_at.is_not(None),
        providers.c.slug.is_(None),
        not_(providers.c.enabled),
        sub_users.c.id.is_(None),
        not_(sub_users.c.enabled),
    )


def unusable() -> ColumnElement[Any]:
    """Why a label with what it is joined to carries nothing; null = it carries."""
    return case(
        (gone(), _written(EgressError.NO_UPSTREAM)),
        (is_used_up(labels.c.user_id), _written(EgressError.QUOTA)),
        else_=trouble(),
    )


def _written(error: EgressError) -> ColumnElement[str]:
    return literal_column(f"'{error.value}'", Text)


def trouble() -> ColumnElement[Any]:
    """That of the provider first; null = none that counts now."""
    return case(
        (_counts(providers), providers.c.trouble), (_counts(sub_users), sub_users.c.trouble), else_=null()
    )


def trouble_of(table: Table) -> ColumnElement[Any]:
    """That of the providers or of the sub-users alone."""
    return case((_counts(table), table.c.trouble), else_=null())


def _counts(table: Table) -> ColumnElement[bool]:
    found: ColumnElement[bool] = table.c.trouble_at > ago(TROUBLE_FOR.total_seconds())
    return found


def joined() -> Any:
    """Labels with their provider and sub-user, which may both be gone."""
    of_provider = providers.c.slug == labels.c.provider_slug
    of_sub_user = and_(
        sub_users.c.id == labels.c.sub_user_id, sub_users.c.provider_slug == labels.c.provider_slug
    )
    return labels.outerjoin(providers, of_provider).outerjoin(sub_users, of_sub_user)


def _shares_exit() -> ColumnElement[Any]:
    other = labels.alias("sharing")
    shared = select(other.c.chip_id).where(
        other.c.exit_ip == labels.c.exit_ip,
        other.c.released_at.is_(None),
        other.c.exit_at > ago(EXIT_KNOWN_S),
        tuple_(other.c.exit_since, other.c.chip_id) < tuple_(labels.c.exit_since, labels.c.chip_id),
    )
    live = and_(labels.c.exit_ip.is_not(None), labels.c.released_at.is_(None))
    return case((live, shared.exists()), else_=false())


def _others_work() -> ColumnElement[Any]:
    other = labels.alias("working")
    # The newest one is the end of an index, however many there are that do not work.
    newest = select(func.max(other.c.exit_at)).where(
        other.c.provider_slug == labels.c.provider_slug,
        other.c.released_at.is_(None),
        other.c.chip_id != labels.c.chip_id,
    )
    works = func.coalesce(newest.scalar_subquery() >= labels.c.failing_since, false())
    return case((labels.c.failing_since.is_not(None), works), else_=false())


def _encoded() -> ColumnElement[str]:
    # A released label is not unusable: it only is not used.
    carries_nothing = case((labels.c.released_at.is_not(None), null()), else_=unusable())
    parts: dict[str, Any] = {
        "provider": labels.c.provider_slug,
        "sub_user_id": labels.c.sub_user_id,
        "generation": labels.c.generation,
        "label": labels.c.label,
        "assigned_at": labels.c.assigned_at,
        "released": labels.c.released_at.is_not(None),
        "requested": labels.c.requested_generation > labels.c.generation,
        "unusable": carries_nothing,
        "exit_ip": labels.c.exit_ip,
        "exit_at": labels.c.exit_at,
        "checked_at": labels.c.checked_at,
        "failure": labels.c.failure,
        "failures": labels.c.failures,
        "others_work": _others_work(),
        "shares_exit": _shares_exit(),
    }
    pairs = [part for name, column in parts.items() for part in (literal_column(f"'{name}'", Text), column)]
    return cast(func.json_build_object(*pairs), Text)


def encoded_routes() -> Select[Any]:
    """One column `route`: a chip's label as JSON."""
    return select(_encoded().label("route")).select_from(joined())


def encoded_route() -> ColumnElement[str | None]:
    """The route of the chip of a statement's row as one column: who has none costs a look into an index."""
    return encoded_routes().where(labels.c.chip_id == chips.c.id).correlate(chips).scalar_subquery()


def route_of(encoded: str | None) -> ChipRoute | None:
    """What `encoded_routes` or `encoded_route` answered."""
    return None if encoded is None else _ROUTE.decode(encoded)


UPSTREAM_COLUMNS: Final = (
    labels.c.label,
    providers.c.template,
    providers.c.scheme,
    providers.c.host,
    providers.c.port,
    providers.c.country,
    providers.c.minutes,
    sub_users.c.login,
    sub_users.c.sealed_password,
)


def upstream_of(row: Any, opened: OpenPassword) -> Upstream | NoRoute:
    """From a row with `UPSTREAM_COLUMNS` of a label whose provider and sub-user are there.

    NoRoute when the provider's template would not take them. Raises SecretUnreadable.
    """
    template = templates().get(row.template)
    if template is None:
        return NoRoute(EgressError.NO_UPSTREAM)
    sub_user = SubUser(row.login, opened(row.sealed_password))
    try:
        made = credential(
            template,
            sub_user,
            row.label,
            row.country,
            row.minutes,
            scheme=row.scheme,
            host=row.host,
            port=row.port,
        )
    except ValueError:
        return NoRoute(EgressError.NO_UPSTREAM)
    return Upstream(made.scheme, made.host, made.port, made.username, made.password, template.slug)
