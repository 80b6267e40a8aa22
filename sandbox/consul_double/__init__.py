"""A Consul agent made of Python: one node, one server, its HTTP API, and checks that are really polled.

What it does was observed on Consul 1.8.7 and is held to it by tests/contract/consul, which runs the same
cases on this double and on a real agent.
"""

from sandbox.consul_double.server import running_consul_double as running_consul_double
