"""The fence with real processes: guards, containers that never give up, Nomad, PostgreSQL, and a SOCKS5 server that judges."""
