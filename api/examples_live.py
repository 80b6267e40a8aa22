"""Examples of what is live: history, streams, pairing codes, annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_TIME: Final = "2026-07-01T12:00:00Z"
_SERVICE: Final = ("service_required", "Recurso disponível apenas para serviços autorizados.")

BODIES: Final[Mapping[str, Any]] = {
    "requestPairingCode": {"phone_number": "+55 (11) 99999-9999"},
    "putAnnotation": {"status": "running", "day": 3},
}

ANSWERS: Final[Mapping[str, Any]] = {
    "listChipEvents": [
        {
            "id": "00000000-0000-8000-8000-00000000002a",
            "type": "status_change",
            "description": "Chip conectado ao WhatsApp.",
            "extra_data": {
                "from": "WAITING_QR",
                "to": "CONNECTED",
                "status": "CONNECTED",
                "phase": "connected",
                "reason": None,
                "generation": 1,
                "code": "connected",
            },
            "created_at": _TIME,
        }
    ],
    "streamChip": (
        "retry: 2000\n\n"
        "id: 00000000-0000-8000-8000-00000000002a\nevent: status\n"
        'data: {"status":"CONNECTED","phone_number":"+5511999999999","connected_at":"2026-07-01T12:00:00Z"}\n\n'
        ": ok\n\n"
    ),
    "requestPairingCode": {"code": "<XXXX-XXXX>", "expires_at": _TIME},
}

SPECIAL: Final[Mapping[tuple[str, int], tuple[str, str]]] = {
    ("listChipEvents", 422): ("invalid_input", "limit: Use um número de 1 a 200."),
    ("requestPairingCode", 409): (
        "chip_connected",
        "O chip já está conectado. Desconecte-o antes de parear outro aparelho.",
    ),
    ("requestPairingCode", 422): (
        "invalid_input",
        "Telefone: Telefone inválido. Use o formato internacional, como +5511999999999.",
    ),
    ("putAnnotation", 403): _SERVICE,
    ("putAnnotation", 409): (
        "annotations_full",
        "O chip já guarda anotações demais (até 32 chaves e 64 KiB); remova alguma antes.",
    ),
    ("putAnnotation", 413): ("annotation_too_large", "A anotação passa de 16 KiB; guarde menos dados."),
    ("putAnnotation", 422): (
        "annotation_key",
        "Chave: A chave node é reservada; use outra, sem o prefixo waha.",
    ),
    ("deleteAnnotation", 403): _SERVICE,
    ("deleteAnnotation", 422): (
        "annotation_key",
        "Chave: A chave node é reservada; use outra, sem o prefixo waha.",
    ),
    ("streamChip", 429): (
        "too_many_streams",
        "Muitas conexões ao vivo abertas ao mesmo tempo. Feche outra aba ou conexão e tente de novo em 10 segundos.",
    ),
}

FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "listChipEvents": ("limit", "Use um número de 1 a 200."),
    "requestPairingCode": (
        "phone_number",
        "Telefone inválido. Use o formato internacional, como +5511999999999.",
    ),
    "putAnnotation": ("key", "A chave node é reservada; use outra, sem o prefixo waha."),
    "deleteAnnotation": ("key", "A chave node é reservada; use outra, sem o prefixo waha."),
}
