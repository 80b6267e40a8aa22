"""Filters of Nomad's list queries: go-bexpr over the full object, and the refusal of what cannot be read."""

from __future__ import annotations

from sandbox.bexpr import BexprError, Predicate
from sandbox.bexpr import compile_filter as _compile
from sandbox.nomad_double.errors import ApiError


def compile_filter(text: str) -> Predicate:
    """Compile an expression.

    Raises:
        ApiError: 400, as the server answers an expression it cannot read.
    """
    try:
        return _compile(text)
    except BexprError as error:
        message = f"failed to create result paginator: failed to read filter expression: {error}"
        raise ApiError(400, message) from error
