"""Settings of one simulated container, from the environment variables that the WAHA image takes.

Variables named WAHA_* and WHATSAPP_* are WAHA's own (WAHA documentation, "Configuration"); those with the
prefix WAHA_SIM_ exist in the simulator alone.
"""

from __future__ import annotations

import os
import re

from sandbox.waha.hashing import sha512_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES = ("GOWS", "NOWEB", "WEBJS", "WPP")
VERSION = "2026.7.1"

# WAHA refuses these keys since 2025.10.3 and makes a random one at every boot in their place.
_WEAK_KEYS = frozenset(["", "123", "321", "waha", "admin", "0" * 32, "1" * 32])
# Seconds that each engine's stop takes (WAHA 2026.7.1).
_STOP_SECONDS = {"GOWS": 0.01, "NOWEB": 1.0, "WEBJS": 3.0, "WPP": 3.0}
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")


class InvalidSettings(ValueError):
    """The environment cannot be used; the message names every variable that is wrong."""


class RetryPolicy:
    """When a failed webhook is sent again; `delay` in seconds before the first retry."""

    __slots__ = ("attempts", "delay", "policy")

    def __init__(self, policy: str = "linear", delay: float = 2.0, attempts: int = 15) -> None:
        self.policy = policy
        self.delay = delay
        self.attempts = attempts

    def wait(self, attempt: int, jitter: float) -> float:
        """Seconds before retry number `attempt` (from 1); `jitter` in -1..1 moves exponential by 20 %."""
        if self.policy == "constant":
            return self.delay
        if self.policy == "exponential":
            return self.delay * float(2 ** min(attempt - 1, 16)) * (1 + 0.2 * jitter)
        return self.delay * attempt


