"""Templates of providers: what each credential looks like, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import provider_templates
from core.domain.egress_errors import OF_UPSTREAM, EgressError, http_status, of_socks_reply
from core.domain.labels import ALPHABET, LENGTH, cut, label
from core.domain.providers import SubUser, Template, credential, problems, upstream_error
from core.provider_templates import templates
from core.settings import SettingsError

SUB_USER = SubUser("login", "hunter2-hunter2")
SLUGS = sorted(templates())
ids = st.uuids().map(str)


@given(st.binary(min_size=1), ids, st.integers(0, 1000))
def test_a_label_is_stable_plain_and_tells_no_id(secret: bytes, chip: str, generation: int) -> None:
    made = label(secret, chip, generation)
    assert made == label(secret, chip, generation)
    assert len(made) == LENGTH
    assert set(made) <= set(ALPHABET)
    assert made != label(secret, chip, generation + 1)
    assert made != label(secret + b"x", chip, generation)
    assert made not in chip.replace("-", "")


@given(st.sets(st.tuples(ids, st.integers(1, 5)), min_size=2, max_size=200))
def test_chips_and_generations_have_labels_of_their_own(whose: set[tuple[str, int]]) -> None:
    assert len({label(b"secret", chip, generation) for chip, generation in whose}) == len(whose)


@pytest.mark.parametrize("slug", SLUGS)
@given(chip=ids, generation=st.integers(1, 99), minutes=st.integers(-5, 100_000))
def test_every_template_takes_every_label(slug: str, chip: str, generation: int, minutes: int) -> None:
    template = templates()[slug]
    made = label(b"secret", chip, generation)
    short = cut(made, template)
    assert template.label_length[0] <= len(short) <= template.label_length[1]
    found = credential(template, SUB_USER, made, "Br", minutes)
    again = credential(template, SUB_USER, made, "bR", minutes)
    assert found == again
    assert short in (found.username if template.where == "username" else found.password)
    assert len(found.username) <= template.user_limit
    gateway = template.schemes[found.scheme]
    assert gateway.first_port <= found.port <= gateway.last_port
    assert "hunter2" not in repr(found)
    assert "hunter2" not in repr(SUB_USER)
    dry = credential(template, SubUser("login", "***"), made, "br", minutes)
    assert dry.username == found.username
    assert dry.password == found.password.replace("hunter2-hunter2", "***")


GOLDEN = {
    "dataimpulse": (
        "socks5",
        "gw.dataimpulse.com",
        824,
        "login__cr.br;sessid.0123456789ab",
        "hunter2-hunter2",
    ),
    "generic": ("socks5", "proxy.invalid", 1080, "login-0123456789ab", "hunter2-hunter2"),
    "decodo": (
        "socks5",
        "gate.decodo.com",
        7000,
        "user-login-country-br-session-0123456789ab-sessionduration-60",
        "hunter2-hunter2",
    ),
    "brightdata": (
        "socks5",
        "brd.superproxy.io",
        22228,
        "brd-customer-login-country-br-session-0123456789ab",
        "hunter2-hunter2",
    ),
    "iproyal": (
        "http",
        "geo.iproyal.com",
        12321,
        "login",
        "hunter2-hunter2_country-br_session-01234567_lifetime-60m",
    ),
    "oxylabs": (
        "socks5",
        "pr.oxylabs.io",
        7777,
        "customer-login-cc-BR-sessid-0123456789ab-sesstime-60",
        "hunter2-hunter2",
    ),
    "geonode": (
        "http",
        "private-residential.geonode.com",
        10000,
        "login-session-0123456789ab-lifetime-60",
        "hunter2-hunter2",
    ),
}


@pytest.mark.parametrize("slug", SLUGS)
def test_what_each_provider_is_told(slug: str) -> None:
    found = credential(templates()[slug], SUB_USER, "0123456789ab", "BR", 60)
    assert (found.scheme, found.host, found.port, found.username, found.password) == GOLDEN[slug]


def test_an_account_may_have_a_gateway_of_its_own() -> None:
    found = credential(templates()["generic"], SUB_USER, "0123456789ab", "br", 60, host="10.0.0.9", port=1081)
    assert (found.host, found.port, found.username) == ("10.0.0.9", 1081, "login-0123456789ab")


def test_dataimpulse_over_http_and_what_it_has_not() -> None:
    template = templates()["dataimpulse"]
    assert credential(template, SUB_USER, "0123456789ab", "br", 30, scheme="http").port == 823
    with pytest.raises(ValueError, match="no socks5"):
        credential(templates()["iproyal"], SUB_USER, "0123456789ab", "br", 30, scheme="socks5")


def test_only_what_tests_speak_for_is_called_verified() -> None:
    assert {slug for slug, template in templates().items() if template.verified} == {"dataimpulse", "generic"}


def test_of_several_ports_a_label_keeps_one_and_labels_spread() -> None:
    template = changed(schemes={"http": {"host": "gw", "first_port": 10000, "last_port": 10019}})
    labels = [label(b"secret", str(number), 1) for number in range(400)]
    ports = [credential(template, SUB_USER, one, "br", 30).port for one in labels]
    assert ports == [credential(template, SUB_USER, one, "br", 30).port for one in labels]
    assert set(ports) == set(range(10000, 10020))


@pytest.mark.parametrize(
    ("sub_user", "label_", "country", "message"),
    [
        (SUB_USER, "0123456789ab", "", "two letters"),
        (SUB_USER, "0123456789ab", "b1", "two letters"),
        (SUB_USER, "", "br", "wants labels"),
        (SUB_USER, "0123@", "br", "every character"),
        (SubUser("", "hunter2"), "0123456789ab", "br", "a login and a password"),
        (SubUser("login", ""), "0123456789ab", "br", "a login and a password"),
        (SubUser("log:in", "hunter2"), "0123456789ab", "br", "no colon"),
        (SubUser("login", "hunter2\n"), "0123456789ab", "br", "ASCII"),
        (SubUser("login", "hunter2é"), "0123456789ab", "br", "ASCII"),
        (SubUser("l" * 60, "hunter2"), "0123456789ab", "br", "dataimpulse reads 64"),
        (SubUser("login", "hunter2" * 40), "0123456789ab", "br", "255"),
    ],
)
def test_what_a_provider_would_not_understand_is_refused_without_the_secret(
    sub_user: SubUser, label_: str, country: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        credential(templates()["dataimpulse"], sub_user, label_, country, 30)
    assert "hunter2" not in str(caught.value)


def changed(**changes: object) -> Template:
    raw = msgspec.to_builtins(templates()["dataimpulse"])
    return msgspec.convert({**raw, **changes}, Template)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"username": "{login}-{label}-{city}"}, "names 'city'"),
        ({"username": "{login}-{label!r}"}, "how 'label' is written"),
        ({"username": "{login}-{label:>40}"}, "how 'label' is written"),
        ({"username": "{login}-{label"}, "not closed"),
        ({"username": "{login}-{}-{label}"}, "names ''"),
        ({"username": "{login.__class__}{label}"}, "names 'login.__class__'"),
        ({"username": "{login}"}, "0 times"),
        ({"password": "{password}{label}"}, "2 times"),
        ({"password": "secret"}, "the password {password}"),
        ({"username": "{label}"}, "holds {login}"),
        ({"username": "{login}{label}{minutes}"}, "come together"),
        ({"lifetime": {"least": 1, "most": 2}}, "come together"),
        ({"label_length": [9, 8]}, "lengths"),
        ({"label_alphabet": "ab@"}, "alphabet"),
        ({"schemes": {}}, "no gateway"),
        ({"schemes": {"http": {"host": "", "first_port": 1, "last_port": 1}}}, "host and ports"),
        ({"schemes": {"http": {"host": "gw", "first_port": 2, "last_port": 1}}}, "host and ports"),
        ({"user_limit": 0}, "limits"),
    ],
)
def test_a_template_that_cannot_work_is_named_at_start(changes: dict[str, object], problem: str) -> None:
    assert problems(templates()["dataimpulse"]) == []
    found = problems(changed(**changes))
    assert any(problem in one for one in found), found
    assert all(one.startswith("dataimpulse: ") for one in found)


@pytest.mark.parametrize("text", ["{", "[{}]", '[{"slug": "x", "surprise": 1}]'])
def test_a_broken_file_is_one_sentence(text: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = provider_templates.FILE.__class__(str(tmp_path)) / "providers.json"
    path.write_text(text)
    monkeypatch.setattr(provider_templates, "FILE", path)
    with pytest.raises(SettingsError, match=r"core/providers\.json cannot be read"):
        templates.__wrapped__()


def test_two_templates_of_one_name_are_refused(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = provider_templates.FILE.__class__(str(tmp_path)) / "providers.json"
    path.write_bytes(msgspec.json.encode([templates()["generic"]] * 2))
    monkeypatch.setattr(provider_templates, "FILE", path)
    with pytest.raises(SettingsError, match="'generic' stands there twice"):
        templates.__wrapped__()


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (407, "TRAFFIC_EXHAUSTED", EgressError.TRAFFIC_EXHAUSTED),
        (407, "error: threads_exhausted.", EgressError.THREADS_EXHAUSTED),
        (407, "Proxy Authentication Required", EgressError.PROXY_AUTH),
        (502, "NO_HOST_CONNECTION", EgressError.NO_PEER),
        (503, "NO_RAY", EgressError.NO_PEER),
        (502, "Bad Gateway", None),
        (503, "NO_HOST_CONNECTION", None),
        (200, "NO_RAY", None),
    ],
)
def test_what_an_answer_of_dataimpulse_means(status: int, text: str, error: EgressError | None) -> None:
    assert upstream_error(templates()["dataimpulse"].errors, status, text) is error


def test_every_error_has_a_status_and_every_socks_reply_an_error() -> None:
    assert {http_status(error) for error in EgressError} == {400, 403, 407, 502, 503, 504}
    assert http_status(EgressError.UNAUTHENTICATED) == 407
    assert all(http_status(error) in (502, 503, 504) for error in OF_UPSTREAM)
    assert [of_socks_reply(code).value for code in range(1, 9)] == [
        "proxy_protocol",
        "proxy_refused",
        *["proxy_host_unreachable"] * 4,
        "proxy_protocol",
        "proxy_protocol",
    ]
    assert of_socks_reply(None) is of_socks_reply(0x91) is EgressError.PROXY_PROTOCOL
