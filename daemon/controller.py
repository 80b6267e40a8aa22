"""Workers: take keys from the queue, run passes, and say when each key is looked at next."""

from __future__ import annotations

import asyncio

import structlog

from core.domain.jobspec import JobspecError
from core.errors import AppError, DependencyError, StaleWrite, Throttled
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
    ) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._outages = outages
        self._workers = workers

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
            try:
                end = await self._pass(key)
            finally:
                self._queue.done(key)
            self._requeue(key, end)

    async def _pass(self, key: str) -> PassEnd:
        """One pass; whatever goes wrong in it costs this key a pause and nothing else."""
        try:
            end = await self._reconciler.run(key)
        except StaleWrite as error:
            _log.info("pass_dropped", user_id=key, error=error.message)
            return PassEnd(0.0, failed=True)
        except DependencyError as error:
            self._outages.failed(error.system, error)
            _log.debug("pass_failed", user_id=key, code=error.code, error=error.message)
            return PassEnd(error.after_s if isinstance(error, Throttled) else 0.0, failed=True)
        except JobspecError as error:
            _log.error("job_not_renderable", user_id=key, problems=str(error))
            return PassEnd(0.0, failed=True)
        except AppError as error:
            _log.error("pass_impossible", user_id=key, code=error.code, error=error.message)
            return PassEnd(0.0, failed=True)
        except Exception:
            # A bug met by one user must not stop the passes of all others.
            _log.exception("pass_broke", user_id=key)
            return PassEnd(0.0, failed=True)
        self._outages.worked("postgres")
        return end

    def _requeue(self, key: str, end: PassEnd) -> None:
        if end.again_in_s is None:
            self._queue.succeeded(key)
        elif end.failed:
            self._queue.put_failed(key, least_s=end.again_in_s)
        else:
            self._queue.succeeded(key)
            self._queue.put(key, end.again_in_s)
