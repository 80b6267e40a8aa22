"""One running session: the state machine between a start and a stop.

Facts about states, order and times: WAHA 2026.7.1, documentation ("Sessions") and source.
"""

from __future__ import annotations

import time

from sandbox.waha import qr
from sandbox.waha.refusals import EngineError
from sandbox.waha.store import BANNED, LINKED, UNLINKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from sandbox.waha.faults import Faults
    from sandbox.waha.settings import SimulatorSettings
    from sandbox.waha.store import SessionStore
    from sandbox.waha.timers import Timer, Timers
    from sandbox.waha.uplink import Uplink

    class Journal(Protocol):
        def start(self, session: str, *, paired: bool) -> None: ...
        def working(self, session: str) -> None: ...
        def end(self, session: str) -> None: ...

    class StatusListener(Protocol):
        def __call__(self, session: RunningSession, data: dict[str, Any] | None) -> None: ...


STOPPED = "STOPPED"
STARTING = "STARTING"
SCAN_QR_CODE = "SCAN_QR_CODE"
PASSKEY_REQUIRED = "PASSKEY_REQUIRED"
PASSKEY_CONFIRMATION_REQUIRED = "PASSKEY_CONFIRMATION_REQUIRED"
WORKING = "WORKING"
FAILED = "FAILED"

QR_SECONDS = (60.0, 20.0, 20.0, 20.0, 20.0, 20.0)
"""How long each QR of a set is valid; after the last one the session is FAILED (160 s in all)."""
STARTING_WAIT = 10.0
RECONNECT_SECONDS = 2.0
"""After what pause an engine connects again when WhatsApp closed its connection."""
RECONNECT_LIMIT = 20
"""NOWEB gives up after more rounds than this in a row (WAHA 2025.3.2); here all do, once they were paired."""
FIRST_TRIES = 4
"""An engine without credentials gives up sooner when it does not reach WhatsApp."""
_AT_ONCE = 0.2
_STEADY_SECONDS = 60.0
_PAIRING_CODE_ALPHABET = "ABCDEFGHJKLMNPQRSTVWXYZ123456789"


class PhoneRefused(Exception):
    """The simulated phone cannot do what it was told; the message says what to do instead."""


