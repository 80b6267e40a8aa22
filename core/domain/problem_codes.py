"""Every `code` of the API's problems: its HTTP status, a sentence as people see it, and what a caller can do.

The one source: answers take their status from here, examples their sentences, the catalogue in the docs all of it.
A code that is raised somewhere and stands not here fails a test, and so does one that nobody raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec


class ProblemKind(msgspec.Struct, frozen=True):
    """One code.

    Attributes:
        status: HTTP status of every answer with this code.
        detail: a sentence as it is shown, Brazilian Portuguese; where it holds figures, one example of it.
        remedy: what a caller can do about it.
    """

    status: int
    detail: str
    remedy: str


_TRY_LATER: Final = "Try again after `Retry-After` seconds."
_LOG_IN: Final = "Log in again and send the new token."

PROBLEM_KINDS: Final[Mapping[str, ProblemKind]] = MappingProxyType(
    {
        # The request itself
        "route_not_found": ProblemKind(
            404, "Rota não encontrada.", "Check the path against `/schema`; credentials play no part."
        ),
        "method_not_allowed": ProblemKind(
            405, "Método não permitido.", "Use one of the methods that `Allow` lists."
        ),
        "bad_request": ProblemKind(
            400,
            "A requisição não pôde ser entendida. Confira os dados enviados.",
            "Check headers, path and query for what is no valid text.",
        ),
        "invalid_json": ProblemKind(
            400,
            "O corpo da requisição não é um JSON válido.",
            "Send one JSON object in UTF-8, whatever the content type.",
        ),
        "body_too_large": ProblemKind(
            413, "O corpo da requisição é grande demais.", "Send at most 64 KiB (webhooks: 1 MiB)."
        ),
        "invalid_input": ProblemKind(
            422,
            "Telefone: Telefone inválido. Use formato +5511999999999.",
            "Correct each field that `errors` names; `detail` names them all.",
        ),
        # Who calls
        "token_missing": ProblemKind(
            401,
            "Token de acesso não encontrado.",
            "Send the access token as cookie or bearer, or an API key.",
        ),
        "invalid_token": ProblemKind(401, "Token inválido ou expirado.", _LOG_IN),
        "token_without_subject": ProblemKind(401, "Token sem identificador de usuário.", _LOG_IN),
        "invalid_user": ProblemKind(
            401, "Usuário inválido ou inativo.", "The account is gone or inactive; ask who runs the service."
        ),
        "invalid_api_key": ProblemKind(
            401, "API Key inválida.", "Check the key for cuts; make a new one if it was revoked."
        ),
        "refresh_token_missing": ProblemKind(
            401, "Refresh token não encontrado.", "Send the cookie `whago_refresh_token`, or log in again."
        ),
        "invalid_refresh_token": ProblemKind(
            401, "Refresh token inválido ou expirado.", "Log in again; each refresh token may be used once."
        ),
        "wrong_login": ProblemKind(
            401, "Email ou senha incorretos.", "Type both again; the answer never says which one is wrong."
        ),
        "bad_guard_key": ProblemKind(
            401, "Chave do guarda inválida.", "Give the guard its own node's key: `wahafleet guard key NODE`."
        ),
        "not_its_node": ProblemKind(
            403, "O guarda responde apenas pelo próprio nó.", "A guard speaks for the node of its key alone."
        ),
        "bad_signature": ProblemKind(
            401,
            "Assinatura do webhook inválida.",
            "Sign the raw body with the container's hook key (HMAC-SHA512, hex).",
        ),
        "account_suspended": ProblemKind(
            403,
            "Sua conta está suspensa. Entre em contato com o suporte.",
            "An operator lifts the suspension.",
        ),
        "user_required": ProblemKind(
            403,
            "Esta rota pertence a um usuário. Entre com o token de um usuário.",
            "The operator's token is nobody in particular; use a user's.",
        ),
        "operator_required": ProblemKind(
            403, "Recurso disponível apenas para operadores.", "Use an operator's token or key."
        ),
        "service_required": ProblemKind(
            403,
            "Recurso disponível apenas para serviços autorizados.",
            "Use the key of a trusted service or of an operator.",
        ),
        "plan_without_api": ProblemKind(
            403,
            "Recurso disponível apenas no plano Enterprise.",
            "Change to a plan with API access; keys work again then.",
        ),
        "plan_not_known": ProblemKind(
            403,
            "O plano desta conta ainda não está disponível neste serviço. Entre em contato com o suporte.",
            "An operator makes the plan known with `wahafleet plan set`.",
        ),
        # Accounts
        "api_key_not_found": ProblemKind(
            404, "API Key não encontrada.", "List `/api-keys`: it is unknown, or somebody else's."
        ),
        "email_taken": ProblemKind(400, "Este email já está cadastrado.", "Log in, or use another e-mail."),
        "unknown_plan": ProblemKind(
            400, "Plano selecionado é inválido.", "Use the slug of a plan that exists."
        ),
        # Chips and containers
        "chip_not_found": ProblemKind(
            404, "Chip não encontrado.", "List `/chips`: it is unknown, deleted, or somebody else's."
        ),
        "alias_taken": ProblemKind(
            400, "Já existe um chip com esse apelido.", "Choose another alias; letter case does not count."
        ),
        "chip_limit": ProblemKind(
            403, "Limite de chips do plano atingido.", "Delete a chip, or change the plan."
        ),
        "proxy_quota": ProblemKind(
            402,
            "Limite de proxy excedido (5/5 GB). Faça upgrade ou aguarde renovação mensal.",
            "Change the plan, or wait for the next calendar month.",
        ),
        "container_not_found": ProblemKind(
            404,
            "Container não encontrado.",
            "The user is unknown, or has no container: it comes with a chip.",
        ),
        "user_not_found": ProblemKind(
            404, "Usuário não encontrado.", "Check the id or e-mail; an account is made by registering."
        ),
        "container_not_placed": ProblemKind(
            409,
            "O container ainda não tem porta. Tente novamente em instantes.",
            "Wait until the container has a port; `reason` of the container says what it waits for.",
        ),
        # Providers and labels
        "provider_not_found": ProblemKind(
            404, "Provedor não encontrado.", "List `/fleet/providers`: it is unknown, or was removed."
        ),
        "provider_exists": ProblemKind(
            409,
            "Já existe um provedor dataimpulse; altere esse ou escolha outro nome.",
            "Change the one that is there, or take another slug.",
        ),
        "provider_disabled": ProblemKind(
            409,
            "O provedor dataimpulse está desabilitado; habilite-o antes de torná-lo o padrão.",
            "Enable the provider first.",
        ),
        "provider_in_use": ProblemKind(
            409,
            "O provedor dataimpulse ainda atende 12 chips; desabilite-o, espere os chips mudarem para outro e "
            "exclua-o depois.",
            "Make another provider the default, disable this one, and remove it when its `chips` are 0.",
        ),
        "provider_has_usage": ProblemKind(
            409,
            "O provedor dataimpulse teve tráfego neste mês e o custo depende dele; desabilite-o agora e exclua-o no "
            "próximo mês.",
            "Disable it now and remove it next month: what it costs is told from its price.",
        ),
        "sub_user_not_found": ProblemKind(
            404,
            "Sub-usuário não encontrado.",
            "List the provider's `sub-users`: it is unknown, or was removed.",
        ),
        "sub_user_exists": ProblemKind(
            409,
            "O provedor dataimpulse já tem o login whago1; altere esse sub-usuário.",
            "Change the one that is there.",
        ),
        "sub_user_in_use": ProblemKind(
            409,
            "O sub-usuário whago1 ainda atende 12 chips; desabilite-o, espere os chips mudarem para outro e exclua-o "
            "depois.",
            "Disable it, and remove it when its `chips` are 0.",
        ),
        "label_missing": ProblemKind(
            409,
            "Este chip ainda não tem um rótulo de proxy para trocar; ele recebe um quando iniciar.",
            "Connect the chip: it gets its label before its session starts.",
        ),
        # Idempotency-Key
        "idempotency_key_reused": ProblemKind(
            409,
            "Esta Idempotency-Key já foi usada com outra requisição. Use uma nova chave.",
            "Take a new key for each request; the same key only to send the same request again.",
        ),
        "idempotency_in_progress": ProblemKind(
            409,
            "A primeira requisição com esta Idempotency-Key ainda está em andamento. Tente novamente em 2 segundos.",
            _TRY_LATER,
        ),
        "idempotency_answer_lost": ProblemKind(
            409,
            "Esta requisição já foi executada, mas a resposta se perdeu. Consulte o estado atual.",
            "Read what there is now; send it again under a new key only if it is not there.",
        ),
        "chip_connected": ProblemKind(
            409,
            "O chip já está conectado. Desconecte-o antes de parear outro aparelho.",
            "Disconnect the chip first, or leave it as it is.",
        ),
        "chip_not_pairable": ProblemKind(
            409,
            "O chip não pode ser pareado agora. Veja a situação do chip e tente novamente.",
            "`GET /chips/{id}/explain` says what holds it up and who can help.",
        ),
        "passkey_required": ProblemKind(
            409,
            "O WhatsApp pediu uma chave de acesso (passkey). Confirme no celular que tem este número.",
            "Confirm on the phone; no code is needed.",
        ),
        "pairing_refused": ProblemKind(
            409,
            "O WhatsApp não aceitou gerar um código para este número. Confira o número ou use o QR Code.",
            "Check the number, or pair by QR.",
        ),
        "annotation_key": ProblemKind(
            422,
            "Chave: A chave node é reservada; use outra, sem o prefixo waha.",
            "Choose a key of letters, digits, `_`, `.` and `-` that is none of ours and does not begin with `waha`.",
        ),
        "annotation_value": ProblemKind(
            422,
            "O JSON contém um valor que não pode ser guardado: use textos sem o caractere nulo, números de até "
            "64 bits e no máximo 32 níveis.",
            "Leave out NUL characters, numbers beyond 64 bits and deeper nesting.",
        ),
        "annotation_too_large": ProblemKind(
            413, "A anotação passa de 16 KiB; guarde menos dados.", "Keep at most 16 KiB under one key."
        ),
        "annotations_full": ProblemKind(
            409,
            "O chip já guarda anotações demais (até 32 chaves e 64 KiB); remova alguma antes.",
            "Delete annotations that nobody needs.",
        ),
        "too_many_streams": ProblemKind(
            429,
            "Muitas conexões ao vivo abertas ao mesmo tempo. Feche outra aba ou conexão e tente de novo em "
            "10 segundos.",
            "Close streams or sockets that nobody reads; one chip needs one.",
        ),
        # General, where nothing more particular fits
        "not_found": ProblemKind(404, "Não encontrado.", "Check the id."),
        "unauthenticated": ProblemKind(401, "Não autenticado.", _LOG_IN),
        "forbidden": ProblemKind(403, "Não permitido.", "Use an account that may do it."),
        "quota_exceeded": ProblemKind(403, "Cota excedida.", "Free something, or change the plan."),
        "conflict": ProblemKind(
            409, "Conflito com o estado atual.", "Read the present state and decide anew."
        ),
        "login_throttled": ProblemKind(
            429,
            "Muitas tentativas de login. Tente novamente em 840 segundos.",
            "Wait as long as `Retry-After` says, then make sure of the password; an operator can set a new one.",
        ),
        "key_limit": ProblemKind(
            429,
            "Limite de requisições por minuto atingido para esta API Key.",
            "Wait as long as `Retry-After` says; ask for what changes only as often as it does.",
        ),
        "too_many_requests": ProblemKind(
            429, "Muitas requisições. Tente novamente em 12 segundos.", _TRY_LATER
        ),
        # Ours
        "internal_error": ProblemKind(
            500,
            "Ocorreu um erro inesperado. Tente novamente em instantes.",
            "Try again; report it with `X-Request-ID` if it stays.",
        ),
        "service_unavailable": ProblemKind(
            503, "Serviço temporariamente indisponível. Tente novamente em instantes.", _TRY_LATER
        ),
    }
)
