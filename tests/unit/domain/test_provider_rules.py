"""What operators may write of providers, and that every refusal says what to try next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.domain import provider_rules as rules
from core.domain.accounts import FieldError
from core.domain.providers import CredentialRefused, SubUser, Unusable, credential
from core.provider_templates import templates

GOOD: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (rules.clean_slug, "data-impulse-2", "data-impulse-2"),
    (rules.clean_slug, "0" * 40, "0" * 40),
    (rules.clean_title, "DataImpulse (São Paulo)", "DataImpulse (São Paulo)"),
    (rules.clean_scheme, "http", "http"),
    (rules.clean_host, "GW.Exemplo.com", "gw.exemplo.com"),
    (rules.clean_host, "10.0.0.9", "10.0.0.9"),
    (rules.clean_host, "proxy", "proxy"),
    (rules.clean_country, "BR", "br"),
    (rules.clean_port, 65_535, 65_535),
    (rules.clean_minutes, 1, 1),
    (rules.clean_max_labels, 100_000, 100_000),
    (rules.clean_cost, "5,2", "5.2000"),
    (rules.clean_cost, "0", "0.0000"),
    (rules.clean_cost, "999999.9999", "999999.9999"),
    (rules.clean_login, "conta;x!", "conta;x!"),
    (rules.clean_password, "a:b@c/#?", "a:b@c/#?"),
    (rules.clean_label, "aZ0_", "aZ0_"),
]
BAD: list[tuple[Callable[[Any], Any], Any]] = [
    (rules.clean_slug, ""),
    (rules.clean_slug, "-a"),
    (rules.clean_slug, "A"),
    (rules.clean_slug, "a" * 41),
    (rules.clean_slug, "a\n"),
    (rules.clean_title, ""),
    (rules.clean_title, "a\nb"),
    (rules.clean_title, "a" * 81),
    (rules.clean_scheme, "https"),
    (rules.clean_host, "http://gw.exemplo.com"),
    (rules.clean_host, "gw.exemplo.com:823"),
    (rules.clean_host, "gw..com"),
    (rules.clean_host, "-gw.com"),
    (rules.clean_host, "a" * 64),
    (rules.clean_host, ".".join(["a" * 60] * 5)),
    (rules.clean_host, "gw.com\n"),
    (rules.clean_host, "gw é"),
    (rules.clean_country, "bra"),
    (rules.clean_country, "b1"),
    (rules.clean_country, "ção"),
    (rules.clean_port, 0),
    (rules.clean_port, 65_536),
    (rules.clean_minutes, 10_081),
    (rules.clean_max_labels, 0),
    (rules.clean_cost, "-1"),
    (rules.clean_cost, "1.00000"),
    (rules.clean_cost, "R$ 5"),
    (rules.clean_cost, "1e3"),
    (rules.clean_login, ""),
    (rules.clean_login, "a:b"),
    (rules.clean_login, "a b"),
    (rules.clean_login, "á"),
    (rules.clean_password, ""),
    (rules.clean_password, "a b"),
    (rules.clean_password, "á"),
    (rules.clean_password, "a" * 201),
    (rules.clean_label, "a-b"),
    (rules.clean_label, ""),
]


@pytest.mark.parametrize(("rule", "given", "kept"), GOOD)
def test_what_is_taken_has_one_form(rule: Callable[[Any], Any], given: Any, kept: Any) -> None:
    assert rule(given) == kept
    assert rule(kept) == kept


@pytest.mark.parametrize(("rule", "given"), BAD)
def test_what_is_refused_is_told_in_a_sentence(rule: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(FieldError) as refused:
        rule(given)
    assert str(refused.value).startswith("Use ")
    assert str(refused.value).endswith(".")


def test_a_template_without_a_gateway_needs_one() -> None:
    generic, dataimpulse, iproyal = (templates()[slug] for slug in ("generic", "dataimpulse", "iproyal"))
    assert rules.gateway_problems(dataimpulse, "socks5", None, None) == {}
    assert rules.gateway_problems(dataimpulse, "http", "gw.exemplo.com", 1) == {}
    assert rules.gateway_problems(generic, "socks5", "10.0.0.9", 1080) == {}
    assert list(rules.gateway_problems(generic, "socks5", None, 1080)) == ["host"]
    assert list(rules.gateway_problems(generic, "socks5", "10.0.0.9", None)) == ["port"]
    assert list(rules.gateway_problems(generic, "socks5", "proxy.invalid", 1080)) == ["host"]
    assert rules.gateway_problems(iproyal, "socks5", None, None) == {
        "scheme": "O modelo iproyal não tem socks5; use http."
    }


def test_a_sub_user_carries_as_many_chips_as_its_tunnels_allow() -> None:
    assert rules.max_labels_of(templates()["dataimpulse"]) == 200


@pytest.mark.parametrize("why", Unusable)
@pytest.mark.parametrize("slug", sorted(templates()))
def test_every_reason_is_one_sentence(why: Unusable, slug: str) -> None:
    said = rules.said(why, templates()[slug])
    assert said.endswith(".")
    assert said.count(". ") == 0
    assert ";" in said


CASES = {
    Unusable.COUNTRY: ("dataimpulse", SubUser("login", "pw"), "0123456789ab", "bra", None),
    Unusable.SUB_USER: ("dataimpulse", SubUser("login", ""), "0123456789ab", "br", None),
    Unusable.SCHEME: ("iproyal", SubUser("login", "pw"), "0123456789ab", "br", "socks5"),
    Unusable.LABEL: ("iproyal", SubUser("login", "pw"), "012", "br", None),
    Unusable.USER_NAME: ("dataimpulse", SubUser("l" * 60, "pw"), "0123456789ab", "br", None),
    Unusable.LOGIN: ("dataimpulse", SubUser("a:b", "pw"), "0123456789ab", "br", None),
    Unusable.PASSWORD: ("dataimpulse", SubUser("login", "sénha"), "0123456789ab", "br", None),
    Unusable.LENGTH: ("dataimpulse", SubUser("login", "p" * 256), "0123456789ab", "br", None),
}


@pytest.mark.parametrize("why", Unusable)
def test_each_reason_comes_from_a_credential_and_holds_no_secret(why: Unusable) -> None:
    slug, sub_user, label, country, scheme = CASES[why]
    with pytest.raises(CredentialRefused) as refused:
        credential(templates()[slug], sub_user, label, country, 30, scheme=scheme)  # type: ignore[arg-type]
    assert refused.value.why is why
    assert not sub_user.password or sub_user.password not in str(refused.value)
