"""The store in memory: the rules of `core/store` without PostgreSQL, for tests that need many passes a second.

`tests/contract/store` holds both to one contract.
"""

from tests.memory_store.database import api_key_of
from tests.memory_store.guards import MemoryGuardLeases
from tests.memory_store.look_ins import MemoryLookIns
from tests.memory_store.store import MemoryStore

__all__ = ["MemoryGuardLeases", "MemoryLookIns", "MemoryStore", "api_key_of"]
