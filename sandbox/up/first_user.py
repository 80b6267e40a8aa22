"""The user that a new sandbox can be logged into at once."""

from __future__ import annotations

import uuid
from typing import Final

from api.passwords import Passwords
from core.errors import Conflict
from core.store import accounts
from core.store.engine import engine_for

EMAIL: Final = "test@whago.com"
PASSWORD: Final = "Test@123456"  # noqa: S105  printed at every start: it guards nothing but a sandbox
PLAN: Final = "enterprise"


async def ensure_first_user(database_url: str) -> None:
    """Create the user unless there is one with that e-mail; one that was changed since stays as it is."""
    engine = engine_for(database_url, pool_size=2, application_name="wahafleet up")
    try:
        if await accounts.find_id(engine, EMAIL) is not None:
            return
        new = accounts.NewAccount(
            id=str(uuid.uuid4()),
            email=EMAIL,
            name="Test User",
            phone="+5511999999999",
            company_name=None,
            document=None,
            password_hash=await Passwords().hash(PASSWORD),
            plan_slug=PLAN,
        )
        try:
            await accounts.create(engine, new)
        except Conflict:
            # Registered through the API of an earlier run at this very moment: that is the user we want.
            return
    finally:
        await engine.dispose()
