"""The egress guard: CONNECT in from the chips of one host, each chip's own upstream out, and nothing without a lease."""
