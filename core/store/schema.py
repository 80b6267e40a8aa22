"""What all tables are made with."""

from __future__ import annotations

from typing import Final

from sqlalchemy import DateTime, MetaData
from sqlalchemy.dialects.postgresql import UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id: Final = UUID(as_uuid=False)
Time: Final = DateTime(timezone=True)
