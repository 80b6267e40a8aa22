"""Whole lines out of windows of a growing log, and nothing secret in them, however it is cut."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.log_lines import KEPT_BYTES, LEFT_OUT, LINE_BYTES, TOO_LONG, Piece, Position, kept, take
from core.domain.redaction import HIDDEN, LINE_CHARACTERS, Redactor
from tests.scale import examples

API_KEY = "0f3a" * 16
HOOK_KEY = "hook-KEY-with-=+/chars-0123456789"
PASSWORD = 'p@ss "word"/\\1'
DSN = f"postgres://waha:{quote(PASSWORD, safe='')}@db.internal:5432/postgres"
SECRETS = (API_KEY, HOOK_KEY, PASSWORD, DSN)


class Log:
    """A log in several files, as a node keeps it, read from a window at its end."""

    def __init__(self, *, file_bytes: int = 10_000) -> None:
        self.files = [b""]
        self.file_bytes = file_bytes

    def write(self, data: bytes) -> None:
        while data:
            room = self.file_bytes - len(self.files[-1])
            if room == 0:
                self.files.append(b"")
                continue
            self.files[-1] += data[:room]
            data = data[room:]

    def window(self, most: int, frame: int = 1000) -> tuple[Piece, ...]:
        found: list[Piece] = []
        left = most
        for number in range(len(self.files) - 1, -1, -1):
            data = self.files[number]
            begin = max(0, len(data) - left)
            left -= len(data) - begin
            cuts = range(begin, len(data), frame)
            found = [Piece(number, at, data[at : min(at + frame, len(data))]) for at in cuts] + found
            if left <= 0:
                break
        return tuple(found)


def read(
    log: Log, position: Position | None = None, most: int = 100_000
) -> tuple[list[str], Position | None]:
    taken = take(log.window(most), position)
    return [line if isinstance(line, str) else line.decode() for line in taken.lines], taken.position


def test_lines_come_once_and_whole() -> None:
    log = Log()
    log.write(b"one\ntw")
    lines, at = read(log)
    assert lines == ["one"]
    assert read(log, at) == ([], at)
    log.write(b"o\n\nthree\n")
    lines, at = read(log, at)
    assert lines == ["two", "", "three"]
    assert read(log, at) == ([], at)


def test_a_log_that_is_not_there_yet_has_no_position() -> None:
    assert read(Log()) == ([], None)


def test_a_window_that_begins_within_a_line_leaves_that_line_out() -> None:
    log = Log()
    log.write(b"password is abc\nnext\n")
    lines, at = read(log, most=10)
    assert lines == ["next"]
    log.write(b"more\n")
    assert read(log, at, most=10)[0] == ["more"]


def test_lines_go_on_in_the_next_file() -> None:
    log = Log(file_bytes=10)
    log.write(b"0123456789abc\nx\n")
    assert read(log)[0] == ["0123456789abc", "x"]
    again = Log(file_bytes=10)
    again.write(b"01234567")
    _, at = read(again)
    again.write(b"89abc\nx\n")
    assert read(again, at)[0] == ["0123456789abc", "x"]


def test_what_fell_out_of_the_window_is_told_as_left_out() -> None:
    log = Log()
    log.write(b"first\n")
    _, at = read(log)
    log.write(b"lost " * 100 + b"\nlast one\n")
    lines, _ = read(log, at, most=20)
    assert lines == [LEFT_OUT, "last one"]


def test_a_log_that_begins_anew_is_read_anew() -> None:
    log = Log()
    log.write(b"a long first line\n")
    _, at = read(log)
    fresh = Log()
    fresh.write(b"new\n")
    assert read(fresh, at)[0] == [LEFT_OUT, "new"]


def test_a_line_without_an_end_is_left_out_and_the_next_is_not() -> None:
    log = Log(file_bytes=1_000_000)
    log.write(b"x" * (LINE_BYTES + 1))
    lines, at = read(log)
    assert lines == [TOO_LONG]
    log.write(b"still the same line")
    lines, at = read(log, at)
    assert lines == []
    log.write(b" and its end\nnext\n")
    assert read(log, at)[0] == ["next"]
    whole = Log(file_bytes=1_000_000)
    whole.write(b"y" * (LINE_BYTES + 1) + b"\nnext\n")
    assert read(whole)[0] == [TOO_LONG, "next"]


def test_the_newest_lines_are_kept_within_the_bound() -> None:
    line = "\N{WAVING HAND SIGN}" * 1000
    lines = kept([f"{line}{n}" for n in range(200)])
    assert lines[-1].endswith("199")
    assert sum(len(one.encode()) + 1 for one in lines) <= KEPT_BYTES
    assert len(lines) == 65
    assert kept(["a", "b"]) == ("a", "b")


plain = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30)
hidden = st.sampled_from(SECRETS).flatmap(
    lambda secret: st.sampled_from([secret, quote(secret, safe=""), json.dumps(secret)[1:-1]])
)
lines = st.lists(plain | hidden, max_size=4).map("".join)


@given(
    st.lists(lines, min_size=1, max_size=12),
    st.lists(st.integers(1, 400), max_size=12),
    st.integers(1, 600),
    st.integers(20, 300),
    st.integers(1, 200),
)
@settings(max_examples=examples(300), deadline=None)
def test_no_known_secret_survives_in_any_split_over_reads(
    text: list[str], cuts: list[int], most: int, file_bytes: int, frame: int
) -> None:
    data = "".join(f"{line}\n" for line in text).encode()
    redactor, log, at, shown = Redactor(SECRETS), Log(file_bytes=file_bytes), None, []
    steps = [*cuts, len(data)]
    for step in steps:
        log.write(data[:step])
        data = data[step:]
        taken = take(log.window(most, frame), at)
        at = taken.position
        shown += [line if isinstance(line, str) else redactor.clean(line) for line in taken.lines]
    everything = "\n".join(shown)
    for secret in SECRETS:
        for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
            assert form not in everything
            # Neither in halves.
            assert form[: len(form) // 2] not in everything or len(form) < 24
            assert form[len(form) // 2 :] not in everything or len(form) < 24


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(1, 200), max_size=8))
@settings(max_examples=examples(200), deadline=None)
def test_every_line_comes_once_whatever_the_reads(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts) + b"\n"
    expected = data.split(b"\n")[:-1]
    log, at = Log(file_bytes=50), None
    got: list[bytes | str] = []
    for step in [*cuts, len(data)]:
        log.write(data[:step])
        data = data[step:]
        taken = take(log.window(100_000, 7), at)
        at = taken.position
        got += taken.lines
    assert got == expected


CASES = (
    ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
    ('{"authorization":"Basic dXNlcjpwYXNz","ok":1}', '{"authorization":"Basic ***","ok":1}'),
    ("X-Api-Key: 12345 next", "X-Api-Key: *** next"),
    ('headers: {"x-api-key": "12345", "a": "b"}', 'headers: {"x-api-key": ***, "a": "b"}'),
    ("WAHA_API_KEY=12345 PORT=3000", "WAHA_API_KEY=*** PORT=3000"),
    ("password=hunter2&user=x", "password=***&user=x"),
    ("WHATSAPP_SWAGGER_PASSWORD: s3cret", "WHATSAPP_SWAGGER_PASSWORD: ***"),
    ('senha="com espaço", nome=x', "senha=***, nome=x"),
    ("Cookie: a=b; c=d", "Cookie: ***"),
    ("proxy http://user:pa@ss@proxy.example:8080/x", "proxy http://***@proxy.example:8080/x"),
    ("socks5://u:p@10.0.0.1:1080 up", "socks5://***@10.0.0.1:1080 up"),
    ("mail ana@example.com, http://host/path", "mail ana@example.com, http://host/path"),
    ("qr 2@AbCdEfGhIjKlMnOpQrStUv==,xyz+/=,abc= shown", "qr *** shown"),
    ("data:image/png;base64,iVBORw0KGgo= end", "data:image/png;base64,*** end"),
    ("\u2588\u2588\u2580\u2580\u2584\u2584 \u2588\u2588\u2588", "*** (QR Code)"),
    ("pairing code: ABCD-1234", "pairing code: ***"),
    ("token eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "token ***"),
    ("\x1b[32mINFO\x1b[0m \x07ready\r", "INFO ready"),
    ("tab\tstays", "tab\tstays"),
    ("session chip_1 is WORKING, 3 tokens", "session chip_1 is WORKING, 3 tokens"),
)


@pytest.mark.parametrize(("line", "shown"), CASES, ids=[line[:20] for line, _ in CASES])
def test_what_is_named_as_secret_is_hidden_without_being_known(line: str, shown: str) -> None:
    assert Redactor(()).clean(line.encode()) == shown


def test_a_secret_with_something_invisible_in_it_is_hidden() -> None:
    redactor = Redactor(SECRETS)
    cut = API_KEY[:30]
    for noise in ("\x00", "\x1b[1m", "\u200b", "\x1b]0;title\x07"):
        assert redactor.clean(f"key {cut}{noise}{API_KEY[30:]} end".encode()) == f"key {HIDDEN} end"


def test_what_is_no_text_is_shown_as_such_and_bounded() -> None:
    redactor = Redactor(())
    assert redactor.clean(b"caf\xe9 \xff") == "caf\ufffd \ufffd"
    assert len(redactor.clean(b"x" * 10_000)) < LINE_CHARACTERS + 10
    assert API_KEY[:8] not in Redactor((API_KEY,)).clean(b"y" * (LINE_CHARACTERS - 8) + API_KEY.encode())


@pytest.mark.parametrize(
    "unit", ["x", "token", "token=", "eyJabcdefgh-", "://a", "\x1b]", 'password="', "1@", "authorization: "]
)
def test_a_hostile_line_costs_no_more_than_its_length(unit: str) -> None:
    """A program prints what it likes; a pattern that is tried anew from each place would take minutes."""
    line = (unit * LINE_BYTES)[:LINE_BYTES].encode()
    began = time.process_time()
    Redactor(SECRETS).clean(line)
    assert time.process_time() - began < 2


def test_a_redactor_shows_nothing_of_what_it_knows() -> None:
    assert API_KEY not in repr(Redactor(SECRETS))
