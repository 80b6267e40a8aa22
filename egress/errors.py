"""The one exception of a tunnel that is not opened: what the chip, the metrics and the meter are told."""

from __future__ import annotations

from core.clients.tunnels import Refused as Refused
