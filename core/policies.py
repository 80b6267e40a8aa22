"""The rules' settings as the rules take them; the same for whoever follows them and whoever explains them."""

from __future__ import annotations

from core.domain.policy import Policy
from core.settings import LoopSettings


def policy_of(settings: LoopSettings) -> Policy:
    """Without an egress chips wait; exits are read where something tells them."""
    return Policy(
        egress=settings.egress,
        exit_readings=settings.exit_echo_url is not None,
        stop_on_disconnect_s=settings.stop_on_disconnect_s,
        empty_grace_s=settings.empty_grace_s,
        qr_rounds=settings.qr_rounds,
        resync_s=settings.resync_s,
    )
