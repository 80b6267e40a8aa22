"""Causes inside a container: its boot, its isolation, sessions, pairing, budgets. See `causes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from core.domain.cause_row import (
    ALLOC,
    JOB,
    LOGS,
    NOTHING,
    PRESS,
    SESSIONS,
    SHOW,
    TASKS,
    WE_KNOW,
    CauseRow,
    Proof,
    Situation,
)
from core.domain.causes_egress import EGRESS
from core.domain.states import Reason

INSIDE: Final[Mapping[str, CauseRow]] = MappingProxyType(
    {
        # --- boot ------------------------------------------------------------------------------------------
        Reason.DEPENDENCY_WAHA: CauseRow(
            loop="O sistema pergunta de novo ao serviço do WhatsApp a cada poucos segundos.",
            owner=WE_KNOW,
            operator="the container passes its check and does not answer its API: read its log, restart it if it hangs",
            commands=(LOGS, ALLOC),
            proofs=(Proof.AWAY, *TASKS, Proof.EFFECTS),
        ),
        Situation.CONTAINER_MOVING: CauseRow(
            loop="Assim que o novo container responder, o chip reconecta com as mesmas credenciais.",
            owner="Nada a fazer: aguarde cerca de um minuto.",
            commands=(JOB, ALLOC),
            proofs=TASKS,
            text="O container está sendo levado para outro lugar.",
        ),
        Situation.CONTAINER_STARTING: CauseRow(
            loop="Assim que o container responder, a sessão do chip inicia.",
            owner="Nada a fazer: aguarde cerca de um minuto.",
            commands=(JOB, ALLOC),
            proofs=(Proof.JOB, Proof.PLACEMENT, *TASKS),
            text="O container deste usuário está iniciando.",
        ),
        Reason.WAHA_NOT_READY: CauseRow(
            loop="A sessão inicia assim que a verificação do Consul passar; o Nomad reinicia o que encerrar.",
            owner=WE_KNOW,
            operator="the task runs and its check does not pass: its log says why",
            commands=(LOGS, ALLOC),
            proofs=TASKS,
        ),
        Situation.INSTANCE_MISSING: CauseRow(
            loop="A sessão inicia assim que o Consul listar o container.",
            owner=WE_KNOW,
            operator="the task runs and Consul does not list it: look at the Consul agent of its host and Nomad's link to it",
            commands=(ALLOC, "consul catalog nodes -service waha-plus"),
            proofs=TASKS,
            text="O container roda, mas o Consul não o lista.",
        ),
        # --- key and storage isolation ---------------------------------------------------------------------
        Reason.WAHA_KEY_REJECTED: CauseRow(
            loop="A chave é gravada de novo e o container substituído uma vez.",
            owner=WE_KNOW,
            operator="see that nothing else answers on that port and that the image takes WAHA_API_KEY",
            commands=("nomad alloc stop {allocation}", ALLOC),
            proofs=(Proof.AWAY, *TASKS),
        ),
        Reason.STORAGE_NOT_ISOLATED: CauseRow(
            loop="Nenhum outro chip deste usuário inicia enquanto isso não mudar.",
            owner=WE_KNOW,
            operator="the image ignores its storage namespace: set another WAHAFLEET_IMAGE before anything else",
            commands=(SHOW,),
            proofs=(Proof.STORAGE, Proof.SESSION),
        ),
        # --- session ---------------------------------------------------------------------------------------
        Situation.NOT_SEEN: CauseRow(
            loop="O pedido é atendido em instantes.",
            owner="Nada a fazer: aguarde alguns segundos.",
            operator="nothing, unless it stays",
            text="O pedido foi aceito e está na fila.",
        ),
        **EGRESS,
        "deaf": CauseRow(
            loop="A sessão deste chip é reiniciada sozinha, com as mesmas credenciais.",
            owner="Nada a fazer: aguarde cerca de um minuto.",
            operator="when many chips of one host or provider turn deaf, look at the egress",
            commands=(LOGS,),
            proofs=SESSIONS,
            text="O chip diz estar conectado, mas deixou de receber mensagens.",
        ),
        Reason.SESSION_SLOW: CauseRow(
            loop="A sessão é reiniciada mais algumas vezes; depois o botão Conectar volta.",
            owner="Nada a fazer agora; clique em Conectar quando o botão voltar.",
            operator="look at the egress when many chips have it, at the log when it is one",
            commands=(LOGS,),
            proofs=SESSIONS,
        ),
        Situation.SESSION_FAILED: CauseRow(
            loop="A sessão é reiniciada com as mesmas credenciais depois de uma pausa.",
            owner="Nada a fazer agora; clique em Conectar quando o botão voltar.",
            operator="look at the egress when many chips have it, at the log when it is one",
            commands=(LOGS,),
            proofs=SESSIONS,
            text="A sessão do WhatsApp falhou.",
        ),
        Situation.SESSION_STARTING: CauseRow(
            loop="Se não subir a tempo, a sessão é reiniciada.",
            owner="Nada a fazer: aguarde alguns segundos.",
            commands=(LOGS,),
            proofs=SESSIONS,
            text="A sessão do WhatsApp está iniciando.",
        ),
        Reason.WAHA_REJECTED: CauseRow(
            loop="Nada: a mesma configuração seria recusada de novo.",
            owner=PRESS + " Se repetir, fale com o suporte.",
            operator="`effect_failed` in the daemon's log has WAHA's words",
            commands=(LOGS,),
            proofs=(Proof.EFFECTS, Proof.SESSION),
        ),
        Reason.RECONNECT_FAILED: CauseRow(
            loop="Nada até um novo clique: as tentativas deste pedido acabaram.",
            owner=PRESS,
            operator="its trail says where it fails; look at the egress when many chips have it",
            commands=(LOGS,),
            proofs=SESSIONS,
        ),
        Reason.STOP_SLOW: CauseRow(
            loop="A parada é repetida até ser confirmada.",
            owner=NOTHING,
            operator="see whether its container answers, and whether its host is there: a host that is away reports no end",
            commands=(ALLOC, JOB),
            proofs=(Proof.SESSION, Proof.ALLOCATIONS),
        ),
        "outage": CauseRow(
            loop="Nada é apagado; depois que a falha geral passar, um clique em Conectar basta.",
            owner="Aguarde alguns minutos e clique em Conectar de novo.",
            operator="other chips of the same engine, host or provider fail too: look at what they share",
            commands=(LOGS,),
            proofs=SESSIONS,
            text="Vários chips falham ao mesmo tempo: o problema não é este chip.",
        ),
        Situation.DISCONNECTING: CauseRow(
            loop="A sessão é parada de novo até o serviço do WhatsApp confirmar.",
            owner=NOTHING,
            proofs=(Proof.SESSION,),
            text="O chip está sendo desconectado, como pedido.",
        ),
        # --- pairing ---------------------------------------------------------------------------------------
        Reason.UNLINKED: CauseRow(
            loop="Nada até um novo clique: as credenciais do aparelho não existem mais.",
            owner="Clique em Conectar e escaneie o novo QR Code com o celular deste número.",
            operator="nothing: only its owner can pair it",
            proofs=(Proof.SESSION,),
        ),
        Reason.QR_SPENT: CauseRow(
            loop="Nada até um novo clique: os QR Codes deste pedido acabaram.",
            owner="Clique em Conectar e escaneie o QR Code em até dois minutos e meio.",
            operator="nothing: only its owner can pair it",
            proofs=(Proof.SESSION,),
        ),
        Situation.WAITS_FOR_SCAN: CauseRow(
            loop="O QR Code é trocado sozinho e expira se ninguém o escanear.",
            owner="Abra o WhatsApp no celular e escaneie o QR Code.",
            operator="nothing: only its owner can pair it",
            proofs=(Proof.SESSION,),
            text="O QR Code espera ser escaneado.",
        ),
        Situation.WAITS_FOR_PASSKEY: CauseRow(
            loop="A espera termina sozinha se ninguém confirmar.",
            owner="Confirme a chave de acesso (passkey) no celular que tem este número.",
            operator="nothing: only its owner can confirm it",
            proofs=(Proof.SESSION,),
            text="O WhatsApp pediu uma chave de acesso (passkey).",
        ),
        # --- budgets and pace ------------------------------------------------------------------------------
        Reason.PLAN_LIMIT: CauseRow(
            loop="O chip inicia quando a sessão de outro chip terminar.",
            owner="Aguarde a remoção do outro chip, desconecte um, ou mude de plano.",
            operator="`wahafleet container show` names its chips; a deleted one may still be logging out",
            commands=(SHOW,),
            proofs=(Proof.SESSION,),
        ),
        "breaker_open": CauseRow(
            loop="Quando a pausa terminar, uma nova tentativa é feita sozinha.",
            owner="Aguarde, ou clique em Conectar para tentar uma vez agora.",
            operator="it was started too often in a short time; its trail says where it fails",
            commands=(LOGS,),
            proofs=SESSIONS,
            text="O chip foi iniciado muitas vezes em pouco tempo e faz uma pausa.",
        ),
        "paced": CauseRow(
            loop="O chip inicia sozinho quando chegar a sua vez.",
            owner=NOTHING,
            operator="starts are spread over time; WAHAFLEET_STARTS_PER_S and its sisters set how fast",
            text="Muitos chips estão iniciando ao mesmo tempo; este espera a sua vez.",
        ),
        # --- nothing wrong ---------------------------------------------------------------------------------
        Situation.DISCONNECTED: CauseRow(
            loop="Nada: o chip fica desconectado até um novo pedido; as credenciais são mantidas.",
            owner="Clique em Conectar para conectar novamente.",
            operator="nothing: its owner wants it so",
            text="O chip foi desconectado a pedido.",
        ),
        Situation.CONNECTED: CauseRow(
            loop="O sistema reconecta sozinho se a conexão cair.",
            owner="Nada a fazer.",
            operator="nothing",
            text="O chip está conectado.",
        ),
    }
)
