"""The PNG really is a QR code, and of the value."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.doubles import drawn
from sandbox.waha import qr
from tests.scale import examples


def decode(png: bytes) -> str:
    """Reads a PNG of 8-bit grey without filters, as a camera would see it."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 0)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (width + 1)
    pixels = b"".join(rows[row * (width + 1) + 1 : (row + 1) * (width + 1)] for row in range(height))
    image: Any = memoryview(pixels).cast("B", shape=[height, width])
    # Asked for every format, it now and then sees a line code in the modules of a QR code as well.
    (found,) = zxingcpp.read_barcodes(image, formats=zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode))
    return str(found.text)


def test_the_png_encodes_the_value() -> None:
    value = qr.new_value(qr.new_identity())
    assert decode(qr.png(value)) == value


def test_what_the_bench_draws_is_a_code_of_the_value_too() -> None:
    value = qr.new_value(qr.new_identity())
    assert decode(drawn(value)) == value


@settings(max_examples=examples(15))
@given(value=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=20, max_size=300))
def test_any_value_survives(value: str) -> None:
    assert decode(qr.png(value)) == value


def test_values_look_like_whatsapps() -> None:
    identity = qr.new_identity()
    first, second = qr.new_value(identity), qr.new_value(identity)
    assert first != second
    assert first.startswith("2@")
    assert len(first.split(",")) == 4
    assert first.split(",")[1:] == second.split(",")[1:]


def test_segno_stays_whole_for_others() -> None:
    qr.png("2@x")
    import segno

    assert segno.make("x").designator
