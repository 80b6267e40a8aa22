from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from core.domain.profiles import profile

USER = str(uuid.UUID(int=7))
texts = st.none() | st.text(alphabet=st.characters(), max_size=400)


def test_what_fits_is_stored_as_accounts_are() -> None:
    told = profile(
        USER,
        " business ",
        is_active=True,
        email=" Ana@Empresa.com.br ",
        name=" Ana ",
        phone="+5511999999999",
        company_name="",
        document="529.982.247-25",
    )
    assert (told.email, told.name, told.phone) == ("ana@empresa.com.br", "Ana", "+5511999999999")
    assert (told.company_name, told.document, told.plan_slug) == (None, "52998224725", "business")


def test_what_does_not_fit_is_left_out() -> None:
    told = profile(
        USER, "free", is_active=True, email="nobody", phone="x" * 21, document="123", name="a\0b\n"
    )
    assert (told.email, told.phone, told.document, told.name) == (f"{USER}@upstream.invalid", "", None, "ab")


@given(texts, texts, texts, texts, texts)
def test_whatever_is_told_can_be_stored(
    email: str | None, name: str | None, phone: str | None, company: str | None, document: str | None
) -> None:
    told = profile(
        USER,
        "free",
        is_active=True,
        email=email,
        name=name,
        phone=phone,
        company_name=company,
        document=document,
    )
    assert told.email == told.email.lower()
    assert told.email.isascii()
    assert len(told.email) <= 320
    assert len(told.name) <= 100
    assert len(told.phone) <= 20
    assert len(told.company_name or "") <= 200
    assert len(told.document or "") in (0, 11, 14)
    for text in (told.email, told.name, told.phone, told.company_name or ""):
        text.encode()
        assert "\0" not in text
