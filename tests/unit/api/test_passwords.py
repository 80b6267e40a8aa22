from __future__ import annotations

from typing import Literal

import bcrypt
import pytest
from argon2 import PasswordHasher

from api.passwords import Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def old_hash(password: str) -> str:
    return bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode()


async def test_argon2id_by_default_with_the_librarys_parameters() -> None:
    passwords = Passwords()
    stored = await passwords.hash("Senha@123")
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await passwords.hash("Senha@123") != stored


async def test_a_right_and_a_wrong_password() -> None:
    passwords = Passwords(CHEAP)
    stored = await passwords.hash("Senha@123")
    right = await passwords.verify(stored, "Senha@123")
    assert right.matches
    assert right.better_hash is None
    assert not (await passwords.verify(stored, "senha@123")).matches


@pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
async def test_a_hash_of_the_old_system_is_accepted_and_replaced(kind: str) -> None:
    passwords = Passwords(CHEAP)
    stored = f"${kind}$" + old_hash("Senha@123")[4:]
    verdict = await passwords.verify(stored, "Senha@123")
    assert verdict.matches
    assert verdict.better_hash is not None
    assert verdict.better_hash.startswith("$argon2id$")
    assert (await passwords.verify(verdict.better_hash, "Senha@123")).matches
    assert (await passwords.verify(stored, "Senha@124")) == type(verdict)(False)


async def test_the_old_system_looked_at_72_bytes() -> None:
    long = "Aé1!" * 30
    verdict = await Passwords(CHEAP).verify(old_hash(long), long)
    assert verdict.matches


async def test_weaker_parameters_are_replaced() -> None:
    stored = CHEAP.hash("Senha@123")
    verdict = await Passwords(PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)).verify(
        stored, "Senha@123"
    )
    assert verdict.matches
    assert verdict.better_hash is not None


@pytest.mark.parametrize("stored", ["", "plain", "$2b$rubbish", "$argon2id$rubbish", "!"])
async def test_a_stored_hash_that_is_none_matches_nothing(stored: str) -> None:
    assert not (await Passwords(CHEAP).verify(stored, "Senha@123")).matches


class Counting(PasswordHasher):
    """Counts verifications: what costs the time."""

    verified = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        self.verified += 1
        return super().verify(hash, password)


async def test_nobody_costs_what_somebody_costs() -> None:
    hasher = Counting(time_cost=1, memory_cost=64, parallelism=1)
    passwords = Passwords(hasher)
    stored = await passwords.hash("Senha@123")
    await passwords.verify(stored, "wrong")
    assert hasher.verified == 1
    assert not (await passwords.verify(None, "Senha@123")).matches
    assert hasher.verified == 2
