"""What WAHA answers, as far as we use it (WAHA OpenAPI document 2026.7.1). Unknown fields are ignored."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from core.domain.facts import WahaStatus

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"


class WahaWebhook(msgspec.Struct, frozen=True):
    """A webhook of a session: where to and which events. Its HMAC key is dropped at the border."""

    url: str
    events: tuple[str, ...] = ()


class WahaProxy(msgspec.Struct, frozen=True):
    """What a session goes out through: host:port of an HTTP proxy, and a login."""

    server: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"WahaProxy(server={self.server!r}, username='***', password='***')"


class WahaSessionConfig(msgspec.Struct, frozen=True):
    """The part of a session's config that is kept; keys never are.

    `proxy`: only to be compared with the one that is wanted.
    """

    metadata: dict[str, str] = {}
    webhooks: tuple[WahaWebhook, ...] = ()
    proxy: WahaProxy | None = None


class WahaSession(msgspec.Struct, frozen=True):
    """One session of a container.

    Attributes:
        me_id: WhatsApp id such as `5511999999999@c.us`; None when not paired. Kept while STOPPED.
        activity_ms: last sign of life in ms since 1970; None when WAHA gives none.
        assigned_worker: the worker that restores it at boot; None when it was stopped by a call.
    """

    name: str
    status: WahaStatus
    me_id: str | None = None
    me_push_name: str | None = None
    activity_ms: int | None = None
    assigned_worker: str | None = None
    config: WahaSessionConfig = WahaSessionConfig()


class WahaProbe(msgspec.Struct, frozen=True):
    """A session with what its engine says of itself.

    Attributes:
        connected: whether the engine has its connection to WhatsApp; None when it does not tell.
    """

    session: WahaSession
    connected: bool | None


class AlreadyExists(msgspec.Struct, frozen=True):
    """The answer to a create whose name is taken: somebody, perhaps an earlier try of ours, was first."""

    name: str


class WahaVersion(msgspec.Struct, frozen=True):
    """Which WAHA runs. `tier` means nothing since 2026.6.1 and is left out."""

    version: str
    engine: str
    worker_id: str | None


class WahaServerStatus(msgspec.Struct, frozen=True):
    """`started_at_ms` (ms since 1970) changes when the process restarts."""

    started_at_ms: int
    worker_id: str | None


class Qr(msgspec.Struct, frozen=True):
    """A QR code as PNG. It logs a phone in, so its content never shows in a repr."""

    png: bytes

    @property
    def data_url(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def __repr__(self) -> str:
        return f"Qr(png=<{len(self.png)} bytes>)"


class _Me(msgspec.Struct):
    id: str | None = None
    pushName: str | None = None  # noqa: N815 (WAHA's spelling)


class _Timestamps(msgspec.Struct):
    activity: float | None = None


class _WireWebhook(msgspec.Struct):
    url: str
    events: list[str] | None = None


class _WireProxy(msgspec.Struct):
    server: str | None = None
    username: str | None = None
    password: str | None = None

    def proxy(self) -> WahaProxy:
        return WahaProxy(self.server or "", self.username or "", self.password or "")


class _WireConfig(msgspec.Struct):
    metadata: dict[str, Any] | None = None
    webhooks: list[_WireWebhook] | None = None
    proxy: _WireProxy | None = None


class WireSession(msgspec.Struct):
    """A session as it stands in WAHA's JSON."""

    name: str
    status: WahaStatus
    me: _Me | None = None
    timestamps: _Timestamps | None = None
    assignedWorker: str | None = None  # noqa: N815
    config: _WireConfig | None = None

    def session(self) -> WahaSession:
        config = self.config or _WireConfig()
        activity = self.timestamps.activity if self.timestamps else None
        return WahaSession(
            name=self.name,
            status=self.status,
            me_id=self.me.id if self.me else None,
            me_push_name=self.me.pushName if self.me else None,
            activity_ms=None if activity is None or not math.isfinite(activity) else int(activity),
            assigned_worker=self.assignedWorker,
            config=WahaSessionConfig(
                metadata={
                    name: value for name, value in (config.metadata or {}).items() if isinstance(value, str)
                },
                webhooks=tuple(
                    WahaWebhook(hook.url, tuple(hook.events or ())) for hook in config.webhooks or ()
                ),
                proxy=config.proxy.proxy() if config.proxy else None,
            ),
        )


class _Gows(msgspec.Struct):
    connected: bool | None = None


class _Engine(msgspec.Struct):
    gows: _Gows | None = None


class WireProbe(WireSession):
    """A single session's answer; only that one carries `engine` (empty for a stopped one)."""

    engine: _Engine | None = None

    def probe(self) -> WahaProbe:
        """GOWS says `gows.connected`; of the others' words none is known that would tell a deaf session."""
        gows = self.engine.gows if self.engine else None
        return WahaProbe(self.session(), gows.connected if gows else None)


class _Worker(msgspec.Struct):
    id: str | None = None


class WireVersion(msgspec.Struct):
    version: str
    engine: str
    worker: _Worker | None = None


class WireServerStatus(msgspec.Struct):
    startTimestamp: float  # noqa: N815
    worker: _Worker | None = None


class WireCode(msgspec.Struct):
    code: str


class WirePong(msgspec.Struct):
    message: str


class WireError(msgspec.Struct):
    """WAHA's plain error body. `statusCode` repeats the status, which tells WAHA's own 404 from that of
    something else that answers on the same port."""

    statusCode: int  # noqa: N815


class WireWrongState(msgspec.Struct):
    """The body of a 422 for a session in the wrong state; an unknown session has no `status`."""

    session: str
    status: str | None = None


_SENSITIVE: Final = frozenset({"key", "password", "username", "hmac", "token", "secret", "value"})


_USERINFO: Final = re.compile(r"//[^/@\s]*@")


def redacted(text: str, secrets: set[str]) -> str:
    """`text` without the given secrets, also where JSON escapes them, and without names and passwords in
    addresses."""
    for secret in sorted(secrets, key=len, reverse=True):
        for spelling in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            text = text.replace(spelling, "***")
    return _USERINFO.sub("//***@", text)


def secrets_in(content: object) -> set[str]:
    """Every string under a name that marks a secret, in a request body that we send."""
    found: set[str] = set()
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, str) and str(name).lower() in _SENSITIVE and value:
                found.add(value)
            else:
                found |= secrets_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            found |= secrets_in(value)
    return found
