"""/v1/event/stream: lines of JSON for as long as the client listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sandbox.faults import Fault
from sandbox.nomad_double.api.access import DENIED, may_stream
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
        headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        if not may_stream(request):
            if self._tells_errors:
                raise ApiError(403, DENIED)
            return Reply(stream=self._silence(), headers=headers)
        text = request.get("index") or "0"
        if not text.lstrip("-").isdigit():
            raise ApiError(400, f'Unable to parse index: strconv.Atoi: parsing "{text}": invalid syntax')
        try:
            topics = parse_topics(request.query.get("topic", ()))
        except ValueError as error:
            raise ApiError(400, f"Invalid topic query: error parsing topics: {error}") from error
        subscription = self._double.broker.subscribe(max(0, int(text)), topics, request.namespace)
        return Reply(stream=self._lines(subscription), headers=headers)

    @property
    def _tells_errors(self) -> bool:
        """Is the reader of a stream told why it ends, as on 1.10.5.

        2.0.5 leaves the connection open and sends nothing any more, not even `{}` (measured with a token that
        may not, and with a restored snapshot).
        """
        return self._double.settings.release < (2,)

    async def _silence(self) -> AsyncIterator[bytes]:
        await self._double.broker.until_cut()
        yield b""

    def _fault(self, events: list[Event]) -> Fault | None:
        topics = {event.topic for event in events}
        jobs = {key for event in events for key in (event.key, *(event.filter_keys or ()))}
        return self._double.faults.of_line(topics, jobs)

    async def _lines(self, subscription: Subscription) -> AsyncIterator[bytes]:
        """`{}` at once and whenever nothing came for the heartbeat's time; a commit's events are one line."""
        settings = self._double.settings
        waiting: asyncio.Task[tuple[int, list[Event]]] | None = None
        try:
            yield b"{}\n"
            while True:
                try:
                    # Without a turn of the loop for each commit: under load the buffer would overrun a reader who
                    # is waiting for us.
                    found = subscription.ready() if waiting is None else None
                    if found is None:
                        waiting = waiting or asyncio.create_task(subscription.next())
                        beat = asyncio.create_task(self._double.clock.sleep(settings.heartbeat_s))
                        await asyncio.wait({waiting, beat}, return_when=asyncio.FIRST_COMPLETED)
                        beat.cancel()
                        if not waiting.done():
                            yield b"{}\n"
                            continue
                        ended, waiting = waiting, None
                        found = ended.result()
                    index, events = found
                except SubscriptionClosed as closed:
                    # The headers are gone, so its last word stands in the body, as no JSON and without an end
                    # of line (measured on Nomad 1.10.5).
                    if str(closed) and not self._tells_errors:
                        await self._double.broker.until_cut()
                    elif str(closed):
                        yield str(closed).encode()
                    return
                if settings.delays.event_s:
                    await self._double.clock.sleep(settings.delays.event_s)
                fault = self._fault(events)
                if fault is None:
                    yield event_line(index, events)
                elif fault.kind == "cut-stream":
                    yield fault.text.encode()
                    return
                elif fault.kind == "delay-events":
                    await self._double.clock.sleep(fault.seconds)
                    yield event_line(index, events)
                elif fault.kind == "duplicate-events":
                    yield event_line(index, events) * 2
        finally:
            if waiting is not None:
                waiting.cancel()
            subscription.unsubscribe()
