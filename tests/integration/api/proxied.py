"""The daemon's and the guards' side of proxies, played by a test: labels, exits, usage."""

from __future__ import annotations

from typing import Any

from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running

PASSWORD = "hunter2-do-provedor"


def operator(running: Running) -> Person:
    return Person("", "", OPERATOR_TOKEN, running.client)


async def provider(running: Running, slug: str = "dataimpulse", **more: Any) -> dict[str, Any]:
    body = {"slug": slug, "template": "dataimpulse", "cost_per_gb": "5.20", **more}
    answer = await operator(running).post("/fleet/providers", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def sub_user(
    running: Running, slug: str = "dataimpulse", login: str = "whago1", **more: Any
) -> dict[str, Any]:
    body = {"login": login, "password": PASSWORD, **more}
    answer = await operator(running).post(f"/fleet/providers/{slug}/sub-users", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def label(
    running: Running,
    person: Person,
    chip_id: str,
    sub_user: dict[str, Any],
    label: str = "k3j9x0a7q2mz",
    *,
    exit_ip: str | None = None,
    released: bool = False,
    failure: str | None = None,
) -> None:
    """What the daemon writes of a chip."""
    await running.sql(
        "INSERT INTO labels (chip_id, user_id, provider_slug, sub_user_id, generation, label, why, assigned_at, "
        "released_at, exit_ip, exit_since, exit_at, checked_at, failure) VALUES (:chip, :user, :provider, :sub_user, "
        "1, :label, 'first', now(), CASE WHEN :released THEN now() END, :ip, "
        "CASE WHEN CAST(:ip AS text) IS NOT NULL THEN now() END, "
        "CASE WHEN CAST(:ip AS text) IS NOT NULL THEN now() END, now(), :failure)",
        chip=chip_id,
        user=person.id,
        provider=sub_user["provider"],
        sub_user=sub_user["id"],
        label=label,
        released=released,
        ip=exit_ip,
        failure=failure,
    )


async def used(
    running: Running,
    person: Person,
    chip_id: str,
    bytes_in: int,
    bytes_out: int = 0,
    *,
    provider: str = "dataimpulse",
    month: str | None = None,
    errors: str = "{}",
) -> None:
    """What guards reported of a chip; `month`: its first day, this one by default."""
    await running.sql(
        "INSERT INTO proxy_usage (month, user_id, chip_id, provider_slug, bytes_in, bytes_out, tunnels, errors) "
        "VALUES (coalesce(CAST(CAST(:month AS text) AS date), CAST(date_trunc('month', timezone('UTC', now())) AS date)), "
        ":user, :chip, :provider, :bytes_in, :bytes_out, 3, CAST(:errors AS jsonb))",
        month=month,
        user=person.id,
        chip=chip_id,
        provider=provider,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        errors=errors,
    )
