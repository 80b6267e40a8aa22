"""The SOCKS5 server that everything goes out through, and what its log says.

It answers like the host behind it, on one event loop: what it hears is in one order. A tunnel of a second allocation can
only be heard turns of that loop after its login, so what the first one sent before is read before. A tunnel's first words are the
user's id and the allocation's.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

_ID = 36


class Spell(msgspec.Struct):
    """From the first byte of an allocation to its last; monotonic seconds."""

    allocation: str
    began: float
    ended: float
    heard: int = 0


class Overlap(msgspec.Struct, frozen=True):
    """`first` was heard after `second` had begun, `late_s` after."""

    user: str
    first: str
    second: str
    late_s: float


class Judge:
    """`spells`: by user, in order. `names`: what each user's tunnels logged in with; a label that stays is one name."""

    def __init__(self) -> None:
        self.port = 0
        self.spells: dict[str, list[Spell]] = {}
        self.overlaps: list[Overlap] = []
        self.names: dict[str, set[str]] = {}

    def last(self, user: str) -> Spell | None:
        spells = self.spells.get(user)
        return spells[-1] if spells else None

    def heard(self, user: str, allocation: str, count: int) -> None:
        """Bytes of this allocation have arrived."""
        now = time.monotonic()
        spells = self.spells.setdefault(user, [])
        if spells and spells[-1].allocation == allocation:
            spell = spells[-1]
        elif any(spell.allocation == allocation for spell in spells):
            self.overlaps.append(Overlap(user, allocation, spells[-1].allocation, now - spells[-1].began))
            return
        else:
            spell = Spell(allocation, now, now)
            spells.append(spell)
        spell.ended = now
        spell.heard += count

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            _, count = await reader.readexactly(2)
            await reader.readexactly(count)
            writer.write(b"\x05\x02")
            _, length = await reader.readexactly(2)
            name = (await reader.readexactly(length)).decode()
            await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(b"\x01\x00")
            await reader.readexactly(4)
            await reader.readexactly((await reader.readexactly(1))[0] + 2)
            writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            user = (await reader.readexactly(_ID)).decode()
            allocation = (await reader.readexactly(_ID)).decode()
            self.names.setdefault(user, set()).add(name)
            self.heard(user, allocation, 2 * _ID)
            while data := await reader.read(65536):
                self.heard(user, allocation, len(data))
                writer.write(data)
        writer.transport.abort()


@asynccontextmanager
async def judging() -> AsyncIterator[Judge]:
    judge = Judge()
    server = await asyncio.start_server(judge, "127.0.0.1", 0)
    judge.port = server.sockets[0].getsockname()[1]
    try:
        yield judge
    finally:
        server.close()
