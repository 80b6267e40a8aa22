"""Examples of the operators' routes; `examples.py` merges them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_USER_ID: Final = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"
_CHIP_ID: Final = "8a4f8f0e-52a5-4a9e-8f63-6f6c8d1f7b20"
_TIME: Final = "2026-07-01T12:00:00Z"
_NAME: Final = f"waha_plus_user_{_USER_ID}"
_NOT_FOUND: Final = ("container_not_found", "Container não encontrado.")
_OPERATORS: Final = ("operator_required", "Recurso disponível apenas para operadores.")

CONTAINER: Final = {
    "user_id": _USER_ID,
    "container_name": _NAME,
    "container_id": "5f0c1c7e-7a8a-4a53-b4ac-0d9c8f4a1e0b",
    "job": _NAME,
    "node": "host-1",
    "address": "10.0.0.11",
    "port": 3100,
    "base_url": "http://10.0.0.11:3100",
    "status": "running",
    "phase": "ready",
    "reason": None,
    "image": "devlikeapro/waha:gows-2026.7.1",
    "engine": "GOWS",
    "epoch": 1,
    "chips": 1,
    "created_at": _TIME,
}
_PAUSED: Final = {
    "paused": True,
    "since": _TIME,
    "by": "operator_token",
    "reason": "troca de switch no rack 2",
}

BODIES: Final[Mapping[str, Any]] = {
    "pauseFleet": {"reason": "troca de switch no rack 2"},
    "resumeFleet": {"reason": "switch trocado"},
}

ANSWERS: Final[Mapping[str, Any]] = {
    "listContainers": [CONTAINER],
    "putContainer": CONTAINER,
    "deleteContainer": {
        "user_id": _USER_ID,
        "container_name": _NAME,
        "status": "removing",
        "chips_deleted": [_CHIP_ID],
        "message": "O container e todos os seus chips foram excluídos; a remoção segue em segundo plano.",
    },
    "cleanupContainers": {
        "dry_run": True,
        "count": 1,
        "items": [
            {
                "id": 7,
                "kind": "namespace",
                "name": "u0123456789abcde",
                "place": "main",
                "user_id": None,
                "state": "waiting",
                "costs": {"bytes": 7_340_032},
                "first_seen": _TIME,
                "last_seen": _TIME,
            }
        ],
        "others": {"seen": 2},
        "observed_at": _TIME,
    },
    "getFleet": {
        "containers": {"ready": 99, "waiting": 1},
        "chips": {"CONNECTED": 240, "WAITING_QR": 12},
        "reasons": {"no_port": 1},
        "users": 100,
        "at_rest": 97,
        "hosts": [
            {
                "name": "host-1",
                "address": "10.0.0.11",
                "containers": 99,
                "chips": 252,
                "chips_connected": 240,
                "capacity": 100,
                "ports_used": 99,
                "ports_free": 1,
                "memory_mb": 29_700,
                "observed_at": _TIME,
            }
        ],
        "capacity": 100,
        "free": 1,
        "queue": {
            "users_moving": 3,
            "users_unseen": 1,
            "chips_waiting": 4,
            "oldest_wait_s": 12.5,
            "capacity_waiting": 1,
        },
        "control": {"paused": False, "since": None, "by": None, "reason": None},
        "rollout": {
            "release": "4f1c0d",
            "state": "running",
            "since": _TIME,
            "why": None,
            "waiting": 20,
            "moving": 3,
            "ok": 77,
            "failed": 0,
        },
        "shared_exits": [
            {
                "exit_ip": "203.0.113.7",
                "chips": [
                    {
                        "chip_id": _CHIP_ID,
                        "user_id": _USER_ID,
                        "alias": "vendas",
                        "provider": "dataimpulse",
                        "label": "k3j9x0a7q2mz",
                        "since": _TIME,
                    },
                    {
                        "chip_id": "1d9c2b7e-52a5-4a9e-8f63-6f6c8d1f7b21",
                        "user_id": _USER_ID,
                        "alias": "suporte",
                        "provider": "dataimpulse",
                        "label": "p8w2c5t0y4hd",
                        "since": _TIME,
                    },
                ],
            }
        ],
        "swept_at": _TIME,
        "oldest_look_at": _TIME,
        "observed_at": _TIME,
    },
    "streamFleet": (
        "retry: 2000\n\n"
        'event: fleet\ndata: {"containers":{"ready":1},"chips":{"CONNECTED":1}}\n\n'
        f'event: chip\ndata: {{"id":"{_CHIP_ID}","user_id":"{_USER_ID}","status":"CONNECTED"}}\n\n'
        ": ok\n\n"
    ),
    "getFleetPlan": {
        "paused": False,
        "items": [
            {
                "user_id": _USER_ID,
                "container_name": _NAME,
                "chip_id": _CHIP_ID,
                "action": "StartSession",
                "reason": "paced",
                "not_before": _TIME,
                "observed_at": _TIME,
            }
        ],
        "acting": 0,
    },
    "pauseFleet": _PAUSED,
    "resumeFleet": {"paused": False, "since": _TIME, "by": "operator_token", "reason": "switch trocado"},
}

SPECIAL: Final[Mapping[tuple[str, int], tuple[str, str]]] = {
    **{(name, 403): _OPERATORS for name in ANSWERS},
    ("deleteContainer", 404): _NOT_FOUND,
    ("putContainer", 404): ("user_not_found", "Usuário não encontrado."),
    ("listContainers", 422): ("invalid_input", "limit: Use um número de 1 a 200."),
    ("cleanupContainers", 422): ("invalid_input", "dry_run: Use true ou false."),
    ("getFleetPlan", 422): ("invalid_input", "limit: Use um número de 1 a 200."),
    ("streamFleet", 429): (
        "too_many_streams",
        "Muitas conexões ao vivo abertas ao mesmo tempo. Feche outra aba ou conexão e tente de novo em 10 segundos.",
    ),
    ("pauseFleet", 422): ("invalid_input", "Motivo: Use até 200 caracteres, sem quebras de linha."),
    ("resumeFleet", 422): ("invalid_input", "Motivo: Use até 200 caracteres, sem quebras de linha."),
}

FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "listContainers": ("limit", "Use um número de 1 a 200."),
    "cleanupContainers": ("dry_run", "Use true ou false."),
    "getFleetPlan": ("limit", "Use um número de 1 a 200."),
    "pauseFleet": ("reason", "Use até 200 caracteres, sem quebras de linha."),
    "resumeFleet": ("reason", "Use até 200 caracteres, sem quebras de linha."),
}
