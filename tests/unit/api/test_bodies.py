from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import read_body
from api.schemas import AccountChange, Login, NewChip, Reconnect, Registration
from core.errors import InvalidInput

GOOD = {
    "name": "  Ana Souza ",
    "email": " Ana@Empresa.com ",
    "password": "Senha@123",
    "phone": "+55 (11) 99999-9999",
}


def raw(body: object) -> bytes:
    return msgspec.json.encode(body)


def refused(body: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read_body(raw(body), Registration)
    return caught.value


def test_values_are_trimmed_and_stored_in_their_form() -> None:
    body = read_body(raw(GOOD | {"document": "529.982.247-25"}), Registration)
    assert body == Registration(
        name="Ana Souza",
        email="ana@empresa.com",
        password="Senha@123",
        phone="+5511999999999",
        company_name=None,
        document="52998224725",
        plan_slug="free",
    )


@pytest.mark.parametrize("document", [None, "", "   "])
def test_no_document_is_allowed(document: str | None) -> None:
    assert not read_body(raw(GOOD | {"document": document}), Registration).document


def test_every_bad_field_is_named_at_once() -> None:
    error = refused({"name": "A", "phone": "11", "password": "x", "document": "1", "planet": "x"})
    assert error.code == "invalid_input"
    assert error.message == (
        "Nome: Use de 2 a 100 caracteres. | Email: Campo obrigatório. | Senha: Use de 8 a 128 caracteres."
        " | Telefone: Telefone inválido. Use formato +5511999999999."
        " | CPF/CNPJ: CPF ou CNPJ inválido. Confira os números digitados. | planet: Campo desconhecido."
    )
    assert list(error.fields) == ["name", "email", "password", "phone", "document", "planet"]


def test_the_label_of_an_alias() -> None:
    with pytest.raises(InvalidInput, match=r"^Apelido: Use de 3 a 100 caracteres\.$"):
        read_body(raw({"alias": "  ab  "}), NewChip)


@pytest.mark.parametrize("value", [1, None, True, [], {}, ["Ana"]])
def test_a_value_of_another_type_is_refused(value: object) -> None:
    assert refused(GOOD | {"name": value}).fields == {"name": "Valor de tipo inválido."}


@pytest.mark.parametrize("body", [[], "x", 1, None, True])
def test_a_body_must_be_an_object(body: object) -> None:
    assert refused(body).message == "O corpo da requisição deve ser um objeto JSON."


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"\xff\xfe", b'{"name": "\xff"}', b"[" * 60_000, b'{"a":' * 12_000, b"{} {}"],
)
def test_what_is_not_json(content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_body(content, Registration)
    assert caught.value.code == "invalid_json"


def test_an_answer_does_not_repeat_thousands_of_names() -> None:
    error = refused({f"{'x' * 200}{n}": 1 for n in range(1000)})
    assert len(error.fields) <= 20
    assert len(error.message) < 3000


@given(st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8)))
def test_no_body_breaks_the_reader(body: dict[str, object]) -> None:
    for model in (Registration, Login, AccountChange, NewChip, Reconnect):
        refused_fields: dict[str, str] = {"": ""}
        try:
            read_body(raw(body), model)
        except InvalidInput as error:
            refused_fields = error.fields
        assert refused_fields


def test_empty_text_leaves_a_value_and_null_clears_it() -> None:
    sent = {"name": "", "phone": "  ", "company_name": None, "document": None}
    assert read_body(raw(sent), AccountChange).changes() == {"company_name": None, "document": None}
    sent = {"name": "Bia", "phone": "", "company_name": "", "document": ""}
    assert read_body(raw(sent), AccountChange).changes() == {"name": "Bia"}
    assert read_body(b"{}", AccountChange).changes() == {}


@pytest.mark.parametrize("name", ["name", "phone"])
def test_name_and_phone_cannot_be_cleared(name: str) -> None:
    with pytest.raises(InvalidInput):
        read_body(raw({name: None}), AccountChange)


def test_other_fields_of_an_account_are_not_changed_here() -> None:
    for name in ("email", "plan_slug", "credits", "is_active", "id"):
        with pytest.raises(InvalidInput, match="Campo desconhecido"):
            read_body(raw({name: "x"}), AccountChange)