class RunningSession:
    """Exists from start to stop; every state but STOPPED and FAILED has a timer or waits for the phone."""

    def __init__(
        self,
        name: str,
        *,
        settings: SimulatorSettings,
        timers: Timers,
        store: SessionStore,
        journal: Journal,
        on_status: StatusListener,
        faults: Faults,
        uplink: Callable[[Callable[[], None]], Uplink],
    ) -> None:
        """`uplink(lost)` makes this run's way to WhatsApp."""
        self.name = name
        self.status = STARTING
        self.statuses: list[dict[str, Any]] = []
        self.activity: int | None = None
        self.faults = faults
        self.deaf = False
        """WORKING in name only, until it is started again (WAHA issue 2151)."""
        self.passkey: dict[str, Any] | None = None
        self.confirmation: str | None = None
        self._settings = settings
        self._timers = timers
        self._store = store
        self._journal = journal
        self._on_status = on_status
        self._timer: Timer | None = None
        self._qr_value: str | None = None
        self._qr_png: bytes | None = None
        self._qr_index = -1
        self._qr_identity = ""
        self._pairing_code: str | None = None
        self._pairing_phone: str | None = None
        self._phone: dict[str, str] | None = None
        self._connection: tuple[int, int] | None = None
        self._replaced = 0
        self._working_since = 0.0
        self._uplink = uplink(self._lose)

    @property
    def hears(self) -> bool:
        """Whether anything that WhatsApp sends arrives."""
        return self.status == WORKING and not self.deaf and not self.faults.silent

    @property
    def was_replaced(self) -> bool:
        """WhatsApp serves a newer connection of this device, and this one has none."""
        return self._connection is None

    @property
    def stop_wait(self) -> float:
        """Seconds that a stop waits before it begins: NOWEB for a socket that still connects, the others for
        their browser, 10 s at most; GOWS not at all (WAHA 2026.7.1)."""
        if self._settings.engine == "GOWS" or self.status != STARTING:
            return 0.0
        connected = STARTING_WAIT if self._timer is None else self._timer.due - self._timers.now()
        return min(STARTING_WAIT, max(0.0, connected))

    @property
    def qr_value(self) -> str | None:
        """The value a phone can scan now, or None."""
        return self._qr_value if self.status == SCAN_QR_CODE else None

    @property
    def is_ready(self) -> bool:
        """False while SCAN_QR_CODE has no QR to show, which is when the phone is just pairing."""
        return self.status != SCAN_QR_CODE or self._qr_value is not None

    def qr_png(self) -> bytes:
        """The shown QR as an image; made once for each value."""
        assert self._qr_value is not None
        if self._qr_png is None:
            self._qr_png = qr.png(self._qr_value)
        return self._qr_png

    def start(self) -> None:
        auth = self._store.auth(self.name)
        self._journal.start(self.name, paired=auth is not None and auth["state"] == LINKED)
        self._enter(STARTING)
        if self.faults.start_error:
            self._fail()
            raise EngineError(f"the engine of session {self.name} does not start")
        if not self.faults.stuck_starting:
            self._later(self._settings.start_delay, self._connect)

    def stop(self) -> None:
        self._cancel()
        self._uplink.close()
        self._journal.end(self.name)
        self._enter(STOPPED)

    def abandon(self) -> None:
        """Stops without telling anybody, as a kill does."""
        self._cancel()
        self._uplink.close()

    # What the phone does

    def scan(self, value: str, phone_number: str, push_name: str) -> None:
        """The phone has read a QR. Raises `PhoneRefused` when it is not the one shown now."""
        if self.status != SCAN_QR_CODE or self._qr_value is None:
            raise PhoneRefused(f"session {self.name} is {self.status} and shows no QR; start it first")
        if value != self._qr_value:
            raise PhoneRefused(
                f"this QR of session {self.name} has expired; fetch the one shown now and scan again"
            )
        self._pair(phone_number, push_name)

    def enter_code(self, code: str, push_name: str) -> None:
        """The pairing code was typed on the phone it was requested for."""
        if self.status != SCAN_QR_CODE or self._pairing_code is None or self._pairing_phone is None:
            raise PhoneRefused(f"session {self.name} waits for no pairing code; request one first")
        if code != self._pairing_code:
            raise PhoneRefused("the pairing code is wrong or replaced by a newer one; request another")
        self._pair(self._pairing_phone, push_name)

    def request_code(self, phone_number: str) -> str:
        """A pairing code `XXXX-XXXX` for a phone; a new one replaces the last."""
        import os

        letters = "".join(_PAIRING_CODE_ALPHABET[byte % 32] for byte in os.urandom(8))
        self._pairing_code = f"{letters[:4]}-{letters[4:]}"
        self._pairing_phone = phone_number
        return self._pairing_code

    def unlink(self, state: str = UNLINKED) -> None:
        """The phone removed this device (or WhatsApp banned the number, with state `BANNED`)."""
        if self.hears or self.status == STARTING:
            self._learn(state)

    def deafen(self) -> None:
        """From now on it hears nothing and says WORKING all the same, until it is started again."""
        if self.status != WORKING:
            raise PhoneRefused(f"session {self.name} is {self.status}; only a WORKING one can go deaf")
        self.deaf = True

    def look_for_rival(self) -> None:
        """WhatsApp serves one connection of a device, the newest; this one learns that it was replaced."""
        if self._connection is None or not self.hears:
            return
        newest = self._store.connection(self.name)
        if newest == self._connection:
            return
        self._connection = None
        if newest is None:
            self._learn(UNLINKED)  # another container logged the device out
        else:
            self._be_replaced()

    def drop(self, seconds: float) -> None:
        """The connection breaks and is back after `seconds`."""
        if self.status != WORKING:
            raise PhoneRefused(f"session {self.name} is {self.status}; only a WORKING one can be dropped")
        self._uplink.close()
        self._enter(STARTING)
        self._later(seconds, self._connect)

    def require_passkey(self, *, confirmation: bool) -> None:
        """WhatsApp asks for a passkey in the middle of a pairing (GOWS only)."""
        if self.status != SCAN_QR_CODE:
            raise PhoneRefused(f"session {self.name} is {self.status}; a passkey is asked for while it pairs")
        self._phone = {"number": new_phone_number(), "push_name": "Passkey"}
        self.passkey = {
            "challenge": qr.new_identity()[:43].replace("+", "-").replace("/", "_"),
            "timeout": 60000,
            "rpId": "web.whatsapp.com",
            "allowCredentials": [],
            "userVerification": "required",
        }
        self.confirmation = "4821" if confirmation else None
        self._enter(PASSKEY_REQUIRED, data={"passkey": self.passkey})
        # The QR set runs on underneath, without bouncing the status back.
        self._later(sum(QR_SECONDS[self._qr_index :]), self._fail)

    def answer_passkey(self) -> None:
        """The assertion arrived: on to the confirmation, or to WORKING."""
        if self.confirmation is not None:
            self._enter(PASSKEY_CONFIRMATION_REQUIRED, data={"code": self.confirmation})
        else:
            self.confirm_passkey()

    def confirm_passkey(self) -> None:
        assert self._phone is not None
        self._pair(self._phone["number"], self._phone["push_name"])

    def show_life(self) -> bool:
        """Marks activity now; False when the session is deaf or not WORKING."""
        if not self.hears:
            return False
        self.activity = int(time.time() * 1000)
        return True

    # Inner steps

    def _connect(self) -> None:
        tries = FIRST_TRIES if self._store.auth(self.name) is None else RECONNECT_LIMIT + 1
        self._uplink.bring_up(self._log_in, self._fail, tries=tries)

    def _lose(self) -> None:
        """The way to WhatsApp has broken, and the engine takes it up again."""
        if self.deaf or (self.status == SCAN_QR_CODE and self._qr_value is None):
            return  # nobody notices; or it pairs right now, and connects anew in the end anyway
        self._cancel()
        self._qr_value = None
        self.passkey = self.confirmation = None
        self._enter(STARTING)
        self._later(_AT_ONCE if self._settings.engine == "GOWS" else RECONNECT_SECONDS, self._connect)

    def _log_in(self) -> None:
        auth = self._store.auth(self.name)
        if auth is None:
            self._qr_identity = qr.new_identity()
            self._qr_index = -1
            self._show_next_qr()
        elif auth["state"] == LINKED:
            self._work()
        else:
            self._learn(auth["state"])

    def _be_replaced(self) -> None:
        # What each engine does on "conflict, replaced" (WAHA 2026.7.1 source; live report: WAHA issue 2195).
        engine = self._settings.engine
        self._uplink.close()
        if engine == "GOWS":
            # The library stops connecting and nobody tells WAHA.
            self.deaf = True
        elif engine == "NOWEB" and self._rounds() <= RECONNECT_LIMIT:
            self._enter(STARTING)
            self._later(RECONNECT_SECONDS, self._connect)
        else:
            self._fail()
            if engine == "WEBJS":
                self._later(RECONNECT_SECONDS, self._start_again)

    def _start_again(self) -> None:
        try:
            self.start()
        except EngineError:
            return  # FAILED again, and that was told

    def _rounds(self) -> int:
        """How often in a row it was replaced soon after it had connected."""
        steady = self._timers.now() - self._working_since >= _STEADY_SECONDS
        self._replaced = 1 if steady else self._replaced + 1
        return self._replaced

    def _learn(self, state: str) -> None:
        # The engines differ: whatsmeow (GOWS) and the browser forget a device that the phone removed, so a
        # restart shows a new QR; NOWEB keeps the dead credentials and fails again until a logout.
        auth = self._store.auth(self.name)
        if state == UNLINKED and self._settings.engine != "NOWEB":
            self._store.wipe_auth(self.name)
        elif auth is not None:
            self._store.save_auth(self.name, {**auth, "state": BANNED if state == BANNED else UNLINKED})
        self._fail()

    def _show_next_qr(self) -> None:
        self._qr_index += 1
        if self._qr_index >= len(QR_SECONDS):
            self._fail()
            return
        self._qr_value = qr.new_value(self._qr_identity)
        self._qr_png = None
        self._enter(SCAN_QR_CODE)
        self._later(QR_SECONDS[self._qr_index], self._show_next_qr)

    def _pair(self, phone_number: str, push_name: str) -> None:
        self._cancel()
        self._qr_value = None
        self._pairing_code = None
        device = qr.new_identity()[:12].encode().hex()
        me = {
            "id": f"{phone_number}@c.us",
            "lid": f"{int(device[:10], 16)}@lid",
            "jid": f"{phone_number}:1@s.whatsapp.net",
            "pushName": push_name,
        }

        def finish() -> None:
            self._store.save_auth(self.name, {"device": device, "state": LINKED})
            self._store.save_me(self.name, me)
            self._connect()

        if self._settings.engine == "NOWEB":
            # NOWEB opens a new socket after the pairing.
            self._enter(STARTING)
            self._later(2.0, finish)
        else:
            self._later(self._settings.pair_delay, finish)

    def _work(self) -> None:
        self._cancel()
        self.passkey = self.confirmation = None
        self.deaf = False
        self.activity = int(time.time() * 1000)
        self._connection = self._store.take_connection(self.name)
        self._working_since = self._timers.now()
        self._journal.working(self.name)
        self._enter(WORKING)

    def _fail(self) -> None:
        self._cancel()
        self._uplink.close()
        self._qr_value = None
        self._journal.end(self.name)
        self._enter(FAILED)

    def _enter(self, status: str, *, data: dict[str, Any] | None = None) -> None:
        self.status = status
        self.statuses = [*self.statuses[-2:], {"status": status, "timestamp": int(time.time() * 1000)}]
        self._on_status(self, data)

    def _later(self, seconds: float, call: Any) -> None:
        self._cancel()
        self._timer = self._timers.call_later(seconds, call)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def new_phone_number() -> str:
    """A Brazilian mobile number, digits only, as in a WhatsApp id."""
    import os

    return f"55119{int.from_bytes(os.urandom(4), 'big') % 100_000_000:08d}"
