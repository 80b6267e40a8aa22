from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from api.tokens import Claims, Tokens
from core.clock import SystemClock
from core.errors import Unauthenticated
from core.settings import Settings

USER_ID = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"
SECRET = "k" * 64
BAD = "Token inválido ou expirado."


@pytest.fixture
def tokens(settings: Settings) -> Tokens:
    return Tokens(settings.api, SystemClock())


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    body = {"sub": USER_ID, "type": "access", "exp": datetime.now(UTC) + timedelta(minutes=5)} | claims
    return jwt.encode({name: value for name, value in body.items() if value is not ...}, secret, algorithm)


def test_a_pair_of_tokens(tokens: Tokens) -> None:
    pair = tokens.issue(USER_ID)
    read = tokens.read_access(pair.access_token)
    assert (read.user_id, read.role) == (USER_ID, None)
    with pytest.raises(Unauthenticated, match=BAD):
        tokens.read_access(pair.refresh_token)
    claims = [jwt.decode(t, SECRET, ["HS256"]) for t in (pair.access_token, pair.refresh_token)]
    assert [c["type"] for c in claims] == ["access", "refresh"]
    assert read.expires_at == claims[0]["exp"]
    assert [c["exp"] - c["iat"] for c in claims] == [3600, 604800]
    assert read == Claims(USER_ID, None, claims[0]["exp"])
    assert claims[0]["jti"] != claims[1]["jti"]
    assert "eyJ" not in repr(pair)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "null",
        "undefined",
        "a.b.c",
        signed(secret="x" * 64),
        signed(algorithm="HS512"),
        signed(exp=datetime.now(UTC) - timedelta(seconds=1)),
        signed(exp=...),
        signed(exp="soon"),
        signed(type="refresh"),
        signed(type=...),
        signed(type=None),
        jwt.encode({"sub": USER_ID, "type": "access", "exp": 9999999999}, None, "none"),  # type: ignore[arg-type]
    ],
)
def test_tokens_that_do_not_hold(tokens: Tokens, token: str) -> None:
    with pytest.raises(Unauthenticated, match=BAD):
        tokens.read_access(token)


@pytest.mark.parametrize("subject", [..., None, ""])
def test_a_token_without_subject(tokens: Tokens, subject: Any) -> None:
    with pytest.raises(Unauthenticated, match=r"^Token sem identificador de usuário\.$"):
        tokens.read_access(signed(sub=subject))


@pytest.mark.parametrize("subject", [5, "ana", ["x"], "0b5d1c526f0e4f579d6a3f1f0f8f3a11"])
def test_a_subject_that_can_be_nobody(tokens: Tokens, subject: Any) -> None:
    assert tokens.read_access(signed(sub=subject)).user_id is None


def test_claims_that_the_platforms_tokens_carry_do_no_harm(tokens: Tokens) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    token = signed(iat=later, jti="1", aud="whago", role="operator", exp=9999999999)
    assert tokens.read_access(token) == Claims(USER_ID, "operator", 9999999999)
    assert tokens.read_access(signed(exp=10**400)).expires_at == 2**53
    assert tokens.read_access(signed(role=5)).role is None


def test_a_token_that_was_believed_is_believed_no_longer_than_it_lives(tokens: Tokens) -> None:
    ends_at = int(time.time()) + 2
    token = signed(exp=ends_at)
    for _ in range(2):
        assert tokens.read_access(token) == Claims(USER_ID, None, ends_at)
    time.sleep(max(0.0, ends_at + 0.1 - time.time()))
    with pytest.raises(Unauthenticated, match=BAD):
        tokens.read_access(token)


def test_one_changed_letter_is_another_token(tokens: Tokens) -> None:
    token = signed()
    assert tokens.read_access(token).user_id == USER_ID
    head, body, signature = token.split(".")
    forged = jwt.encode({"sub": USER_ID, "type": "access", "exp": 4102444800}, "x" * 64, "HS256")
    for other in (
        f"{head}.{body}.{signature[::-1]}",
        f"{head}.{forged.split('.')[1]}.{signature}",
        token[:-2],
    ):
        with pytest.raises(Unauthenticated):
            tokens.read_access(other)
