"""Settings: from the environment only, checked together at start, every problem listed at once.

Prefix `WAHAFLEET_`, plus the standard names `NOMAD_ADDR`, `NOMAD_TOKEN`, `NOMAD_NAMESPACE`,
`CONSUL_HTTP_ADDR`, `CONSUL_HTTP_TOKEN` and `JWT_SECRET_KEY`. One frozen struct per concern; units stand
in names; secrets are `Secret`, which never prints its value. `docs/settings.md` is generated from
`VARIABLES` (core/variables.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from core.settings_guard import GuardSettings, guard_settings, secret_problems
from core.settings_reader import (
    Reader,
    database_url,
    docker_network,
    egress,
    exit_echo_url,
    fernet_keys,
    guard_address,
    listen_address,
    other_storages,
    public_key,
    redis_url,
)
from core.settings_reader import Secret as Secret
from core.settings_reader import SettingsError as SettingsError
from core.variables import VARIABLES


class StoreSettings(msgspec.Struct, frozen=True):
    """`database_url`: SQLAlchemy URL of PostgreSQL (driver asyncpg). `pool_size`: connections a process."""

    database_url: Secret
    pool_size: int
    secret_keys: tuple[Secret, ...]


class CacheSettings(msgspec.Struct, frozen=True):
    """`redis_url`: None = run without a cache (slower, never wrong)."""

    redis_url: Secret | None
    timeout_s: float
    endpoint_ttl_s: float
    qr_ttl_s: float


class NomadSettings(msgspec.Struct, frozen=True):
    """`address`: http(s)://host:port. `timeout_s` for plain calls, watches wait `watch_wait_s`."""

    address: str
    token: Secret | None
    namespace: str
    timeout_s: float
    watch_wait_s: float
    ca_file: str | None


class ConsulSettings(msgspec.Struct, frozen=True):
    address: str
    token: Secret | None
    timeout_s: float
    watch_wait_s: float
    ca_file: str | None


class JobSettings(msgspec.Struct, frozen=True):
    """What a container's job is made of.

    Attributes:
        jobspec: file stem in `jobspecs/`: `waha-plus` or `waha-simulator`.
        image: image with tag or digest. engine: WAHA engine. datacenters, node_pool: where it may run.
        docker_network: which network it joins; the simulator has none.
        storage_id: name of the storage server that new containers get.
        storage_dsn: where WAHA keeps its sessions (PostgreSQL URL, or a folder for the simulator); secret.
        other_storages: further servers as (id, DSN), for containers that were made on them.
        hook_base_url: where a container reaches this API (`http://host:port`).
        console_url: link shown in the Nomad UI.
    """

    jobspec: str
    image: str
    engine: str
    datacenters: tuple[str, ...]
    node_pool: str
    storage_id: str
    storage_dsn: Secret
    hook_base_url: str
    console_url: str
    simulator_command: str
    simulator_args: tuple[str, ...]
    other_storages: tuple[tuple[str, Secret], ...] = ()
    docker_network: str = "bridge"

    def storages(self) -> dict[str, Secret]:
        """DSN by storage id, without servers whose DSN is empty."""
        named = {self.storage_id: self.storage_dsn, **dict(self.other_storages)}
        return {id_: dsn for id_, dsn in named.items() if dsn.reveal()}


class ApiSettings(msgspec.Struct, frozen=True):
    """How the API behaves; see docs/settings.md for each."""

    jwt_secret_key: Secret
    access_token_s: int
    refresh_token_s: int
    create_wait_s: float
    status_case: str
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    operators: tuple[str, ...]
    operator_token: Secret | None
    body_limit_bytes: int
    streams_per_user: int = 20
    streams_per_process: int = 2000
    stream_life_s: float = 300
    host_capacity: int = 100


