"""Causes outside a container: the loop, what it depends on, operators, placement, the task. See `causes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from core.domain.cause_row import (
    ALLOC,
    EVALS,
    JOB,
    LOGS,
    NODES,
    NOTHING,
    SESSIONS,
    SHOW,
    TASKS,
    WE_KNOW,
    CauseRow,
    Proof,
    Situation,
)
from core.domain.states import Reason


def _capacity(operator: str) -> CauseRow:
    return CauseRow(
        loop="O Nomad coloca o container assim que houver espaço e o chip inicia em seguida.",
        owner=NOTHING,
        operator=operator,
        commands=(EVALS, NODES),
        proofs=(Proof.PLACEMENT,),
    )


def _away(loop: str, operator: str, commands: tuple[str, ...], *proofs: Proof) -> CauseRow:
    return CauseRow(loop, WE_KNOW, operator, commands, (Proof.AWAY, Proof.EFFECTS, *proofs))


_STILL_TRIES: Final = (
    "O sistema tenta de novo a cada poucos segundos; nada é parado nem desconectado enquanto isso."
)

OUTSIDE: Final[Mapping[str, CauseRow]] = MappingProxyType(
    {
        Situation.NOT_LOOKED_AT: CauseRow(
            loop="Outro processo assume este usuário em até um minuto e continua de onde parou.",
            owner=WE_KNOW,
            operator="see that a `wahafleet daemon` runs and reaches PostgreSQL: /ready and its log",
            commands=(SHOW,),
            text="Nenhum processo de controle olhou este chip nos últimos minutos.",
        ),
        # --- dependencies ----------------------------------------------------------------------------------
        Reason.DEPENDENCY_NOMAD: _away(
            _STILL_TRIES,
            "look at Nomad's servers and leader, and at NOMAD_TOKEN when it refuses",
            ("nomad server members", JOB),
            Proof.JOB,
        ),
        Reason.DEPENDENCY_CONSUL: _away(
            _STILL_TRIES,
            "look at the Consul agent beside the daemon, and at CONSUL_HTTP_TOKEN when it refuses",
            ("consul members",),
            Proof.CHECKS,
        ),
        Reason.DEPENDENCY_STORAGE: _away(
            _STILL_TRIES,
            "look at the storage server that the container's storage id names, and at the role in its DSN",
            (SHOW,),
            Proof.STORAGE,
        ),
        Reason.DEPENDENCY_REDIS: _away(
            "Tudo continua sem o cache, apenas mais devagar.",
            "look at Redis, no hurry: nothing waits for it",
            (),
        ),
        # --- operators -------------------------------------------------------------------------------------
        Reason.PAUSED: CauseRow(
            loop="O chip reconecta sozinho, sem novo QR Code, quando a manutenção terminar.",
            owner="Nada a fazer: aguarde o fim da manutenção.",
            operator="end the pause when the work is done",
            commands=("wahafleet fleet show", "wahafleet container resume {user}"),
        ),
        "banned": CauseRow(
            loop="Nada: um número banido não é iniciado de novo.",
            owner="Verifique no aparelho se o WhatsApp aceita um recurso e, se o número voltar, avise o suporte.",
            operator="lift the mark once WhatsApp has the number back",
            commands=("wahafleet chip ban --lift {chip}",),
            text="O WhatsApp baniu este número.",
        ),
        "quarantined": CauseRow(
            loop="Nada: o chip só volta depois que nossa equipe o liberar.",
            owner="Fale com o suporte e informe o código desta causa.",
            operator="find out why it kept failing, then release it",
            commands=("wahafleet chip release {chip}", LOGS),
            proofs=SESSIONS,
            text="O chip falhou muitas vezes seguidas e foi colocado em quarentena.",
        ),
        Situation.JOB_BY_HAND: CauseRow(
            loop="O sistema registra o container correto de novo e o chip reconecta sozinho.",
            owner=NOTHING,
            operator="the job was edited or stopped by somebody else; find out who, or use `wahafleet container pause`",
            commands=("nomad job history -p {job}", JOB),
            proofs=(Proof.JOB, Proof.ALLOCATIONS),
            text="O container deste usuário foi alterado por fora; o sistema o restaura.",
        ),
        "rollout": CauseRow(
            loop="O container é atualizado quando chegar a sua vez; até lá tudo continua como está.",
            owner=NOTHING,
            operator="see how far the rollout is and whether it paused itself",
            commands=("wahafleet rollout status",),
            text="Uma atualização do serviço do WhatsApp espera a vez deste usuário.",
        ),
        "restarting": CauseRow(
            loop="O container reinicia e os chips reconectam sozinhos, sem novo QR Code.",
            owner="Nada a fazer: aguarde cerca de um minuto.",
            operator="nothing; when it does not come back, its log says why",
            commands=(ALLOC, LOGS),
            proofs=TASKS,
            text="O reinício do container foi pedido e está em andamento.",
        ),
        # --- placement -------------------------------------------------------------------------------------
        Reason.NO_PORT: _capacity("add a host, or widen the range of dynamic ports in the hosts' client.hcl"),
        Reason.NO_MEMORY: _capacity("add a host, or free memory on one"),
        Reason.NO_CPU: _capacity("add a host, or free CPU on one"),
        Reason.NO_HOST: _capacity(
            "see that hosts are ready, eligible and in the right node pool and datacenter"
        ),
        Situation.CONSTRAINT_UNMET: msgspec.structs.replace(
            _capacity(
                "no host meets a constraint of the job: see which one, then mend the hosts or the jobspec"
            ),
            text="Nenhum host atende às exigências do container; o chip inicia assim que houver um que atenda.",
        ),
        Reason.PLACEMENT_SLOW: CauseRow(
            loop="O Nomad decide assim que voltar a avaliar; o sistema continua olhando.",
            owner=WE_KNOW,
            commands=(EVALS, "nomad server members"),
            proofs=(Proof.JOB, Proof.PLACEMENT),
        ),
        Reason.POSSIBLY_ALIVE: CauseRow(
            loop="Quando for certo que o container antigo parou, outro inicia e o chip reconecta sem QR Code.",
            owner="Nada a fazer: iniciar antes poderia desconectar o chip do WhatsApp.",
            operator="bring the host back; `nomad node purge` only when the machine is gone for good",
            commands=(NODES, ALLOC),
            proofs=(Proof.ALLOCATIONS, Proof.CHECKS),
        ),
        Reason.ALLOCATION_VANISHED: CauseRow(
            loop="Quando for certo que o container antigo parou, outro inicia e o chip reconecta sem QR Code.",
            owner="Nada a fazer: iniciar antes poderia desconectar o chip do WhatsApp.",
            operator="nothing; find out who purges jobs",
            commands=(JOB,),
            proofs=(Proof.JOB, Proof.ALLOCATIONS),
        ),
        Reason.JOB_REJECTED: CauseRow(
            loop="O registro é tentado de novo de tempos em tempos.",
            owner=WE_KNOW,
            operator="`effect_failed` in the daemon's log has Nomad's words; mend the setting or the ACL policy it names",
            commands=(JOB,),
            proofs=(Proof.EFFECTS, Proof.JOB),
        ),
        Reason.JOB_NOT_RENDERABLE: CauseRow(
            loop="O que já roda continua; nada novo inicia até a configuração ser corrigida.",
            owner=WE_KNOW,
            operator="`job_not_renderable` in the daemon's log lists the settings to mend; restart the daemon after that",
            commands=("wahafleet settings",),
        ),
        # --- task ------------------------------------------------------------------------------------------
        Reason.IMAGE_PULL: CauseRow(
            loop="O Nomad baixa a imagem de novo em até cinco minutos.",
            owner=WE_KNOW,
            operator="see that the host reaches the registry and that WAHAFLEET_IMAGE exists there",
            commands=(ALLOC,),
            proofs=TASKS,
        ),
        Reason.PORT_IN_USE: CauseRow(
            loop="O Nomad coloca o container em outra porta em até cinco minutos.",
            owner=NOTHING,
            operator="something that Nomad does not know listens there: find it with `ss -ltnp`, or reserve the port",
            commands=(ALLOC,),
            proofs=TASKS,
        ),
        Situation.OUT_OF_MEMORY: CauseRow(
            loop="O Nomad inicia o container de novo e os chips reconectam sozinhos.",
            owner="Se acontecer de novo, use menos chips ao mesmo tempo ou um plano maior.",
            operator="give the plan more memory_max_mb, or look for a leak in this image",
            commands=(ALLOC, "nomad alloc status -stats {allocation}"),
            proofs=TASKS,
            text="O serviço do WhatsApp usou toda a memória do plano e foi encerrado.",
        ),
        Reason.TASK_FAILED: CauseRow(
            loop="O Nomad inicia o container de novo, no mesmo host ou em outro, em até cinco minutos.",
            owner=WE_KNOW,
            operator="its exit code stands in the events, why in its log",
            commands=(ALLOC, LOGS),
            proofs=TASKS,
        ),
        Reason.PORT_CONFLICT: CauseRow(
            loop="O endereço é liberado assim que o outro container terminar; o sistema continua olhando.",
            owner=WE_KNOW,
            operator="`port_conflict` in the daemon's log names the holder; stop the one that Nomad does not know",
            commands=(SHOW, ALLOC),
            proofs=TASKS,
        ),
    }
)
