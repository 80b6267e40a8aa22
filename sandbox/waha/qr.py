"""QR codes: the value that a container shows and its PNG."""

from __future__ import annotations

import binascii
import os
import struct
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

SCALE = 4
_BORDER = 4
# Any of the eight can be scanned. To find the best one, for worn print and bad cameras, each is drawn and weighed:
# 13 of 17 ms, which hundreds of containers in one process have not.
_MASK = 0

_encode: Callable[..., Any] | None = None


def new_value(identity: str) -> str:
    """A pairing reference in the form WhatsApp uses: `2@<ref>,<key>,<key>,<secret>`.

    `identity` is the part that stays the same over the rotations of one pairing attempt.
    """
    return f"2@{_base64(96)},{identity}"


def new_identity() -> str:
    return f"{_base64(32)},{_base64(32)},{_base64(32)}"


def png(value: str) -> bytes:
    """A PNG image, 8 bits of grey, that encodes `value`. Raises ImportError without segno."""
    global _encode
    if _encode is None:
        _encode = _load_encoder()
    matrix = _encode(value, error="L", micro=False, mask=_MASK).matrix
    return _write_png(matrix)


def _base64(size: int) -> str:
    return binascii.b2a_base64(os.urandom(size), newline=False).decode()


def _load_encoder() -> Callable[..., Any]:
    if "segno" in sys.modules:
        from segno import encoder

        return encoder.encode
    if sys.flags.no_site:
        # The lean process runs with -S; this is the one thing that it needs from the environment.
        import site

        site.main()
    # segno's __init__ loads its writers, and with them xml, http and ssl: 7 MB and 100 ms for each
    # container (measured). The encoder alone needs none of that, so it is loaded under an empty package.
    from importlib.util import find_spec

    spec = find_spec("segno")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("segno is not installed; install wahafleet with its extra 'sandbox'")
    package = type(sys)("segno")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["segno"] = package
    try:
        from segno import encoder
    finally:
        del sys.modules["segno"]
    return encoder.encode


def _write_png(matrix: Sequence[Sequence[int]]) -> bytes:
    side = (len(matrix) + 2 * _BORDER) * SCALE
    blank = b"\xff" * side
    margin = b"\xff" * (_BORDER * SCALE)
    rows = [blank] * (_BORDER * SCALE)
    for line in matrix:
        pixels = b"".join((b"\0" if module & 1 else b"\xff") * SCALE for module in line)
        rows += [margin + pixels + margin] * SCALE
    rows += [blank] * (_BORDER * SCALE)
    return picture(rows)


def picture(rows: Sequence[bytes]) -> bytes:
    """A PNG image of these rows of pixels, 8 bits of grey each, as many rows as a row has pixels."""
    side = len(rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 1))
        + chunk(b"IEND", b"")
    )
