# A user's WAHA container, on Docker: the job that the daemon registers once for every user.
#
# This file is the source that people read and change. `wahafleet jobspec compile` has Nomad parse it into
# waha-plus.nomad.json, and the daemon fills the variables below into that JSON (never into this text).
# `wahafleet jobspec check` fails while the two do not belong together.
#
# Two kinds of change, as Nomad sees them (measured on 1.10.5):
#   in place    ui, constraints, restart, reschedule, the service and its meta, kill_timeout, sizes of logs
#   destructive everything in `config`, `env`, `template`, `resources`, `meta`, `network`: the container stops,
#               then a new one starts on another port. Therefore nothing that merely counts (an epoch, a
#               generation) stands in a `meta` block; such things live in service meta or in PostgreSQL.

# Whose container it is.
variable "user_id" {
  type        = string
  description = "The user's UUID; job, Consul meta and Docker label carry it."
}
variable "owner" {
  type        = string
  description = "Who that is for people: shown in the Nomad UI, nowhere else."
}
variable "console_link" {
  type        = string
  description = "The user's page in the console; the Nomad UI links to it."
}
variable "spec_hash" {
  type        = string
  default     = ""
  description = "Fingerprint of everything else in this job, so that drift is seen from Consul too."
}

# Where it may run.
variable "nomad_namespace" {
  type    = string
  default = "default"
}
variable "datacenters" {
  type    = list(string)
  default = ["*"]
}
variable "node_pool" {
  type    = string
  default = "default"
}
variable "stop_on_disconnect_s" {
  type        = number
  default     = 60
  description = "S: a host that has lost its servers stops the container after this many seconds."
}

# What runs.
variable "image" {
  type        = string
  description = "Image with tag or digest; 2026.3.1 or newer, which brought storage namespaces."
}
variable "engine" {
  type    = string
  default = "GOWS"
}
variable "docker_network" {
  type        = string
  default     = "bridge"
  description = "Docker network; the default one, until the egress guard's own bridge waha0 is set up."
}
variable "cpu_mhz" {
  type    = number
  default = 200
}
variable "memory_mb" {
  type        = number
  default     = 300
  description = "Reserved by the scheduler."
}
variable "memory_max_mb" {
  type        = number
  default     = 1024
  description = "Hard limit; needs memory oversubscription in the scheduler configuration."
}
variable "node_heap_mb" {
  type        = number
  default     = 512
  description = "Old-space limit of Node's heap, below the hard limit."
}

# What it is told. Secrets are not here: see `template`.
variable "namespace" {
  type        = string
  description = "Storage namespace: random, unique and stable for the user's life."
}
variable "api_key_hash" {
  type        = string
  description = "sha512:<hex> of the container's API key; the key itself never stands in a job."
}
variable "hook_url" {
  type        = string
  description = "Where WAHA reports changes of a session."
}

