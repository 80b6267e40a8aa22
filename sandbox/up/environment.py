"""What `api` and `daemon` are told when the sandbox runs them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

import sandbox.waha
from core.variables import VARIABLES
from sandbox.up.local_provider import ECHO_URL
from sandbox.up.plan import Driver, Egress, Plan

# Everything that the sandbox runs answers on loopback, where a proxy of the user's shell has no part.
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy"})
# Settings that belong to the user's own cluster and never to the sandbox.
_FOREIGN: Final = frozenset(
    {"NOMAD_ADDR", "NOMAD_TOKEN", "NOMAD_NAMESPACE", "NOMAD_REGION", "NOMAD_CACERT"}
    | {"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_NAMESPACE", "CONSUL_CACERT"}
)

_OWNER: Final = "WAHA_SIM_OWNER_PIDFILE"


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where the parts of a running sandbox answer. Addresses are `http://host:port`; guards are on their hosts'."""

    api: str
    nomad: str
    consul: str
    database_url: str
    redis_url: str
    data: Path
    guard_port: int


def base_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The user's environment for our children, without what would lead them out of the sandbox."""
    env = os.environ if env is None else env
    kept = {
        name: value for name, value in env.items() if name not in _FOREIGN and name.lower() not in _PROXIES
    }
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


def simulator_storage(data: Path) -> Path:
    """The folder in which simulators keep sessions; its part of a data folder."""
    return data / "waha"


def owner_file(data: Path) -> Path:
    """Names the process that simulators live for; when it is gone they end themselves."""
    return data / "owner.pid"


def mark(data: Path) -> str:
    """What everything below a real Nomad agent of this folder has in its environment."""
    return f"{_OWNER}={owner_file(data)}"


def simulator_environment(plan: Plan, data: Path) -> dict[str, str]:
    """What simulators are told beside their job: things of this sandbox that must not show up as drift."""
    told = {_OWNER: str(owner_file(data)), "WAHA_SIM_CLOCK_SPEED": f"{plan.speed:g}"}
    return told if plan.delays else told | {"WAHA_SIM_START_DELAY_S": "0"}


def simulator_arguments() -> str:
    """How Python runs a simulator, arguments separated by blanks."""
    script = Path(sandbox.waha.__file__).with_name("__main__.py")
    # Without site and its .pth files it starts in half the time; a path with a blank would fall apart.
    return f"-I -S {script}" if not re.search(r"\s", str(script)) else "-m sandbox.waha"


def settings(
    plan: Plan, places: Places, secrets: Mapping[str, str], env: Mapping[str, str]
) -> dict[str, str]:
    """The settings of `api` and `daemon`. What the sandbox does not decide itself is taken from `env`."""
    decided = {
        "WAHAFLEET_DATABASE_URL": places.database_url,
        "WAHAFLEET_REDIS_URL": places.redis_url,
        "NOMAD_ADDR": places.nomad,
        "CONSUL_HTTP_ADDR": places.consul,
        "WAHAFLEET_JOBSPEC": plan.jobspec,
        "WAHAFLEET_EGRESS": plan.egress.value,
        "WAHAFLEET_CONSOLE_URL": places.api,
        **secrets,
    }
    if plan.egress is Egress.GUARD:
        decided |= {
            "WAHAFLEET_GUARD_ADDRESS": f"{{host_ip}}:{places.guard_port}",
            "WAHAFLEET_EXIT_ECHO_URL": ECHO_URL,
        }
    if plan.driver is Driver.RAW_EXEC:
        decided |= {
            "WAHAFLEET_STORAGE_DSN": str(simulator_storage(places.data)),
            "WAHAFLEET_HOOK_BASE_URL": places.api,
            "WAHAFLEET_SIMULATOR_COMMAND": sys.executable,
            "WAHAFLEET_SIMULATOR_ARGS": simulator_arguments(),
        }
    else:
        # Seen from inside a container, loopback is the container; where the host is, its owner may say.
        decided["WAHAFLEET_HOOK_BASE_URL"] = env.get("WAHAFLEET_HOOK_BASE_URL") or places.api
    known = {variable.name for variable in VARIABLES} - _FOREIGN - {"WAHAFLEET_DAEMON_LISTEN"}
    own = {name: value for name, value in env.items() if name in known and value}
    return own | decided
