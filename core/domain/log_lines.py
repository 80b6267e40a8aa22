"""Whole lines out of pieces of a log that is read again and again, from a window at its end.

Only whole lines are given on: what a line's beginning was cut off from, or what has no end yet, might show a
part of a secret that would be hidden in the whole. Bytes of an unfinished line are read once more next time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

# Longer ones are left out as a whole: they are no text for people, and a window holds no more.
LINE_BYTES: Final = 16 * 1024
LEFT_OUT: Final = "[... linhas omitidas]"
TOO_LONG: Final = "[linha longa demais, omitida]"
# Of all lines that are kept of one container, in UTF-8 with their ends.
KEPT_BYTES: Final = 256 * 1024


class Piece(msgspec.Struct, frozen=True):
    """Bytes of one file of a log that is kept in several, numbered from 0, from `begin` on."""

    file: int
    begin: int
    data: bytes

    @property
    def end(self) -> int:
        return self.begin + len(self.data)


class Position(msgspec.Struct, frozen=True):
    """How far a log was taken. `clean`: a line begins here; if not, what comes up to the next end is left out."""

    file: int
    offset: int
    clean: bool = True


class Taken(msgspec.Struct, frozen=True):
    """Whole lines without their ends, and where to go on; `position` is None as long as there is no log."""

    lines: tuple[bytes | str, ...]
    position: Position | None


def take(pieces: Sequence[Piece], position: Position | None) -> Taken:
    """What is new in `pieces`, which lie in order and reach to the end of the log as it was.

    A `str` among the lines is a word of ours: that something between was left out.
    """
    if not pieces:
        return Taken((), position)
    last = pieces[-1]
    rewound = position is not None and (last.file, last.end) < (position.file, position.offset)
    reader = _Reader(None if rewound else position)
    if rewound:
        reader.lines.append(LEFT_OUT)
    for piece in pieces:
        reader.take(piece)
    return reader.result()


class _Reader:
    def __init__(self, position: Position | None) -> None:
        self.lines: list[bytes | str] = []
        self._at = position  # up to where bytes were looked at
        self._clean = position is not None and position.clean
        self._pending = b""
        self._began = position  # where the pending line begins
        self._read: set[int] = set()  # files that were read to their end, as the next one shows

    def take(self, piece: Piece) -> None:
        at, begin, data = self._at, piece.begin, piece.data
        if at is None:
            # Of a first file the very beginning is known to be a line's; of any other it may be a line's middle.
            self._clean = piece.file == 0 and begin == 0
            self._began = Position(piece.file, begin)
        elif piece.file < at.file or (piece.file == at.file and piece.end <= at.offset):
            self._read.add(piece.file)
            return
        elif piece.file == at.file and begin <= at.offset:
            data, begin = data[at.offset - begin :], at.offset
        elif not (piece.file == at.file + 1 and begin == 0 and at.file in self._read):
            self.lines.append(LEFT_OUT)
            self._pending, self._clean = b"", False
        self._read.add(piece.file)
        self._at = Position(piece.file, begin + len(data))
        self._feed(piece.file, begin, data)

    def _feed(self, file: int, begin: int, data: bytes) -> None:
        if not self._clean:
            head, end, data = data.partition(b"\n")
            begin += len(head) + len(end)
            self._began = Position(file, begin)
            if not end:
                return
            self._clean, self._pending = True, b""
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = self._pending + whole[0]
            self.lines += [line if len(line) <= LINE_BYTES else TOO_LONG for line in whole]
            self._pending = rest
            self._began = Position(file, begin + len(data) - len(rest))
        else:
            self._pending += rest

    def result(self) -> Taken:
        if self._clean and len(self._pending) > LINE_BYTES:
            self.lines.append(TOO_LONG)
            self._clean, self._began = False, self._at
        began = self._began
        if began is not None:
            began = msgspec.structs.replace(began, clean=self._clean)
        return Taken(tuple(self.lines), began)


def kept(lines: Iterable[str]) -> tuple[str, ...]:
    """The newest of `lines` that fit into what is kept."""
    chosen: list[str] = []
    left = KEPT_BYTES
    for line in reversed(list(lines)):
        left -= len(line.encode()) + 1
        if left < 0:
            break
        chosen.append(line)
    return tuple(reversed(chosen))
