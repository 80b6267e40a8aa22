"""Opens the secrets that the store keeps sealed, and remembers the opened ones in this process alone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from core.crypto import Sealer

_REMEMBERED: Final = 10_000


class Vault:
    """A sealer with a memory. It is keyed by the sealed bytes, so a new key of a container is a new entry."""

    def __init__(self, sealer: Sealer) -> None:
        self.sealer = sealer
        self._opened: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    def __repr__(self) -> str:
        return "Vault(***)"

    def open(self, user_id: str, sealed: bytes) -> str:
        """Raises SecretUnreadable."""
        key = (user_id, sealed)
        plain = self._opened.get(key)
        if plain is None:
            plain = self._opened[key] = self.sealer.open(sealed)
            if len(self._opened) > _REMEMBERED:
                self._opened.popitem(last=False)
        return plain
