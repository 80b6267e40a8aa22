"""Workers: take keys from the queue, run passes, and say when each key is looked at next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from core.domain.jobspec import JobspecError
from core.errors import AppError, DependencyError, StaleWrite, Throttled
from daemon.metrics import Metrics, Outcome
from daemon.outages import Outages
from daemon.reconcile import PassEnd, Reconciler
from daemon.workqueue import QueueClosed, WorkQueue

_log = structlog.get_logger(__name__)


class Controller:
    """`workers` passes at a time, each over another user."""

    def __init__(
        self,
        queue: WorkQueue,
        reconciler: Reconciler,
        outages: Outages,
        *,
        workers: int,
        metrics: Metrics | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`timer`: what durations of passes are measured with."""
        self._queue = queue
        self._reconciler = reconciler
        self._outages = outages
        self._workers = workers
        self._metrics = metrics or Metrics()
        self._timer = timer

    async def run(self) -> None:
        """Work until the queue is closed and every pass under way has ended."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"worker-{number}")

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosed:
                return
            news_at = self._queue.news_at(key)
            began = self._timer()
            try:
                outcome, end = await self._pass(key, news_at)
            finally:
                self._queue.done(key)
            self._metrics.count_pass(outcome, self._timer() - began)
            self._requeue(key, end, news_at)

    async def _pass(self, key: str, news_at: float) -> tuple[Outcome, PassEnd]:
        """One pass; whatever goes wrong in it costs this key a pause and nothing else."""
        try:
            end = await self._reconciler.run(key, news_at)
        except StaleWrite as error:
            _log.info("pass_dropped", user_id=key, error=error.message)
            return Outcome.DROPPED, PassEnd(0.0, failed=True)
        except DependencyError as error:
            self._outages.failed(error.system, error)
            _log.debug("pass_failed", user_id=key, code=error.code, error=error.message)
            after_s = error.after_s if isinstance(error, Throttled) else 0.0
            return Outcome.UNAVAILABLE, PassEnd(after_s, failed=True)
        except JobspecError as error:
            _log.error("job_not_renderable", user_id=key, problems=str(error))
            return Outcome.IMPOSSIBLE, PassEnd(0.0, failed=True)
        except AppError as error:
            _log.error("pass_impossible", user_id=key, code=error.code, error=error.message)
            return Outcome.IMPOSSIBLE, PassEnd(0.0, failed=True)
        except Exception:
            # A bug met by one user must not stop the passes of all others.
            _log.exception("pass_broke", user_id=key)
            return Outcome.BROKE, PassEnd(0.0, failed=True)
        self._outages.worked("postgres")
        return _outcome(end), end

    def _requeue(self, key: str, end: PassEnd, news_at: float) -> None:
        if end.busy:
            # Still for the same news: when they came decides whether the holder has answered them.
            self._queue.put(key, end.again_in_s or 0.0, news_at=news_at)
        elif end.again_in_s is None:
            self._queue.succeeded(key)
        elif end.failed:
            self._queue.put_failed(key, least_s=end.again_in_s)
        else:
            self._queue.succeeded(key)
            self._queue.put(key, end.again_in_s, bulk=end.routine)


def _outcome(end: PassEnd) -> Outcome:
    if end.busy:
        return Outcome.BUSY
    if end.answered:
        return Outcome.ANSWERED
    if end.failed:
        return Outcome.INCOMPLETE
    return Outcome.AT_REST if end.again_in_s is None else Outcome.ON_THE_WAY
