"""Every cause that an explanation may name: what happens next by itself, and what people can do. A table.

Its order is the order of causes, the root first: what stands higher explains what stands lower.

The sentence that says what is wrong is the reason's own (`REASON_TEXT`). Only a situation that is no reason
brings one here. What the loop does in English, and what an operator can do, stand in the table of
deadlines; `operator` replaces the latter where the cause knows better. `docs/explain.md` is made from this.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from core.domain.cause_row import CauseRow
from core.domain.causes_inside import INSIDE
from core.domain.causes_outside import OUTSIDE
from core.domain.states import REASON_TEXT, Reason

CAUSES: Final[Mapping[str, CauseRow]] = MappingProxyType({**OUTSIDE, **INSIDE})


def cause_text(code: str) -> str:
    """What is the matter, pt-BR. Raises KeyError for a code that is in no table."""
    try:
        return REASON_TEXT[Reason(code)]
    except ValueError:
        return CAUSES[code].text
