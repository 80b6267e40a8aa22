"""The settings that rules need, as one value. All durations are seconds."""

from __future__ import annotations

from typing import Final

import msgspec

GUARD: Final = "guard"


class Policy(msgspec.Struct, frozen=True):
    """How the loop behaves.

    Attributes:
        egress: `direct`, `guard`, or None; without one no session is started (fail closed).
        exit_readings: whether a chip's exit is read before its session starts; only with `guard`.
        stop_on_disconnect_s: S, after which a cut-off client stops its containers itself.
        kill_timeout_s: how long a container may take to stop.
        possibly_alive_margin_s: added to S and the kill timeout before a lost allocation counts as dead.
        empty_grace_s: how long a container stays after its last chip left.
        qr_rounds: QR sets that one create, reconnect or pairing-code call buys.
        max_failures: starts in a row without success before a paired chip is given back to its owner.
        key_patience_s: how long WAHA may refuse our key before the container is replaced.
        ready_deadline_s: how long a placed container may boot before that is worth a reason.
        placement_deadline_s: how long Nomad may take to say where a container goes, or why nowhere.
        evaluate_after_s: how long a container that ended by itself may stay unplaced before Nomad is asked.
        qr_deadline_s: how long a QR code or passkey may wait for a person; a set lasts 160 s (WAHA docs).
        start_deadline_s: how long WAHA may say STARTING before the session is restarted.
        connect_deadline_s: how long a paired chip may say CONNECTING.
        teardown_deadline_s: how long a deleted chip waits for a reachable WAHA to log out, when its
            container goes too.
        poll_moving_s: next look while something is on its way; `poll_qr_s`: while a QR is shown;
        poll_waiting_s: while waiting for capacity or another's repair.
        poll_booting_s: while a placed container comes up. That it answers stands on a list which is watched whole, so
            the news of it cannot get lost as an event can.
        poll_patience, poll_slowest_s: what has stood unchanged for t seconds is looked at after this share of
            t at the earliest, but never later than the second number.
        resync_s: next look at a user at rest.
        retry_base_s, retry_cap_s: backoff between starts of one chip.
        consent_s: how long a press on Conectar may turn into a logout; then whoever pressed is gone.
        peer_window_s: who fails for no longer than this began to fail lately.
        peer_lately_share, peer_failing_share: so large a share of chips that began to fail lately, or that
            fail at all, is an outage; one other chip at least.
        breaker_starts, breaker_window_s: so many starts of a chip within this time open its breaker,
        breaker_open_s: for this long;
        breaker_forgiven_s: a chip that stayed connected for so long begins anew.
        breaker_trips, breaker_trips_window_s: so many openings within this time put it in quarantine.
        deaf_after_s, deaf_factor: a connected chip is suspicious when silent for longer than both the first
            and so many times its own longest silence.
        deaf_restarts, deaf_window_s: so often within this time a deaf session is restarted.
        rhythm_half_life_s: after this the longest silence counts half.
    """

    egress: str | None = None
    exit_readings: bool = True
    stop_on_disconnect_s: float = 60
    kill_timeout_s: float = 45
    possibly_alive_margin_s: float = 30
    empty_grace_s: float = 600
    qr_rounds: int = 2
    max_failures: int = 3
    key_patience_s: float = 10
    ready_deadline_s: float = 60
    placement_deadline_s: float = 30
    evaluate_after_s: float = 10
    qr_deadline_s: float = 300
    start_deadline_s: float = 90
    connect_deadline_s: float = 180
    teardown_deadline_s: float = 60
    poll_moving_s: float = 2
    poll_qr_s: float = 30
    poll_waiting_s: float = 10
    poll_booting_s: float = 10
    poll_patience: float = 0.3
    poll_slowest_s: float = 30
    resync_s: float = 60
    retry_base_s: float = 2
    retry_cap_s: float = 60
    consent_s: float = 600
    peer_window_s: float = 900
    peer_lately_share: float = 0.02
    peer_failing_share: float = 0.2
    breaker_starts: int = 8
    breaker_window_s: float = 1800
    breaker_open_s: float = 900
    breaker_forgiven_s: float = 600
    breaker_trips: int = 3
    breaker_trips_window_s: float = 86400
    deaf_after_s: float = 1800
    deaf_factor: float = 6
    deaf_restarts: int = 3
    deaf_window_s: float = 86400
    rhythm_half_life_s: float = 86400
