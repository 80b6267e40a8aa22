"""The provider of proxies that a sandbox has: a row in its store, and the process that stands for it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert

from core.crypto import Sealer
from core.store.engine import engine_for, transaction
from core.store.tables_egress import providers, sub_users
from sandbox.free_ports import kept_ports
from sandbox.provider.server import ECHO_URL as ECHO_URL

SLUG: Final = "local"
LOGIN: Final = "local"
HOST: Final = "127.0.0.1"
_LABELS: Final = 100_000


class EgressPorts(msgspec.Struct, frozen=True):
    """Kept by the data folder, so that what is stored of them stays true over restarts.

    Attributes:
        guard: of every host's guard, each on its host's own address.
        provider: SOCKS5 and CONNECT. control: of the provider's knobs. Both on 127.0.0.1.
    """

    guard: int
    provider: int
    control: int

    @property
    def knobs(self) -> str:
        return f"http://{HOST}:{self.control}"


def egress_ports(data: Path) -> EgressPorts:
    folder = data / "egress"
    folder.mkdir(mode=0o700, exist_ok=True)
    # On every address: the guard's port must be free on those of all hosts.
    return EgressPorts(**kept_ports(folder, "0.0.0.0", ("guard", "provider", "control")))


async def ensure_local_provider(database_url: str, sealer: Sealer, *, port: int, password: str) -> None:
    """Have the provider's row say where it is now and what its password is; the rest of a row that exists stays.

    It becomes the default provider when there is none. Raises Unavailable.
    """
    engine = engine_for(database_url, pool_size=1, application_name="wahafleet up")
    there_is_one = select(exists().where(providers.c.is_default))
    try:
        async with transaction(engine) as connection:
            new = insert(providers).values(
                slug=SLUG,
                title="Provedor local",
                template="generic",
                scheme="socks5",
                host=HOST,
                port=port,
                cost_per_gb=5,
                is_default=not (await connection.execute(there_is_one)).scalar_one(),
            )
            await connection.execute(
                new.on_conflict_do_update(
                    index_elements=[providers.c.slug], set_={"host": HOST, "port": port}
                )
            )
            account = insert(sub_users).values(
                id=str(uuid.uuid4()),
                provider_slug=SLUG,
                login=LOGIN,
                sealed_password=sealer.seal(password),
                max_labels=_LABELS,
            )
            await connection.execute(
                account.on_conflict_do_update(
                    index_elements=[sub_users.c.provider_slug, sub_users.c.login],
                    set_={"sealed_password": account.excluded.sealed_password},
                )
            )
    finally:
        await engine.dispose()
