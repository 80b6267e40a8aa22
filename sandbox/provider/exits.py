"""Exit IPs: every user name has one, always the same, and no two names share one unless they are told to."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Final

# Shared address space (RFC 6598): looks like an address of the Internet and is nobody's.
_NETWORK: Final = ipaddress.ip_network("100.64.0.0/10")
_FIRST: Final = int(_NETWORK.network_address) + 1
_COUNT: Final = _NETWORK.num_addresses - 2


class Exits:
    """`told`: user names that were given an exit."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self._of: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, user: str) -> str:
        """The exit IP of a user name; 100.64.0.0/10."""
        if user in self.told:
            return self.told[user]
        if user not in self._of:
            at = int.from_bytes(hashlib.sha256(user.encode()).digest()[:8])
            while (found := str(ipaddress.ip_address(_FIRST + at % _COUNT))) in self._taken:
                at += 1
            self._taken.add(found)
            self._of[user] = found
        return self._of[user]
