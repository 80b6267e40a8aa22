"""The janitor: finds what of ours no row explains, and removes it after a yes."""
