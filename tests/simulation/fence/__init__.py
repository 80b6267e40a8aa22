"""Whether two allocations of one user ever forward at once: real guards over the store in memory, in virtual time.

Each host has a clock of its own that drifts and sleeps, the product's `egress.leases` and its relay on sockets that
the world plays; API replicas, their store, Nomad and the daemon's moves are played around them and broken by seed.
"""
