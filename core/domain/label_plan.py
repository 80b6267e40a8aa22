"""At which provider and sub-user a chip gets its label. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from core.domain.egress_errors import EgressError
from core.domain.routes import NoRoute


class ProviderStanding(msgspec.Struct, frozen=True):
    """One provider. `trouble`: that counts now."""

    slug: str
    enabled: bool
    is_default: bool
    trouble: EgressError | None = None


class SubUserStanding(msgspec.Struct, frozen=True):
    """One login. `live`: labels that are not released, the asking chip's own left out; `trouble`: that counts now."""

    id: str
    provider: str
    enabled: bool
    live: int
    max_labels: int
    trouble: EgressError | None = None

    @property
    def has_room(self) -> bool:
        return self.live < self.max_labels


class Held(msgspec.Struct, frozen=True):
    """The label that a chip has. `requested`: another one was asked for since. `taken`: by a live one, meanwhile."""

    provider: str
    sub_user_id: str
    generation: int
    released: bool
    requested: bool
    taken: bool

    @property
    def may_return(self) -> bool:
        return self.released and not self.requested and not self.taken


class Keep(msgspec.Struct, frozen=True):
    """The released label is taken up again, as it was."""


class Give(msgspec.Struct, frozen=True):
    """A new label; of `generation` unless a live one looks the same."""

    provider: str
    sub_user_id: str
    generation: int


def label_plan(
    held: Held | None, providers: Sequence[ProviderStanding], sub_users: Sequence[SubUserStanding]
) -> Keep | Give | NoRoute:
    """What a chip that needs a label gets.

    A released label stays with its sub-user, in trouble or not, while that serves and has room for it. A new one goes
    to the default provider: to the sub-user with the fewest live labels of those that are enabled, have room and are
    in no trouble.
    """
    if held is not None and held.may_return and _serves(held, providers, sub_users):
        return Keep()
    provider = next((one for one in providers if one.is_default and one.enabled), None)
    if provider is None:
        return NoRoute(EgressError.NO_UPSTREAM)
    if provider.trouble is not None:
        return NoRoute(provider.trouble)
    enabled = [one for one in sub_users if one.provider == provider.slug and one.enabled]
    if not enabled:
        return NoRoute(EgressError.NO_UPSTREAM)
    roomy = [one for one in enabled if one.has_room]
    if not roomy:
        return NoRoute(EgressError.THREADS_EXHAUSTED)
    working = [one for one in roomy if one.trouble is None]
    if not working:
        return NoRoute(roomy[0].trouble or EgressError.NO_UPSTREAM)
    chosen = min(working, key=lambda one: (one.live, one.id))
    return Give(provider.slug, chosen.id, 1 if held is None else held.generation + 1)


def _serves(held: Held, providers: Sequence[ProviderStanding], sub_users: Sequence[SubUserStanding]) -> bool:
    return any(one.slug == held.provider and one.enabled for one in providers) and any(
        one.id == held.sub_user_id and one.provider == held.provider and one.enabled and one.has_room
        for one in sub_users
    )
