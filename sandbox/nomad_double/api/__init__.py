"""The HTTP surface of the double.

A plain ASGI application rather than a web framework: Nomad matches job paths by their suffix, answers errors as
bare text, unknown routes with an empty 404, and streams lines for as long as a client listens.
"""
