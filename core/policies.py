"""The rules' settings as the rules take them; the same for whoever follows them and whoever explains them."""

from __future__ import annotations

from core.domain.policy import Policy
from core.settings import LoopSettings


def policy_of(settings: LoopSettings) -> Policy:
    """A guard that does not exist yet carries no traffic: with `guard` chips wait, as with nothing at all."""
    return Policy(
        egress="direct" if settings.egress == "direct" else None,
        stop_on_disconnect_s=settings.stop_on_disconnect_s,
        empty_grace_s=settings.empty_grace_s,
        qr_rounds=settings.qr_rounds,
        resync_s=settings.resync_s,
    )
