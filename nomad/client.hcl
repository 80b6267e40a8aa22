# Nomad client of a wahafleet cluster: every host that runs WAHA containers. Docker and a Consul agent of its
# own beside it (two Nomad clients must never share one: each removes services that it does not know).
#
# Put it into /etc/nomad.d/ and add, in a file of its own that no repository holds:
#   consul { token = "..." }                when Consul's ACLs are on
#   tls    { http = true  rpc = true  ... } always, outside a closed network

data_dir             = "/opt/nomad/data"
disable_update_check = true

client {
  enabled = true

  # Found through Consul. Without it:
  # server_join { retry_join = ["10.0.0.11", "10.0.0.12", "10.0.0.13"] }

  # The ports that the firewall rules of the single-host system allow: 100 containers for each host, on any
  # number of hosts. The range is a fact of the cluster; the code asks the node for it.
  min_dynamic_port = 3100
  max_dynamic_port = 3199

  # Containers publish their port on this interface, and the daemon, the API and Consul must reach it. Unset,
  # Nomad takes the one of the default route. Never "lo" in a cluster.
  # network_interface = "eth1"

  # Nomad counts ports for each address of the interface. With an IPv6 address beside the IPv4 one it goes on
  # with the second when the first is full, and hands out a port that is taken where programs listen (measured
  # on 1.10.5; `preferred_address_family` does not change that). So the range is taken on IPv6.
  host_network "ipv6" {
    cidr           = "::/0"
    reserved_ports = "3100-3199"
  }

  # Where the egress guard shows its health, to this host alone.
  host_network "loopback" {
    cidr = "127.0.0.0/8"
  }

  # The job asks for 45 s, what WAHA needs at worst to close its sessions. Nomad's own limit of 30 s would cut
  # that short without a word.
  max_kill_timeout = "75s"

  # Ended allocations are kept for their logs, no more than this many at a time.
  gc_max_allocs = 50

  reserved {
    # For the system and the Docker daemon. The egress guard is a job and reserves for itself.
    cpu    = 500
    memory = 1024
    disk   = 2048
  }

  template {
    # The default gives up after twelve tries and then kills the task: a server outage of five minutes would
    # stop every container, long after its own rule (stop_on_client_after) decided that it may run.
    nomad_retry {
      attempts    = 0 # for ever
      backoff     = "250ms"
      max_backoff = "1m"
    }
  }
}

plugin "docker" {
  config {
    allow_privileged = false

    # No container mounts anything of the host.
    volumes {
      enabled = false
    }

    gc {
      container = true
      image     = true
      # A rollout and the way back from it should not pull the same image twice.
      image_delay = "24h"

      # Ends what a killed agent left behind: one more reason that a container never outlives its allocation.
      dangling_containers {
        enabled        = true
        period         = "1m"
        creation_grace = "5m"
      }
    }
  }
}

# Only the sandbox runs plain processes.
plugin "raw_exec" {
  config {
    enabled = false
  }
}

acl {
  enabled = true
}

limits {
  http_max_conns_per_client = 200
}

consul {
  address = "127.0.0.1:8500"
}

telemetry {
  prometheus_metrics         = true
  publish_allocation_metrics = true # without it a client measures no task at all
  publish_node_metrics       = true
}
