"""What checks find: a word and a sentence each."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Finding(NamedTuple):
    """One sentence; with WRONG and UNKNOWN it names the next thing to do."""

    state: State
    text: str
