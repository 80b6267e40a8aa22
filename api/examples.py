"""Examples of the OpenAPI document; a test holds them against the schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from api import examples_accounts, examples_live, examples_operators, examples_proxies
from api.problems import problem

_USER_ID: Final = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"
_CHIP_ID: Final = "8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20"
_TIME: Final = "2026-07-01T12:00:00Z"

_USER: Final = {
    "id": _USER_ID,
    "email": "ana@empresa.com.br",
    "name": "Ana Souza",
    "phone": "+5511999999999",
    "company_name": "Empresa Ltda",
    "document": "52998224725",
    "credits": 100,
    "plan": "Plano Business",
    "plan_slug": "business",
    "plan_features": {"api_access": False, "webhooks": False},
    "is_active": True,
    "is_verified": False,
    "created_at": _TIME,
    "updated_at": _TIME,
}
_SESSION: Final = {
    "user": _USER,
    "tokens": {"access_token": "eyJ...", "refresh_token": "eyJ...", "token_type": "bearer"},
    "access_token": "eyJ...",
    "refresh_token": "eyJ...",
    "token_type": "bearer",
}


def _chip(status: str, phase: str, waha_status: str | None) -> dict[str, Any]:
    return {
        "id": _CHIP_ID,
        "alias": "vendas",
        "session_id": f"chip_{_CHIP_ID}",
        "phone_number": None,
        "status": status,
        "health_score": 0,
        "extra_data": {
            "waha_plus_container": f"waha_plus_user_{_USER_ID}",
            "waha_plus_port": 3100,
            "waha_session": f"chip_{_CHIP_ID}",
            "waha_status": waha_status,
            "proxy_enabled": False,
            "node": "host-1",
            "phase": phase,
            "reason": None,
            "reason_text": None,
            "starts_at": None,
        },
        "created_at": _TIME,
        "updated_at": _TIME,
        "connected_at": None,
        "last_activity_at": None,
    }


_WAITING: Final = _chip("WAITING_QR", "queued", None)

_RESTART: Final = {
    "user_id": _USER_ID,
    "status": "restarting",
    "message": "O container vai reiniciar; os chips voltam sozinhos, sem novo QR Code.",
}
_RESTART_EARLY: Final = (
    "container_not_placed",
    "O container não está em execução, então não há o que reiniciar. "
    "Ele inicia sozinho; tente novamente em instantes.",
)

BODIES: Final[Mapping[str, Any]] = {
    **examples_operators.BODIES,
    **examples_accounts.BODIES,
    **examples_proxies.BODIES,
    "register": {
        "name": "Ana Souza",
        "email": "ana@empresa.com.br",
        "password": "Senha@123",
        "phone": "+55 (11) 99999-9999",
        "company_name": "Empresa Ltda",
        "document": "529.982.247-25",
        "plan_slug": "business",
    },
    "login": {"email": "ana@empresa.com.br", "password": "Senha@123"},
    "changeMe": {"name": "Ana S. Souza", "company_name": None},
    "createChip": {"alias": "vendas"},
    "reconnectChip": {"fresh": False},
    **examples_live.BODIES,
    "receiveWahaWebhook": {
        "id": "evt_01aaaaaaaaaaaaaaaaaaaaaaaa",
        "timestamp": 1741249702485,
        "event": "session.status",
        "session": f"chip_{_CHIP_ID}",
        "payload": {"name": f"chip_{_CHIP_ID}", "status": "SCAN_QR_CODE"},
    },
}

ANSWERS: Final[Mapping[str, Any]] = {
    **examples_operators.ANSWERS,
    **examples_accounts.ANSWERS,
    **examples_proxies.ANSWERS,
    "refresh": _SESSION,
    "register": _SESSION,
    "login": _SESSION,
    "getMe": _USER,
    "changeMe": _USER,
    "listChips": [_chip("WAITING_QR", "qr", "SCAN_QR_CODE")],
    "createChip": _WAITING,
    "getChip": _chip("WAITING_QR", "qr", "SCAN_QR_CODE"),
    "getChipQr": {
        "qr": "data:image/png;base64,iVBORw0KGgo=",
        "qr_code": "data:image/png;base64,iVBORw0KGgo=",
        "expires_at": _TIME,
        "status": "SCAN_QR_CODE",
        "message": "Abra o WhatsApp no celular e escaneie o QR Code.",
    },
    "disconnectChip": _chip("DISCONNECTED", "disconnecting", "WORKING"),
    "reconnectChip": _WAITING,
    **examples_live.ANSWERS,
    "explainChip": {
        "chip_id": _CHIP_ID,
        "status": "WAITING_QR",
        "phase": "queued",
        "since": _TIME,
        "observed_at": _TIME,
        "causes": [
            {
                "code": "no_memory",
                "text": "Sem memória livre em nenhum host; o chip inicia assim que houver capacidade.",
                "next": "O Nomad coloca o container assim que houver espaço e o chip inicia em seguida.",
                "person": "Nada a fazer: o sistema continua sozinho.",
                "operator": {
                    "loop": "waits; Nomad places it as soon as there is room",
                    "person": "add a host, or free memory on one",
                    "commands": [f"nomad eval list -job waha_plus_user_{_USER_ID}", "nomad node status"],
                },
                "evidence": [
                    {
                        "system": "nomad",
                        "about": "placement",
                        "observed_at": _TIME,
                        "detail": {
                            "evaluation": "6e0f3b8a-2f0c-4d1f-8c83-6f5d6f0c9b11",
                            "status": "complete",
                            "nodes_evaluated": 2,
                            "nodes_filtered": 0,
                            "nodes_exhausted": 2,
                            "dimensions": {"memory": 2},
                            "constraints": {},
                        },
                    }
                ],
            }
        ],
        "budgets": [
            {
                "name": "qr_rounds",
                "text": "Conjuntos de QR Codes deste pedido",
                "spent": 0,
                "limit": 2,
                "left": 2,
                "renews": "Cada clique em Conectar compra novos QR Codes.",
            }
        ],
        "next_step": {
            "text": "O Nomad coloca o container assim que houver espaço e o chip inicia em seguida.",
            "at": None,
        },
        "person": "Nada a fazer: o sistema continua sozinho.",
    },
    "receiveWahaWebhook": {"status": "stored"},
    "getContainer": examples_operators.CONTAINER,
    "getContainerAccess": {
        "user_id": _USER_ID,
        "address": "10.0.0.11",
        "port": 3100,
        "base_url": "http://10.0.0.11:3100",
        "api_key": "<64 hex characters>",
    },
    "getContainerStats": {
        "user_id": _USER_ID,
        "cpu_percent": 3.4,
        "memory_usage_mb": 212.5,
        "memory_limit_mb": 1024,
        "memory_percent": 20.75,
        "network_rx_bytes": None,
        "network_tx_bytes": None,
        "sampled_at": _TIME,
        "reason": None,
        "message": None,
    },
    "getContainerLogs": {
        "user_id": _USER_ID,
        "lines": ["WAHA (WhatsApp HTTP API) - Running GOWS engine...", "X-Api-Key: ***"],
        "last_line": 2,
        "read_at": _TIME,
        "message": None,
    },
    "restartContainer": _RESTART,
    "restartMyContainer": _RESTART,
    "getMyContainer": {
        "container_name": f"waha_plus_user_{_USER_ID}",
        "status": "running",
        "phase": "ready",
        "reason": None,
        "reason_text": None,
        "port": 3100,
        "image": "devlikeapro/waha:gows-2026.7.1",
        "engine": "GOWS",
        "chips": 1,
        "created_at": _TIME,
    },
    "metrics": (
        "# TYPE wahafleet_api_requests_total counter\n"
        'wahafleet_api_requests_total{method="GET",route="/api/v1/chips",status="200"} 12.0\n'
    ),
    "health": {"status": "ok", "service": "wahafleet-api"},
    "live": {"status": "ok", "service": "wahafleet-api"},
    "ready": {"status": "ok", "service": "wahafleet-api", "dependencies": {"store": "ok", "cache": "ok"}},
}

STREAMS: Final[Mapping[str, str]] = {
    "getContainerLogs": "id: 2\r\ndata: X-Api-Key: ***\r\n\r\n",
}

_COMMON: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid_json", "O corpo da requisição não é um JSON válido."),
    401: ("token_missing", "Token de acesso não encontrado."),
    402: (
        "proxy_quota",
        "Limite de proxy excedido (5/5 GB). Faça upgrade ou aguarde renovação mensal.",
    ),
    403: ("account_suspended", "Sua conta está suspensa. Entre em contato com o suporte."),
    404: ("chip_not_found", "Chip não encontrado."),
    409: ("container_not_placed", "O container ainda não tem porta. Tente novamente em instantes."),
    413: ("body_too_large", "O corpo da requisição é grande demais."),
    422: ("invalid_input", "Apelido: Use de 3 a 100 caracteres."),
    429: ("too_many_requests", "Muitas requisições. Tente novamente em 12 segundos."),
    503: ("service_unavailable", "Serviço temporariamente indisponível. Tente novamente em instantes."),
}
_SPECIAL: Final[Mapping[tuple[str, int], tuple[str, str]]] = {
    **examples_operators.SPECIAL,
    **examples_accounts.SPECIAL,
    **examples_proxies.SPECIAL,
    ("register", 400): ("email_taken", "Este email já está cadastrado."),
    ("register", 422): ("invalid_input", "Telefone: Telefone inválido. Use formato +5511999999999."),
    ("login", 401): ("wrong_login", "Email ou senha incorretos."),
    ("login", 422): ("invalid_input", "Senha: Campo obrigatório."),
    ("changeMe", 422): ("invalid_input", "CPF/CNPJ: CPF ou CNPJ inválido. Confira os números digitados."),
    ("createChip", 400): ("alias_taken", "Já existe um chip com esse apelido."),
    ("createChip", 403): ("chip_limit", "Limite de chips do plano atingido."),
    ("reconnectChip", 422): ("invalid_input", "fresh: Valor de tipo inválido."),
    ("getContainer", 403): ("operator_required", "Recurso disponível apenas para operadores."),
    ("getContainerAccess", 403): ("operator_required", "Recurso disponível apenas para operadores."),
    ("getContainer", 404): ("container_not_found", "Container não encontrado."),
    ("getContainerAccess", 404): ("container_not_found", "Container não encontrado."),
    ("getContainerStats", 403): ("operator_required", "Recurso disponível apenas para operadores."),
    ("getContainerStats", 404): ("container_not_found", "Container não encontrado."),
    ("getContainerLogs", 403): ("operator_required", "Recurso disponível apenas para operadores."),
    ("getContainerLogs", 404): ("container_not_found", "Container não encontrado."),
    ("getContainerLogs", 422): ("invalid_input", "lines: Use um número de 1 a 2000."),
    ("restartContainer", 403): ("operator_required", "Recurso disponível apenas para operadores."),
    ("restartContainer", 404): ("container_not_found", "Container não encontrado."),
    ("restartContainer", 409): _RESTART_EARLY,
    ("getMyContainer", 404): ("container_not_found", "Container não encontrado."),
    ("restartMyContainer", 404): ("container_not_found", "Container não encontrado."),
    ("restartMyContainer", 409): _RESTART_EARLY,
    **examples_live.SPECIAL,
    ("receiveWahaWebhook", 401): ("bad_signature", "Assinatura do webhook inválida."),
}
_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    **examples_operators.FIELDS,
    **examples_accounts.FIELDS,
    **examples_proxies.FIELDS,
    "register": ("phone", "Telefone inválido. Use formato +5511999999999."),
    "login": ("password", "Campo obrigatório."),
    "changeMe": ("document", "CPF ou CNPJ inválido. Confira os números digitados."),
    "createChip": ("alias", "Use de 3 a 100 caracteres."),
    "reconnectChip": ("fresh", "Valor de tipo inválido."),
    "getContainerLogs": ("lines", "Use um número de 1 a 2000."),
    **examples_live.FIELDS,
}


def example_problem(operation: str, status: int, path: str) -> dict[str, Any]:
    """The error that a route gives most likely with this status."""
    code, detail = _SPECIAL.get((operation, status)) or _COMMON[status]
    body = problem(
        status,
        code,
        detail,
        path.replace("{chip_id}", _CHIP_ID)
        .replace("{user_id}", _USER_ID)
        .replace("{key}", "heat_up")
        .replace("{provider}", "dataimpulse")
        .replace("{sub_user_id}", examples_proxies.SUB_USER_ID),
    )
    shown: dict[str, Any] = {
        name: value
        for name in body.content.__struct_fields__
        if (value := getattr(body.content, name)) is not None
    }
    if status == 422 and operation in _FIELDS:
        field, message = _FIELDS[operation]
        shown["errors"] = [{"field": field, "message": message}]
    return shown
