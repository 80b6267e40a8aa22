from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from core.settings import Settings, load


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Settings of an API whose store is nowhere."""
    return load(
        {
            "WAHAFLEET_DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/none",
            "WAHAFLEET_SECRET_KEYS": Fernet.generate_key().decode(),
            "JWT_SECRET_KEY": "k" * 64,
            "WAHAFLEET_STORAGE_DSN": "postgresql://nobody@127.0.0.1:1/waha",
        }
    )
