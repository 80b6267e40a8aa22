"""Effects on the sessions of one container, in the words of WAHA."""

from __future__ import annotations

import msgspec

from core.domain import actions as act
from core.domain.actions import ChipAction, Placed
from core.domain.facts import Endpoint
from core.domain.names import session_name
from core.errors import StaleWrite
from core.store.interface import UserSnapshot
from daemon.waha import WahaContainers
from daemon.ways_out import Place, WaysOut


class Sessions:
    """One user's sessions at `endpoint`. `ways`: None = no config names a proxy."""

    def __init__(
        self,
        waha: WahaContainers,
        snapshot: UserSnapshot,
        endpoint: Endpoint,
        placed: Placed | None,
        ways: WaysOut | None,
    ) -> None:
        self._snapshot = snapshot
        self._endpoint = endpoint
        self._placed = placed
        self._ways = ways
        key = snapshot.container.secrets.api_key
        self._waha = waha.at(endpoint.address, endpoint.port, key)

    async def do(self, action: ChipAction) -> None:
        """Raises what WAHA's client raises, and StaleWrite for a config that would name no way out."""
        waha, name = self._waha, session_name(action.chip_id)
        match action:
            case act.CreateSession(start=start):
                # A name that is taken is an earlier try of ours; the next look says what it does.
                await waha.create_session(name, self._config(action.chip_id), start=start)
            case act.StartSession():
                await waha.start(name)
            case act.RestartSession():
                await waha.restart(name)
            case act.RewriteSession() | act.RouteSession():
                await waha.update_session(name, self._config(action.chip_id))
            case act.LogoutSession():
                await waha.logout(name)
            case act.StopSession():
                await waha.stop(name)
            case act.DeleteSession():
                await waha.delete(name)

    def _config(self, chip_id: str) -> dict[str, object]:
        # Webhooks are the container's own setting; what is named here is repeated in every event.
        user_id = self._snapshot.container.user_id
        config: dict[str, object] = {"metadata": {"user_id": user_id, "chip_id": chip_id}}
        if self._ways is not None:
            config["proxy"] = self._proxy(self._ways, chip_id)
        return config

    def _proxy(self, ways: WaysOut, chip_id: str) -> dict[str, str]:
        route = next((chip.route for chip in self._snapshot.chips if chip.id == chip_id), None)
        placed, endpoint = self._placed, self._endpoint
        if route is None or placed is None or placed.allocation_id != endpoint.allocation_id:
            raise StaleWrite("egress", "the chip has no way out in this allocation")
        place = Place(placed.allocation_id, placed.node_id, placed.address or endpoint.address)
        return msgspec.structs.asdict(ways.guards.proxy(place, chip_id, route.generation))
