"""WAHA simulator: what the orchestrator sees of a WAHA container, without WhatsApp behind it.

`python -I -S <path>/sandbox/waha/__main__.py` serves one container from the environment variables that the
real image takes; `sandbox.waha.inline` serves many from one process; `sandbox.waha.phone` is the phone that
scans their QR codes. Every module but `phone` uses the standard library only, and few parts of it: a
process must stay small, since the sandbox runs one per user.
"""
