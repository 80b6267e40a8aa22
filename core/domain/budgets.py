"""What a chip may still spend before a person must decide."""

from __future__ import annotations

import msgspec

from core.domain.facts import WahaStatus
from core.domain.policy import Policy
from core.domain.story import Story


class Budget(msgspec.Struct, frozen=True):
    """One budget.

    Attributes:
        name: `qr_rounds`, `reconnect_tries` or `sessions`.
        text, renews: pt-BR, what it is and what fills it again.
        left: never below 0.
    """

    name: str
    text: str
    spent: int
    limit: int
    left: int
    renews: str


def budgets_of(story: Story, policy: Policy) -> tuple[Budget, ...]:
    """What is left of each. Numbers of an older wish count as nothing spent."""
    spent, evidence = story.spent, story.evidence
    found = []
    if story.chip.needs_pairing:
        found.append(
            _budget(
                "qr_rounds",
                "Conjuntos de QR Codes deste pedido",
                spent.qr_rounds,
                policy.qr_rounds,
                "Cada clique em Conectar compra novos QR Codes.",
            )
        )
    found.append(
        _budget(
            "reconnect_tries",
            "Tentativas de conexão seguidas sem sucesso",
            spent.failures,
            policy.max_failures,
            "Uma conexão bem-sucedida ou um clique em Conectar renova as tentativas.",
        )
    )
    if evidence is not None and evidence.answers:
        running = sum(session.status != WahaStatus.STOPPED for session in evidence.sessions.values())
        found.append(
            _budget(
                "sessions",
                "Sessões em uso no plano",
                running,
                story.max_chips,
                "Uma sessão que termina libera o lugar.",
            )
        )
    return tuple(found)


def _budget(name: str, text: str, spent: int, limit: int, renews: str) -> Budget:
    return Budget(name, text, spent, limit, max(0, limit - spent), renews)
