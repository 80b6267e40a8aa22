"""`wahafleet doctor`: what of a host and its cluster would keep chips from WhatsApp, or let them reach it unguarded."""

from __future__ import annotations

import resource
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import httpx

from cli.findings import Finding as Finding
from cli.findings import State as State
from cli.provider_check import providers
from cli.target import Target
from core.settings_guard import GuardSettings, guard_settings, lease_problems
from core.settings_reader import Reader

TABLE: Final = "waha_egress"
ONE_SERVER_S: Final = 180.0
_BRIDGED: Final = Path("/proc/sys/net/bridge")
_WAIT_S: Final = 3.0
_NO_ANSWER: Final = (httpx.HTTPError, httpx.InvalidURL, ValueError)


@click.command()
@click.pass_obj
def doctor(target: Target) -> int:
    """Look at this host as one that runs containers: firewall, guard, leases, limits, Nomad's servers, and providers.

    The firewall is shown to root alone. The settings are the guard's and the daemon's, from the environment; providers are
    asked of the API, as an operator. Ends with 1 when something is wrong.
    """
    env = target.environment()
    found = [*findings(env), providers(target, env)]
    for finding in found:
        click.echo(f"{finding.state.value:8} {finding.text}")
    return 1 if any(finding.state is State.WRONG for finding in found) else 0


def findings(env: Mapping[str, str]) -> Iterator[Finding]:
    reader = Reader(env, None)
    settings = guard_settings(reader)
    stop_s = reader.number("WAHAFLEET_STOP_ON_DISCONNECT_S", least=45, most=3600)
    yield firewall(run, settings.listen)
    yield between_containers(_BRIDGED)
    yield address(settings.listen)
    yield guard(settings.status_listen)
    yield leases(settings)
    yield files(settings.tunnels)
    yield servers(reader.text("NOMAD_ADDR"), env.get("NOMAD_TOKEN", ""), stop_s)


def run(command: Sequence[str]) -> tuple[int, str]:
    """(exit code, what it said). Raises OSError when it cannot be started."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return done.returncode, done.stdout + done.stderr


def firewall(call: Callable[[Sequence[str]], tuple[int, str]], listen: str) -> Finding:
    """Whether nomad/host/waha-egress.nft is loaded, for the guard's own address."""
    try:
        code, said = call(("nft", "list", "table", "inet", TABLE))
    except OSError:
        return Finding(
            State.WRONG,
            "nft is not on PATH, so no firewall holds containers; install nftables and see nomad/host.",
        )
    if code and "not permitted" in said.lower():
        return Finding(State.UNKNOWN, "only root can see whether the firewall is loaded; run it as root.")
    if code:
        return Finding(
            State.WRONG,
            f"the table inet {TABLE} is not loaded, so containers reach the Internet past the guard; "
            "`systemctl enable --now waha-egress`, see nomad/host/README.md.",
        )
    host, _, port = listen.rpartition(":")
    hooks = all(f"hook {name}" in said for name in ("input", "forward"))
    if not hooks or f"ip daddr {host} tcp dport {port} accept" not in said:
        return Finding(
            State.WRONG,
            f"the table inet {TABLE} does not let containers reach the guard at {listen}; make guard_address and "
            "guard_port in waha-egress.nft and WAHAFLEET_GUARD_LISTEN the same and `systemctl reload waha-egress`.",
        )
    return Finding(State.OK, f"the firewall of containers is loaded, for the guard at {listen}.")


def between_containers(folder: Path) -> Finding:
    """Whether packets between two containers come by the firewall. `folder`: the kernel's settings of bridges."""
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        try:
            value = (folder / name).read_text().strip()
        except OSError:
            return Finding(
                State.WRONG,
                "br_netfilter is not loaded, so containers reach each other; `modprobe br_netfilter`, "
                "see nomad/host/README.md.",
            )
        if value != "1":
            return Finding(
                State.WRONG,
                f"net.bridge.{name} is off, so containers reach each other; set it to 1 with sysctl.",
            )
    return Finding(State.OK, "packets between containers come by the firewall.")


def address(listen: str) -> Finding:
    """Whether the guard's address is one of this host's."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.bind((host, 0))
    except OSError:
        return Finding(
            State.WRONG,
            f"{host} is no address of this host, so no guard can listen there; make Docker's network waha0 "
            "as nomad/host/README.md says.",
        )
    return Finding(State.OK, f"{host} is an address of this host.")


def guard(status_listen: str) -> Finding:
    """What the guard of this host says of itself."""
    url = f"http://{status_listen}/health"
    try:
        status, answer = _asked(url)
    except _NO_ANSWER:
        return Finding(
            State.WRONG,
            f"no guard answers at {url}, so no chip of this host reaches WhatsApp; "
            "look at `nomad job status wahafleet-egress`.",
        )
    problems = answer.get("problems") if isinstance(answer, dict) else None
    if status != 200 or problems:
        return Finding(
            State.WRONG,
            f"the guard says {', '.join(problems or ['nothing that is understood'])}; "
            "docs/runbook.md, Egress guard, tells what each word means.",
        )
    return Finding(State.OK, "the guard of this host works.")


def leases(settings: GuardSettings) -> Finding:
    found = lease_problems(settings.ttl_s, settings.renew_s, settings.margin_s)
    if found:
        return Finding(State.WRONG, " ".join(found))
    return Finding(
        State.OK,
        f"leases live {settings.ttl_s:g} s and guards give them up {settings.margin_s:g} s before their end.",
    )


def files(tunnels: int) -> Finding:
    from egress.main import files_needed

    needed, hard = files_needed(tunnels), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        return Finding(
            State.WRONG,
            f"{tunnels} tunnels need {needed} open files and a process started here may have {hard}; raise the limit "
            "(LimitNOFILE, ulimit -n), or lower WAHAFLEET_GUARD_TUNNELS.",
        )
    return Finding(
        State.OK, f"a process started here may open the {needed} files that {tunnels} tunnels need."
    )


def servers(nomad: str, token: str, stop_s: float) -> Finding:
    """One server alone must not be away for long: every host would stop its containers."""
    url = f"{nomad.rstrip('/')}/v1/status/peers"
    try:
        status, answer = _asked(url, token)
    except _NO_ANSWER:
        status, answer = 0, None
    if status != 200 or not isinstance(answer, list):
        return Finding(
            State.UNKNOWN, f"Nomad did not name its servers at {url}; set NOMAD_ADDR and ask again."
        )
    if len(answer) == 1 and stop_s < ONE_SERVER_S:
        return Finding(
            State.WRONG,
            f"there is one Nomad server, and its absence of {stop_s:g} s stops every container; run three, or set "
            f"WAHAFLEET_STOP_ON_DISCONNECT_S to {ONE_SERVER_S:g} or more.",
        )
    counted = f"{len(answer)} Nomad servers" if len(answer) != 1 else "one Nomad server"
    return Finding(
        State.OK, f"there are {counted}, and hosts stop containers after {stop_s:g} s without any."
    )


def _asked(url: str, token: str = "") -> tuple[int, Any]:
    """(status, JSON). Raises httpx.HTTPError, httpx.InvalidURL and ValueError."""
    # trust_env off: no proxy that the environment names for the outer world.
    answer = httpx.get(
        url, headers={"X-Nomad-Token": token} if token else {}, timeout=_WAIT_S, trust_env=False
    )
    return answer.status_code, answer.json()
