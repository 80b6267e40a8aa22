"""Random secrets, their hashes and their encryption at rest."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from core.errors import AppError

_BASE36 = string.digits + string.ascii_lowercase


class SecretUnreadable(AppError):
    """A stored secret was encrypted with none of the keys in WAHAFLEET_SECRET_KEYS."""

    default_code = "secret_unreadable"


def new_api_key() -> str:
    """A container's API key: 256 random bits as 64 hex characters."""
    return secrets.token_hex(32)


def new_access_key() -> str:
    """A key to this API: `whago_<8 hex>_<64 hex>`, 256 random bits in its last part."""
    return f"whago_{secrets.token_hex(4)}_{secrets.token_hex(32)}"


def hashed_access_key(plain: str) -> bytes:
    """What the store keeps of a key to this API: SHA-256.

    256 random bits cannot be guessed at any speed, so a slow hash as for passwords would protect nothing and cost
    every request its time.
    """
    return hashlib.sha256(plain.encode()).digest()


def new_hook_key() -> str:
    """The key that a container's webhooks are signed with: 256 random bits as 64 hex characters."""
    return secrets.token_hex(32)


def new_namespace() -> str:
    """A container's storage namespace: `u` and 15 random base-36 characters (77 bits)."""
    return "u" + "".join(secrets.choice(_BASE36) for _ in range(15))


def hashed_api_key(plain: str) -> str:
    """The only form of the key that stands in a job: `sha512:<hex>`, as WAHA_API_KEY takes it."""
    return "sha512:" + hashlib.sha512(plain.encode()).hexdigest()


def webhook_signature(key: str, raw_body: bytes) -> str:
    """Lower-case hex HMAC-SHA512 over the raw body, as WAHA sends it in X-Webhook-Hmac."""
    return hmac.new(key.encode(), raw_body, hashlib.sha512).hexdigest()


def signature_matches(key: str, raw_body: bytes, claimed: str) -> bool:
    """Constant-time check of a webhook's signature; never raises on odd input."""
    return hmac.compare_digest(webhook_signature(key, raw_body).encode(), claimed.lower().encode())


class Sealer:
    """Encrypts secrets that the store keeps.

    The first key seals; every key opens, so a key is rotated by putting the new one in front.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        """`keys`: url-safe base-64 Fernet keys, newest first. Raises ValueError on a malformed one."""
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def seal(self, plain: str) -> bytes:
        return self._fernet.encrypt(plain.encode())

    def open(self, sealed: bytes) -> str:
        """Raises SecretUnreadable when no key fits."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise SecretUnreadable(
                "a stored secret cannot be opened: put the key it was sealed with back into WAHAFLEET_SECRET_KEYS"
            ) from error
