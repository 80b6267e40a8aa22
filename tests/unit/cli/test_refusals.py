"""Whatever goes wrong, a person reads one sentence and a script gets 1 or 2."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cli.failures import CommandError, guarded
from cli.main import main, wahafleet
from core.errors import NotFound, Unavailable
from core.settings import SettingsError
from sandbox.postgres import PostgresError
from sandbox.up.errors import SandboxError
from sandbox.valkey import ValkeyError


@pytest.fixture(autouse=True)
def nothing_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("WAHAFLEET_DATABASE_URL", "WAHAFLEET_OPERATOR_TOKEN", "JWT_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert isinstance(code, int)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    return code, shown.out, shown.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "--help"),
        (["up", "--nonsense"], 2, "--help"),
        (["up", "--port", "0"], 2, "--port"),
        (["up", "--port", "x"], 2, "--port"),
        (["up", "--nomad", "fake"], 2, "auto"),
        (["up", "--hosts", "0"], 1, "--hosts"),
        (["up", "--hosts", "1000"], 1, "--hosts"),
        (["up", "--speed", "0"], 1, "--speed"),
        (["up", "--consul", "double", "--nomad", "double", "--driver", "docker"], 1, "--driver raw_exec"),
        (["container", "show"], 2, "--help"),
        (["container", "show", "u"], 1, "wahafleet up"),
        (["--api", "http://127.0.0.1:9", "container", "show", "u"], 1, "WAHAFLEET_OPERATOR_TOKEN"),
        (["--api", "::", "container", "show", "u"], 1, "--api"),
        (["phone", "scan", "x"], 1, "wahafleet up"),
        (["chip", "explain"], 2, "--help"),
        (["chip", "explain", "vendas"], 1, "WAHAFLEET_DATABASE_URL"),
        (["chip", "explain", "8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20"], 1, "wahafleet up"),
        (["migrate"], 1, "WAHAFLEET_DATABASE_URL"),
        (["daemon"], 2, "WAHAFLEET_STORAGE_DSN"),
        (["api"], 2, "JWT_SECRET_KEY"),
        (["user", "password", "a@b.c"], 1, "WAHAFLEET_DATABASE_URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_says_what_to_try(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    got, out, err = run(capsys, *arguments)
    assert got == code, err
    assert words in err
    assert out == ""
    assert all(line.startswith("wahafleet: ") and line.endswith(".") for line in err.splitlines()), err


@pytest.mark.parametrize(
    "arguments", [[], ["container"], ["--help"], ["up", "-h"], ["--version"]], ids=" ".join
)
def test_help_is_no_failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr()
    assert (ended.value.code or 0) == (0 if arguments and arguments[-1][0] == "-" else 2)
    assert "wahafleet" in shown.out + shown.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CommandError("a; b."), 1, "a; b."),
        (SandboxError("a; b."), 1, "a; b."),
        (PostgresError("a; b."), 1, "a; b."),
        (ValkeyError("a; b."), 1, "a; b."),
        (NotFound("Chip não encontrado."), 1, "Chip não encontrado."),
        (Unavailable("postgres", "connection refused"), 1, "connection refused"),
        (SettingsError(["A is wrong.", "B is wrong."]), 2, "B is wrong."),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.FileError("f", "gone"), 1, "f"),
        (SystemExit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_kind_of_error_is_a_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    def fail() -> None:
        raise error

    assert guarded(fail) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""


def test_an_unexpected_error_keeps_its_details_for_the_report(
    capsys: pytest.CaptureFixture[str], nothing_runs_here: Path
) -> None:
    def fail() -> None:
        raise KeyError("surprise")

    assert guarded(fail) == 1
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "KeyError: 'surprise'" in shown
    report = nothing_runs_here / "wahafleet" / "last-error.txt"
    assert str(report) in shown
    assert "Traceback" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


def _leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += _leaves(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", _leaves(wahafleet), ids=" ".join)
def test_every_verb_refuses_an_unknown_option(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, *path, "--no-such-option")
    assert code == 2
    assert f"wahafleet {' '.join(path)} --help" in err


@pytest.mark.parametrize("path", _leaves(wahafleet), ids=" ".join)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], path: tuple[str, ...]) -> None:
    code, out, _ = run(capsys, *path, "--help")
    assert code == 0
    assert len(out.splitlines()) > 4
