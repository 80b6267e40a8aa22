"""Examples of providers, sub-users, labels and usage; `examples.py` merges them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from core.domain.problem_codes import PROBLEM_KINDS

_CHIP_ID: Final = "8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20"
_USER_ID: Final = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"
SUB_USER_ID: Final = "3c1b7a52-9a0e-4f57-8d6a-1f1f0f8f3a22"
_TIME: Final = "2026-07-01T12:00:00Z"
_OPERATORS: Final = ("operator_required", "Recurso disponível apenas para operadores.")

_PROVIDER: Final = {
    "slug": "dataimpulse",
    "title": "DataImpulse",
    "template": "dataimpulse",
    "verified": True,
    "scheme": "socks5",
    "host": None,
    "port": None,
    "country": "br",
    "minutes": 60,
    "cost_per_gb": "5.20",
    "enabled": True,
    "is_default": True,
    "trouble": None,
    "trouble_text": None,
    "trouble_at": None,
    "sub_users": 1,
    "chips": 12,
    "room": 188,
    "created_at": _TIME,
    "updated_at": _TIME,
}
_SUB_USER: Final = {
    "id": SUB_USER_ID,
    "provider": "dataimpulse",
    "login": "whago1",
    "max_labels": 200,
    "chips": 12,
    "enabled": True,
    "trouble": None,
    "trouble_text": None,
    "trouble_at": None,
    "created_at": _TIME,
}
_USAGE: Final = {
    "provider": "dataimpulse",
    "bytes_in": 1_200_000_000,
    "bytes_out": 125_400_064,
    "bytes_used": 1_325_400_064,
    "gb_used": 1.234,
    "cost": "6.42",
    "tunnels": 310,
}

BODIES: Final[Mapping[str, Any]] = {
    "createProvider": {"slug": "dataimpulse", "template": "dataimpulse", "cost_per_gb": "5.20"},
    "changeProvider": {"cost_per_gb": "4.90", "enabled": True},
    "dryRunProvider": {"chip_id": _CHIP_ID},
    "createSubUser": {"login": "whago1", "password": "<a-senha-do-painel>"},
    "changeSubUser": {"max_labels": 300},
}

ANSWERS: Final[Mapping[str, Any]] = {
    "listProviderTemplates": [
        {
            "slug": "dataimpulse",
            "verified": True,
            "schemes": {
                "socks5": {"host": "gw.dataimpulse.com", "first_port": 824, "last_port": 824},
                "http": {"host": "gw.dataimpulse.com", "first_port": 823, "last_port": 823},
            },
            "username_format": "{login}__cr.{country};sessid.{label}",
            "password_format": "{password}",
            "country_case": "lower",
            "label_length": [1, 12],
            "lifetime": None,
            "user_limit": 64,
            "tunnels_per_sub_user": 2000,
        }
    ],
    "listProviders": [_PROVIDER],
    "createProvider": {**_PROVIDER, "sub_users": 0, "chips": 0, "room": 0},
    "getProvider": _PROVIDER,
    "changeProvider": {**_PROVIDER, "cost_per_gb": "4.90"},
    "setDefaultProvider": _PROVIDER,
    "clearProviderTrouble": _PROVIDER,
    "dryRunProvider": {
        "provider": "dataimpulse",
        "usable": True,
        "problem": None,
        "sub_user": "whago1",
        "label": "k3j9x0a7q2mz",
        "scheme": "socks5",
        "host": "gw.dataimpulse.com",
        "port": 824,
        "username": "whago1__cr.br;sessid.k3j9x0a7q2mz",
        "password": "***",
    },
    "listSubUsers": [_SUB_USER],
    "createSubUser": {**_SUB_USER, "chips": 0},
    "changeSubUser": {**_SUB_USER, "max_labels": 300},
    "clearSubUserTrouble": _SUB_USER,
    "getChipProxy": {
        "enabled": True,
        "provider": "dataimpulse",
        "label": "k3j9x0a7q2mz",
        "country": "br",
        "exit_ip": "203.0.113.7",
        "exit_ip_since": _TIME,
        "bytes_this_month": 110_450_005,
        "message": None,
    },
    "listChipExits": [
        {
            "id": "00000000-0000-8000-8000-00000000002a",
            "provider": "dataimpulse",
            "label": "k3j9x0a7q2mz",
            "label_generation": 2,
            "exit_ip": "203.0.113.7",
            "seen_from": _TIME,
            "seen_until": _TIME,
            "why": "requested",
        }
    ],
    "rotateChipLabel": {
        "chip_id": _CHIP_ID,
        "status": "rotating",
        "generation": 1,
        "message": "A troca de proxy foi pedida; o chip reconecta com um novo endereço em instantes.",
    },
    "getProxyUsage": {
        "bytes_used": 1_325_400_064,
        "gb_used": 1.234,
        "cost": "6.42",
        "limit_gb": "5",
        "percentage_used": 24.69,
    },
    "getFleetProxyUsage": {
        "month": "2026-07",
        "bytes_used": 1_325_400_064,
        "gb_used": 1.234,
        "cost": "6.42",
        "providers": [{**_USAGE, "errors": {"no_peer": 3}}],
        "users": [{"user_id": _USER_ID, "email": "ana@empresa.com.br", **_USAGE}],
    },
}


def _told(code: str) -> tuple[str, str]:
    return code, PROBLEM_KINDS[code].detail


_OF_OPERATORS: Final = ANSWERS.keys() - {"getChipProxy", "listChipExits", "getProxyUsage"}
_OF_A_PROVIDER: Final = (
    *("getProvider", "changeProvider", "removeProvider", "setDefaultProvider", "clearProviderTrouble"),
    *("dryRunProvider", "listSubUsers", "createSubUser"),
)
_OF_A_SUB_USER: Final = ("changeSubUser", "removeSubUser", "clearSubUserTrouble")
_TITLE: Final = "Use de 1 a 80 caracteres em uma linha."
_SLUG: Final = "Use de 1 a 40 letras minúsculas, números e hífens, começando por letra ou número."
_LABELS: Final = "Use um número de 1 a 100000."
_LOGIN: Final = "Use de 1 a 120 caracteres ASCII visíveis, sem espaços nem dois-pontos."
_LIST_ID: Final = "Use o id como a lista o mostra."

SPECIAL: Final[Mapping[tuple[str, int], tuple[str, str]]] = {
    **{(name, 403): _OPERATORS for name in (*_OF_OPERATORS, "removeProvider", "removeSubUser")},
    **{(name, 404): _told("provider_not_found") for name in _OF_A_PROVIDER},
    **{(name, 404): _told("sub_user_not_found") for name in _OF_A_SUB_USER},
    ("getFleetProxyUsage", 404): _told("user_not_found"),
    ("createProvider", 409): _told("provider_exists"),
    ("setDefaultProvider", 409): _told("provider_disabled"),
    ("removeProvider", 409): _told("provider_in_use"),
    ("createSubUser", 409): _told("sub_user_exists"),
    ("removeSubUser", 409): _told("sub_user_in_use"),
    ("rotateChipLabel", 409): _told("label_missing"),
    ("createProvider", 422): ("invalid_input", f"Nome: {_SLUG}"),
    ("changeProvider", 422): ("invalid_input", f"Título: {_TITLE}"),
    ("createSubUser", 422): ("invalid_input", f"Login: {_LOGIN}"),
    ("changeSubUser", 422): ("invalid_input", f"Máximo de chips: {_LABELS}"),
    ("dryRunProvider", 422): ("invalid_input", f"Chip: {_LIST_ID}"),
    ("listChipExits", 422): ("invalid_input", "limit: Use um número de 1 a 200."),
    ("getFleetProxyUsage", 422): ("invalid_input", "month: Use um mês como 2026-07."),
}

FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "createProvider": ("slug", _SLUG),
    "changeProvider": ("title", _TITLE),
    "createSubUser": ("login", _LOGIN),
    "changeSubUser": ("max_labels", _LABELS),
    "dryRunProvider": ("chip_id", _LIST_ID),
    "listChipExits": ("limit", "Use um número de 1 a 200."),
    "getFleetProxyUsage": ("month", "Use um mês como 2026-07."),
}
