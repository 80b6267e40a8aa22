"""The templates of providers as a file: read and checked by one function, in a checkout and in an installed wheel."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from core.domain.providers import Template, problems
from core.settings_reader import SettingsError

FILE = Path(__file__).with_name("providers.json")


@functools.cache
def templates() -> Mapping[str, Template]:
    """Every template by its slug. Raises SettingsError with a sentence for each thing that is wrong with them."""
    try:
        found = msgspec.json.decode(FILE.read_bytes(), type=list[Template])
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError([f"core/providers.json cannot be read: {error}"]) from error
    wrong = [problem for template in found for problem in problems(template)]
    slugs = [template.slug for template in found]
    wrong += [
        f"core/providers.json: {slug!r} stands there twice."
        for slug in sorted(set(slugs))
        if slugs.count(slug) > 1
    ]
    if wrong:
        raise SettingsError(wrong)
    return MappingProxyType({template.slug: template for template in found})
