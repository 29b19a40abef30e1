"""What upgrades and sweeps keep for themselves."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class Transition(Base):
    """The lifecycle tables of the domain, as the database's own guard reads them."""

    __tablename__ = "transitions"
    machine: Mapped[str] = mapped_column(primary_key=True)
    old_status: Mapped[str] = mapped_column(primary_key=True)
    new_status: Mapped[str] = mapped_column(primary_key=True)


class Sweep(Base):
    """What a sweep of the reconciler did, for a week."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    counts: Mapped[dict[str, Any]]
    __table_args__ = (Index(None, "at"),)
