"""From any error to one sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from core.errors import AppError, DependencyError
from core.settings import SettingsError
from sandbox.agents.consul_agent import ConsulAgentError
from sandbox.agents.nomad_agent import NomadAgentError
from sandbox.postgres import PostgresError
from sandbox.up.context import state_folder
from sandbox.up.data import write_private
from sandbox.up.errors import SandboxError
from sandbox.valkey import ValkeyError

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count it


class CommandError(Exception):
    """A verb cannot do what was asked. The text is one sentence with the next thing to try."""


def guarded(command: Callable[[], object]) -> int:
    """Run `command`; its exit code. Every error becomes a sentence on standard error."""
    try:
        code = command()
        # Text that is still buffered may meet a reader that is gone, here and not at interpreter exit.
        sys.stdout.flush()
    except BaseException as error:
        return _explain(error)
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> int:
    match error:
        case SystemExit(code=code):
            return code if isinstance(code, int) else FAILED
        case click.exceptions.Exit(exit_code=code):
            return code
        case click.Abort() | KeyboardInterrupt():
            _say("interrupted; nothing more was done.")
            return INTERRUPTED
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            return MISUSED
        case click.UsageError():
            with_help = error.ctx.command_path if error.ctx else "wahafleet"
            _say(f"{error.format_message().rstrip('.')}; `{with_help} --help` shows what it takes.")
            return MISUSED
        case click.ClickException():
            _say(error.format_message())
            return FAILED
        case SettingsError():
            for problem in error.problems:
                _say(problem)
            return MISUSED
        case BrokenPipeError():
            # Whoever read our output has enough. Python would complain again when it closes the stream.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        case DependencyError():
            _say(f"{error.message.rstrip('.')}; see that it runs and try again.")
            return FAILED
        case CommandError() | AppError() | SandboxError():
            _say(str(error))
            return FAILED
        case PostgresError() | ValkeyError() | ConsulAgentError() | NomadAgentError():
            _say(str(error))
            return FAILED
        case _:
            _say(_unexpected(error))
            return FAILED


def _unexpected(error: BaseException) -> str:
    told = traceback.format_exception_only(error)[-1].strip().splitlines()[0][:200]
    report = state_folder() / "last-error.txt"
    try:
        report.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(report, "".join(traceback.format_exception(error)))
    except OSError as reason:
        kept = f"its details could not be kept ({reason.strerror})"
    else:
        kept = f"its details stand in {_short(report)}"
    return f"unexpected error: {told}; {kept}; try again, and report it with those details if it stays."


def _short(path: Path) -> str:
    home = str(Path.home())
    return "~" + str(path).removeprefix(home) if str(path).startswith(home + "/") else str(path)


def _say(sentence: str) -> None:
    click.echo(f"wahafleet: {sentence}", err=True)
