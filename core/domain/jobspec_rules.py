"""What may stand in a rendered job: known environment variables, an image that can keep users apart, no secret.

An environment variable that WAHA does not know is ignored by it without a word, so a misspelt one looks set
and is not. Hence the closed list, with the release that brought each (WAHA documentation, "Configuration" and
changelog; where the release is not known, the oldest one that we run at all).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from core.domain.jobspec_template import texts

Version = tuple[int, int, int]

# Storage namespaces (WAHA changelog 2026.3.1); without them two users on one server see each other's sessions.
OLDEST: Final[Version] = (2026, 3, 1)
ENGINES: Final = ("GOWS", "NOWEB", "WEBJS", "WPP")

WAHA_VARIABLES: Final[Mapping[str, Version]] = {
    "WAHA_API_KEY": OLDEST,
    "WAHA_APPS_ENABLED": OLDEST,
    "WAHA_AUTO_START_DELAY_SECONDS": OLDEST,
    "WAHA_DASHBOARD_ENABLED": OLDEST,
    "WAHA_HTTP_LOG_LEVEL": OLDEST,
    "WAHA_LOG_FORMAT": OLDEST,
    "WAHA_LOG_LEVEL": OLDEST,
    "WAHA_NAMESPACE": OLDEST,
    "WAHA_PRINT_QR": OLDEST,
    "WAHA_SESSION_NAMESPACE": OLDEST,
    "WAHA_WORKER_ID": OLDEST,
    "WAHA_WORKER_RESTART_SESSIONS": OLDEST,
    "WHATSAPP_API_PORT": OLDEST,
    "WHATSAPP_DEFAULT_ENGINE": OLDEST,
    "WHATSAPP_HOOK_EVENTS": OLDEST,
    "WHATSAPP_HOOK_HMAC_KEY": OLDEST,
    "WHATSAPP_HOOK_RETRIES_ATTEMPTS": OLDEST,
    "WHATSAPP_HOOK_RETRIES_DELAY_SECONDS": OLDEST,
    "WHATSAPP_HOOK_RETRIES_POLICY": OLDEST,
    "WHATSAPP_HOOK_URL": OLDEST,
    "WHATSAPP_RESTART_ALL_SESSIONS": OLDEST,
    "WHATSAPP_SESSIONS_POSTGRESQL_URL": OLDEST,
    "WHATSAPP_SWAGGER_ENABLED": OLDEST,
}
# Of the operating system and of Node, not of WAHA.
RUNTIME_VARIABLES: Final = frozenset({"NODE_OPTIONS", "TZ"})
_SIMULATOR_VARIABLE = re.compile(r"WAHA_SIM_[A-Z0-9_]+\Z")

_VERSION = re.compile(r"(20\d\d)\.(\d{1,2})\.(\d{1,2})(?![\d.])")
_TEMPLATE_LINE = re.compile(r"^\s*([A-Za-z_]\w*)=", re.MULTILINE)

_API_KEY_HASH = re.compile(r"sha512:[0-9a-f]{128}\Z")
# What looks random and is public: ids, digests of images, the hashed key.
_PUBLIC = re.compile(
    r"sha512:[0-9a-f]{128}|sha256:[0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    re.IGNORECASE,
)
_CREDENTIALS_IN_URL = re.compile(r"\w://[^/\s@]*:[^/\s@]+@")
_RANDOM_HEX = re.compile(r"(?<![0-9a-z])[0-9a-f]{32,}(?![0-9a-z])", re.IGNORECASE)
_RANDOM_TEXT = re.compile(r"[A-Za-z0-9_=+-]{40,}")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_SECRET_NAME = re.compile(r"KEY|SECRET|PASSWORD|TOKEN|CREDENTIAL|POSTGRESQL_URL|MONGO_URL|_DSN")


def waha_version(image: str) -> Version | None:
    """The WAHA release in an image's tag, None when the tag names none (a digest, a tag of one's own)."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    found = _VERSION.search(tag)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def image_problems(image: str) -> list[str]:
    """Why a container must not run this image, as sentences."""
    name, at, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return [f"image {image!r}: what follows @ is no sha256 digest."]
    if not at and tag in ("", "latest"):
        return [f"image {image!r} is not pinned: give it a tag with a release, or a digest."]
    version = waha_version(image)
    if version is not None and version < OLDEST:
        return [
            f"image {image!r} is too old: storage namespaces came with {_text(OLDEST)}, take that or newer."
        ]
    return []


def environment_problems(job: Mapping[str, Any], image: str) -> list[str]:
    """Names in any task's environment, templates included, that WAHA of this image would not know."""
    version = waha_version(image)
    problems = []
    for task in _tasks(job):
        simulated = task.get("Driver") == "raw_exec"
        for name in sorted({*(task.get("Env") or {}), *_template_names(task)}):
            since = WAHA_VARIABLES.get(name)
            if since is not None:
                if version is not None and version < since and not simulated:
                    problems.append(f"{name} came with WAHA {_text(since)}, the image is {_text(version)}.")
            elif name in RUNTIME_VARIABLES or (simulated and _SIMULATOR_VARIABLE.match(name)):
                continue
            else:
                problems.append(
                    f"{name} is no environment variable that WAHA is known to read: check its spelling."
                )
    return problems


def secret_problems(job: Mapping[str, Any]) -> list[str]:
    """Places in a job that look like a secret in plain text. The sentences never repeat the value."""
    problems = [
        f"{name} must not stand in the job in plain text: put it into the job's Nomad Variable."
        for task in _tasks(job)
        for name, value in sorted((task.get("Env") or {}).items())
        if _SECRET_NAME.search(name) and not (name == "WAHA_API_KEY" and _API_KEY_HASH.match(value))
    ]
    problems += [
        f"{where} looks like a secret: put it into the job's Nomad Variable."
        for where, value in _places(job)
        if looks_secret(value)
    ]
    return problems


@lru_cache(1024)  # next to all texts of a job are those of every other job
def looks_secret(text: str) -> bool:
    """True for credentials in a URL, a private key, and anything long and random that is no id or digest."""
    if _CREDENTIALS_IN_URL.search(text) or _KEY_BLOCK.search(text):
        return True
    rest = _PUBLIC.sub(" ", text)
    return _RANDOM_HEX.search(rest) is not None or any(_is_mixed(run) for run in _RANDOM_TEXT.findall(rest))


def _is_mixed(run: str) -> bool:
    return any(c.islower() for c in run) and any(c.isupper() for c in run)


def _tasks(job: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [task for group in job.get("TaskGroups") or () for task in group.get("Tasks") or ()]


def _template_names(task: Mapping[str, Any]) -> list[str]:
    return [
        name
        for template in task.get("Templates") or ()
        if template.get("Envvars")
        for name in _TEMPLATE_LINE.findall(template.get("EmbeddedTmpl", ""))
    ]


def _places(value: Any, where: str = "Job") -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict | Mapping):
        for key, inner in value.items():
            if looks_secret(key):
                yield f"a key in {where}", key
            else:
                yield from _places(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _places(inner, f"{where}[{position}]")
    else:
        yield from ((where, text) for text in texts(value))


def _text(version: Version) -> str:
    return ".".join(str(number) for number in version)
