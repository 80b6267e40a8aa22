# Nomad server of a wahafleet cluster: three or five of these, on hosts that run no containers if possible.
#
# Put it into /etc/nomad.d/ and add, in a file of its own that no repository holds:
#   server { encrypt = "<nomad operator gossip keyring generate>" }
#   consul { token = "..." }                when Consul's ACLs are on
#   tls    { http = true  rpc = true  ... } always, outside a closed network
#
# Nomad 1.10.2 or newer: before that, clients can deadlock while stopping containers (GH-25946).

data_dir             = "/opt/nomad/data"
disable_update_check = true

# Nothing but loopback is said here because every site has another network; set the address that the other
# agents reach. 0.0.0.0 would also listen where WAHA's containers are.
# bind_addr = "10.0.0.11"

server {
  enabled = true

  # One server alone: when it is away for longer than WAHAFLEET_STOP_ON_DISCONNECT_S, every container in the
  # cluster stops. Three survive the loss of one.
  bootstrap_expect = 3

  # How long the servers wait beyond a client's heartbeat. The margin between "the host has stopped the
  # container" and "another may start" is made of this and of the TTL (10-20 s up to 500 hosts).
  heartbeat_grace   = "10s"
  min_heartbeat_ttl = "10s"

  # The daemon resumes its event stream by index and lists again after every gap; a larger buffer makes gaps
  # rarer. About 6 kB for each entry.
  event_buffer_size = 2000

  # Used once, when the cluster is founded. For one that exists already:
  #   nomad operator scheduler set-config -memory-oversubscription=true -scheduler-algorithm=spread
  default_scheduler_config {
    # Spreading means that the loss of one host takes as few users with it as possible.
    scheduler_algorithm = "spread"

    # Without it `memory_max` is ignored and containers are held to the memory they reserve: 300 MB.
    memory_oversubscription_enabled = true
  }
}

acl {
  enabled = true # see README.md, "Tokens"
}

limits {
  # For each address. A daemon keeps one event stream and a pool of short calls.
  http_max_conns_per_client = 200
}

consul {
  address = "127.0.0.1:8500"
}

telemetry {
  prometheus_metrics         = true
  publish_allocation_metrics = true
  publish_node_metrics       = true
}
