from __future__ import annotations

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import validate

from api.app import create_app
from api.openapi import with_examples
from api.schemas import Chip
from core.domain.views import ChipView
from core.settings import Settings


@pytest.fixture(scope="module")
def document(settings: Settings) -> dict[str, Any]:
    return with_examples(create_app(settings).openapi_schema.to_schema())


def operations(document: dict[str, Any]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


ROUTES = {
    "register": ("POST", "/api/v1/auth/register"),
    "login": ("POST", "/api/v1/auth/login"),
    "refresh": ("POST", "/api/v1/auth/refresh"),
    "logout": ("POST", "/api/v1/auth/logout"),
    "listApiKeys": ("GET", "/api/v1/api-keys"),
    "createApiKey": ("POST", "/api/v1/api-keys"),
    "revokeApiKey": ("DELETE", "/api/v1/api-keys/{key_id}"),
    "getMe": ("GET", "/api/v1/users/me"),
    "changeMe": ("PUT", "/api/v1/users/me"),
    "listChips": ("GET", "/api/v1/chips"),
    "createChip": ("POST", "/api/v1/chips"),
    "getChip": ("GET", "/api/v1/chips/{chip_id}"),
    "deleteChip": ("DELETE", "/api/v1/chips/{chip_id}"),
    "getChipQr": ("GET", "/api/v1/chips/{chip_id}/qr"),
    "disconnectChip": ("POST", "/api/v1/chips/{chip_id}/disconnect"),
    "reconnectChip": ("POST", "/api/v1/chips/{chip_id}/reconnect"),
    "explainChip": ("GET", "/api/v1/chips/{chip_id}/explain"),
    "getFleet": ("GET", "/api/v1/fleet"),
    "streamFleet": ("GET", "/api/v1/fleet/events"),
    "getFleetPlan": ("GET", "/api/v1/fleet/plan"),
    "pauseFleet": ("POST", "/api/v1/fleet/pause"),
    "resumeFleet": ("POST", "/api/v1/fleet/resume"),
    "listContainers": ("GET", "/api/v1/containers"),
    "cleanupContainers": ("POST", "/api/v1/containers/cleanup"),
    "putContainer": ("PUT", "/api/v1/containers/{user_id}"),
    "deleteContainer": ("DELETE", "/api/v1/containers/{user_id}"),
    "listChipEvents": ("GET", "/api/v1/chips/{chip_id}/events"),
    "streamChip": ("GET", "/api/v1/chips/{chip_id}/stream"),
    "requestPairingCode": ("POST", "/api/v1/chips/{chip_id}/pairing-code"),
    "getChipProxy": ("GET", "/api/v1/chips/{chip_id}/proxy"),
    "listChipExits": ("GET", "/api/v1/chips/{chip_id}/proxy/history"),
    "rotateChipLabel": ("POST", "/api/v1/chips/{chip_id}/proxy/rotate"),
    "getProxyUsage": ("GET", "/api/v1/user/proxy/usage"),
    "getFleetProxyUsage": ("GET", "/api/v1/fleet/proxy/usage"),
    "listProviderTemplates": ("GET", "/api/v1/fleet/provider-templates"),
    "listProviders": ("GET", "/api/v1/fleet/providers"),
    "createProvider": ("POST", "/api/v1/fleet/providers"),
    "getProvider": ("GET", "/api/v1/fleet/providers/{provider}"),
    "changeProvider": ("PUT", "/api/v1/fleet/providers/{provider}"),
    "removeProvider": ("DELETE", "/api/v1/fleet/providers/{provider}"),
    "setDefaultProvider": ("POST", "/api/v1/fleet/providers/{provider}/default"),
    "clearProviderTrouble": ("DELETE", "/api/v1/fleet/providers/{provider}/trouble"),
    "dryRunProvider": ("POST", "/api/v1/fleet/providers/{provider}/dry-run"),
    "listSubUsers": ("GET", "/api/v1/fleet/providers/{provider}/sub-users"),
    "createSubUser": ("POST", "/api/v1/fleet/providers/{provider}/sub-users"),
    "changeSubUser": ("PUT", "/api/v1/fleet/providers/{provider}/sub-users/{sub_user_id}"),
    "removeSubUser": ("DELETE", "/api/v1/fleet/providers/{provider}/sub-users/{sub_user_id}"),
    "clearSubUserTrouble": ("DELETE", "/api/v1/fleet/providers/{provider}/sub-users/{sub_user_id}/trouble"),
    "putAnnotation": ("PUT", "/api/v1/chips/{chip_id}/annotations/{key}"),
    "deleteAnnotation": ("DELETE", "/api/v1/chips/{chip_id}/annotations/{key}"),
    "getContainer": ("GET", "/api/v1/containers/{user_id}"),
    "getContainerAccess": ("GET", "/api/v1/containers/{user_id}/access"),
    "getContainerStats": ("GET", "/api/v1/containers/{user_id}/stats"),
    "getContainerLogs": ("GET", "/api/v1/containers/{user_id}/logs"),
    "restartContainer": ("POST", "/api/v1/containers/{user_id}/restart"),
    "getMyContainer": ("GET", "/api/v1/me/container"),
    "restartMyContainer": ("POST", "/api/v1/me/container/restart"),
    "receiveWahaWebhook": ("POST", "/api/v1/webhooks/waha/{user_id}"),
    "health": ("GET", "/health"),
    "live": ("GET", "/health/live"),
    "ready": ("GET", "/health/ready"),
    "metrics": ("GET", "/metrics"),
}


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_every_route_is_there_under_its_own_name(document: dict[str, Any]) -> None:
    assert {name: found[:2] for name, found in operations(document).items()} == ROUTES


@pytest.mark.parametrize("name", ROUTES)
def test_every_example_fits_its_schema(document: dict[str, Any], name: str) -> None:
    _, _, operation = operations(document)[name]
    assert operation["summary"]
    shown = [*operation.get("requestBody", {}).get("content", {}).values()]
    for status, answer in operation["responses"].items():
        assert answer["description"]
        contents = answer.get("content", {})
        if int(status) >= 400:
            assert list(contents) == ["application/problem+json"], (name, status)
        shown += contents.values()
    for content in shown:
        schema = {**content["schema"], "components": document["components"]}
        jsonschema.validate(content["example"], schema, cls=jsonschema.Draft202012Validator)


def test_a_chip_is_documented_as_it_is_rendered() -> None:
    assert Chip.__struct_fields__ == ChipView.__struct_fields__


def test_every_route_of_a_user_says_that_it_needs_a_token(document: dict[str, Any]) -> None:
    accounts = {"register", "login", "refresh", "logout"}
    open_to_all = accounts | {"health", "live", "ready", "metrics", "receiveWahaWebhook"}
    for name, (_, _, operation) in operations(document).items():
        assert bool(operation.get("security")) is (name not in open_to_all)
        if name not in open_to_all:
            assert {"401", "403", "503"} <= operation["responses"].keys()
