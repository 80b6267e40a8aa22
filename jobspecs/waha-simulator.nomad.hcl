# A user's WAHA simulator, as a plain process: what the sandbox registers in place of a container.
#
# Same job, group, task, service, network and secrets as waha-plus.nomad.hcl, where the reasons stand; comments
# here say only what differs. Compiled and filled in the same way.

variable "user_id" {
  type        = string
  description = "The user's UUID; job and Consul meta carry it."
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
  description = "Fingerprint of everything else in this job."
}
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
  type    = number
  default = 60
}
variable "simulator_command" {
  type        = string
  description = "Program that serves WAHA's API; an absolute path."
}
variable "simulator_args" {
  type    = list(string)
  default = []
}
variable "simulator_env" {
  type        = map(string)
  default     = {}
  description = "Further WAHA_SIM_* variables: the clock's speed, the owner's pid file."
}
variable "engine" {
  type    = string
  default = "GOWS"
}
variable "cpu_mhz" {
  type    = number
  default = 200
}
variable "memory_mb" {
  type    = number
  default = 300
}
variable "memory_max_mb" {
  type    = number
  default = 1024
}
variable "namespace" {
  type        = string
  description = "Storage namespace: random, unique and stable for the user's life."
}
variable "api_key_hash" {
  type        = string
  description = "sha512:<hex> of the container's API key."
}
variable "hook_url" {
  type        = string
  description = "Where the simulator reports changes of a session."
}

job "waha_plus" {
  id          = "waha_plus_user_${var.user_id}"
  name        = "waha_plus_user_${var.user_id}"
  type        = "service"
  namespace   = var.nomad_namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool

  ui {
    description = "WAHA simulator of `${var.owner}`"
    link {
      label = "Open in the WHAGO console"
      url   = var.console_link
    }
  }

  constraint {
    attribute = "${attr.nomad.version}"
    operator  = "semver"
    value     = ">= 1.10.2"
  }

  update {
    max_parallel = 0
  }

  group "waha_plus" {
    count = 1

    disconnect {
      stop_on_client_after = "${var.stop_on_disconnect_s}s"
    }

    # A simulator is up again in a tenth of a second, so a crash need not cost ten.
    restart {
      attempts = 3
      interval = "5m"
      delay    = "1s"
      mode     = "fail"
    }

    reschedule {
      delay          = "15s"
      delay_function = "exponential"
      max_delay      = "5m"
      unlimited      = true
    }

    # No `to`: a plain process has no port of its own behind the host's.
    network {
      port "http" {}
    }

    service {
      name     = "waha-plus"
      provider = "consul"
      port     = "http"

      meta {
        user       = var.user_id
        allocation = "${NOMAD_ALLOC_ID}"
        spec       = var.spec_hash
      }

      check {
        name     = "ping"
        type     = "http"
        method   = "GET"
        path     = "/ping"
        interval = "2s"
        timeout  = "1s"
      }
    }

    ephemeral_disk {
      size = 30
    }

    task "waha_plus" {
      driver = "raw_exec"

      kill_timeout = "45s"
      # raw_exec sends SIGINT by default; the real container gets SIGTERM.
      kill_signal = "SIGTERM"

      config {
        command = var.simulator_command
        args    = var.simulator_args
      }

      meta {
        stop_on_disconnect_s = "${var.stop_on_disconnect_s}"
      }

      # The store is a folder here; it comes the same way as the DSN so that the same code writes both.
      template {
        destination          = "secrets/waha.env"
        env                  = true
        change_mode          = "restart"
        perms                = "0600"
        error_on_missing_key = true
        data                 = <<-EOT
          {{ with nomadVar "nomad/jobs/waha_plus_user_${var.user_id}" }}
          WHATSAPP_HOOK_HMAC_KEY={{ .hook_key | toJSON }}
          WAHA_SIM_STORE_DIR={{ .storage_dsn | toJSON }}
          {{ end }}
        EOT
      }

      env = merge(var.simulator_env, {
        WHATSAPP_DEFAULT_ENGINE = var.engine
        TZ                      = "UTC"

        # Without a container in between, the process itself binds what Nomad gave out.
        WHATSAPP_API_PORT     = "${NOMAD_PORT_http}"
        WAHA_SIM_BIND_ADDRESS = "${NOMAD_IP_http}"

        WAHA_WORKER_ID         = var.namespace
        WAHA_NAMESPACE         = var.namespace
        WAHA_SESSION_NAMESPACE = var.namespace

        WAHA_WORKER_RESTART_SESSIONS  = "False"
        WHATSAPP_RESTART_ALL_SESSIONS = "False"

        WAHA_API_KEY = var.api_key_hash

        WAHA_PRINT_QR            = "False"
        WAHA_LOG_FORMAT          = "JSON"
        WAHA_DASHBOARD_ENABLED   = "False"
        WHATSAPP_SWAGGER_ENABLED = "False"
        WAHA_APPS_ENABLED        = "False"

        WHATSAPP_HOOK_URL                   = var.hook_url
        WHATSAPP_HOOK_EVENTS                = "session.status"
        WHATSAPP_HOOK_RETRIES_POLICY        = "exponential"
        WHATSAPP_HOOK_RETRIES_DELAY_SECONDS = "1"
        WHATSAPP_HOOK_RETRIES_ATTEMPTS      = "8"
      })

      resources {
        cpu        = var.cpu_mhz
        memory     = var.memory_mb
        memory_max = var.memory_max_mb
      }

      logs {
        max_files     = 2
        max_file_size = 5
      }
    }
  }
}
