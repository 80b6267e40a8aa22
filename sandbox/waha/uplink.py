"""A session's way to WhatsApp: at once without a proxy, by a tunnel with one.

An engine that does not reach WhatsApp tries again by itself, and gives up when it was in vain too often in a row.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from sandbox.waha.log import Log
    from sandbox.waha.timers import Timer, Timers

    class Tunnel(Protocol):
        sent: int
        received: int

        def close(self) -> None: ...

    class Dial(Protocol):
        def __call__(
            self, proxy: dict[str, Any], up: Callable[[], None], down: Callable[[str], None], /
        ) -> Tunnel: ...

    class TrafficJournal(Protocol):
        def tunnel(self, session: str) -> None: ...
        def traffic(self, session: str, sent: int, received: int) -> None: ...


RETRY_SECONDS = 2.0
NOTE_SECONDS = 60.0
"""Real seconds after which the journal is told how much went through a tunnel that stands."""


class Uplink:
    """Of one run of a session. `lost` is called when a way that stood breaks."""

    def __init__(
        self,
        session: str,
        proxy: dict[str, Any] | None,
        *,
        timers: Timers,
        dial: Dial,
        journal: TrafficJournal,
        log: Log,
        lost: Callable[[], None],
    ) -> None:
        self._session = session
        self._proxy = proxy if proxy and proxy.get("server") else None
        self._timers = timers
        self._dial = dial
        self._journal = journal
        self._log = log
        self._lost = lost
        self._tunnel: Tunnel | None = None
        self._stands = False
        self._failures = 0
        self._timer: Timer | None = None
        self._noted = (0, 0)

    def bring_up(self, then: Callable[[], None], give_up: Callable[[], None], *, tries: int) -> None:
        """Calls `then` when there is a way, at once when there is one already; `give_up` after `tries` in vain."""
        if self._proxy is None or self._stands:
            then()
            return
        self.close()

        def up() -> None:
            self._stands = True
            self._failures = 0
            self._journal.tunnel(self._session)
            self._note_later()
            then()

        def down(why: str) -> None:
            stood = self._stands
            self.close()
            self._failures += not stood
            self._log.emit("tunnel_lost" if stood else "tunnel_failed", session=self._session, problem=why)
            if stood:
                self._lost()
            elif self._failures >= tries:
                self._failures = 0
                give_up()
            else:
                self._timer = self._timers.call_later(RETRY_SECONDS, again)

        def again() -> None:
            self.bring_up(then, give_up, tries=tries)

        self._tunnel = self._dial(self._proxy, up, down)

    def close(self) -> None:
        """Hangs up, and tries no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tunnel, self._tunnel, self._stands = self._tunnel, None, False
        if tunnel is not None:
            tunnel.close()
            self._note(tunnel)
        self._noted = (0, 0)

    def _note_later(self) -> None:
        self._timer = self._timers.call_later_real(NOTE_SECONDS, self._note_now)

    def _note_now(self) -> None:
        if self._tunnel is not None:
            self._note(self._tunnel)
            self._note_later()

    def _note(self, tunnel: Tunnel) -> None:
        sent, received = tunnel.sent - self._noted[0], tunnel.received - self._noted[1]
        self._noted = tunnel.sent, tunnel.received
        if sent or received:
            self._journal.traffic(self._session, sent, received)
