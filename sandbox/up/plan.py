"""From what was asked for and what this machine has to what will run. Pure.

Pairs that work: double + double, real + real, Nomad double + real Consul. A real Nomad with a Consul double
is refused: Nomad's client registers services with a Consul agent over calls that the double does not serve.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from sandbox.up.errors import SandboxError

NOMAD_AT_LEAST: Final = (1, 10, 2)
MAX_HOSTS: Final = 254  # 127.0.0.1 to 127.0.0.254
MAX_REAL_HOSTS: Final = 20
REAL_HOST_MB: Final = 150
ONE_PROCESS_EACH: Final = 50  # users; beyond that many simulators share one process


class Kind(StrEnum):
    """What stands behind one of Nomad and Consul; AUTO exists in options only."""

    AUTO = "auto"
    REAL = "real"
    DOUBLE = "double"


class Driver(StrEnum):
    AUTO = "auto"
    DOCKER = "docker"
    RAW_EXEC = "raw_exec"


class Simulators(StrEnum):
    AUTO = "auto"
    PROCESS = "process"
    INLINE = "inline"


class Egress(StrEnum):
    """How chips leave; AUTO exists in options only."""

    AUTO = "auto"
    GUARD = "guard"
    DIRECT = "direct"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for.

    Attributes:
        hosts: simulated hosts. speed: how much faster than ours the simulator's clock runs.
        ports: first and last dynamic port of each host; with a real Nomad of the first one, see `real_ports`.
        delays: False = doubles and simulators answer as fast as they can, which no real cluster does.
        storage_dsn: where containers under Docker keep their sessions (a PostgreSQL URL), "" when not given.
    """

    nomad: Kind = Kind.AUTO
    consul: Kind = Kind.AUTO
    driver: Driver = Driver.AUTO
    hosts: int = 1
    simulators: Simulators = Simulators.AUTO
    speed: float = 1.0
    ports: tuple[int, int] = (3100, 3199)
    delays: bool = True
    storage_dsn: str = ""
    egress: Egress = Egress.AUTO


