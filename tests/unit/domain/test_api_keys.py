from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.crypto import hashed_access_key, new_access_key
from core.domain.accounts import FieldError
from core.domain.api_keys import clean_key_name, prefix_of

GOOD = "whago_" + "0a" * 4 + "_" + "1b" * 32


def test_a_new_key_has_the_form_and_is_found_by_its_prefix() -> None:
    keys = {new_access_key() for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        prefix = prefix_of(key)
        assert prefix is not None
        assert key.startswith(prefix + "_")
        assert (len(prefix), len(key)) == (14, 79)
    assert len({hashed_access_key(key) for key in keys}) == 50


@pytest.mark.parametrize(
    "key",
    [
        "",
        "whago_",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "0",
        GOOD.replace("_", "-"),
        GOOD.replace("0a", "0g"),
        GOOD.replace("whago", "wahago"),
        GOOD.replace("1", "１"),
    ],
)
def test_what_can_be_no_key_is_never_looked_up(key: str) -> None:
    assert prefix_of(key) is None


@given(st.text(max_size=120) | st.from_regex(r"whago_[0-9a-fA-F]{7,9}_[0-9a-f]{60,66}", fullmatch=True))
def test_parsing_accepts_the_form_and_nothing_else(text: str) -> None:
    prefix = prefix_of(text)
    head, _, secret = text.rpartition("_")
    hexadecimal = set("0123456789abcdef")
    fits = (
        len(text) == 79
        and text.startswith("whago_")
        and len(head) == 14
        and set(head[6:]) <= hexadecimal
        and set(secret) <= hexadecimal
    )
    assert (prefix is not None) is fits
    assert prefix is None or prefix == head


@pytest.mark.parametrize("name", ["", "ab", "x" * 101, "a\tb", "abc\0"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(FieldError):
        clean_key_name(name)


def test_a_name_is_kept_as_it_is() -> None:
    assert clean_key_name("integração <CRM>") == "integração <CRM>"
