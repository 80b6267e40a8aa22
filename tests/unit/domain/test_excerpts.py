"""What outside systems say is shown without any secret, whatever stands around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.excerpts import LIMIT, excerpt

KEY = "0f" * 32
WORD = "Tr0ub4dor&3 horse"


@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from([KEY, WORD]), st.integers(1, 400))
def test_a_known_secret_never_shows(before: str, after: str, secret: str, limit: int) -> None:
    shown = excerpt(before + secret + after, [secret], limit=max(limit, 10))
    assert secret not in shown
    assert len(shown) <= max(limit, 10)


@given(st.text(max_size=400))
def test_an_excerpt_is_one_short_printable_line(text: str) -> None:
    shown = excerpt(text)
    assert len(shown) <= LIMIT
    assert shown.isprintable()
    shown.encode()


@given(st.integers(0, 400), st.integers(0, 20))
def test_no_half_of_a_secret_stays_at_the_cut(padding: int, spaces: int) -> None:
    shown = excerpt("x " * padding + " " * spaces + KEY, [KEY])
    assert "0f0f" not in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Exit Code: 1", "Exit Code: 1"),
        ("two\n lines\x1b[31m\x00", "two lines [31m"),
        ("dial postgres://waha:hunter2@db:5432/waha failed", "dial postgres://***@db:5432/waha failed"),
        ("socks5://user:pw@proxy.example:1080 refused", "socks5://***@proxy.example:1080 refused"),
        ("password=hunter2 rest", "password=*** rest"),
        ('{"X-Api-Key": "hunter2", "a": 1}', '{"X-Api-Key": ***, "a": 1}'),
        ("Authorization: Bearer abc.def next", "Authorization: *** next"),
        ("GET /qr?token=abc&x=1", "GET /qr?token=***&x=1"),
        (f"key {KEY} seen", "key *** seen"),
        # Ids and digests of images are no secrets.
        (
            "allocation 5f0c1c7e-7a8a-4a53-b4ac-0d9c8f4a1e0b",
            "allocation 5f0c1c7e-7a8a-4a53-b4ac-0d9c8f4a1e0b",
        ),
        (f"pull waha@sha256:{KEY} failed", f"pull waha@sha256:{KEY} failed"),
        ("", ""),
    ],
)
def test_what_is_hidden_and_what_is_not(text: str, expected: str) -> None:
    assert excerpt(text) == expected


def test_what_is_too_long_is_cut_at_the_end() -> None:
    shown = excerpt("a " * 300)
    assert len(shown) == LIMIT
    assert shown.endswith("...")


def test_whose_secret_it_is_decides_and_not_who_heard_the_sentence_before() -> None:
    text = f"refused {WORD} there"
    assert excerpt(text) == text
    assert excerpt(text, [WORD]) == "refused *** there"
    assert excerpt(text) == text
