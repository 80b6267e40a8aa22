"""Examples of logging out, refreshing and API keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_KEY: Final = {
    "id": "3f0d5c1e-1b7a-4c52-8a57-0f5d1f1f6a10",
    "name": "integração do CRM",
    "prefix": "whago_1a2b3c4d",
    "created_at": "2026-07-01T12:00:00Z",
    "last_used_at": None,
    "revoked_at": None,
    "is_active": True,
}

BODIES: Final[Mapping[str, Any]] = {"createApiKey": {"name": "integração do CRM"}}
ANSWERS: Final[Mapping[str, Any]] = {
    "logout": {"message": "Sessão encerrada."},
    "listApiKeys": [_KEY | {"last_used_at": "2026-07-02T08:30:00Z"}],
    "createApiKey": _KEY | {"key": "whago_1a2b3c4d_<64 hex characters>"},
}
SPECIAL: Final[Mapping[tuple[str, int], tuple[str, str]]] = {
    ("refresh", 401): ("invalid_refresh_token", "Refresh token inválido ou expirado."),
    ("listApiKeys", 403): ("plan_without_api", "Recurso disponível apenas no plano Enterprise."),
    ("listApiKeys", 422): ("invalid_input", "limit: Use um número de 1 a 200."),
    ("createApiKey", 403): ("plan_without_api", "Recurso disponível apenas no plano Enterprise."),
    ("createApiKey", 422): ("invalid_input", "Nome: Use de 3 a 100 caracteres."),
    ("revokeApiKey", 404): ("api_key_not_found", "API Key não encontrada."),
}
FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "listApiKeys": ("limit", "Use um número de 1 a 200."),
    "createApiKey": ("name", "Use de 3 a 100 caracteres."),
}
