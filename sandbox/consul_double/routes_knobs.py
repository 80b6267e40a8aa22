"""Paths of the double's own: trouble on demand, for tests that talk to its process."""

from __future__ import annotations

import msgspec

from sandbox.consul_double.double import ConsulDouble
from sandbox.consul_double.http import NOTHING, Reply, Request, Route
from sandbox.consul_double.refusal import RefusalError
from sandbox.faults import Fault


class _Turned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    registration_delay_s: float | None = None
    stagger: bool | None = None
    least_interval_s: float | None = None


class KnobRoutes:
    def __init__(self, double: ConsulDouble) -> None:
        self._double = double

    def routes(self) -> list[Route]:
        put = ("PUT",)
        return [
            ("/double/knobs", ("GET", "PUT"), self.knobs),
            ("/double/freeze/", put, self.freeze),
            ("/double/thaw/", put, self.thaw),
            ("/double/serf-health/", put, self.serf_health),
            ("/double/reset-index", put, self.reset_index),
            ("/double/invalidate-sessions", put, self.invalidate_sessions),
            ("/double/forget", put, self.forget),
            ("/double/faults", ("GET", "PUT", "DELETE"), self.faults),
        ]

    async def knobs(self, request: Request) -> Reply:
        """Show the knobs; with PUT, turn those in the body first."""
        knobs = self._double.knobs
        if request.method == "PUT":
            try:
                turned = msgspec.convert(request.json(), _Turned)
            except msgspec.ValidationError as error:
                raise RefusalError(
                    400, f"Knobs are {', '.join(_Turned.__struct_fields__)}: {error}."
                ) from error
            for name, value in msgspec.structs.asdict(turned).items():
                if value is not None:
                    setattr(knobs, name, value)
        return Reply({**msgspec.structs.asdict(knobs), "frozen": sorted(knobs.frozen)})

    async def freeze(self, request: Request) -> Reply:
        beginning = request.argument
        self._double.knobs.frozen.add(beginning)
        return NOTHING

    async def thaw(self, request: Request) -> Reply:
        beginning = request.argument
        self._double.thaw(beginning)
        return NOTHING

    async def faults(self, request: Request) -> Reply:
        """GET: those that are set. PUT: set one (its fields in sandbox/faults.py). DELETE: remove all."""
        faults = self._double.faults
        if request.method == "DELETE":
            return Reply({"removed": faults.remove(None)})
        if request.method == "GET":
            return Reply(faults.listed())
        try:
            fault = msgspec.convert(request.json(), Fault)
        except msgspec.ValidationError as error:
            raise RefusalError(400, f"A fault has kind, path, method, count, ...: {error}.") from error
        return Reply(msgspec.to_builtins(self._double.add_fault(fault)))

    async def serf_health(self, request: Request) -> Reply:
        """`PUT /double/serf-health/<passing|critical>?node=NAME`; without a name the double's own node."""
        status = request.argument
        if status not in ("passing", "critical"):
            raise RefusalError(400, "serfHealth is passing or critical.")
        self._double.set_serf_health(status, request.get("node"))
        return NOTHING

    async def reset_index(self, _: Request) -> Reply:
        self._double.reset_index()
        return NOTHING

    async def invalidate_sessions(self, _: Request) -> Reply:
        self._double.invalidate_sessions()
        return NOTHING

    async def forget(self, _: Request) -> Reply:
        self._double.forget_everything()
        return NOTHING
