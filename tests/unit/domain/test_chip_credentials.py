"""A chip's credential at its guard: nobody else's opens anything, and it fits wherever WAHA writes it."""

from __future__ import annotations

import base64
import contextlib
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.chip_credentials import (
    GENERATIONS,
    PASSWORD_CHARACTERS,
    chip_password,
    chip_user,
    matches,
    node_key,
    parse_chip_user,
)

ids = st.uuids().map(str)
keys = st.binary(min_size=1, max_size=64)
generations = st.integers(0, 5000)


@given(ids, ids)
def test_a_user_is_read_back_as_it_was_written(chip: str, allocation: str) -> None:
    user = chip_user(chip, allocation)
    assert parse_chip_user(user) == (chip, allocation)
    assert not set(user) & set("@:/#?")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "chip",
        str(uuid.UUID(int=1)),
        f"{uuid.UUID(int=1)}.",
        f"{uuid.UUID(int=1)}.{uuid.UUID(int=2)}.",
        f"{uuid.UUID(int=1)}.{uuid.UUID(int=2)} ",
        f"{uuid.UUID(int=1)}.{uuid.UUID(int=2).hex}",
        f"{uuid.UUID(int=10)}.{{{uuid.UUID(int=2)}}}",
        f"{uuid.UUID(int=0xAB << 120)}.{uuid.UUID(int=2)}".upper(),
    ],
)
def test_only_two_canonical_ids_are_a_user(text: str) -> None:
    with pytest.raises(ValueError, match=r"not <chip>|not a canonical"):
        parse_chip_user(text)


@given(st.text())
def test_any_other_text_is_refused_and_nothing_else_happens(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert chip_user(*parse_chip_user(text)) == text


@given(keys, ids, ids, generations)
def test_a_password_fits_into_an_address_and_proves_its_chip_alone(
    key: bytes, chip: str, allocation: str, generation: int
) -> None:
    password = chip_password(key, chip, allocation, generation)
    assert re.fullmatch(r"[a-z2-7]{40}", password)
    assert len(password) == PASSWORD_CHARACTERS
    assert password == chip_password(key, chip, allocation, generation)
    assert matches(key, chip, allocation, password)
    assert matches(key, chip, allocation, password, hint=generation)
    assert matches(key, chip, allocation, password, hint=generation + 1)


@given(keys, keys, ids, ids, ids, generations)
def test_another_key_chip_or_allocation_is_not_proved(
    key: bytes, other_key: bytes, chip: str, allocation: str, other: str, generation: int
) -> None:
    password = chip_password(key, chip, allocation, generation)
    # HMAC fills short keys up with zeros: those are one key.
    if key.rstrip(b"\0") != other_key.rstrip(b"\0"):
        assert not matches(other_key, chip, allocation, password)
    if other not in (chip, allocation):
        assert not matches(key, other, allocation, password)
        assert not matches(key, chip, other, password)
    if chip != allocation:
        assert not matches(key, allocation, chip, password)


def test_generations_have_passwords_of_their_own_until_they_begin_anew() -> None:
    chip, allocation = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    made = [chip_password(b"key", chip, allocation, generation) for generation in range(GENERATIONS)]
    assert len(set(made)) == GENERATIONS
    assert chip_password(b"key", chip, allocation, GENERATIONS) == made[0]


@given(st.text(max_size=60) | st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=40, max_size=40))
def test_what_is_no_password_proves_nothing(text: str) -> None:
    assert not matches(b"key", str(uuid.UUID(int=1)), str(uuid.UUID(int=2)), text)


def test_upper_case_and_blanks_are_other_passwords() -> None:
    chip, allocation = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    password = chip_password(b"key", chip, allocation, 1)
    for changed in (password.upper(), password + " ", password + "\n", password[:-1], "=" + password[1:]):
        assert not matches(b"key", chip, allocation, changed)
    assert base64.b32decode(password.upper())


@given(st.binary(min_size=1), st.text(), st.text())
def test_nodes_have_keys_of_their_own(secret: bytes, one: str, other: str) -> None:
    assert len(node_key(secret, one)) == 32
    assert (node_key(secret, one) == node_key(secret, other)) == (one == other)
