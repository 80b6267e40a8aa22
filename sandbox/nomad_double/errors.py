"""Refusals of the double, with the status and the text that Nomad sends."""

from __future__ import annotations


class ApiError(Exception):
    """A refusal that reaches the client as text/plain.

    Nomad sends 500 for whatever its servers refuse (validation, EnforceIndex, unknown job on evaluate) and 4xx
    only for what its HTTP layer refuses; measured on Nomad 1.10.5.
    """

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


def multierror(problems: list[str]) -> str:
    """Several problems in the layout of HashiCorp's multierror, which is what users grep for."""
    noun = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
    points = "\n\t* ".join(problems)
    return f"{noun} occurred:\n\t* {points}\n\n"
