"""How verbs show rows: aligned for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click
import msgspec


def show_rows(rows: Sequence[msgspec.Struct], columns: Sequence[str], *, as_json: bool, none: str) -> None:
    """Print `columns` of each row, or all of them as one JSON list. `none`: what is said when there is no row."""
    if as_json:
        click.echo(json.dumps([_plain(row) for row in rows], ensure_ascii=False, indent=1))
        return
    show_table([_cells(row, columns) for row in rows], columns, none=none)


def show_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, none: str) -> None:
    """Print `columns` of each row, aligned. `none`: what is said when there is no row."""
    if not rows:
        click.echo(none)
        return
    table = [list(columns), *([cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_one(row: msgspec.Struct, *, as_json: bool) -> None:
    """Print one row, a line for each of its fields."""
    if as_json:
        click.echo(json.dumps(_plain(row), ensure_ascii=False))
        return
    for name in row.__struct_fields__:
        click.echo(f"{name:<15} {cell(getattr(row, name))}")


def _cells(row: msgspec.Struct, columns: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in columns}


def _plain(row: msgspec.Struct) -> dict[str, Any]:
    values = ((name, getattr(row, name)) for name in row.__struct_fields__)
    return {name: _jsonable(value) for name, value in values}


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def cell(value: Any) -> str:
    """One value as people read it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    return f"{value:f}".rstrip("0").rstrip(".") if isinstance(value, Decimal) else str(value)
