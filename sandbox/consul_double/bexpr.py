"""Filters of Consul's reads: go-bexpr as Consul 1.8.7 has it, and its refusal of what cannot be read."""

from __future__ import annotations

from sandbox.bexpr import MAP, BexprError, Predicate, Schema
from sandbox.bexpr import compile_filter as _compile
from sandbox.consul_double.refusal import RefusalError

__all__ = ["MAP", "Predicate", "Schema", "compile_filter"]


def compile_filter(text: str, schema: Schema) -> Predicate:
    """Compile an expression. Raises RefusalError (500, as Consul 1.8 answers a bad one)."""
    try:
        return _compile(text, schema, missing_matches=True)
    except BexprError as error:
        raise RefusalError(500, f"Failed to create boolean expression evaluator: {error}") from error
