"""SHA-512 and its HMAC without OpenSSL.

`hashlib` and `hmac` map OpenSSL into the process, 4 MB of resident memory (measured on CPython 3.11);
the interpreter's own SHA-512 extension needs 0.1 MB.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha512
elif sys.version_info >= (3, 12):
    from _sha2 import sha512
else:
    from _sha512 import sha512

_BLOCK = 128


def sha512_hex(data: bytes) -> str:
    return sha512(data).hexdigest()


def hmac_sha512_hex(key: bytes, data: bytes) -> str:
    """HMAC-SHA512 (RFC 2104) as lower-case hexadecimal."""
    if len(key) > _BLOCK:
        key = sha512(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner = sha512(bytes(b ^ 0x36 for b in key) + data).digest()
    return sha512(bytes(b ^ 0x5C for b in key) + inner).hexdigest()
