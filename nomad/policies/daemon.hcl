# What the daemon's token may do, and nothing else. The API holds no Nomad token at all.
#
#   nomad acl policy apply -description "wahafleet daemon" wahafleet-daemon daemon.hcl
#   nomad acl token create -name wahafleet-daemon -policy wahafleet-daemon
#
# Replace "default" when NOMAD_NAMESPACE says otherwise.

namespace "default" {
  capabilities = [
    "list-jobs",
    "read-job",
    "parse-job",       # wahafleet jobspec compile
    "submit-job",      # register, plan, evaluate, stop
    "alloc-lifecycle", # restart of one container
    "read-logs",       # why a container did not start
  ]

  # The secrets of users' containers. `policy = "write"` on a namespace would not cover them.
  variables {
    path "nomad/jobs/waha_plus_user_*" {
      capabilities = ["read", "write", "list", "destroy"]
    }
  }
}

# Hosts: their names, ports in use, drains and losses.
node {
  policy = "read"
}
