"""The tunnels of chips at their upstreams: `core.clients.tunnels`, with the options of the guard's sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from core.clients import tunnels
from core.clients.tunnels import Opened as Opened
from core.domain.guard_wire import Upstream
from core.domain.providers import ErrorRule
from egress.relay import prepare

# After which the kernel gives up an upstream that takes nothing. Of no matter to leases: they end before it or after.
_UNTAKEN_MS: Final = 30_000


async def opened(
    upstream: Upstream,
    host: str,
    port: int,
    *,
    may_send: Callable[[], bool],
    timeout_s: float,
    rules: Sequence[ErrorRule] = (),
) -> Opened:
    """See `core.clients.tunnels.opened`."""
    found = await tunnels.opened(upstream, host, port, may_send=may_send, timeout_s=timeout_s, rules=rules)
    prepare(found.sock)
    found.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN_MS)
    return found
