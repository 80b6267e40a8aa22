"""How a chip says to its host's guard who it is: user `<chip>.<allocation>`, password an HMAC. Pure.

The guard of a host holds the key of its node alone, so what it knows opens nothing on another host, and it proves a
credential without asking anybody. The password names the label generation too, modulo `GENERATIONS`: whoever has no
route yet can try them all. A chip whose label changed meanwhile is still that chip, so any of them proves it.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from typing import Final

from core.domain.names import parse_id

PASSWORD_CHARACTERS: Final = 40
GENERATIONS: Final = 256
_PASSWORD_BYTES: Final = PASSWORD_CHARACTERS * 5 // 8
_PASSWORD: Final = re.compile(rf"[a-z2-7]{{{PASSWORD_CHARACTERS}}}", re.ASCII)


def chip_user(chip_id: str, allocation_id: str) -> str:
    """Both are canonical lower-case UUIDs; raises ValueError otherwise."""
    return f"{_canonical(chip_id)}.{_canonical(allocation_id)}"


def parse_chip_user(text: str) -> tuple[str, str]:
    """(chip id, allocation id). Raises ValueError for anything but two canonical lower-case UUIDs."""
    chip_id, dot, allocation_id = text.partition(".")
    if not dot:
        raise ValueError("the user is not <chip>.<allocation>")
    return _canonical(chip_id), _canonical(allocation_id)


def node_key(secret: bytes, node_id: str) -> bytes:
    """The 32 bytes that the guard of a Nomad node holds."""
    return hmac.digest(secret, f"node:{node_id}".encode(), "sha256")


def chip_password(key: bytes, chip_id: str, allocation_id: str, label_generation: int) -> str:
    """40 lower-case base-32 characters. `key`: of the allocation's node. Raises ValueError for bad ids."""
    proof = _proof(_begun(key, chip_id, allocation_id), label_generation % GENERATIONS)
    return base64.b32encode(proof).decode().lower()


def matches(key: bytes, chip_id: str, allocation_id: str, password: str, *, hint: int | None = None) -> bool:
    """Whether this is the chip's password, of whichever label generation. Each comparison takes constant time.

    `hint`: the generation to try first. A wrong password costs `GENERATIONS` digests, below half a millisecond.
    """
    if not _PASSWORD.fullmatch(password):
        return False
    given, begun = base64.b32decode(password.upper()), _begun(key, chip_id, allocation_id)
    return any(hmac.compare_digest(_proof(begun, generation), given) for generation in _tried(hint))


def _begun(key: bytes, chip_id: str, allocation_id: str) -> hmac.HMAC:
    return hmac.new(key, f"chip:{chip_user(chip_id, allocation_id)}:".encode(), "sha256")


def _proof(begun: hmac.HMAC, generation: int) -> bytes:
    ended = begun.copy()
    ended.update(b"%d" % generation)
    return ended.digest()[:_PASSWORD_BYTES]


def _tried(hint: int | None) -> Iterator[int]:
    if hint is not None:
        yield hint % GENERATIONS
    yield from range(GENERATIONS)


def _canonical(text: str) -> str:
    if parse_id(text) != text:
        raise ValueError("an id is not a canonical lower-case UUID")
    return text
