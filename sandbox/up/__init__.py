"""`wahafleet up`: the whole system on one machine, started, watched and ended as one."""
