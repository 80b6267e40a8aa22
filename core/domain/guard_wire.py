"""What a host's guard and the API say to each other, as msgspec JSON. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from core.domain.egress_errors import EgressError


class Ask(msgspec.Struct, frozen=True):
    """A guard carries this allocation. `grant`: the number of the lease that it holds; None = none."""

    allocation_id: str
    grant: int | None = None


class Standing(StrEnum):
    """GRANTED: forward. REVOKED: not the one that may speak; close and confirm. WAITING: ask again."""

    GRANTED = "granted"
    REVOKED = "revoked"
    WAITING = "waiting"


class Answer(msgspec.Struct, frozen=True):
    """What the store says to one `Ask`.

    Attributes:
        grant, epoch: of the lease; only with GRANTED.
        ttl_s: its life, counted by the guard from the moment it sent the request; 0 unless GRANTED.
    """

    allocation_id: str
    standing: Standing
    grant: int | None = None
    epoch: int | None = None
    ttl_s: float = 0.0


class Upstream(msgspec.Struct, frozen=True):
    """Where a chip's tunnels go on. `provider`: slug of its template; host and port mean nothing with `direct`."""

    scheme: Literal["socks5", "http", "direct"]
    host: str
    port: int
    username: str
    password: str
    provider: str

    def __repr__(self) -> str:
        # The provider's parameters may stand in either of both.
        return (
            f"Upstream(scheme={self.scheme!r}, host={self.host!r}, port={self.port}, username='***', "
            f"password='***', provider={self.provider!r})"
        )


class Route(msgspec.Struct, frozen=True):
    """One chip of an allocation.

    Attributes:
        label: as the provider takes it; "" without one.
        upstream: None = no tunnel is opened, and `why` says the reason.
        quota_left_bytes: of the plan, as the store counted it last; None = no limit.
        sub_user_id: whose credential it is; goes back with the usage.
    """

    allocation_id: str
    user_id: str
    chip_id: str
    label_generation: int
    label: str
    upstream: Upstream | None
    why: EgressError | None = None
    quota_left_bytes: int | None = None
    sub_user_id: str = ""


class Renew(msgspec.Struct, frozen=True):
    """One batch of a host.

    Attributes:
        sent_no: rises with each request of one guard process.
        asks: every allocation that the guard carries, or those that cannot wait for the next period.
        closed: leases under which nothing is open any more, and nothing will be.
    """

    node_id: str
    sent_no: int
    asks: tuple[Ask, ...] = ()
    closed: tuple[Ask, ...] = ()


class Renewed(msgspec.Struct, frozen=True):
    """`routes`: of all chips of every allocation in `answers` that is granted; a chip without one has none."""

    answers: tuple[Answer, ...]
    routes: tuple[Route, ...] = ()


class UsageRow(msgspec.Struct, frozen=True):
    """What one chip used since the batch before.

    Attributes:
        bytes_in: that reached the chip. bytes_out: that it sent.
        tunnels: that were opened. errors: tunnels that were not, by reason.
        provider: slug of the template. sub_user_id: of the route; "" without an upstream.
    """

    chip_id: str
    allocation_id: str
    user_id: str
    provider: str
    bytes_in: int
    bytes_out: int
    tunnels: int
    errors: dict[EgressError, int]
    sub_user_id: str = ""


class Usage(msgspec.Struct, frozen=True):
    """`batch_id`: a UUID; a batch that comes twice counts once."""

    node_id: str
    batch_id: str
    rows: tuple[UsageRow, ...]
