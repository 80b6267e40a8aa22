"""Phases, reasons, and the tables that map them to what people see. Tables, not branches.

container:  absent -> registering -> placing -> booting -> ready
                          ^            |           |         |
                          |            v           v         v
                          +------- waiting <---- failing   moving
            stopping -> absent (row removed)

chip:       queued -> creating -> starting -> qr -> connected
               ^                     |        |        |
               |                     v        v        v
               +------ parked <--- retrying <---- reconnecting
            disconnecting -> disconnected          deleting -> (row removed)
            paused: by an operator, from wherever it is wanted connected
            quarantined, banned: left alone until an operator says otherwise
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ContainerPhase(StrEnum):
    ABSENT = "absent"
    REGISTERING = "registering"
    PLACING = "placing"
    WAITING = "waiting"
    BOOTING = "booting"
    READY = "ready"
    FAILING = "failing"
    MOVING = "moving"
    STOPPING = "stopping"


class ChipPhase(StrEnum):
    QUEUED = "queued"
    CREATING = "creating"
    STARTING = "starting"
    QR = "qr"
    PASSKEY = "passkey"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    RETRYING = "retrying"
    PARKED = "parked"
    UNLINKED = "unlinked"
    FAILED = "failed"
    PAUSED = "paused"
    QUARANTINED = "quarantined"
    BANNED = "banned"
    DISCONNECTING = "disconnecting"
    DISCONNECTED = "disconnected"
    DELETING = "deleting"


# On the way to its connection, with nothing for a person to do.
ON_ITS_WAY: Final = frozenset(
    {
        ChipPhase.QUEUED,
        ChipPhase.CREATING,
        ChipPhase.STARTING,
        ChipPhase.RECONNECTING,
        ChipPhase.RETRYING,
    }
)


class ChipStatusWord(StrEnum):
    """The status of a chip in the API; the deployed pages draw their buttons from it."""

    WAITING_QR = "WAITING_QR"
    CONNECTING = "CONNECTING"
    CONNECTED = "CONNECTED"
    DISCONNECTED = "DISCONNECTED"
    BANNED = "BANNED"
    MAINTENANCE = "MAINTENANCE"
    ERROR = "ERROR"


class Reason(StrEnum):
    """Why something waits or failed. Stable: part of the API."""

    NO_PORT = "no_port"
    NO_MEMORY = "no_memory"
    NO_CPU = "no_cpu"
    NO_HOST = "no_host"
    PORT_CONFLICT = "port_conflict"
    PORT_IN_USE = "port_in_use"
    IMAGE_PULL = "image_pull"
    TASK_FAILED = "task_failed"
    JOB_REJECTED = "job_rejected"
    JOB_NOT_RENDERABLE = "job_not_renderable"
    PLACEMENT_SLOW = "placement_slow"
    POSSIBLY_ALIVE = "possibly_alive"
    ALLOCATION_VANISHED = "allocation_vanished"
    STOP_SLOW = "stop_slow"
    WAHA_KEY_REJECTED = "waha_key_rejected"
    WAHA_NOT_READY = "waha_not_ready"
    WAHA_REJECTED = "waha_rejected"
    STORAGE_NOT_ISOLATED = "storage_not_isolated"
    SESSION_SLOW = "session_slow"
    PLAN_LIMIT = "plan_limit"
    QR_SPENT = "qr_spent"
    PACED = "paced"
    UNLINKED = "unlinked"
    RECONNECT_FAILED = "reconnect_failed"
    OUTAGE = "outage"
    BREAKER_OPEN = "breaker_open"
    QUARANTINED = "quarantined"
    BANNED = "banned"
    DEAF = "deaf"
    NO_EGRESS = "no_egress"
    # The guard's words for the same things (`egress_errors.py`).
    NO_UPSTREAM = "no_upstream"
    PROXY_AUTH = "proxy_auth"
    PROXY_UNREACHABLE = "proxy_unreachable"
    PROXY_REFUSED = "proxy_refused"
    PROXY_HOST_UNREACHABLE = "proxy_host_unreachable"
    PROXY_PROTOCOL = "proxy_protocol"
    TRAFFIC_EXHAUSTED = "traffic_exhausted"
    THREADS_EXHAUSTED = "threads_exhausted"
    NO_PEER = "no_peer"
    QUOTA = "quota"
    PAUSED = "paused"
    RESTARTING = "restarting"
    ROLLOUT = "rollout"
    DEPENDENCY_NOMAD = "dependency_nomad"
    DEPENDENCY_CONSUL = "dependency_consul"
    DEPENDENCY_WAHA = "dependency_waha"
    DEPENDENCY_REDIS = "dependency_redis"
    DEPENDENCY_STORAGE = "dependency_storage"


_STARTING_OR_AWAY: Final = "O serviço do WhatsApp está iniciando ou indisponível. Tentando novamente..."

REASON_TEXT: Final = MappingProxyType(
    {
        Reason.NO_PORT: "Sem porta livre em nenhum host; o chip inicia assim que houver capacidade.",
        Reason.NO_MEMORY: "Sem memória livre em nenhum host; o chip inicia assim que houver capacidade.",
        Reason.NO_CPU: "Sem CPU livre em nenhum host; o chip inicia assim que houver capacidade.",
        Reason.NO_HOST: "Nenhum host disponível no momento; o chip inicia assim que houver um.",
        Reason.PORT_CONFLICT: (
            "A porta do container ainda está registrada para outro usuário; nossa equipe foi avisada."
        ),
        Reason.PORT_IN_USE: "A porta escolhida está ocupada no host; o container será colocado em outra.",
        Reason.IMAGE_PULL: "A imagem do serviço do WhatsApp não pôde ser baixada; nova tentativa em breve.",
        Reason.TASK_FAILED: "O serviço do WhatsApp parou ao iniciar; nova tentativa em breve.",
        Reason.JOB_REJECTED: "O cluster recusou o container deste usuário; nossa equipe foi avisada.",
        Reason.JOB_NOT_RENDERABLE: (
            "O container deste usuário não pode ser montado com a configuração atual; nossa equipe foi avisada."
        ),
        Reason.PLACEMENT_SLOW: "O cluster ainda não colocou o container em um host; aguardando.",
        Reason.POSSIBLY_ALIVE: (
            "O host do container não responde; o chip volta em outro host assim que for seguro."
        ),
        Reason.ALLOCATION_VANISHED: (
            "O container foi removido por fora; o chip volta assim que for seguro iniciar outro."
        ),
        Reason.STOP_SLOW: "O encerramento está demorando mais que o normal; continuamos tentando.",
        Reason.SESSION_SLOW: "A sessão do WhatsApp demora a iniciar; novas tentativas seguem sozinhas.",
        Reason.PLAN_LIMIT: (
            "Todas as sessões do plano estão em uso; o chip inicia assim que a remoção de outro terminar."
        ),
        Reason.PACED: (
            "Muitos chips estão iniciando ao mesmo tempo; o chip está na fila e inicia sozinho na sua vez."
        ),
        Reason.WAHA_KEY_REJECTED: "O serviço do WhatsApp recusou a chave de acesso; nossa equipe foi avisada.",
        Reason.WAHA_NOT_READY: _STARTING_OR_AWAY,
        Reason.WAHA_REJECTED: (
            "O serviço do WhatsApp recusou a configuração do chip. Clique em Conectar para tentar de novo."
        ),
        Reason.STORAGE_NOT_ISOLATED: (
            "O armazenamento do chip não pôde ser isolado; nossa equipe foi avisada."
        ),
        Reason.QR_SPENT: "O QR Code expirou. Clique em Conectar para gerar outro.",
        Reason.UNLINKED: "O aparelho foi desvinculado no WhatsApp. Clique em Conectar para gerar um QR Code.",
        Reason.RECONNECT_FAILED: (
            "Não foi possível reconectar o chip. Clique em Conectar para tentar novamente."
        ),
        Reason.OUTAGE: (
            "Vários chips falham ao mesmo tempo: o problema não é o seu chip e nada foi apagado. "
            "Aguarde alguns minutos e clique em Conectar de novo."
        ),
        Reason.BREAKER_OPEN: (
            "O chip caiu vezes demais em pouco tempo; as tentativas fazem uma pausa e voltam sozinhas. "
            "Clique em Conectar para tentar já."
        ),
        Reason.QUARANTINED: (
            "O chip cai repetidamente e está em quarentena; nossa equipe foi avisada e precisa liberá-lo."
        ),
        Reason.BANNED: (
            "Este número foi banido pelo WhatsApp e o chip não será reconectado. "
            "Peça a revisão no aplicativo do WhatsApp e fale com o suporte."
        ),
        Reason.DEAF: (
            "A sessão dizia estar conectada, mas não recebia nada. Se continuar, desconecte e conecte o chip."
        ),
        Reason.NO_EGRESS: "Nenhuma saída de rede configurada para o chip; nossa equipe precisa liberá-la.",
        Reason.NO_UPSTREAM: "Nenhum provedor de proxy disponível para o chip; nossa equipe foi avisada.",
        Reason.PROXY_AUTH: "O provedor de proxy recusou o acesso do sistema; nossa equipe foi avisada.",
        Reason.PROXY_UNREACHABLE: "O provedor de proxy não responde; nova tentativa em breve.",
        Reason.PROXY_REFUSED: "O provedor de proxy não permitiu a conexão; nova tentativa em breve.",
        Reason.PROXY_HOST_UNREACHABLE: (
            "O provedor de proxy não conseguiu chegar à internet; nova tentativa em breve."
        ),
        Reason.PROXY_PROTOCOL: "O provedor de proxy respondeu de forma inesperada; nova tentativa em breve.",
        Reason.TRAFFIC_EXHAUSTED: (
            "O volume de dados contratado com o provedor de proxy acabou; nossa equipe foi avisada."
        ),
        Reason.THREADS_EXHAUSTED: (
            "O provedor de proxy está no limite de conexões; o chip inicia assim que houver vaga."
        ),
        Reason.NO_PEER: "O provedor de proxy não tem endereço de saída disponível agora; nova tentativa em breve.",
        Reason.QUOTA: "O tráfego do plano neste mês acabou; o chip volta no próximo mês ou com outro plano.",
        Reason.PAUSED: "Em manutenção: os chips estão pausados e voltam sozinhos ao final.",
        Reason.RESTARTING: "O container está reiniciando a pedido; os chips voltam sozinhos em instantes.",
        Reason.ROLLOUT: (
            "Uma atualização aguarda a sua vez; o chip segue funcionando e reinicia sozinho quando ela chegar."
        ),
        Reason.DEPENDENCY_NOMAD: _STARTING_OR_AWAY,
        Reason.DEPENDENCY_CONSUL: _STARTING_OR_AWAY,
        Reason.DEPENDENCY_WAHA: _STARTING_OR_AWAY,
        Reason.DEPENDENCY_REDIS: _STARTING_OR_AWAY,
        Reason.DEPENDENCY_STORAGE: _STARTING_OR_AWAY,
    }
)


def reason_text(reason: str | None) -> str | None:
    """The pt-BR sentence for a reason code; None for none. Raises KeyError for an unknown code."""
    return None if reason is None else REASON_TEXT[Reason(reason)]


# A chip that pressing Conectar can help never has a status without that button
# (WAITING_QR and DISCONNECTED have it).
STATUS_NEEDS_PAIRING: Final = MappingProxyType(
    {
        ChipPhase.QUEUED: ChipStatusWord.WAITING_QR,
        ChipPhase.CREATING: ChipStatusWord.WAITING_QR,
        ChipPhase.STARTING: ChipStatusWord.WAITING_QR,
        ChipPhase.QR: ChipStatusWord.WAITING_QR,
        ChipPhase.PASSKEY: ChipStatusWord.WAITING_QR,
        ChipPhase.RETRYING: ChipStatusWord.WAITING_QR,
        ChipPhase.PARKED: ChipStatusWord.WAITING_QR,
        ChipPhase.FAILED: ChipStatusWord.WAITING_QR,
        ChipPhase.RECONNECTING: ChipStatusWord.WAITING_QR,
        ChipPhase.UNLINKED: ChipStatusWord.DISCONNECTED,
        ChipPhase.CONNECTED: ChipStatusWord.CONNECTED,
        ChipPhase.PAUSED: ChipStatusWord.MAINTENANCE,
        ChipPhase.QUARANTINED: ChipStatusWord.ERROR,
        ChipPhase.BANNED: ChipStatusWord.BANNED,
        ChipPhase.DISCONNECTING: ChipStatusWord.DISCONNECTED,
        ChipPhase.DISCONNECTED: ChipStatusWord.DISCONNECTED,
        ChipPhase.DELETING: ChipStatusWord.DISCONNECTED,
    }
)

STATUS_PAIRED: Final = MappingProxyType(
    {
        ChipPhase.QUEUED: ChipStatusWord.CONNECTING,
        ChipPhase.CREATING: ChipStatusWord.CONNECTING,
        ChipPhase.STARTING: ChipStatusWord.CONNECTING,
        ChipPhase.QR: ChipStatusWord.DISCONNECTED,
        ChipPhase.PASSKEY: ChipStatusWord.DISCONNECTED,
        ChipPhase.RETRYING: ChipStatusWord.CONNECTING,
        ChipPhase.RECONNECTING: ChipStatusWord.CONNECTING,
        ChipPhase.PARKED: ChipStatusWord.DISCONNECTED,
        ChipPhase.FAILED: ChipStatusWord.DISCONNECTED,
        ChipPhase.UNLINKED: ChipStatusWord.DISCONNECTED,
        ChipPhase.CONNECTED: ChipStatusWord.CONNECTED,
        ChipPhase.PAUSED: ChipStatusWord.MAINTENANCE,
        ChipPhase.QUARANTINED: ChipStatusWord.ERROR,
        ChipPhase.BANNED: ChipStatusWord.BANNED,
        ChipPhase.DISCONNECTING: ChipStatusWord.DISCONNECTED,
        ChipPhase.DISCONNECTED: ChipStatusWord.DISCONNECTED,
        ChipPhase.DELETING: ChipStatusWord.DISCONNECTED,
    }
)


def status_word(phase: ChipPhase, *, needs_pairing: bool) -> ChipStatusWord:
    """The API's status of a chip in `phase`."""
    return (STATUS_NEEDS_PAIRING if needs_pairing else STATUS_PAIRED)[phase]
