"""RS256: keys of another issuer, from the settings or from where it publishes them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from api.signing_keys import FixedKey, PublishedKeys
from api.tokens import Claims, Tokens
from core.clock import SystemClock
from core.errors import Unauthenticated, Unavailable
from core.settings import Settings, SettingsError, load
from tests.unit.api.test_tokens import SECRET, USER_ID, signed

BAD = r"^Token inválido ou expirado\.$"


@pytest.fixture(scope="module")
def one() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def other() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def pem(key: RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form).decode()


def jwk(key: RSAPrivateKey, kid: str | None = "one", **more: Any) -> dict[str, Any]:
    shown: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**shown, **({} if kid is None else {"kid": kid}), **more}


def rs256(key: RSAPrivateKey, kid: str | None = "one", algorithm: str = "RS256", **claims: Any) -> str:
    body = {"sub": USER_ID, "type": "access", "exp": datetime.now(UTC) + timedelta(minutes=5)} | claims
    return jwt.encode(body, key, algorithm, headers=None if kid is None else {"kid": kid})


class Time(SystemClock):
    at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Issuer:
    """Publishes `keys`; silent while `away`."""

    def __init__(self, *keys: Any) -> None:
        self.published = list(keys)
        self.away = False
        self.asked = 0

    async def keys(self) -> list[Any]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("upstream", "no connection")
        return self.published


def tokens(settings: Settings, issuer: Issuer, clock: Time, *, only: bool = True) -> Tokens:
    return Tokens(settings.api, SystemClock(), PublishedKeys(issuer, clock), foreign_only=only)


async def test_a_fixed_key(settings: Settings, one: RSAPrivateKey, other: RSAPrivateKey) -> None:
    reader = Tokens(settings.api, SystemClock(), FixedKey(pem(one)), foreign_only=True)
    for kid in ("one", None, "any"):
        token = rs256(one, kid, role="operator", exp=9999999999)
        assert await reader.read(token) == Claims(USER_ID, "operator", 9999999999)
    for token in (rs256(other), rs256(one, algorithm="RS512"), signed(), rs256(one, type="refresh")):
        with pytest.raises(Unauthenticated, match=BAD):
            await reader.read(token)


async def test_our_own_tokens_beside_another_issuers(settings: Settings, one: RSAPrivateKey) -> None:
    reader = Tokens(settings.api, SystemClock(), FixedKey(pem(one)))
    for token in (rs256(one), reader.issue(USER_ID).access_token):
        assert (await reader.read(token)).user_id == USER_ID


async def test_a_public_key_is_never_taken_for_a_secret(settings: Settings, one: RSAPrivateKey) -> None:
    def part(content: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    payload = {"sub": USER_ID, "type": "access", "exp": int(time.time()) + 300}
    for only in (True, False):
        reader = Tokens(settings.api, SystemClock(), FixedKey(pem(one)), foreign_only=only)
        for algorithm in ("HS256", "none", "RS256"):
            text = part({"alg": algorithm, "typ": "JWT", "kid": "one"}) + b"." + part(payload)
            forged = hmac.new(pem(one).encode(), text, hashlib.sha256).digest()
            for mark in (base64.urlsafe_b64encode(forged).rstrip(b"="), b""):
                with pytest.raises(Unauthenticated, match=BAD):
                    await reader.read((text + b"." + mark).decode())


async def test_published_keys_are_fetched_once(
    settings: Settings, one: RSAPrivateKey, other: RSAPrivateKey
) -> None:
    issuer = Issuer(jwk(one), jwk(other, "two"))
    reader = tokens(settings, issuer, Time())
    answers = await asyncio.gather(*(reader.read(rs256(one)) for _ in range(10)))
    assert {answer.user_id for answer in answers} == {USER_ID}
    assert (await reader.read(rs256(other, "two"))).user_id == USER_ID
    with pytest.raises(Unauthenticated, match=BAD):
        await reader.read(rs256(other, "one"))
    assert issuer.asked == 1


async def test_an_unknown_key_id_asks_once_a_minute(
    settings: Settings, one: RSAPrivateKey, other: RSAPrivateKey
) -> None:
    issuer, clock = Issuer(jwk(one)), Time()
    reader = tokens(settings, issuer, clock)
    await reader.read(rs256(one))
    clock.at += 61
    issuer.published = [jwk(other, "two")]
    assert (await reader.read(rs256(other, "two"))).user_id == USER_ID
    assert issuer.asked == 2
    for invented in range(20):
        with pytest.raises(Unauthenticated, match=BAD):
            await reader.read(rs256(other, f"invented {invented}"))
    with pytest.raises(Unauthenticated, match=BAD):
        await reader.read(rs256(one))  # taken out by its issuer
    assert issuer.asked == 2
    clock.at += 61
    with pytest.raises(Unauthenticated, match=BAD):
        await reader.read(rs256(one))
    assert issuer.asked == 3


async def test_a_key_that_was_taken_out_is_believed_for_an_hour(
    settings: Settings, one: RSAPrivateKey, other: RSAPrivateKey
) -> None:
    issuer, clock = Issuer(jwk(one)), Time()
    reader = tokens(settings, issuer, clock)
    await reader.read(rs256(one))
    issuer.published = [jwk(other, "two")]
    clock.at += 3601
    with pytest.raises(Unauthenticated, match=BAD):
        await reader.read(rs256(one))


async def test_a_silent_issuer(settings: Settings, one: RSAPrivateKey) -> None:
    issuer, clock = Issuer(jwk(one)), Time()
    issuer.away = True
    reader = tokens(settings, issuer, clock)
    for _ in range(5):
        # Never a 401: the page would log its user out.
        with pytest.raises(Unavailable):
            await reader.read(rs256(one))
    assert issuer.asked == 1
    issuer.away = False
    clock.at += 1.1
    await reader.read(rs256(one))
    issuer.away = True
    clock.at += 4000
    assert (await reader.read(rs256(one))).user_id == USER_ID


async def test_a_token_without_key_id_needs_a_single_key(
    settings: Settings, one: RSAPrivateKey, other: RSAPrivateKey
) -> None:
    alone = tokens(settings, Issuer(jwk(one)), Time())
    assert (await alone.read(rs256(one, None))).user_id == USER_ID
    both = tokens(settings, Issuer(jwk(one), jwk(other, "two")), Time())
    with pytest.raises(Unauthenticated, match=BAD):
        await both.read(rs256(one, None))


async def test_members_that_are_no_rsa_keys_for_signatures_are_left_out(
    settings: Settings, one: RSAPrivateKey
) -> None:
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    odd = [
        {"kty": "oct", "k": secret, "kid": "one", "alg": "HS256"},
        {"kty": "EC", "crv": "P-256", "kid": "one"},
        jwk(one, use="enc"),
        jwk(one, alg="RS512"),
        {"kty": "RSA", "kid": "one"},
        {"kty": "RSA", "n": 5, "e": "AQAB", "kid": "one"},
        "one",
        None,
    ]
    with pytest.raises(Unavailable):
        await tokens(settings, Issuer(*odd), Time()).read(rs256(one))
    mixed = tokens(settings, Issuer(*odd, jwk(one)), Time())
    assert (await mixed.read(rs256(one))).user_id == USER_ID


@given(
    st.text(max_size=60)
    | st.from_regex(r"[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}\.[A-Za-z0-9_=-]{0,40}", fullmatch=True)
)
def test_whatever_is_sent_as_a_token_is_refused_in_words(settings: Settings, text: str) -> None:
    reader = tokens(settings, Issuer(), Time(), only=False)
    with pytest.raises(Unauthenticated):
        reader.read_access(text)
    with pytest.raises(Unauthenticated, match=r"^Refresh token inválido ou expirado\.$"):
        reader.read_refresh(text)


CLAIMS = st.dictionaries(
    st.sampled_from(
        ["sub", "type", "exp", "role", "plan_slug", "name", "email", "is_active", "fam", "jti", "iat"]
    ),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["access", "refresh", USER_ID, "", " "])
    | st.text(max_size=10)
    | st.lists(st.integers(), max_size=2),
)


@given(CLAIMS)
def test_whatever_a_signed_token_claims_gives_claims_or_a_refusal(
    settings: Settings, claims: dict[str, Any]
) -> None:
    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mark = hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest()
    token = f"{text}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"
    reader = tokens(settings, Issuer(), Time(), only=False)
    try:
        read = reader.read_access(token)
    except Unauthenticated:
        pass
    else:
        assert claims["type"] == "access"
        assert claims["exp"]
        for name in ("role", "plan_slug", "name", "email"):
            value = getattr(read, name)
            assert value is None or (value == claims[name] and value.strip())
    try:
        refresh = reader.read_refresh(token)
    except Unauthenticated:
        pass
    else:
        assert claims["type"] == "refresh"
        assert (refresh.user_id, refresh.family_id) == (claims["sub"], claims["fam"])


def test_settings_of_foreign_keys(one: RSAPrivateKey) -> None:
    good = {
        "WAHAFLEET_DATABASE_URL": "postgresql+asyncpg://wahafleet@127.0.0.1/wahafleet",
        "WAHAFLEET_SECRET_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "WAHAFLEET_ACCOUNTS": "attached",
        "WAHAFLEET_UPSTREAM_URL": "https://whago.example/",
    }
    one_line = pem(one).strip().replace("\n", "\\n")
    loaded = load({**good, "WAHAFLEET_JWT_PUBLIC_KEY": one_line}, "api")
    assert loaded.accounts.jwt_public_key.strip() == pem(one).strip()
    assert loaded.accounts.upstream_url == "https://whago.example"
    small = pem(generate_private_key(65537, 1024))
    for wrong, named in (
        ({}, "JWT_SECRET_KEY"),
        ({"WAHAFLEET_JWT_PUBLIC_KEY": "hunter2"}, "WAHAFLEET_JWT_PUBLIC_KEY"),
        ({"WAHAFLEET_JWT_PUBLIC_KEY": small}, "WAHAFLEET_JWT_PUBLIC_KEY"),
        ({"WAHAFLEET_JWT_JWKS_URL": "whago.example/keys"}, "WAHAFLEET_JWT_JWKS_URL"),
        ({"WAHAFLEET_JWT_PUBLIC_KEY": one_line, "WAHAFLEET_UPSTREAM_URL": ""}, "WAHAFLEET_UPSTREAM_URL"),
        (
            {"WAHAFLEET_JWT_PUBLIC_KEY": one_line, "WAHAFLEET_JWT_JWKS_URL": "https://x/keys"},
            "WAHAFLEET_JWT_JWKS_URL",
        ),
    ):
        with pytest.raises(SettingsError) as caught:
            load({**good, **wrong}, "api")
        assert any(named in problem for problem in caught.value.problems)