class AccountSettings(msgspec.Struct, frozen=True):
    """Whose the accounts are, and who issues their tokens.

    Attributes:
        attached: the WHAGO backend's at `upstream_url`, which is asked for a profile again after `profile_s`.
        jwks_url, jwt_public_key: of the issuer of RS256 tokens; "" = none.
    """

    attached: bool = False
    upstream_url: str = ""
    upstream_timeout_s: float = 2
    profile_s: float = 300
    jwks_url: str = ""
    jwt_public_key: str = ""

    @property
    def has_foreign_keys(self) -> bool:
        return bool(self.jwks_url or self.jwt_public_key)


class LimitSettings(msgspec.Struct, frozen=True):
    """How many requests there may be a minute, and failed logins in `login_window_s`; 0 = no limit."""

    reads: int = 600
    writes: int = 60
    address: int = 3000
    register: int = 60
    key: int = 30
    service_key: int = 600
    login: int = 5
    login_window_s: int = 900


class LoopSettings(msgspec.Struct, frozen=True):
    """How the daemon behaves. Lease figures in seconds.

    Attributes:
        guard_address: host:port of a host's guard as its containers see it; `{host_ip}` stands for their host's address.
        exit_echo_url: what answers a caller's own address; None = no exit is read.
    """

    egress: str | None
    workers: int
    lease_ttl_s: float
    lease_heartbeat_s: float
    pass_deadline_s: float
    resync_s: float
    inbox_keep_s: float
    stop_on_disconnect_s: float
    empty_grace_s: float
    qr_rounds: int
    janitor: str = "ask"
    janitor_s: float = 120
    orphan_grace_s: float = 3600
    ledger_keep_days: float = 30
    placements_keep_days: float = 90
    events_keep_days: float = 90
    events_per_chip: int = 1000
    audit_keep_days: float = 365
    exits_keep_days: float = 180
    waha_look_s: float = 300
    rollout_users: int = 5
    rollout_failures: float = 0.2
    rollout_least: int = 3
    rollout_deadline_s: float = 300
    listen: str = ""
    starts_per_s: float = 5
    starts_per_s_host: float = 1
    starts_per_s_provider: float = 2
    start_burst: int = 20
    start_burst_host: int = 10
    start_burst_provider: int = 20
    guard_address: str = "172.30.0.1:3128"
    exit_echo_url: str | None = None


class Settings(msgspec.Struct, frozen=True):
    store: StoreSettings
    cache: CacheSettings
    nomad: NomadSettings
    consul: ConsulSettings
    job: JobSettings
    api: ApiSettings
    loop: LoopSettings
    limits: LimitSettings
    guard: GuardSettings
    accounts: AccountSettings = AccountSettings()


