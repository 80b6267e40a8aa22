"""Causes on a chip's way out: no way at all, its provider, its label's exit, its plan's traffic. See `causes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from core.domain.cause_row import NOTHING, WE_KNOW, CauseRow, Proof
from core.domain.states import Reason

_PROOFS: Final = (Proof.EGRESS, Proof.EFFECTS, Proof.SESSION)
_READS_AGAIN: Final = "A saída do chip é testada de novo com pausas crescentes; se só ela falhar, o chip recebe outra identidade."


def _of_label(operator: str) -> CauseRow:
    """Its reading failed: with backoff it is read again, and the label changes when it alone fails."""
    return CauseRow(loop=_READS_AGAIN, owner=NOTHING, operator=operator, proofs=_PROOFS)


def _of_account(operator: str) -> CauseRow:
    """The provider or the sub-user has it, and every chip that goes out through them."""
    loop = "Nada inicia por este provedor enquanto isso; o chip inicia sozinho quando a saída voltar."
    return CauseRow(loop=loop, owner=WE_KNOW, operator=operator, proofs=_PROOFS)


EGRESS: Final[Mapping[str, CauseRow]] = MappingProxyType(
    {
        Reason.NO_EGRESS: CauseRow(
            loop="O chip inicia sozinho quando houver uma saída de rede.",
            owner=WE_KNOW,
            operator="set WAHAFLEET_EGRESS for the daemons, and see that the guard or the proxy it names exists",
            commands=("wahafleet settings",),
            proofs=(Proof.EGRESS,),
        ),
        Reason.NO_UPSTREAM: CauseRow(
            loop="O chip inicia sozinho quando houver um provedor de proxy para ele.",
            owner=WE_KNOW,
            operator="no enabled provider has an enabled sub-user: add one, or enable it again",
            proofs=_PROOFS,
        ),
        Reason.TRAFFIC_EXHAUSTED: _of_account("buy traffic at the provider, or make another one the default"),
        Reason.THREADS_EXHAUSTED: _of_account(
            "every sub-user is full: add one, or raise max_labels if the provider takes more connections"
        ),
        Reason.PROXY_AUTH: _of_account(
            "the provider refuses the login: see the sub-user's name and password"
        ),
        Reason.PROXY_UNREACHABLE: _of_label(
            "see that this host reaches the provider's address, and whether the provider has an outage"
        ),
        Reason.PROXY_REFUSED: _of_label(
            "the provider does not allow the destination: see its rules, and WAHAFLEET_EXIT_ECHO_URL"
        ),
        Reason.PROXY_HOST_UNREACHABLE: _of_label(
            "the provider does not reach the echo address: see WAHAFLEET_EXIT_ECHO_URL when all chips have it"
        ),
        Reason.PROXY_PROTOCOL: _of_label(
            "what answers speaks neither the provider's protocol nor the echo's: see host, port and scheme"
        ),
        Reason.NO_PEER: _of_label("the provider has no exit to offer in that country right now"),
        Reason.QUOTA: CauseRow(
            loop="O chip volta sozinho no início do próximo mês, ou quando o plano mudar.",
            owner="Aguarde o próximo mês ou mude de plano.",
            operator="nothing, unless the figures look wrong: usage of the user's month against its plan",
            proofs=(Proof.EGRESS, Proof.SESSION),
        ),
    }
)