class Hook:
    """One webhook target."""

    __slots__ = ("events", "headers", "hmac_key", "retries", "url")

    def __init__(
        self,
        url: str,
        events: frozenset[str],
        hmac_key: str | None = None,
        retries: RetryPolicy | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.url = url
        self.events = events
        self.hmac_key = hmac_key
        self.retries = retries or RetryPolicy()
        self.headers = headers

    def wants(self, event: str) -> bool:
        return event in self.events or ("*" in self.events and event != "engine.event")


class SimulatorSettings:
    """Everything one simulated container is told at start."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Raises `InvalidSettings` with all problems at once."""
        self._env = env
        self._problems: list[str] = []

        self.engine = env.get("WHATSAPP_DEFAULT_ENGINE") or "WEBJS"
        if self.engine not in ENGINES:
            self._problems.append(f"WHATSAPP_DEFAULT_ENGINE must be one of {', '.join(ENGINES)}")
        self.host = env.get("WAHA_SIM_BIND_ADDRESS") or env.get("NOMAD_IP_http") or "127.0.0.1"
        self.port = int(self._number("PORT", "WHATSAPP_API_PORT", default=3000))
        if not 0 <= self.port <= 65535:
            self._problems.append("WHATSAPP_API_PORT must lie in 0..65535")

        self.worker_id = env.get("WAHA_WORKER_ID", "")
        self.namespace = env.get("WAHA_NAMESPACE") or self.engine.lower()
        self.session_namespace = env.get("WAHA_SESSION_NAMESPACE") or self.namespace
        for name, value in (
            ("WAHA_NAMESPACE", self.namespace),
            ("WAHA_SESSION_NAMESPACE", self.session_namespace),
        ):
            if not _NAMESPACE.match(value):
                self._problems.append(f"{name} may hold letters, digits, - and _ only")
        self.restore_sessions = self._flag("WAHA_WORKER_RESTART_SESSIONS", default=True)
        self.restore_all = self._flag("WHATSAPP_RESTART_ALL_SESSIONS", default=False)
        self.start_sessions = _words(env.get("WHATSAPP_START_SESSION", ""))
        self.restore_pause = self._number("WAHA_AUTO_START_DELAY_SECONDS", default=0.0)

        self.auth_required = not self._flag("WAHA_NO_API_KEY", default=False)
        self.key_digest, self.key_is_random = self._key()
        self.hooks = self._hooks()

        self.store_dir = env.get("WAHA_SIM_STORE_DIR", "")
        if not self.store_dir:
            self._problems.append("WAHA_SIM_STORE_DIR must name the folder that keeps the sessions")
        self.allocation = env.get("NOMAD_ALLOC_ID") or None
        self.owner_pidfile = env.get("WAHA_SIM_OWNER_PIDFILE") or None
        self.owner_grace = self._number("WAHA_SIM_OWNER_GRACE_S", default=3.0)
        self.clock_speed = self._number("WAHA_SIM_CLOCK_SPEED", default=1.0)
        if self.clock_speed <= 0:
            self._problems.append("WAHA_SIM_CLOCK_SPEED must be above 0")
        # Delays, in simulated seconds.
        self.start_delay = self._number("WAHA_SIM_START_DELAY_S", default=0.3)
        self.pair_delay = self._number("WAHA_SIM_PAIR_DELAY_S", default=0.1)
        self.stop_delay = self._number("WAHA_SIM_STOP_DELAY_S", default=_STOP_SECONDS.get(self.engine, 0.01))
        self.unpair_delay = self._number("WAHA_SIM_UNPAIR_DELAY_S", default=1.0)
        self.poll_interval = self._number("WAHA_SIM_POLL_INTERVAL_S", default=0.5)
        self.restore_delay = self._number("WAHA_SIM_RESTORE_DELAY_S", default=1.0)
        # How often a session with a proxy says something; a phone's own line is not busier than that.
        self.tunnel_interval = self._number("WAHA_SIM_TUNNEL_INTERVAL_S", default=5.0)
        self.start_when_omitted = self._flag("WAHA_SIM_START_WHEN_OMITTED", default=False)

        if self._problems:
            raise InvalidSettings("; ".join(self._problems))

    def public_environment(self) -> dict[str, str]:
        """WAHA's variables of this container. Values that hold secrets are masked, unlike in WAHA."""
        secret = ("KEY", "PASSWORD", "SECRET", "HEADERS", "POSTGRESQL_URL", "MONGO_URL")
        return {
            name: "***" if any(word in name for word in secret) else value
            for name, value in sorted(self._env.items())
            if name.startswith(("WAHA_", "WHATSAPP_"))
        }

    def _number(self, *names: str, default: float) -> float:
        for name in names:
            text = self._env.get(name)
            if text:
                try:
                    return float(text)
                except ValueError:
                    self._problems.append(f"{name} must be a number")
                    return default
        return default

    def _flag(self, name: str, *, default: bool) -> bool:
        text = self._env.get(name, "").strip().lower()
        if text in ("true", "1", "yes"):
            return True
        if text in ("false", "0", "no"):
            return False
        if text:
            self._problems.append(f"{name} must be True or False")
        return default

    def _key(self) -> tuple[str, bool]:
        key = self._env.get("WHATSAPP_API_KEY") or self._env.get("WAHA_API_KEY") or ""
        if key.startswith("sha512:"):
            digest = key.removeprefix("sha512:").lower()
            if digest and digest not in {sha512_hex(weak.encode()) for weak in _WEAK_KEYS}:
                return digest, False
        elif key not in _WEAK_KEYS:
            return sha512_hex(key.encode()), False
        return sha512_hex(os.urandom(32)), True

    def _hooks(self) -> tuple[Hook, ...]:
        env = self._env
        url = env.get("WHATSAPP_HOOK_URL")
        events = frozenset(_words(env.get("WHATSAPP_HOOK_EVENTS", "")))
        if not url or not events:
            return ()
        headers = tuple(
            (name.strip(), value.strip())
            for name, colon, value in (
                pair.partition(":") for pair in env.get("WHATSAPP_HOOK_CUSTOM_HEADERS", "").split(";")
            )
            if colon
        )
        retries = RetryPolicy(
            env.get("WHATSAPP_HOOK_RETRIES_POLICY") or "linear",
            self._number("WHATSAPP_HOOK_RETRIES_DELAY_SECONDS", default=2.0),
            int(self._number("WHATSAPP_HOOK_RETRIES_ATTEMPTS", default=15)),
        )
        return (Hook(url, events, env.get("WHATSAPP_HOOK_HMAC_KEY") or None, retries, headers),)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
