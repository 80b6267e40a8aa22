"""Why a chip's tunnel could not be opened: the reason codes of the guard, and what the chip is answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class EgressError(StrEnum):
    """Reason codes; stable. They stand in the answer to CONNECT, in metrics and in the meters of chips."""

    BAD_REQUEST = "bad_request"  # no CONNECT that can be read
    UNAUTHENTICATED = "unauthenticated"  # no credential, or none that this host's guard can have given
    NOT_CURRENT = "not_current"  # the guard holds no lease for the allocation
    DESTINATION_REFUSED = "destination_refused"  # not on the list
    NO_UPSTREAM = "no_upstream"  # no label, no provider or no sub-user
    PROXY_AUTH = "proxy_auth"  # the upstream refuses the login
    PROXY_UNREACHABLE = "proxy_unreachable"  # dead, silent or too slow
    PROXY_REFUSED = "proxy_refused"  # SOCKS 0x02: not allowed by the upstream's rules
    PROXY_HOST_UNREACHABLE = "proxy_host_unreachable"  # SOCKS 0x03 to 0x06
    PROXY_PROTOCOL = "proxy_protocol"  # SOCKS 0x01, 0x07, 0x08, and nonsense
    TRAFFIC_EXHAUSTED = "traffic_exhausted"  # the account's volume is used up
    THREADS_EXHAUSTED = "threads_exhausted"  # too many connections on one login
    NO_PEER = "no_peer"  # the provider has no exit to offer right now
    QUOTA = "quota"  # the plan's own limit
    GUARD_FULL = "guard_full"  # as many tunnels as this guard may have


# By the upstream's doing: they count for the chip's label and provider.
OF_UPSTREAM: Final = frozenset(
    {
        EgressError.PROXY_AUTH,
        EgressError.PROXY_UNREACHABLE,
        EgressError.PROXY_REFUSED,
        EgressError.PROXY_HOST_UNREACHABLE,
        EgressError.PROXY_PROTOCOL,
        EgressError.TRAFFIC_EXHAUSTED,
        EgressError.THREADS_EXHAUSTED,
        EgressError.NO_PEER,
    }
)

_STATUS: Final = {
    EgressError.BAD_REQUEST: 400,
    EgressError.UNAUTHENTICATED: 407,
    EgressError.NOT_CURRENT: 403,
    EgressError.DESTINATION_REFUSED: 403,
    EgressError.QUOTA: 403,
    EgressError.NO_UPSTREAM: 503,
    EgressError.TRAFFIC_EXHAUSTED: 503,
    EgressError.THREADS_EXHAUSTED: 503,
    EgressError.GUARD_FULL: 503,
    EgressError.PROXY_UNREACHABLE: 504,
    EgressError.PROXY_AUTH: 502,
    EgressError.PROXY_REFUSED: 502,
    EgressError.PROXY_HOST_UNREACHABLE: 502,
    EgressError.PROXY_PROTOCOL: 502,
    EgressError.NO_PEER: 502,
}


def http_status(error: EgressError) -> int:
    """Status of the answer to CONNECT. An upstream's 407 becomes 502: it is not the chip that must log in."""
    return _STATUS[error]


_SOCKS: Final = {
    0x02: EgressError.PROXY_REFUSED,
    0x03: EgressError.PROXY_HOST_UNREACHABLE,
    0x04: EgressError.PROXY_HOST_UNREACHABLE,
    0x05: EgressError.PROXY_HOST_UNREACHABLE,
    0x06: EgressError.PROXY_HOST_UNREACHABLE,
}


def of_socks_reply(code: int | None) -> EgressError:
    """The reply field of RFC 1928; None = no reply that could be read."""
    return EgressError.PROXY_PROTOCOL if code is None else _SOCKS.get(code, EgressError.PROXY_PROTOCOL)
