"""The real daemon, one to three of it, against a simulated cluster in virtual time, with seeded faults."""
