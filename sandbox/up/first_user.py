"""The user that a new sandbox can be logged into at once."""

from __future__ import annotations

from typing import Final

from api.passwords import Passwords
from core.domain.actor import COMMAND_LINE
from core.store.engine import engine_for
from core.store.users_admin import ensure_user, find_user_id

EMAIL: Final = "test@whago.com"
PASSWORD: Final = "Test@123456"  # noqa: S105  printed at every start: it guards nothing but a sandbox
PLAN: Final = "enterprise"


async def ensure_first_user(database_url: str) -> None:
    """Create the user unless there is one with that e-mail; one that was changed since stays as it is."""
    engine = engine_for(database_url, pool_size=2, application_name="wahafleet up")
    try:
        if await find_user_id(engine, EMAIL) is None:
            await ensure_user(
                engine,
                email=EMAIL,
                password_hash=await Passwords().hash(PASSWORD),
                name="Test User",
                phone="+5511999999999",
                plan_slug=PLAN,
                actor=COMMAND_LINE,
            )
    finally:
        await engine.dispose()
