"""The feeds: the events of many logs under one numbering."""

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class FeedRow(Base):
    """A feed: the events of many tasks under one numbering of its own."""

    __tablename__ = "feeds"
    id: Mapped[str] = mapped_column(primary_key=True)
    last_seq: Mapped[int] = mapped_column(BigInteger)


class FeedEntry(Base):
    """An event's number in a feed, of a task or of a run; those of what was deleted are gone."""

    __tablename__ = "feed_entries"
    feed: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task_id: Mapped[str | None] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    task_seq: Mapped[int | None] = mapped_column(BigInteger)
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    run_seq: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (
        CheckConstraint("num_nonnulls(task_id, run_id) = 1", name="source"),
        Index(None, "task_id"),
        Index(None, "run_id"),
    )


class Fed(Base):
    """Up to which `seq` a task's events have their numbers in its feeds."""

    __tablename__ = "fed"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class FedRun(Base):
    """Up to which `seq` a run's own events have their numbers in its feeds."""

    __tablename__ = "fed_runs"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class FeedHorizon(Base):
    """The transaction below which every event has its numbers: one row."""

    __tablename__ = "feed_horizon"
    xid: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
