# The egress guard, one on every host that runs WAHA containers. For the operator to register; the daemon leaves it alone.
#
#   nomad job run -var image=registry.internal/wahafleet:1.4.0 -var api_url=http://10.0.0.5:8000 egress.nomad.hcl
#
# Before the first time: each host as host/README.md says, and a key for each node:
#   nomad node status -t '{{range .}}{{.ID}} {{end}}' | xargs wahafleet guard keys |
#     nomad var put -force -in json nomad/jobs/wahafleet-egress -
# Both lines again when a host joins: its guard waits until it finds its key. docs/deploy.md tells what an upgrade does.

variable "image" {
  type        = string
  description = "wahafleet's own image, with tag or digest; on every host already, or pulling it is part of the gap."
}
variable "api_url" {
  type        = string
  description = "Address of the API that every host reaches, such as http://10.0.0.5:8000."
}
variable "listen" {
  type        = string
  default     = "172.30.0.1:3128"
  description = "Where chips knock: the address of the bridge waha0. As in WAHAFLEET_GUARD_ADDRESS and waha-egress.nft."
}
variable "tunnels" {
  type        = number
  default     = 2000
  description = "At a time and host; about one for each chip."
}
variable "datacenters" {
  type    = list(string)
  default = ["*"]
}
variable "node_pool" {
  type    = string
  default = "default"
}

job "wahafleet-egress" {
  # On every host, the ones that join later too. A drain ends it last, when the containers have left.
  type        = "system"
  priority    = 90
  datacenters = var.datacenters
  node_pool   = var.node_pool

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  # One host after another, half a minute apart: the chips of one host reconnect before the next one's are cut.
  update {
    max_parallel = 1
    stagger      = "30s"
  }

  group "guard" {
    # Without a guard its host is silent, so it is tried again for ever: its key may still be missing, or the bridge.
    restart {
      attempts = 10
      interval = "1m"
      delay    = "2s"
      mode     = "delay"
    }

    # Loopback, so that Consul's agent of this host sees it and nobody else: see host_network in client.hcl.
    network {
      port "status" {
        static       = 3129
        host_network = "loopback"
      }
    }

    service {
      name     = "wahafleet-egress"
      provider = "consul"
      port     = "status"

      check {
        name     = "health"
        type     = "http"
        path     = "/health"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "guard" {
      driver = "docker"

      # It closes its tunnels at once, tells the API so, and what was used: two or three requests of 5 s at worst.
      kill_timeout = "25s"

      config {
        image              = var.image
        args               = ["egress"]
        image_pull_timeout = "10m"
        # The bridge's address is this host's.
        network_mode = "host"
        # Its watchdog could not kill the first process of a container.
        init         = true
        security_opt = ["no-new-privileges"]
        cap_drop     = ["all"]
        # Two for each tunnel, and what is on its way: the guard refuses to start with fewer.
        ulimit {
          nofile = "65536:65536"
        }
      }

      env {
        WAHAFLEET_GUARD_LISTEN        = var.listen
        WAHAFLEET_GUARD_STATUS_LISTEN = "127.0.0.1:3129"
        WAHAFLEET_GUARD_NODE_ID       = "${node.unique.id}"
        WAHAFLEET_GUARD_API_URL       = var.api_url
        WAHAFLEET_GUARD_TUNNELS       = "${var.tunnels}"
      }

      # The key of this node, from the variable that has one item for each. A new item restarts nobody else's guard.
      template {
        destination = "secrets/guard.env"
        env         = true
        change_mode = "restart"
        perms       = "0600"
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/wahafleet-egress" }}
          WAHAFLEET_GUARD_KEY={{ index . (env "node.unique.id") }}
          {{ end }}
        EOT
      }

      # 60 MiB, and a few KiB for each tunnel; a busy one costs CPU: about 2 s of a core for each GiB.
      resources {
        cpu        = 300
        memory     = 128
        memory_max = 512
      }

      logs {
        max_files     = 3
        max_file_size = 10
      }
    }
  }
}
