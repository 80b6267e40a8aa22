"""A pairing code: wished for first, then asked of the container as soon as its session shows a QR."""

from __future__ import annotations

import asyncio
from typing import Final

from api.deadline import in_time
from api.intents import known_id, winning
from api.observed import looks
from api.schemas_live import PairingCode
from api.services import Services
from core.clients.waha import WrongState
from core.domain.actor import Actor
from core.domain.pairing import code_expires_at, waits_for_code
from core.domain.qr_view import qr_set_began_at
from core.domain.views import StoredChip
from core.errors import Conflict, Missing, Rejected, Unavailable
from core.store import intents, queries

# A caller waits for the session this long at most, and for the container's answer this long.
_SESSION_S: Final = 7.0
_CALL_S: Final = 3.0
_UNSUPPORTED: Final = (
    "O WhatsApp não aceitou gerar um código para este número. Confira o número ou use o QR Code."
)


async def pairing_code(
    services: Services, user_id: str, chip_id: str, phone: str, actor: Actor
) -> PairingCode:
    """A code for `phone` (digits with country code), within `_SESSION_S` + `_CALL_S` seconds.

    Raises NotFound; Conflict where there will be none (connected, or only an operator can help); Unavailable when
    the session does not come up in time or the container does not answer.
    """
    known = known_id(chip_id)
    storage_id = services.settings.job.storage_id
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + _SESSION_S
    with services.observed.subscribed(user_id) as news:
        chip = await winning(
            lambda: intents.ask_pairing(
                services.engine,
                services.vault.sealer,
                storage_id,
                user_id=user_id,
                chip_id=known,
                actor=actor,
            )
        )
        if not chip.seen:
            await services.qr.forget_chip(known)
        code = await _asked(services, chip, phone)
        if code is not None:
            return code
        async for _ in looks(news, ends_at - loop.time()):
            seen = await in_time(queries.read_chip(services.engine, user_id, known))
            if seen is None:
                raise intents.unknown_chip()
            code = await _asked(services, seen, phone)
            if code is not None:
                return code
    raise Unavailable("waha", f"the session shows no QR within {_SESSION_S:g} s", code="no_session")


async def _asked(services: Services, chip: StoredChip, phone: str) -> PairingCode | None:
    """None while the session is not so far. Raises as `pairing_code`."""
    if not waits_for_code(chip):
        return None
    try:
        async with asyncio.timeout(_CALL_S):
            code = await services.qr.pairing_code(chip, phone, _CALL_S)
    except WrongState:
        return None  # the store is a moment behind, or ahead
    except Rejected as error:
        raise Conflict(_UNSUPPORTED, code="pairing_refused") from error
    except (Missing, TimeoutError) as error:
        raise Unavailable("waha", "no pairing code", code="no_session") from error
    return PairingCode(code, code_expires_at(qr_set_began_at(chip), services.clock.now()))
