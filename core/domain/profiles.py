"""What another backend says of a user, in the form that is stored: its word on who it is, ours on what fits.

Its texts were never checked by our rules, and an account must not be refused for an odd phone: what does not fit is
cut or left out. Only the plan is no text to be mended: a user without a known plan has none.
"""

from __future__ import annotations

from typing import Final

import msgspec

from core.domain.accounts import COMPANY_NAME_LIMIT, EMAIL_LIMIT, NAME_LENGTH, has_control_characters

_PHONE_LIMIT: Final = 20
_DOCUMENT_LENGTHS: Final = (11, 14)
# Nobody's: the top-level domain is reserved (RFC 2606).
_NO_EMAIL: Final = "{user_id}@upstream.invalid"


class Profile(msgspec.Struct, frozen=True):
    """A user as another backend knows it, every field in its stored form."""

    user_id: str
    email: str
    name: str
    phone: str
    company_name: str | None
    document: str | None
    plan_slug: str
    is_active: bool


def profile(
    user_id: str,
    plan_slug: str,
    *,
    is_active: bool,
    email: str | None = None,
    name: str | None = None,
    phone: str | None = None,
    company_name: str | None = None,
    document: str | None = None,
) -> Profile:
    """A profile from texts that nobody checked."""
    digits = "".join(c for c in document or "" if c in "0123456789")
    return Profile(
        user_id=user_id,
        email=_email(email) or _NO_EMAIL.format(user_id=user_id),
        name=_line(name, NAME_LENGTH[1]),
        phone=_line(phone, _PHONE_LIMIT) if len((phone or "").strip()) <= _PHONE_LIMIT else "",
        company_name=_line(company_name, COMPANY_NAME_LIMIT) or None,
        document=digits if len(digits) in _DOCUMENT_LENGTHS else None,
        plan_slug=plan_slug.strip(),
        is_active=is_active,
    )


def _email(text: str | None) -> str | None:
    """Lower case, as accounts are compared. ASCII only: beyond it Python and PostgreSQL lower differently."""
    mail = (text or "").strip()
    fits = "@" in mail and mail.isascii() and len(mail) <= EMAIL_LIMIT and not has_control_characters(mail)
    return mail.lower() if fits else None


def _line(text: str | None, limit: int) -> str:
    """One line without what no person types; lone surrogates, which no database takes, are left out too."""
    shown = (text or "").encode("utf-8", "ignore").decode()
    return "".join(c for c in shown if not has_control_characters(c)).strip()[:limit].strip()