def load(env: Mapping[str, str] | None = None, part: str | None = None) -> Settings:
    """Read and check all settings.

    `part`: `api`, `daemon` or `egress`, to ask only for what that one needs (the API then holds no secret of
    WAHA's storage, the daemon none that signs tokens, the guard its own key alone); None asks for everything
    but the guard's.
    Raises SettingsError with one sentence per problem, so that all can be mended in one go.
    """
    reader = Reader(os.environ if env is None else env, part)
    unknown = sorted(
        name
        for name in reader.env
        if name.startswith("WAHAFLEET_") and name not in {v.name for v in VARIABLES}
    )
    # WAHAFLEET_TEST_* and WAHAFLEET_BENCH_* steer our own test runs and never reach a running part.
    for name in unknown:
        if not name.startswith(("WAHAFLEET_TEST_", "WAHAFLEET_BENCH_")):
            reader.problems.append(f"{name} is no setting of wahafleet: see docs/settings.md for the list.")
    accounts = AccountSettings(
        attached=reader.choice("WAHAFLEET_ACCOUNTS", ("standalone", "attached")) == "attached",
        upstream_url=reader.optional_url("WAHAFLEET_UPSTREAM_URL"),
        upstream_timeout_s=reader.number("WAHAFLEET_UPSTREAM_TIMEOUT_S", least=0.1, most=10),
        profile_s=reader.number("WAHAFLEET_UPSTREAM_PROFILE_S", least=1, most=86_400),
        jwks_url=reader.optional_url("WAHAFLEET_JWT_JWKS_URL"),
        jwt_public_key=public_key(reader, "WAHAFLEET_JWT_PUBLIC_KEY"),
    )
    # Nobody signs with it then.
    unsigned = accounts.attached and accounts.has_foreign_keys and not reader.env.get("JWT_SECRET_KEY")
    jwt = Secret("") if unsigned else reader.secret("JWT_SECRET_KEY")
    if 0 < len(jwt.reveal()) < 32:
        reader.problems.append("JWT_SECRET_KEY is too short: use at least 32 random characters.")
    settings = Settings(
        store=StoreSettings(
            database_url=database_url(reader),
            pool_size=reader.whole("WAHAFLEET_DATABASE_POOL", least=2, most=200),
            secret_keys=fernet_keys(reader),
        ),
        cache=CacheSettings(
            redis_url=redis_url(reader),
            timeout_s=reader.number("WAHAFLEET_REDIS_TIMEOUT_S", least=0.01, most=10),
            endpoint_ttl_s=reader.number("WAHAFLEET_ENDPOINT_TTL_S", least=1, most=3600),
            qr_ttl_s=reader.number("WAHAFLEET_QR_TTL_S", least=1, most=20),
        ),
        nomad=NomadSettings(
            address=reader.url("NOMAD_ADDR"),
            token=reader.optional_secret("NOMAD_TOKEN"),
            namespace=reader.text("NOMAD_NAMESPACE"),
            timeout_s=reader.number("WAHAFLEET_NOMAD_TIMEOUT_S", least=0.1, most=60),
            watch_wait_s=reader.number("WAHAFLEET_WATCH_WAIT_S", least=1, most=300),
            ca_file=reader.text("WAHAFLEET_NOMAD_CA_FILE") or None,
        ),
        consul=ConsulSettings(
            address=reader.url("CONSUL_HTTP_ADDR"),
            token=reader.optional_secret("CONSUL_HTTP_TOKEN"),
            timeout_s=reader.number("WAHAFLEET_CONSUL_TIMEOUT_S", least=0.1, most=60),
            watch_wait_s=reader.number("WAHAFLEET_WATCH_WAIT_S", least=1, most=300),
            ca_file=reader.text("WAHAFLEET_CONSUL_CA_FILE") or None,
        ),
        job=JobSettings(
            jobspec=reader.choice("WAHAFLEET_JOBSPEC", ("waha-plus", "waha-simulator")),
            image=reader.text("WAHAFLEET_IMAGE"),
            engine=reader.choice("WAHAFLEET_ENGINE", ("GOWS", "NOWEB", "WEBJS", "WPP")),
            datacenters=reader.items("WAHAFLEET_DATACENTERS"),
            node_pool=reader.text("WAHAFLEET_NODE_POOL"),
            storage_id=reader.text("WAHAFLEET_STORAGE_ID"),
            storage_dsn=reader.secret("WAHAFLEET_STORAGE_DSN"),
            hook_base_url=reader.url("WAHAFLEET_HOOK_BASE_URL"),
            console_url=reader.url("WAHAFLEET_CONSOLE_URL"),
            simulator_command=reader.text("WAHAFLEET_SIMULATOR_COMMAND"),
            simulator_args=tuple(reader.text("WAHAFLEET_SIMULATOR_ARGS").split()),
            other_storages=other_storages(reader),
            docker_network=docker_network(reader),
        ),
        api=ApiSettings(
            jwt_secret_key=jwt,
            access_token_s=reader.whole("WAHAFLEET_ACCESS_TOKEN_S", least=60, most=86_400),
            refresh_token_s=reader.whole("WAHAFLEET_REFRESH_TOKEN_S", least=3600, most=31_536_000),
            create_wait_s=reader.number("WAHAFLEET_CREATE_WAIT_S", least=0, most=30),
            host_capacity=reader.whole("WAHAFLEET_HOST_CAPACITY", least=1, most=65_535),
            status_case=reader.choice("WAHAFLEET_API_STATUS_CASE", ("auto", "upper", "lower")),
            cors_origins=reader.items("WAHAFLEET_CORS_ORIGINS"),
            trusted_proxies=reader.items("WAHAFLEET_TRUSTED_PROXIES"),
            operators=reader.items("WAHAFLEET_OPERATORS"),
            operator_token=reader.optional_secret("WAHAFLEET_OPERATOR_TOKEN"),
            body_limit_bytes=reader.whole("WAHAFLEET_BODY_LIMIT_BYTES", least=1024, most=1_048_576),
            streams_per_user=reader.whole("WAHAFLEET_STREAMS_PER_USER", least=1, most=10_000),
            streams_per_process=reader.whole("WAHAFLEET_STREAMS_PER_PROCESS", least=1, most=100_000),
            stream_life_s=reader.number("WAHAFLEET_STREAM_LIFE_S", least=1, most=3600),
        ),
        loop=LoopSettings(
            egress=egress(reader),
            guard_address=guard_address(reader),
            exit_echo_url=exit_echo_url(reader),
            workers=reader.whole("WAHAFLEET_WORKERS", least=1, most=256),
            lease_ttl_s=reader.number("WAHAFLEET_LEASE_TTL_S", least=5, most=600),
            lease_heartbeat_s=reader.number("WAHAFLEET_LEASE_HEARTBEAT_S", least=1, most=200),
            pass_deadline_s=reader.number("WAHAFLEET_PASS_DEADLINE_S", least=1, most=590),
            resync_s=reader.number("WAHAFLEET_RESYNC_S", least=1, most=3600),
            inbox_keep_s=reader.number("WAHAFLEET_INBOX_KEEP_S", least=600, most=31_536_000),
            stop_on_disconnect_s=reader.number("WAHAFLEET_STOP_ON_DISCONNECT_S", least=45, most=3600),
            empty_grace_s=reader.number("WAHAFLEET_EMPTY_GRACE_S", least=0, most=86_400),
            qr_rounds=reader.whole("WAHAFLEET_QR_ROUNDS", least=1, most=100),
            janitor=reader.choice("WAHAFLEET_JANITOR", ("ask", "remove")),
            janitor_s=reader.number("WAHAFLEET_JANITOR_S", least=0.1, most=3600),
            orphan_grace_s=reader.number("WAHAFLEET_ORPHAN_GRACE_S", least=0, most=2_592_000),
            ledger_keep_days=reader.number("WAHAFLEET_LEDGER_KEEP_DAYS", least=1, most=3650),
            placements_keep_days=reader.number("WAHAFLEET_PLACEMENTS_KEEP_DAYS", least=1, most=3650),
            events_keep_days=reader.number("WAHAFLEET_EVENTS_KEEP_DAYS", least=1, most=3650),
            audit_keep_days=reader.number("WAHAFLEET_AUDIT_KEEP_DAYS", least=1, most=3650),
            exits_keep_days=reader.number("WAHAFLEET_EXITS_KEEP_DAYS", least=1, most=3650),
            events_per_chip=reader.whole("WAHAFLEET_EVENTS_PER_CHIP", least=50, most=1_000_000),
            waha_look_s=reader.number("WAHAFLEET_WAHA_LOOK_S", least=10, most=86_400),
            rollout_users=reader.whole("WAHAFLEET_ROLLOUT_USERS", least=1, most=100),
            rollout_failures=reader.number("WAHAFLEET_ROLLOUT_FAILURES", least=0, most=1),
            rollout_least=reader.whole("WAHAFLEET_ROLLOUT_LEAST", least=1, most=100),
            rollout_deadline_s=reader.number("WAHAFLEET_ROLLOUT_DEADLINE_S", least=5, most=7200),
            listen=listen_address(reader, "WAHAFLEET_DAEMON_LISTEN"),
            starts_per_s=reader.number("WAHAFLEET_STARTS_PER_S", least=0.01, most=1000),
            starts_per_s_host=reader.number("WAHAFLEET_STARTS_PER_S_HOST", least=0.01, most=1000),
            starts_per_s_provider=reader.number("WAHAFLEET_STARTS_PER_S_PROVIDER", least=0.01, most=1000),
            start_burst=reader.whole("WAHAFLEET_START_BURST", least=1, most=10_000),
            start_burst_host=reader.whole("WAHAFLEET_START_BURST_HOST", least=1, most=10_000),
            start_burst_provider=reader.whole("WAHAFLEET_START_BURST_PROVIDER", least=1, most=10_000),
        ),
        accounts=accounts,
        guard=guard_settings(reader),
        limits=LimitSettings(
            reads=_limit(reader, "READS"),
            writes=_limit(reader, "WRITES"),
            address=_limit(reader, "ADDRESS"),
            register=_limit(reader, "REGISTER"),
            key=_limit(reader, "KEY"),
            service_key=_limit(reader, "SERVICE_KEY"),
            login=_limit(reader, "LOGIN"),
            login_window_s=reader.whole("WAHAFLEET_LIMIT_LOGIN_WINDOW_S", least=12, most=86_400),
        ),
    )
    reader.problems.extend(_contradictions(settings, part))
    if reader.problems:
        raise SettingsError(reader.problems)
    return settings


