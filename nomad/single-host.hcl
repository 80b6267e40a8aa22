# Laid over server.hcl and client.hcl by docker-compose.yml: one host that is server and client in one.
#
# Nomad listens on loopback alone, so that neither the network nor a container reaches it; therefore it can do
# without tokens. There is one server: when it is away for longer than WAHAFLEET_STOP_ON_DISCONNECT_S, the
# containers stop, and start again once it is back.

bind_addr = "127.0.0.1"

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

server {
  bootstrap_expect = 1
}

acl {
  enabled = false
}

client {
  # Containers publish their ports on Docker's own bridge address: reached by the host and by nobody else.
  network_interface = "docker0"
}