# The label cannot hold a variable; `id` and `name` are what counts.
job "waha_plus" {
  id          = "waha_plus_user_${var.user_id}"
  name        = "waha_plus_user_${var.user_id}"
  type        = "service"
  namespace   = var.nomad_namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool

  ui {
    description = "WAHA container of `${var.owner}`"
    link {
      label = "Open in the WHAGO console"
      url   = var.console_link
    }
  }

  # Older clients can deadlock while stopping containers after a lost connection (GH-25946), and then nobody
  # ends a container whose replacement already runs.
  constraint {
    attribute = "${attr.nomad.version}"
    operator  = "semver"
    value     = ">= 1.10.2"
  }

  # No deployments: Consul's check is what makes an endpoint count, and a failed deployment would keep its
  # failed allocations from ever being rescheduled. A destructive update still stops before it starts.
  update {
    max_parallel = 0
  }

  group "waha_plus" {
    # Two live copies of one WhatsApp session end in a logout or a ban.
    count = 1

    # The host stops the container S seconds after it last heard a server; the servers wait for S and for the
    # kill timeout before they place another. Nothing else belongs here: `lost_after` contradicts it, and
    # `replace` changed its meaning between releases.
    disconnect {
      stop_on_client_after = "${var.stop_on_disconnect_s}s"
    }

    # A crash is repaired on the spot first: same host, same port, sessions back within seconds. Three in five
    # minutes mean that the place may be at fault, so the allocation fails and is placed anew.
    restart {
      attempts = 3
      interval = "5m"
      delay    = "10s"
      mode     = "fail"
    }

    # For ever, since a user's container has no end of its own. The cap keeps a broken image from turning
    # into a storm and is still short enough to recover by itself once the cause is gone.
    reschedule {
      delay          = "15s"
      delay_function = "exponential"
      max_delay      = "5m"
      unlimited      = true
    }

    # No static port and no address: Nomad draws one from the client's range (3100-3199 as shipped) on its
    # `network_interface`, and only Consul's entry for the live allocation says which.
    network {
      port "http" {
        to = 3000
      }
    }

    service {
      name     = "waha-plus"
      provider = "consul"
      port     = "http"

      # After a node is lost Consul can list two passing instances; the allocation tells which one is meant.
      meta {
        user       = var.user_id
        allocation = "${NOMAD_ALLOC_ID}"
        spec       = var.spec_hash
      }

      # /ping needs no key and opens only once storage and engine are up. /health is no liveness: it turns
      # 503 on a full disk while every session works. No check_restart: the daemon decides about restarts.
      check {
        name     = "ping"
        type     = "http"
        method   = "GET"
        path     = "/ping"
        interval = "2s"
        timeout  = "1s"
      }
    }

    # Sessions live in PostgreSQL; this holds logs and rendered secrets. Reserved on the host for every user.
    ephemeral_disk {
      size = 100
    }

    task "waha_plus" {
      driver = "docker"

      # WAHA closes all sessions and stores on SIGTERM, 20-30 s at worst. A hard kill loses queued webhooks
      # and unflushed credentials. Needs max_kill_timeout above it on the client.
      kill_timeout = "45s"
      kill_signal  = "SIGTERM"

      config {
        image              = var.image
        image_pull_timeout = "10m"
        ports              = ["http"]
        network_mode       = var.docker_network
        # WEBJS and WPP run a browser of many processes; a runaway one must not take the host with it.
        pids_limit   = 2048
        security_opt = ["no-new-privileges"]
        # What `docker ps --filter label=...` was used with before there was a cluster.
        labels = {
          "whago.service" = "waha-plus"
          "whago.user_id" = var.user_id
          "whago.managed" = "true"
        }
      }

      # A client arms its stop-on-disconnect timer only when an allocation arrives, so a new S must come with
      # a new container. Task meta is what forces one.
      meta {
        stop_on_disconnect_s = "${var.stop_on_disconnect_s}"
      }

      # Secrets come from the Nomad Variable beside the job, which the task reads by its own identity; the
      # daemon writes it before it registers the job. New secrets take effect by a restart in place.
      # A key that is missing keeps the task from starting instead of giving it an empty secret.
      template {
        destination          = "secrets/waha.env"
        env                  = true
        change_mode          = "restart"
        perms                = "0600"
        error_on_missing_key = true
        data                 = <<-EOT
          {{ with nomadVar "nomad/jobs/waha_plus_user_${var.user_id}" }}
          WHATSAPP_HOOK_HMAC_KEY={{ .hook_key | toJSON }}
          WHATSAPP_SESSIONS_POSTGRESQL_URL={{ .storage_dsn | toJSON }}
          {{ end }}
        EOT
      }

      env {
        WHATSAPP_DEFAULT_ENGINE = var.engine
        WHATSAPP_API_PORT       = "3000"
        TZ                      = "UTC"

        # Same worker and same databases wherever the container runs; nobody else's in either.
        WAHA_WORKER_ID         = var.namespace
        WAHA_NAMESPACE         = var.namespace
        WAHA_SESSION_NAMESPACE = var.namespace

        # The daemon starts what should run, at a pace of its own and only when it may.
        WAHA_WORKER_RESTART_SESSIONS  = "False"
        WHATSAPP_RESTART_ALL_SESSIONS = "False"

        WAHA_API_KEY = var.api_key_hash

        # A QR code is a login secret and logs are no place for it.
        WAHA_PRINT_QR            = "False"
        WAHA_LOG_FORMAT          = "JSON"
        WAHA_DASHBOARD_ENABLED   = "False"
        WHATSAPP_SWAGGER_ENABLED = "False"
        WAHA_APPS_ENABLED        = "False"

        # Webhooks are hints: eight tries over about four minutes outlast a restart of the API, after that
        # the daemon's own look is quicker.
        WHATSAPP_HOOK_URL                   = var.hook_url
        WHATSAPP_HOOK_EVENTS                = "session.status"
        WHATSAPP_HOOK_RETRIES_POLICY        = "exponential"
        WHATSAPP_HOOK_RETRIES_DELAY_SECONDS = "1"
        WHATSAPP_HOOK_RETRIES_ATTEMPTS      = "8"

        # Images set a heap limit far above ours; then only the kernel's kill ends a leak, in mid-write.
        NODE_OPTIONS = "--max-old-space-size=${var.node_heap_mb}"
      }

      resources {
        cpu        = var.cpu_mhz
        memory     = var.memory_mb
        memory_max = var.memory_max_mb
      }

      # Per stream; both together stay below ephemeral_disk.
      logs {
        max_files     = 3
        max_file_size = 10
      }
    }
  }
}