class Program(msgspec.Struct, frozen=True):
    """An agent's program on this machine. `version`: numbers only, () when it did not say."""

    path: str
    version: tuple[int, ...] = ()

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version)) or "of unknown version"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What will run. `notes`: sentences for the person who asked, about choices that were made for them."""

    nomad: Program | None
    consul: Program | None
    driver: Driver
    hosts: int
    simulators: Simulators
    speed: float
    ports: tuple[int, int]
    delays: bool
    egress: Egress = Egress.GUARD
    notes: tuple[str, ...] = ()

    @property
    def jobspec(self) -> str:
        return "waha-plus" if self.driver is Driver.DOCKER else "waha-simulator"


def make_plan(options: Options, nomad: Program | None, consul: Program | None) -> Plan:
    """Choose. `nomad`, `consul`: the programs on PATH, None when there are none. Raises SandboxError."""
    _check_numbers(options)
    notes: list[str] = []
    chosen_consul = _choose_consul(options, consul)
    chosen_nomad = _choose_nomad(options, nomad, chosen_consul, notes)
    driver = _choose_driver(options, chosen_nomad)
    if chosen_nomad is not None:
        _check_real_hosts(options)
    egress = _choose_egress(options, chosen_nomad, driver, notes)
    if chosen_nomad is not None and options.simulators is Simulators.INLINE:
        raise SandboxError(
            "a real Nomad runs every container as a process of its own, so --simulators inline needs the "
            "double: add --nomad double, or leave --simulators out."
        )
    simulators = options.simulators
    if simulators is Simulators.AUTO:
        # What one process each costs is memory, and how many users will come is what --hosts says.
        users = options.hosts * (options.ports[1] - options.ports[0] + 1)
        many = users > ONE_PROCESS_EACH and options.hosts > 1
        simulators = Simulators.INLINE if many and chosen_nomad is None else Simulators.PROCESS
    return Plan(
        nomad=chosen_nomad,
        consul=chosen_consul,
        driver=driver,
        hosts=options.hosts,
        simulators=simulators,
        speed=options.speed,
        ports=options.ports,
        delays=options.delays,
        egress=egress,
        notes=tuple(notes),
    )


def _check_numbers(options: Options) -> None:
    if not 1 <= options.hosts <= MAX_HOSTS:
        raise SandboxError(f"--hosts takes 1 to {MAX_HOSTS}, one loopback address each; not {options.hosts}.")
    first, last = options.ports
    if not 1024 <= first <= last <= 65535:
        raise SandboxError(f"--ports takes a range within 1024-65535, such as 3100-3199; not {first}-{last}.")
    if not 0.01 <= options.speed <= 1000:
        raise SandboxError(f"--speed takes 0.01 to 1000 times the real clock; not {options.speed:g}.")


def _check_real_hosts(options: Options) -> None:
    if options.hosts > MAX_REAL_HOSTS:
        raise SandboxError(
            f"each host of a real Nomad is an agent of Nomad and one of Consul, about {REAL_HOST_MB} MB: use --hosts "
            f"{MAX_REAL_HOSTS} or fewer, or add --nomad double."
        )
    last = real_ports(options.ports, options.hosts)[1]
    if last > 65535:
        raise SandboxError(
            f"hosts of a real Nomad follow each other in one range of ports, and {options.hosts} of them would end "
            f"at {last}: start lower with --ports, or use fewer --hosts."
        )


def real_ports(first_host: tuple[int, int], number: int) -> tuple[int, int]:
    """The ports of host `number`, from 1, of a real Nomad: tasks of all hosts share one address."""
    size = first_host[1] - first_host[0] + 1
    return first_host[0] + (number - 1) * size, first_host[1] + (number - 1) * size


def _choose_consul(options: Options, consul: Program | None) -> Program | None:
    if options.consul is Kind.REAL and consul is None:
        raise SandboxError(
            "--consul real needs the program `consul` on PATH: install it (tools/install-consul.sh) or use "
            "--consul double."
        )
    return None if options.consul is Kind.DOUBLE else consul


def _choose_nomad(
    options: Options, nomad: Program | None, consul: Program | None, notes: list[str]
) -> Program | None:
    if options.nomad is Kind.DOUBLE:
        return None
    wanted = options.nomad is Kind.REAL
    if nomad is None:
        if wanted:
            raise SandboxError(
                "--nomad real needs the program `nomad` on PATH: install Nomad 1.10.2 or newer, or use "
                "--nomad double."
            )
        return None
    if consul is None:
        if wanted:
            raise SandboxError(
                "a real Nomad cannot work with the Consul double: put `consul` on PATH and use --consul real, "
                "or use --nomad double."
            )
        notes.append("nomad is on PATH but a real Nomad needs a real Consul; its double runs instead.")
        return None
    if nomad.version < NOMAD_AT_LEAST:
        least = ".".join(map(str, NOMAD_AT_LEAST))
        if wanted:
            raise SandboxError(
                f"Nomad {nomad.version_text} at {nomad.path} is too old for the disconnect rules that wahafleet "
                f"relies on: install {least} or newer, or use --nomad double."
            )
        notes.append(f"Nomad {nomad.version_text} on PATH is older than {least}; its double runs instead.")
        return None
    return nomad


def _choose_egress(options: Options, nomad: Program | None, driver: Driver, notes: list[str]) -> Egress:
    why = ""
    if driver is Driver.DOCKER:
        why = "containers under Docker do not reach a guard on this machine's loopback"
    elif nomad is not None and options.hosts > 1:
        why = "hosts of a real Nomad share one address here, and each guard needs its own"
    if not why:
        return Egress.DIRECT if options.egress is Egress.DIRECT else Egress.GUARD
    if options.egress is Egress.GUARD:
        raise SandboxError(f"--egress guard cannot be had: {why}; use --egress direct.")
    if options.egress is Egress.AUTO:
        notes.append(f"{why}, so chips leave directly.")
    return Egress.DIRECT


def _choose_driver(options: Options, nomad: Program | None) -> Driver:
    if options.driver is not Driver.DOCKER:
        return Driver.RAW_EXEC
    if nomad is None:
        raise SandboxError(
            "--driver docker needs a real Nomad and a real Consul on PATH, since the doubles run simulators "
            "only: install both, or use --driver raw_exec."
        )
    if not options.storage_dsn:
        raise SandboxError(
            "--driver docker needs a PostgreSQL that containers can reach for WAHA's sessions: name it in "
            "WAHAFLEET_STORAGE_DSN, or use --driver raw_exec."
        )
    return Driver.DOCKER
