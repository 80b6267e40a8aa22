"""Every setting there is: its name, its default and a sentence. `docs/settings.md` is made from it."""

from __future__ import annotations

from typing import Final

import msgspec


class Variable(msgspec.Struct, frozen=True):
    """One environment variable and a sentence for the docs.

    Attributes:
        default: None = it must be set for the parts in `needed_by`; the others do without it.
    """

    name: str
    default: str | None
    about: str
    secret: bool = False
    needed_by: tuple[str, ...] = ("api", "daemon")


def _v(
    name: str,
    default: str | None,
    about: str,
    *,
    secret: bool = False,
    needed_by: tuple[str, ...] = ("api", "daemon"),
) -> Variable:
    return Variable(name, default, about, secret, needed_by)


VARIABLES: Final = (
    _v(
        "WAHAFLEET_DATABASE_URL",
        None,
        "PostgreSQL, as postgresql+asyncpg://user:password@host/database.",
        secret=True,
    ),
    _v(
        "WAHAFLEET_DATABASE_POOL",
        "10",
        "Connections that one process keeps at most; the API has two more to see changes, and each part one to listen.",
    ),
    _v(
        "WAHAFLEET_SECRET_KEYS",
        None,
        "Comma list of Fernet keys, newest first; the first one seals stored secrets.",
        secret=True,
    ),
    _v("WAHAFLEET_REDIS_URL", "", "Redis or Valkey, as redis://host:port/0; empty = no cache.", secret=True),
    _v(
        "WAHAFLEET_REDIS_TIMEOUT_S", "0.25", "Longest wait for one answer of it; what takes longer is a miss."
    ),
    _v("WAHAFLEET_ENDPOINT_TTL_S", "30", "How long a cached endpoint may be used."),
    _v(
        "WAHAFLEET_QR_TTL_S",
        "5",
        "How long a QR may be shown again while WAHA does not tell when it changes; else until it does.",
    ),
    _v("NOMAD_ADDR", "http://127.0.0.1:4646", "Nomad's HTTP API."),
    _v("NOMAD_TOKEN", "", "Nomad ACL token of the daemon; the API needs none.", secret=True),
    _v("NOMAD_NAMESPACE", "default", "Nomad namespace of all containers."),
    _v("WAHAFLEET_NOMAD_TIMEOUT_S", "10", "Longest wait for one Nomad call."),
    _v("WAHAFLEET_NOMAD_CA_FILE", "", "CA bundle for Nomad over https; empty = the system's."),
    _v("CONSUL_HTTP_ADDR", "http://127.0.0.1:8500", "Consul's HTTP API."),
    _v("CONSUL_HTTP_TOKEN", "", "Consul ACL token.", secret=True),
    _v("WAHAFLEET_CONSUL_TIMEOUT_S", "2", "Longest wait for one Consul call."),
    _v("WAHAFLEET_CONSUL_CA_FILE", "", "CA bundle for Consul over https; empty = the system's."),
    _v("WAHAFLEET_WATCH_WAIT_S", "30", "How long one blocking query or quiet event stream is waited for."),
    _v(
        "WAHAFLEET_JOBSPEC",
        "waha-plus",
        "Which file of jobspecs/ containers are made from: waha-plus or waha-simulator.",
    ),
    _v("WAHAFLEET_IMAGE", "devlikeapro/waha:gows-2026.7.1", "Image of a container, with its tag or digest."),
    _v("WAHAFLEET_ENGINE", "GOWS", "WAHA engine: GOWS, NOWEB, WEBJS or WPP."),
    _v("WAHAFLEET_DATACENTERS", "*", "Comma list of Nomad datacenters."),
    _v("WAHAFLEET_NODE_POOL", "default", "Nomad node pool."),
    _v(
        "WAHAFLEET_DOCKER_NETWORK",
        "",
        "Docker network of containers; empty = waha0, the one behind the firewall, with WAHAFLEET_EGRESS=guard, and "
        "bridge otherwise.",
    ),
    _v("WAHAFLEET_STORAGE_ID", "main", "Name of the storage server that new containers get."),
    _v(
        "WAHAFLEET_STORAGE_DSN",
        "",
        "Where WAHA keeps its sessions: a PostgreSQL URL (a folder for the simulator).",
        secret=True,
    ),
    _v(
        "WAHAFLEET_STORAGES",
        "",
        "Further storage servers whose containers live on, as id=DSN with blanks between; the daemon's alone.",
        secret=True,
    ),
    _v("WAHAFLEET_HOOK_BASE_URL", "http://127.0.0.1:8000", "Where containers reach this API for webhooks."),
    _v("WAHAFLEET_CONSOLE_URL", "http://127.0.0.1:8000", "Where the Nomad UI links back to."),
    _v(
        "WAHAFLEET_SIMULATOR_COMMAND",
        "",
        "Program that raw_exec runs with jobspec waha-simulator; set by the sandbox.",
    ),
    _v("WAHAFLEET_SIMULATOR_ARGS", "", "Its arguments, separated by blanks."),
    _v(
        "JWT_SECRET_KEY",
        None,
        "HS256 secret of access tokens, at least 32 characters; the API's alone. Attached, it is WHAGO's own; not "
        "needed there with RS256.",
        secret=True,
        needed_by=("api",),
    ),
    _v(
        "WAHAFLEET_ACCOUNTS",
        "standalone",
        "Whose the accounts are: standalone = ours, with login here; attached = the WHAGO backend's, whose tokens "
        "are taken.",
    ),
    _v(
        "WAHAFLEET_UPSTREAM_URL",
        "",
        "The WHAGO backend, attached: its /api/v1/users/me tells plan, name and whether a user is active.",
    ),
    _v("WAHAFLEET_UPSTREAM_TIMEOUT_S", "2", "Longest wait for one answer of it."),
    _v(
        "WAHAFLEET_UPSTREAM_PROFILE_S",
        "300",
        "How long what it told of a user holds before it is asked again.",
    ),
    _v(
        "WAHAFLEET_JWT_JWKS_URL",
        "",
        "Where the issuer of RS256 access tokens publishes its keys; attached, only RS256 tokens are taken then.",
    ),
    _v(
        "WAHAFLEET_JWT_PUBLIC_KEY",
        "",
        "The same as one RSA public key in PEM, \\n for its line ends; instead of the address.",
    ),
    _v("WAHAFLEET_ACCESS_TOKEN_S", "3600", "Life of an access token."),
    _v("WAHAFLEET_REFRESH_TOKEN_S", "604800", "Life of a refresh token."),
    _v("WAHAFLEET_CREATE_WAIT_S", "4", "How long POST /chips waits for the port or a reason; 0-30."),
    _v(
        "WAHAFLEET_HOST_CAPACITY",
        "100",
        "Dynamic ports of each host, as Nomad's clients are set up with; what `GET /fleet` counts room with.",
    ),
    _v("WAHAFLEET_API_STATUS_CASE", "auto", "Letter case of chip status: auto, upper or lower."),
    _v("WAHAFLEET_CORS_ORIGINS", "", "Comma list of origins that may call with credentials."),
    _v(
        "WAHAFLEET_TRUSTED_PROXIES",
        "",
        "Comma list of addresses or networks whose X-Forwarded-For is believed.",
    ),
    _v(
        "WAHAFLEET_OPERATORS",
        "",
        "Comma list of user ids or e-mails that are operators; an e-mail counts for whoever registers it, so let its "
        "owner register first.",
    ),
    _v("WAHAFLEET_OPERATOR_TOKEN", "", "Bearer token of the operator's command line.", secret=True),
    _v("WAHAFLEET_LIMIT_READS", "600", "Reads a minute and user (GET); 0 here as below = no limit."),
    _v("WAHAFLEET_LIMIT_WRITES", "60", "Writes a minute and user (everything else)."),
    _v(
        "WAHAFLEET_LIMIT_ADDRESS",
        "3000",
        "Requests a minute and address (an IPv6 /64 counts as one). Behind a proxy that WAHAFLEET_TRUSTED_PROXIES does "
        "not name, everybody is one address.",
    ),
    _v("WAHAFLEET_LIMIT_REGISTER", "60", "Accounts that are opened a minute and address."),
    _v("WAHAFLEET_LIMIT_KEY", "30", "Requests a minute and API key of a user."),
    _v("WAHAFLEET_LIMIT_SERVICE_KEY", "600", "Requests a minute and API key of a service or an operator."),
    _v(
        "WAHAFLEET_LIMIT_LOGIN",
        "5",
        "Failed logins within WAHAFLEET_LIMIT_LOGIN_WINDOW_S, address and e-mail.",
    ),
    _v("WAHAFLEET_LIMIT_LOGIN_WINDOW_S", "900", "See WAHAFLEET_LIMIT_LOGIN."),
    _v("WAHAFLEET_BODY_LIMIT_BYTES", "65536", "Largest request body, webhooks aside."),
    _v(
        "WAHAFLEET_STREAMS_PER_USER",
        "20",
        "Live streams and sockets one user may have open at one API process.",
    ),
    _v("WAHAFLEET_STREAMS_PER_PROCESS", "2000", "Live streams and sockets that one API process keeps open."),
    _v("WAHAFLEET_STREAM_LIFE_S", "300", "After which a live stream ends and its client opens it again."),
    _v(
        "WAHAFLEET_EGRESS", "", "How chips reach WhatsApp: direct, guard, or empty = not at all (chips wait)."
    ),
    _v(
        "WAHAFLEET_GUARD_ADDRESS",
        "172.30.0.1:3128",
        "Where containers reach the guard of their host: host:port without a scheme; {host_ip} stands for the host's "
        "address.",
    ),
    _v(
        "WAHAFLEET_EXIT_ECHO_URL",
        "https://checkip.amazonaws.com/",
        "What answers its caller's own address as plain text: asked through a chip's label before its session starts; "
        "off = no exit is read.",
    ),
    _v(
        "WAHAFLEET_GUARD_LISTEN",
        "172.30.0.1:3128",
        "Where the egress guard takes the tunnels of its host's containers: host:port.",
    ),
    _v(
        "WAHAFLEET_GUARD_STATUS_LISTEN",
        "127.0.0.1:3129",
        "Where the guard answers /health and /metrics, on loopback alone: host:port, port 0 takes a free one.",
    ),
    _v(
        "WAHAFLEET_GUARD_SECRET",
        "",
        "What the keys of nodes and the labels of chips are made from, 32 random characters or more; API and daemon "
        "need it with WAHAFLEET_EGRESS=guard, and no guard ever has it.",
        secret=True,
    ),
    _v("WAHAFLEET_GUARD_NODE_ID", "", "The Nomad node that the guard runs on; the guard needs it."),
    _v("WAHAFLEET_GUARD_KEY", "", "That node's key, 64 hexadecimal digits; the guard needs it.", secret=True),
    _v("WAHAFLEET_GUARD_API_URL", "http://127.0.0.1:8000", "Where the guard reaches the API."),
    _v(
        "WAHAFLEET_GUARD_DESTINATIONS",
        "whatsapp.com,whatsapp.net",
        "Comma list of hosts that tunnels may lead to, each with all names below it; an address only where it is listed.",
    ),
    _v("WAHAFLEET_GUARD_PORTS", "443,80,5222", "Comma list of ports that tunnels may lead to."),
    _v(
        "WAHAFLEET_GUARD_TTL_S",
        "90",
        "Life of a guard's lease: what the API gives, and what a guard counts with at most.",
    ),
    _v(
        "WAHAFLEET_GUARD_RENEW_S",
        "10",
        "How old a guard lets a lease become before it is renewed; at most a quarter of what life and margin leave.",
    ),
    _v(
        "WAHAFLEET_GUARD_MARGIN_S",
        "20",
        "How long before its end a guard gives a lease up; at least 0.19 of its life and 1 s, for clocks that drift.",
    ),
    _v(
        "WAHAFLEET_GUARD_TUNNELS",
        "2000",
        "Tunnels that one guard carries at most; each needs two open files.",
    ),
    _v("WAHAFLEET_GUARD_HEAD_S", "10", "Longest wait for a chip's whole request to the guard."),
    _v("WAHAFLEET_GUARD_CONNECT_S", "15", "Longest wait for the upstream to open a tunnel."),
    _v("WAHAFLEET_GUARD_IDLE_S", "600", "After which a silent tunnel is closed."),
    _v("WAHAFLEET_GUARD_LIFE_S", "86400", "After which any tunnel is closed; its chip opens another."),
    _v(
        "WAHAFLEET_GUARD_DIRECT",
        "0",
        "1 = a chip's route may leave through the host's own address, where the API says so; for trials.",
    ),
    _v("WAHAFLEET_WORKERS", "16", "Passes that one daemon runs at a time."),
    _v("WAHAFLEET_LEASE_TTL_S", "60", "Life of a key's lease."),
    _v("WAHAFLEET_LEASE_HEARTBEAT_S", "10", "How often a held lease is extended."),
    _v("WAHAFLEET_PASS_DEADLINE_S", "50", "Longest pass; less than the lease's life."),
    _v("WAHAFLEET_RESYNC_S", "60", "How often everything is listed and compared with the store."),
    _v(
        "WAHAFLEET_WAHA_LOOK_S",
        "300",
        "Within which time each user at rest is looked at once, for what no list shows.",
    ),
    _v(
        "WAHAFLEET_DAEMON_LISTEN",
        "",
        "Where the daemon answers /live, /ready and /metrics: host:port, port 0 takes a free one; empty = nowhere.",
    ),
    _v(
        "WAHAFLEET_INBOX_KEEP_S",
        "86400",
        "How long an answered webhook is kept to recognise its repetitions; longer than WAHA retries.",
    ),
    _v("WAHAFLEET_STOP_ON_DISCONNECT_S", "60", "S: a cut-off host stops its containers after this."),
    _v("WAHAFLEET_EMPTY_GRACE_S", "600", "How long a container stays after its last chip left."),
    _v("WAHAFLEET_QR_ROUNDS", "2", "QR sets that one create, reconnect or pairing-code call buys."),
    _v("WAHAFLEET_ROLLOUT_USERS", "5", "Users whose containers a changed setting may restart at a time."),
    _v(
        "WAHAFLEET_ROLLOUT_FAILURES",
        "0.2",
        "Share of failed ones among the newest moves above which a rollout pauses itself; 0-1.",
    ),
    _v(
        "WAHAFLEET_ROLLOUT_LEAST",
        "3",
        "Moves that must have ended before that share counts; a first wave that is smaller counts whole.",
    ),
    _v(
        "WAHAFLEET_ROLLOUT_DEADLINE_S",
        "300",
        "Time in which a moved container and all its connected chips must be back; later is a failure.",
    ),
    _v(
        "WAHAFLEET_STARTS_PER_S",
        "5",
        "Sessions that start a second in the whole fleet, of all daemons together, once the burst is used up.",
    ),
    _v("WAHAFLEET_STARTS_PER_S_HOST", "1", "The same for the sessions of one host."),
    _v("WAHAFLEET_STARTS_PER_S_PROVIDER", "2", "The same for the sessions behind one proxy provider."),
    _v("WAHAFLEET_START_BURST", "20", "Sessions of the fleet that start at once after a quiet while."),
    _v("WAHAFLEET_START_BURST_HOST", "10", "The same for one host; a user's chips all fit with 10 or more."),
    _v("WAHAFLEET_START_BURST_PROVIDER", "20", "The same for one proxy provider."),
    _v(
        "WAHAFLEET_JANITOR",
        "ask",
        "What becomes of orphans: ask = nothing without an operator's yes, remove = they go after the grace.",
    ),
    _v(
        "WAHAFLEET_JANITOR_S", "120", "How often the janitor lists what is ours in Nomad, Consul and storage."
    ),
    _v("WAHAFLEET_ORPHAN_GRACE_S", "3600", "How long something must go unexplained before it is an orphan."),
    _v("WAHAFLEET_EVENTS_KEEP_DAYS", "90", "Days after which a chip's events are forgotten."),
    _v(
        "WAHAFLEET_EVENTS_PER_CHIP",
        "1000",
        "Of each chip's events only so many of the newest are kept, however young the others are.",
    ),
    _v("WAHAFLEET_AUDIT_KEEP_DAYS", "365", "Days after which a line of the audit log is forgotten."),
    _v(
        "WAHAFLEET_EXITS_KEEP_DAYS",
        "180",
        "Days after which it is forgotten that a chip went out by an exit, since it was last seen there.",
    ),
    _v(
        "WAHAFLEET_LEDGER_KEEP_DAYS",
        "30",
        "Days for which it stays on record who had a port that is free again.",
    ),
    _v(
        "WAHAFLEET_PLACEMENTS_KEEP_DAYS",
        "90",
        "Days for which it stays on record which allocation spoke for a user; never the current one.",
    ),
)

# For programs that send more than people do: our tests and measurements.
NO_LIMITS: Final = {
    variable.name: "0"
    for variable in VARIABLES
    if variable.name.startswith("WAHAFLEET_LIMIT_") and not variable.name.endswith("_S")
}
