from __future__ import annotations

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import accounts as rules
from core.domain.accounts import FieldError
from core.domain.chip_rules import clean_alias

ALL_RULES: tuple[Callable[[str], str], ...] = (
    rules.clean_name,
    rules.clean_company_name,
    rules.clean_email,
    rules.clean_password,
    rules.clean_phone,
    rules.clean_document,
    clean_alias,
)


@given(st.text(max_size=130))
def test_a_rule_gives_its_stored_form_or_one_sentence(text: str) -> None:
    for rule in ALL_RULES:
        stored, sentence = None, "."
        try:
            stored = rule(text)
        except FieldError as error:
            sentence = str(error)
        assert sentence.endswith(".")
        assert stored is None or rule(stored) == stored


# Phone

AREA = st.integers(1, 9).flatmap(lambda a: st.integers(1, 9).map(lambda b: f"{a}{b}"))
MOBILE = st.integers(0, 99_999_999).map(lambda n: f"9{n:08d}")
LANDLINE = st.integers(20_000_000, 99_999_999).map(str)


@given(
    AREA, MOBILE | LANDLINE, st.lists(st.sampled_from(" ()-"), max_size=8), st.randoms(use_true_random=False)
)
def test_a_brazilian_number_is_stored_as_e164_however_it_is_written(
    area: str, number: str, marks: list[str], random: object
) -> None:
    plain = f"+55{area}{number}"
    written = plain
    for mark in marks:
        at = random.randint(0, len(written))  # type: ignore[attr-defined]
        written = written[:at] + mark + written[at:]
    assert rules.clean_phone(written) == plain


@pytest.mark.parametrize(
    "text",
    [
        "",
        "11999999999",
        "5511999999999",
        "+5511 99999-99",
        "+55119999999999",
        "+1 202 555 0100",
        "+5501999999999",
        "+5511899999999",
        "+5511099999999",
        "+55 11 99999.9999",
        "+55119999٩9999",
        "+5511999999999\n+5511999999999",
    ],
)
def test_other_numbers_are_refused_with_the_words_of_the_page(text: str) -> None:
    with pytest.raises(FieldError, match=r"^Telefone inválido\. Use formato \+5511999999999\.$"):
        rules.clean_phone(text)


# Documents


def check_digits(digits: str, weights: list[list[int]]) -> str:
    """The published rule, written the other way round than in the code: the remainder must vanish."""
    for row in weights:
        for digit in "0123456789":
            total = sum(int(d) * w for d, w in zip(digits, row, strict=True)) + int(digit)
            if total % 11 == 0 or (total % 11 == 1 and digit == "0"):
                digits += digit
                break
    return digits


CPF_WEIGHTS = [[10, 9, 8, 7, 6, 5, 4, 3, 2], [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]]
CNPJ_WEIGHTS = [[5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2], [6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2]]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("529.982.247-25", "52998224725"),
        ("52998224725", "52998224725"),
        ("111.444.777-35", "11144477735"),
        ("11.222.333/0001-81", "11222333000181"),
        ("00.000.000/0001-91", "00000000000191"),
    ],
)
def test_known_documents(written: str, stored: str) -> None:
    assert rules.clean_document(written) == stored


@given(st.text(string.digits, min_size=9, max_size=9).filter(lambda d: len(set(d)) > 1))
def test_every_cpf_passes_and_any_other_check_digits_fail(head: str) -> None:
    good = check_digits(head, CPF_WEIGHTS)
    assert rules.is_document(good)
    others = [f"{head}{n:02d}" for n in range(100)]
    assert [other for other in others if rules.is_document(other)] == [good]


@given(st.text(string.digits, min_size=12, max_size=12).filter(lambda d: len(set(d)) > 1))
def test_every_cnpj_passes_and_any_other_check_digits_fail(head: str) -> None:
    good = check_digits(head, CNPJ_WEIGHTS)
    others = [f"{head}{n:02d}" for n in range(100)]
    assert [other for other in others if rules.is_document(other)] == [good]


@pytest.mark.parametrize("digit", string.digits)
@pytest.mark.parametrize("length", [11, 14])
def test_one_digit_repeated_is_no_document(digit: str, length: int) -> None:
    assert not rules.is_document(digit * length)


@pytest.mark.parametrize("text", ["", "529.982.247-2", "529.982.247-25x", "٥٢٩٩٨٢٢٤٧٢٥", "529982247250"])
def test_what_is_no_document(text: str) -> None:
    with pytest.raises(FieldError):
        rules.clean_document(text)


# Password, name, e-mail, alias


@pytest.mark.parametrize("text", ["Test@123456", "Ab1!efgh", "A" * 126 + "1!", "Ça Va 1ok"])
def test_good_passwords(text: str) -> None:
    assert rules.clean_password(text) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Ab1!", "8 a 128"),
        ("A" * 127 + "1!", "8 a 128"),
        ("abcdef1!", "maiúscula"),
        ("Abcdefg!", "número"),
        ("Abcdefg1", "especial"),
    ],
)
def test_a_bad_password_is_told_what_it_lacks(text: str, says: str) -> None:
    with pytest.raises(FieldError, match=says):
        rules.clean_password(text)


def test_an_email_is_kept_in_lower_case() -> None:
    assert rules.clean_email("Ana.Souza+x@Empresa.COM.br") == "ana.souza+x@empresa.com.br"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ana",
        "ana@",
        "@empresa.com",
        "ana@empresa",
        "ana@empresa..com",
        "ana@-empresa.com",
        "ana souza@empresa.com",
        "ana@empresa.com\n",
        "ana@empresa.c",
        ".ana@empresa.com",
        "a..na@empresa.com",
        "İana@empresa.com",
        "a\0na@empresa.com",
        "a" * 65 + "@empresa.com",
        "ana@" + "a" * 61 + "." + "b" * 60 + "." + "c" * 60 + "." + "d" * 60 + ".com.br",
    ],
)
def test_what_is_no_email(text: str) -> None:
    with pytest.raises(FieldError):
        rules.clean_email(text)


@given(st.emails(domains=st.sampled_from(["empresa.com", "a-b.com.br"])))
def test_an_accepted_email_is_lower_case_for_python_and_for_postgresql(email: str) -> None:
    try:
        stored = rules.clean_email(email)
    except FieldError:
        return
    assert stored.isascii()
    assert stored == stored.lower()


@pytest.mark.parametrize("text", ["abc", "a" * 100, "Vendas São Paulo 📱", 'x & y\'s "z"'])
def test_good_aliases(text: str) -> None:
    assert clean_alias(text) == text


@pytest.mark.parametrize(
    "text", ["", "ab", "a" * 101, "a<b", "a>bc", "a\nbc", "abc\0", "ab\x7fc", "a\u2028bc"]
)
def test_bad_aliases(text: str) -> None:
    with pytest.raises(FieldError):
        clean_alias(text)


@pytest.mark.parametrize("text", ["A", "a" * 101, "Ana\0", "Ana\r\nX: y"])
def test_bad_names(text: str) -> None:
    with pytest.raises(FieldError):
        rules.clean_name(text)


def test_a_company_name_may_be_empty_and_not_endless() -> None:
    assert rules.clean_company_name("") == ""
    with pytest.raises(FieldError):
        rules.clean_company_name("x" * 201)
