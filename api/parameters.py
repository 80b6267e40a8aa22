"""Numbers and switches of a query; lists in pages: `limit` and `cursor`, and the way to the next page."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from core.domain.names import parse_id
from core.errors import InvalidInput

MOST: Final = 200


def limit_of(text: str, most: int = MOST) -> int:
    """How many a page holds. Raises InvalidInput for anything but a number from 1 to `most`."""
    return number_of("limit", text, most)


def number_of(name: str, text: str, most: int) -> int:
    """A query parameter that counts. Raises InvalidInput for anything but a number from 1 to `most`."""
    if text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most:
        return int(text)
    told = f"Use um número de 1 a {most}."
    raise InvalidInput(f"{name}: {told}", fields={name: told})


def cursor_of(text: str | None) -> str | None:
    """The id after which the page begins; None for the first. Raises InvalidInput for what no page gave out."""
    if text is None:
        return None
    found = parse_id(text)
    if found is None:
        told = "Use o cursor que a página anterior informou em Link."
        raise InvalidInput(f"cursor: {told}", fields={"cursor": told})
    return found


def next_link(path: str, **query: str | None) -> dict[str, str]:
    """The header `Link` to the next page: the list's path with `query`, whose None are left out."""
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return {"Link": f'<{path}?{given}>; rel="next"'}


def flag_of(name: str, text: str) -> bool:
    """A query parameter that is on or off. Raises InvalidInput."""
    if text.lower() in ("true", "1", "false", "0"):
        return text.lower() in ("true", "1")
    raise InvalidInput(f"{name}: Use true ou false.", fields={name: "Use true ou false."})
