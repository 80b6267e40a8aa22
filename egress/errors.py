"""The one exception of a tunnel that is not opened."""

from __future__ import annotations

from core.domain.egress_errors import EgressError


class Refused(Exception):
    """`error`: the reason code that the chip, the metrics and the meter are told. Carries nothing else."""

    def __init__(self, error: EgressError) -> None:
        super().__init__(error.value)
        self.error = error
