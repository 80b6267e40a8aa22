"""`python -I -S <path>/sandbox/waha/__main__.py`, or `python -m sandbox.waha`."""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script in isolated mode: neither the current folder nor this one is on the path.
    import os

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandbox.waha.process import main

if __name__ == "__main__":
    sys.exit(main())
