"""/v1/event/stream: lines of JSON for as long as the client listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sandbox.nomad_double.api.web import Reply, Request
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.events import Event, Subscription, SubscriptionClosed, parse_topics
from sandbox.nomad_double.views import event_line


class StreamRoutes:
    """The event stream."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double

    async def stream(self, request: Request) -> Reply:
        request.allow("GET")
        text = request.get("index") or "0"
        if not text.lstrip("-").isdigit():
            raise ApiError(400, f'Unable to parse index: strconv.Atoi: parsing "{text}": invalid syntax')
        try:
            topics = parse_topics(request.query.get("topic", ()))
        except ValueError as error:
            raise ApiError(400, f"Invalid topic query: error parsing topics: {error}") from error
        subscription = self._double.broker.subscribe(max(0, int(text)), topics, request.namespace)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        return Reply(stream=self._lines(subscription), headers=headers)

    async def _lines(self, subscription: Subscription) -> AsyncIterator[bytes]:
        """`{}` at once and whenever nothing came for the heartbeat's time; a commit's events are one line."""
        settings = self._double.settings
        waiting: asyncio.Task[tuple[int, list[Event]]] | None = None
        try:
            yield b"{}\n"
            while True:
                if waiting is None:
                    waiting = asyncio.create_task(subscription.next())
                beat = asyncio.create_task(self._double.clock.sleep(settings.heartbeat_s))
                await asyncio.wait({waiting, beat}, return_when=asyncio.FIRST_COMPLETED)
                beat.cancel()
                if not waiting.done():
                    yield b"{}\n"
                    continue
                try:
                    index, events = waiting.result()
                except SubscriptionClosed:
                    # The headers are gone, so the only way to say it is to end the body.
                    return
                finally:
                    waiting = None
                if settings.delays.event_s:
                    await self._double.clock.sleep(settings.delays.event_s)
                yield event_line(index, events)
        finally:
            if waiting is not None:
                waiting.cancel()
            subscription.unsubscribe()
