"""Names to addresses, without holding up the loop."""

from __future__ import annotations

import socket

from sandbox.waha.loop import in_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.waha.loop import Loop


def resolve(
    loop: Loop, host: str, port: int, found: Callable[[str], None], failed: Callable[[str], None]
) -> None:
    """Calls one of both, at once for what is an address already."""
    if host.replace(".", "").isdigit() or ":" in host:
        found(host)
        return

    # Beside the loop, since the resolver blocks.
    def look() -> None:
        try:
            address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            problem = str(error)
            loop.call_soon_threadsafe(lambda: failed(problem))
        else:
            loop.call_soon_threadsafe(lambda: found(address))

    in_thread(look)


def split_authority(authority: str) -> tuple[str, int | None]:
    """(host, port) of `host:port`; without a port 80, None for what is no port."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "80"
    return host.strip("[]"), int(port) if port.isdigit() and 0 < int(port) < 65536 else None