def _limit(reader: Reader, name: str) -> int:
    return reader.whole(f"WAHAFLEET_LIMIT_{name}", least=0, most=10_000_000)


def _contradictions(settings: Settings, part: str | None) -> list[str]:
    found = []
    loop = settings.loop
    if loop.lease_heartbeat_s > loop.lease_ttl_s / 3:
        found.append("WAHAFLEET_LEASE_HEARTBEAT_S is too long: use at most a third of WAHAFLEET_LEASE_TTL_S.")
    if loop.pass_deadline_s >= loop.lease_ttl_s:
        found.append("WAHAFLEET_PASS_DEADLINE_S must be shorter than WAHAFLEET_LEASE_TTL_S.")
    renders_jobs = part not in ("api", "egress")
    if renders_jobs and settings.job.jobspec == "waha-simulator" and not settings.job.simulator_command:
        found.append("WAHAFLEET_SIMULATOR_COMMAND is needed with WAHAFLEET_JOBSPEC=waha-simulator.")
    if renders_jobs and settings.job.jobspec == "waha-plus" and not settings.job.storage_dsn.reveal():
        found.append("WAHAFLEET_STORAGE_DSN is needed with WAHAFLEET_JOBSPEC=waha-plus.")
    if part != "egress":
        found += secret_problems(settings.guard, loop.egress)
    accounts = settings.accounts
    if accounts.attached and not accounts.upstream_url:
        found.append("WAHAFLEET_UPSTREAM_URL is needed with WAHAFLEET_ACCOUNTS=attached.")
    if accounts.jwks_url and accounts.jwt_public_key:
        found.append("WAHAFLEET_JWT_JWKS_URL and WAHAFLEET_JWT_PUBLIC_KEY exclude each other: set one.")
    if "*" in settings.api.cors_origins:
        found.append("WAHAFLEET_CORS_ORIGINS never takes *: name each origin.")
    return found


def describe() -> list[dict[str, Any]]:
    """Every setting as name, default, secrecy and a sentence; docs/settings.md is made from it."""
    return [{"name": v.name, "default": v.default, "secret": v.secret, "about": v.about} for v in VARIABLES]
