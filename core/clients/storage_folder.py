"""The simulator's storage: a folder with one folder a namespace.

<folder>/<namespace>/sessions/<session>.json   what WAHA's main database holds
<folder>/<namespace>/auth/<database>.json      what a session's own database holds
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from core.clients.storage_names import SYSTEM, checked_database, checked_namespace
from core.domain.names import is_namespace, main_database, namespace_of_database
from core.errors import Unavailable

T = TypeVar("T")


class FolderStorage:
    """`core.clients.storage.Storage` on a folder."""

    def __init__(self, folder: str, *, timeout_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self._folder = Path(folder)

    async def databases(self, namespace: str) -> tuple[str, ...]:
        checked_namespace(namespace)
        return await self._in_thread(lambda: tuple(sorted(self._databases(namespace))))

    async def namespaces(self) -> tuple[str, ...]:
        return await self._in_thread(self._namespaces)

    async def listing(self) -> tuple[str, ...]:
        def read() -> tuple[str, ...]:
            return tuple(sorted(name for each in self._namespaces() for name in self._databases(each)))

        return await self._in_thread(read)

    async def size(self, namespace: str) -> int | None:
        folder = self._folder / checked_namespace(namespace)

        def read() -> int:
            return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())

        return await self._in_thread(read)

    async def drop(self, namespace: str, database: str | None = None) -> None:
        folder = self._folder / checked_namespace(namespace)
        if database is None or checked_database(namespace, database) == main_database(namespace):
            await self._in_thread(lambda: _remove_tree(folder))
            return
        file = folder / "auth" / f"{checked_database(namespace, database)}.json"
        await self._in_thread(lambda: file.unlink(missing_ok=True))

    async def aclose(self) -> None:
        return

    def _namespaces(self) -> tuple[str, ...]:
        try:
            entries = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return ()  # nobody has stored anything yet
        return tuple(entry.name for entry in entries if is_namespace(entry.name) and entry.is_dir())

    def _databases(self, namespace: str) -> list[str]:
        folder = self._folder / namespace
        if not folder.is_dir():
            return []
        files = (folder / "auth").glob("*.json")
        own = [file.stem for file in files if namespace_of_database(file.stem) == namespace]
        return [main_database(namespace), *own]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asyncio.to_thread(work)
        except TimeoutError as error:
            raise Unavailable(SYSTEM, "the storage folder does not answer in time") from error
        except OSError as error:
            raise Unavailable(SYSTEM, f"the storage folder cannot be used: {error.strerror}") from error


def _remove_tree(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    try:
        shutil.rmtree(folder)  # refuses a symbolic link, so nothing outside is ever followed
    except FileNotFoundError:
        return  # somebody else removed it in the same moment
