"""The one error of the sandbox."""

from __future__ import annotations


class SandboxError(Exception):
    """The sandbox cannot do what was asked. The text is one sentence with the next thing to try."""
